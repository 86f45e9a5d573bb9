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
from ..config.settings import Settings, load_settings
from ..config.yaml_files import load_yaml
from ..data.shapes import ensure_shapes
from ..train.run import run_train

MIN_AP50 = 0.65  # on the validation images
EPOCHS = 45  # of 160 images; a run that is sound gets there before the end
MODEL: Mapping[str, object] = {
    "mode": "train",
    "model": "yolov12.yaml",
    "model_scale": "n",
    "imgsz": 320,
    "patience": 0,
    "plots": False,
    "verbose": False,
}


@dataclass(frozen=True)
class Verdict:
    """The result of the self-test. seconds: of all of it. device: its name for a reader."""

    ap50: float
    ap: float
    epochs: int
    device: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the accuracy was reached; False where it is NaN."""
        return self.ap50 >= MIN_AP50

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed."""
        return 0 if self.passed else 1

    def __str__(self) -> str:
        return (
            f"{'PASS' if self.passed else 'FAIL'}: AP50 {self.ap50:.3f} (at least {MIN_AP50} is expected), "
            f"AP {self.ap:.3f}; yolov12 n at 320 px on shapes, {self.epochs} epochs from scratch, "
            f"on {self.device}, {self.seconds:.0f} s"
        )


def run_selftest(settings: Settings) -> Verdict:
    """Train, measure and print the verdict. The run is written to a temporary folder, or kept in `settings.project`.

    Raises UserError for settings that would make another test of it.
    """
    used = keys_with("verbs", "selftest")
    if others := settings.unused_by("selftest"):
        read, refused = (", ".join(f"{key}=" for key in keys) for keys in (used, others))
        raise UserError(f"selftest always trains the same model on the same data; it takes {read} but not {refused}.")
    given = {key: getattr(settings, key) for key in used if key in settings.given}
    shapes = load_yaml(cfg_dir() / "datasets" / "shapes.yaml")["settings"]  # suited to 160 images
    devices = select_devices(settings.device)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bitfalcon-selftest-", ignore_cleanup_errors=True) as scratch:
        data = ensure_shapes(Path(scratch, "shapes"))
        run = {**shapes, **MODEL, "epochs": EPOCHS, "data": str(data), "project": scratch, "name": "selftest", **given}
        metrics = run_train(load_settings(run), None).metrics
    verdict = Verdict(metrics.ap50, metrics.ap, run["epochs"], _device_names(devices), time.perf_counter() - start)
    print(verdict)
    return verdict


def _device_names(devices: Sequence[torch.device]) -> str:
    if devices[0].type == "cuda":
        return ", ".join(f"{device} ({torch.cuda.get_device_name(device)})" for device in devices)
    return f"{devices[0]} ({torch.get_num_threads()} threads)" if devices[0].type == "cpu" else str(devices[0])
