"""Runs of a second on a small graph, of any task: what they leave, and batches whose loss is poisoned."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.settings import Settings
from bitfalcon_plugin.tasks import TASKS
from bitfalcon_plugin.train.run import Result, run_train
from tests.helpers import coloured, outlined, posed, turned

COMMON = {
    "data": "data/data.yaml",
    "imgsz": 64,
    "batch": 4,
    "nbs": 8,
    "device": "cpu",
    "close_mosaic": 1,
    "plots": False,
    "project": "runs",
    "amp": False,  # in commands too, which fixtures do not reach
}
GRAPHS = {"detect": "small.yaml", "segment": "small-seg.yaml", "pose": "small-pose.yaml", "obb": "small-obb.yaml"}
LAY_OUT: dict[str, Callable[[Path], None]] = {
    "detect": coloured.lay_out,
    "segment": outlined.lay_out,
    "pose": posed.lay_out,
    "obb": turned.lay_out,
}


@contextmanager
def quick_launch() -> Iterator[None]:
    """Have launch() start processes by a server that has imported torch already, which takes them 2 seconds each.

    Their environment and streams are those that the server was started with. The server is started here, because
    launch() blocks signals: a server started by launch() would pass blocked signals on to every later process.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(["bitfalcon_plugin.train.run"])
    forkserver.ensure_running()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitfalcon_plugin.train.launch.START_METHOD", "forkserver")
        yield


def command(task: str = "detect") -> list[str]:
    """The words of a training, without epochs and name."""
    return ["train", f"model={GRAPHS[task]}", "scale=n", *(f"{key}={value}" for key, value in COMMON.items())]


def train(name: str, task: str = "detect", **settings) -> YOLO:
    """Train for three epochs in the working directory."""
    yolo = YOLO(GRAPHS[task])
    yolo.train(scale="n", name=name, **{**COMMON, "epochs": 3, **settings})
    return yolo


def trained_in(folder: Path, settings: Settings) -> Result:
    """Train in `folder`, with project= its subfolder `runs`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_train(settings.replace(project=str(folder / "runs")), None)


def last(name: str) -> Path:
    """The checkpoint of a run."""
    return Path(f"runs/{name}/weights/last.pt")


def weights(name: str) -> dict[str, torch.Tensor]:
    """All weights in the checkpoint of a run: those of the mean, and the raw ones."""
    content = torch.load(last(name))
    return {**content["state"], **{f"raw {key}": value for key, value in content["training"]["weights"].items()}}


def results(name: str) -> list[list[str]]:
    """The rows of results.csv without the columns epoch and time."""
    return [line.split(",")[2:] for line in Path(f"runs/{name}/results.csv").read_text().splitlines()]


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def poison(monkeypatch, is_poisoned: Callable[[int], bool], task: str = "detect") -> list[int]:
    """Make the loss of those calls NaN for which is_poisoned(number) holds; the list counts the calls."""
    calls, own = [], TASKS[task]

    def poisoned(*args, **kwargs):
        losses = own.loss(*args, **kwargs)
        if torch.is_inference_mode_enabled():  # of a validation
            return losses
        calls.append(len(calls))
        return {name: loss * float("nan") for name, loss in losses.items()} if is_poisoned(calls[-1]) else losses

    monkeypatch.setitem(TASKS, task, replace(own, loss=poisoned))
    return calls
