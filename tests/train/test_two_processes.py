"""A run on two processes writes one set of files, validates as one process does, and is resumed by one process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.train.launch import launch
from bitfalcon_plugin.train.run import run_train
from tests.helpers.classed import lay_out as lay_out_classes
from tests.helpers.small_runs import GRAPHS, LAY_OUT, quick_launch

SETTINGS = {
    "mode": "train",
    "model_scale": "n",
    "imgsz": 64,
    "batch": 4,
    "nbs": 4,
    "device": "cpu",
    "plots": False,
    "project": "runs",
    "optimizer": "AdamW",
    "lr0": 0.01,
    "warmup_floor": 0,
    "mosaic": 0.0,
    "hsv_h": 0.0,
    "hsv_s": 0.0,
    "hsv_v": 0.0,
    "val": False,
    "close_mosaic": 0,
}

EPOCHS = {"detect": 30, "segment": 30, "pose": 30, "obb": 40}  # until something is learned
CLASSES = {
    **{key: SETTINGS[key] for key in ("mode", "model_scale", "device", "plots", "project", "optimizer", "val")},
    "model": "classify/small-cls.yaml",
    "data": "classify/data",
    "imgsz": 32,
    "batch": 6,
    "nbs": 6,
    "epochs": 2,
    "dropout": 0.2,
}
RUNS = {
    task: {**SETTINGS, "model": f"{task}/{graph}", "data": f"{task}/data/data.yaml", "epochs": EPOCHS[task]}
    for task, graph in GRAPHS.items()
}
SIZES = {task: [2, 2, 3] for task in RUNS}  # processes, batches to validate, to train
RUNS["classify"], SIZES["classify"] = CLASSES, [2, 1, 2]


def train_here(folder: str) -> dict[str, tuple[str, dict[str, float], dict[str, float], list[int]]]:
    """Train each of RUNS in this process: the best checkpoint, metrics, losses, and numbers as in SIZES."""
    os.chdir(folder)  # of a process that launch() started: it ends after this function
    found = {}
    for name, settings in RUNS.items():
        result = run_train(load_settings({**settings, "name": name}), None)
        trainer = result.trainer
        sizes = [trainer.run.world.size, len(trainer.val_loader), len(trainer.loader)]
        found[name] = str(result.best), numbers_of(result.metrics), result.metrics.losses, sizes
    return found


def numbers_of(metrics) -> dict[str, float]:
    """What was measured, without what could not be."""
    numbers = {**getattr(metrics, "stats", {}), **metrics.results_dict}
    return {name: value for name, value in numbers.items() if value == value}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    lay_out_classes(folder / "classify")
    for task, lay_out in LAY_OUT.items():
        (folder / task).mkdir()
        lay_out(folder / task)
        data = folder / RUNS[task]["data"]
        text = data.read_text().replace("images/val", "images/train")  # three batches: one process has one more
        data.write_text(text)
    with pytest.MonkeyPatch.context() as patch, quick_launch():
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            patch.delenv(name, raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        return folder, launch(2, train_here, str(folder))


@pytest.mark.parametrize("name", RUNS)
def test_one_run_of_files_is_left(two, name):
    folder, runs = two
    best, _, _, sizes = runs[name]
    assert sizes == SIZES[name] and sorted(path.name for path in (folder / "runs").iterdir()) == sorted(RUNS)
    assert len((folder / f"runs/{name}/results.csv").read_text().splitlines()) == RUNS[name]["epochs"] + 1
    assert sorted(path.name for path in (folder / best).parent.iterdir()) == ["best.pt", "last.pt"]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_measure_what_one_does(two, monkeypatch, name):
    folder, runs = two
    best, numbers, losses, _ = runs[name]
    monkeypatch.chdir(folder)
    settings = {key: RUNS[name][key] for key in ("data", "imgsz", "batch")}
    alone = YOLO(best).val(**settings, plots=False)
    assert alone.fitness > 0  # something was learned
    assert numbers == pytest.approx(numbers_of(alone), abs=1e-6)
    assert losses == pytest.approx(alone.losses, rel=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_one_process_goes_on_with_what_two_began(two, monkeypatch, capsys, name):
    folder, runs = two
    monkeypatch.chdir(folder)
    last, epochs = Path(runs[name][0]).with_name("last.pt"), RUNS[name]["epochs"]
    assert main(["train", f"resume={last}", f"epochs={epochs + 1}"]) == 0
    assert f"Resumed at epoch {epochs + 1}" in capsys.readouterr().out
    assert torch.load(last)["epoch"] == epochs
