"""The slow self-test: the smallest model, from scratch, on generated shapes, must reach a known accuracy.

A user runs it to know that this machine, its drivers and its torch train correctly.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config.default_table import keys_with
from ..config.devices import select_devices
from ..config.errors import UserError
from ..config.files import cfg_dir
from ..config.printable import say
from ..config.settings import Settings, load_settings
from ..config.yaml_files import load_yaml
from ..data.formats import class_folders, dataset_yaml
from ..models.build import model_for_task
from ..tasks import TASKS, task_named
from ..train.run import run_train

EPOCHS = 45  # of some hundred images; a run that is sound gets there before the end
RUN: Mapping[str, object] = {"mode": "train", "model_scale": "n", "patience": 0, "plots": False, "verbose": False}
GENERATORS = {**dataset_yaml.GENERATORS, **class_folders.GENERATORS}


@dataclass(frozen=True)
class Verdict:
    """The result of the self-test. seconds: of all of it. device: its name for a reader.

    measured: name of a number -> its value; expected: name -> the least value with which the test is passed.
    """

    measured: Mapping[str, float]
    expected: Mapping[str, float]
    run: str
    device: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether all numbers were reached; False where one is NaN."""
        return all(self.measured[name] >= least for name, least in self.expected.items())

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed."""
        return 0 if self.passed else 1

    def __str__(self) -> str:
        numbers = ", ".join(
            f"{name} {self.measured[name]:.3f} (at least {least} is expected)" for name, least in self.expected.items()
        )
        return f"{'PASS' if self.passed else 'FAIL'}: {numbers}; {self.run}, on {self.device}, {self.seconds:.0f} s"


def run_selftest(settings: Settings) -> Verdict:
    """Train, measure and print the verdict. The run is written to a temporary folder, or kept in `settings.project`.

    Raises UserError for settings that would make another test of it.
    """
    used = keys_with("verbs", "selftest")
    if others := settings.unused_by("selftest"):
        read, refused = (", ".join(f"{key}=" for key in keys) for keys in (used, others))
        raise UserError(f"selftest always trains the same model on the same data; it takes {read} but not {refused}.")
    given = {key: getattr(settings, key) for key in used if key in settings.given}
    task = task_named(settings.task)
    if not task.expected:
        known = ", ".join(name for name, other in TASKS.items() if other.expected)
        raise UserError(f"task={task.name} has no self-test; expected one of {known}.")
    model = model_for_task(None, task.name)
    shapes = load_yaml(cfg_dir() / "datasets" / task.data.default)  # with settings suited to few images
    devices = select_devices(settings.device)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bitfalcon-selftest-", ignore_cleanup_errors=True) as scratch:
        data = GENERATORS[shapes["generator"]](Path(scratch, "shapes"))
        own = {"model": model, "epochs": EPOCHS, "data": str(data), "project": scratch, "name": "selftest"}
        run = {**shapes["settings"], **RUN, **own, **given}
        metrics = run_train(load_settings(run), None).metrics
    text = f"{Path(model).stem} n at {run['imgsz']} px on shapes, {run['epochs']} epochs from scratch"
    verdict = Verdict(metrics.headline, task.expected, text, _device_names(devices), time.perf_counter() - start)
    say(verdict)
    return verdict


def _device_names(devices: Sequence[torch.device]) -> str:
    if devices[0].type == "cuda":
        return ", ".join(f"{device} ({torch.cuda.get_device_name(device)})" for device in devices)
    return f"{devices[0]} ({torch.get_num_threads()} threads)" if devices[0].type == "cpu" else str(devices[0])
