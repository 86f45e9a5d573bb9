"""What a training run draws: the right files at the right moments, and never the end of a run."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.data.augmentation.augment import Batch
from bitfalcon_plugin.data.loading.loader import ValLoader
from bitfalcon_plugin.plots.colours import PALETTE
from bitfalcon_plugin.val.loop import Hooks, validate
from bitfalcon_plugin.val.pictures import Pictures
from tests.helpers.finder import BrightBoxes
from tests.helpers.labels import targets_of
from tests.val.test_loop import scene

NAMES = BrightBoxes.names


def batch(count=2, side=64) -> Batch:
    labels = targets_of(torch.tensor([[8.0, 16.0, 40.0, 48.0]]), torch.tensor([2]), torch.tensor([1]))
    return Batch(torch.ones(count, 3, side, side), labels)


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def extent(path, colour):
    """x1, y1, x2, y2 of the pixels near a '#rrggbb' colour (JPEG blurs it), or None."""
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    near = np.abs(np.asarray(Image.open(path).convert("RGB")).astype(int) - wanted).sum(2) < 90
    ys, xs = near.nonzero()
    return (xs.min(), ys.min(), xs.max(), ys.max()) if len(xs) else None


def test_first_batches_and_first_batches_without_mosaic(tmp_path):
    drawn = Pictures(tmp_path, NAMES, True)
    for iteration in range(12):
        drawn.train_batch(iteration, batch(), closed=iteration >= 7)
    assert files(tmp_path) == sorted(f"train_batch{number}.jpg" for number in (0, 1, 2, 7, 8, 9))


def test_a_run_that_is_closed_from_the_start_draws_three(tmp_path):
    drawn = Pictures(tmp_path, NAMES, True)
    for iteration in range(6):
        drawn.train_batch(iteration, batch(), closed=True)
    assert files(tmp_path) == ["train_batch0.jpg", "train_batch1.jpg", "train_batch2.jpg"]


def test_boxes_lie_in_the_image_they_belong_to(tmp_path):
    Pictures(tmp_path, {0: "a", 1: "b", 2: ""}, True).train_batch(0, batch(side=320))
    x1, y1, x2, y2 = extent(tmp_path / "train_batch0.jpg", PALETTE[2])
    assert (x1, x2, y2) == pytest.approx((320 + 8, 320 + 40, 48), abs=3)  # the label stands above
    assert Image.open(tmp_path / "train_batch0.jpg").size == (640, 320)


def test_nothing_is_drawn_without_plots(tmp_path):
    drawn = Pictures(tmp_path, NAMES, False, note=pytest.fail)
    drawn.labels([])
    drawn.train_batch(0, batch())
    drawn.finish(None)
    assert drawn.watch([], []) is None and files(tmp_path) == []


def test_a_picture_that_fails_is_a_note(tmp_path):
    said = []
    drawn = Pictures(tmp_path, NAMES, True, said.append)
    drawn.train_batch(0, Batch(torch.ones(2, 3, 8, 8), targets_of(torch.ones(3, 4), torch.ones(1), torch.ones(1))))
    drawn.train_batch(1, batch())
    assert len(said) == 1 and said[0].startswith("train_batch0.jpg could not be drawn: ")
    assert files(tmp_path) == ["train_batch1.jpg"]


def test_a_folder_that_is_gone_or_full_is_a_note(tmp_path, monkeypatch):
    said = []
    drawn = Pictures(tmp_path, NAMES, True, said.append)
    monkeypatch.setattr(
        Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    drawn.train_batch(0, batch())
    assert said == ["train_batch0.jpg could not be drawn: OSError: [Errno 28] No space left on device"]
    assert files(tmp_path) == []  # the unfinished file is gone


def validated(tmp_path, drawn):
    samples = scene(tmp_path / "data")
    loader = ValLoader(samples, imgsz=320, batch=2, multiple=32)
    validation = validate(BrightBoxes(), samples, loader, hooks=Hooks(watch=drawn.watch(samples, loader.fits)))
    return samples, replace(validation.metrics, save_dir=drawn.folder)


def test_the_first_validation_batches_with_labels_and_with_detections(tmp_path):
    drawn = Pictures(tmp_path / "run", dict.fromkeys(range(3), ""), True, note=pytest.fail)
    validated(tmp_path, drawn)
    assert files(tmp_path / "run") == sorted(
        f"val_batch{n}_{kind}.jpg" for n in range(3) for kind in ("labels", "pred")
    )
    for number in range(3):  # this detector finds each label to a pixel
        labels, found = (
            extent(tmp_path / "run" / f"val_batch{number}_{kind}.jpg", PALETTE[0]) for kind in ("labels", "pred")
        )
        assert (labels is None) == (found is None)
        if labels is not None:  # its score stands above
            assert (labels[0], labels[3]) == pytest.approx((found[0], found[3]), abs=3)


def test_without_matplotlib_the_rest_is_drawn_and_one_line_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = []
    drawn = Pictures(tmp_path / "run", NAMES, True, said.append)
    samples, metrics = validated(tmp_path, drawn)
    (tmp_path / "run" / "results.csv").write_text("epoch,time,train/box_loss\n1,2,3\n")
    drawn.labels(samples)
    drawn.train_batch(0, batch())
    drawn.finish(metrics)
    assert len(said) == 1
    assert said[0].startswith("curves, matrices and charts need matplotlib")
    assert "pip install 'bitfalcon[plots]'" in said[0]
    assert "train_batch0.jpg" in files(tmp_path / "run") and not list((tmp_path / "run").glob("*.png"))


def test_everything_a_run_draws(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    monkeypatch.setattr("bitfalcon_plugin.plots.figure.DPI", 40)
    drawn = Pictures(tmp_path / "run", NAMES, True, note=pytest.fail)
    samples, metrics = validated(tmp_path, drawn)
    (tmp_path / "run" / "results.csv").write_text(
        "epoch,time,train/box_loss,val/box_loss,metrics/mAP50(B)\n1,2,3,4,nan\n"
    )
    drawn.labels(samples)
    drawn.finish(metrics)
    expected = {
        "labels.jpg",
        "results.png",
        "PR_curve.png",
        "F1_curve.png",
        "P_curve.png",
        "R_curve.png",
        "confusion_matrix.png",
        "confusion_matrix_normalized.png",
        "val_batch0_labels.jpg",
        "val_batch0_pred.jpg",
    }
    assert expected <= set(files(tmp_path / "run")) and not [
        name for name in files(tmp_path / "run") if name.startswith(".")
    ]
