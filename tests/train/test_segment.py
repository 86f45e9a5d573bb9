"""A segmentation model trained on diamonds: masks are learned, files are written, and each setting acts."""

from __future__ import annotations

import csv

import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from bitfalcon_plugin.train.run import run_train
from bitfalcon_plugin.yolo import YOLO
from tests.helpers.outlined import diamond, lay_out
from tests.train.test_every_setting import SMALL, load_settings

COLUMNS = (
    "train/box_loss train/seg_loss train/cls_loss train/dfl_loss metrics/precision(B) metrics/recall(B) "
    "metrics/mAP50(B) metrics/mAP50-95(B) metrics/precision(M) metrics/recall(M) metrics/mAP50(M) metrics/mAP50-95(M) "
    "val/box_loss val/seg_loss val/cls_loss val/dfl_loss lr/pg0 lr/pg1 lr/pg2"
)


def settings(**given):
    return load_settings({**SMALL, "model": "small-seg.yaml", "task": "segment", **given})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segment")
    lay_out(folder, train=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = {"epochs": 20, "lr0": 0.05, "mosaic": 0.0, "plots": True, "name": "diamonds"}
        result = run_train(settings(**options, project=str(folder / "runs")), None)
    return folder, result


def test_masks_are_learned(trained):
    folder, result = trained
    assert result.metrics.mask_ap50 > 0.8 and result.metrics.fitness > result.metrics.ap
    found = YOLO(result.best).predict(folder / "data/images/val/0.png", imgsz=64, verbose=False, retina_masks=True)[0]
    assert len(found) and found.masks.data.shape[1:] == (48, 64)
    cls, *points = map(float, (folder / "data/labels/val/0.txt").read_text().split())
    x, y = min(points[0::2]) * 64, min(points[1::2]) * 48
    corners = torch.tensor(diamond(x, y, 24, 20))
    rows, columns = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    centre = corners.mean(0)
    truth = ((columns - centre[0]).abs() / 12 + (rows - centre[1]).abs() / 10) <= 1
    mask = found.masks.data[0].bool()
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6
    assert int(found.boxes.cls[0]) == cls


def test_the_files_of_a_run(trained):
    folder, result = trained
    run = folder / "runs/diamonds"
    with open(run / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [name.strip() for name in rows[0]][2:] == COLUMNS.split() and len(rows) == 20
    assert float(rows[-1]["train/seg_loss"]) < float(rows[0]["train/seg_loss"])
    checkpoint = load_checkpoint(result.best)
    assert checkpoint.model().task == "segment" and "metrics/mAP50-95(M)" in checkpoint.metrics
    assert (run / "train_batch0.jpg").is_file() and (run / "val_batch0_pred.jpg").is_file()


def test_mask_ratio_changes_the_weights(outlined_runs):
    assert outlined_runs(mask_ratio=2) != outlined_runs()


@pytest.fixture(scope="module")
def outlined_runs(tmp_path_factory):
    folder, known = tmp_path_factory.mktemp("runs"), {}
    lay_out(folder)

    def weights(**given) -> float:
        key = str(given)
        if key not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                result = run_train(settings(epochs=1, project=str(folder / "runs"), **given), None)
            known[key] = sum(float(t.double().abs().sum()) for t in load_checkpoint(result.best).state.values())
        return known[key]

    return weights


def test_a_box_among_polygons_is_an_error_that_names_the_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    for index in (1, 2):
        with open(f"data/labels/train/{index}.txt", "a") as file:
            file.write("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match=r"(?s)1\.txt:2: the row '0 0\.5.*is a box.*2\.txt:2:.*task=detect"):
        run_train(settings(), None)
