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
from tests.helpers.coloured import lay_out

SETTINGS = {
    "mode": "train",
    "model": "small.yaml",
    "model_scale": "n",
    "data": "data/data.yaml",
    "imgsz": 64,
    "batch": 4,
    "nbs": 4,
    "epochs": 30,
    "device": "cpu",
    "plots": False,
    "project": "runs",
    "name": "two",
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


CLASSES = {
    **{key: SETTINGS[key] for key in ("mode", "model_scale", "device", "plots", "project", "optimizer", "val")},
    "model": "small-cls.yaml",
    "data": "classes/data",
    "imgsz": 32,
    "batch": 6,
    "nbs": 6,
    "epochs": 2,
    "dropout": 0.2,
    "name": "classes",
}


def train_here(folder: str) -> tuple[str, dict[str, float], tuple[float, ...], list[int], tuple]:
    """Train a detector and a classifier in this process.

    Return the best checkpoint, metrics, losses, and the numbers of processes and batches; and of the classifier the
    best checkpoint, metrics and losses.
    """
    os.chdir(folder)  # of a process that launch() started: it ends after this function
    result = run_train(load_settings(SETTINGS), None)
    trainer = result.trainer
    numbers = [trainer.run.world.size, len(trainer.val_loader), len(trainer.loader)]
    classes = run_train(load_settings(CLASSES), None)
    of_classes = str(classes.best), classes.metrics.results_dict, classes.metrics.losses
    return str(result.best), result.metrics.stats, result.metrics.losses, numbers, of_classes


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    lay_out(folder)
    lay_out_classes(folder / "classes")
    (folder / "classes/small-cls.yaml").rename(folder / "small-cls.yaml")
    data = folder / "data/data.yaml"
    data.write_text(data.read_text().replace("images/val", "images/train"))  # three batches: one process has one more
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            patch.delenv(name, raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        return folder, launch(2, train_here, str(folder))


def test_one_run_of_files_is_left(two):
    folder, (best, _, _, (size, shares, batches), _) = two
    assert (size, shares, batches) == (2, 2, 3)
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["classes", "two"]
    assert len((folder / "runs/two/results.csv").read_text().splitlines()) == 31
    assert sorted(path.name for path in (folder / best).parent.iterdir()) == ["best.pt", "last.pt"]


def test_shares_of_the_validation_give_the_same_map_as_one_process(two, monkeypatch):
    folder, (best, stats, losses, _, _) = two
    monkeypatch.chdir(folder)
    alone = YOLO(best).val(data="data/data.yaml", imgsz=64, batch=4)
    assert alone.stats["AP"] > 0  # something was learned
    assert {name: value for name, value in stats.items() if value == value} == pytest.approx(
        {name: value for name, value in alone.stats.items() if value == value}, abs=1e-6
    )
    assert losses == pytest.approx(alone.losses, rel=1e-4)


def test_two_processes_measure_a_classifier_as_one_does(two, monkeypatch, capsys):
    folder, (*_, (best, numbers, losses)) = two
    monkeypatch.chdir(folder)
    alone = YOLO(best).val(data="classes/data", plots=False)
    assert alone.results_dict == numbers and alone.losses == pytest.approx(losses, rel=1e-5)
    assert main(["train", f"resume={Path(best).with_name('last.pt')}", "epochs=3"]) == 0
    assert "Resumed at epoch 3" in capsys.readouterr().out


def test_one_process_goes_on_with_what_two_began(two, monkeypatch, capsys):
    folder, (best, *_) = two
    monkeypatch.chdir(folder)
    assert main(["train", f"resume={Path(best).with_name('last.pt')}", "epochs=31"]) == 0
    assert "Resumed at epoch 31" in capsys.readouterr().out
    assert torch.load(Path(best).with_name("last.pt"))["epoch"] == 30
