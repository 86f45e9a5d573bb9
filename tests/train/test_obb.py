"""A model of oriented boxes trained on bars at any angle: boxes and angles are learned, files are written."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from bitfalcon_plugin.ops.rotated import smallest_rectangles
from bitfalcon_plugin.ops.rotated_overlap import probiou_matrix
from bitfalcon_plugin.train.run import run_train
from bitfalcon_plugin.yolo import YOLO
from tests.helpers.small_runs import trained_in
from tests.helpers.turned import SIZE, lay_out
from tests.train.test_every_setting import SMALL, load_settings

COLUMNS = (
    "train/box_loss train/cls_loss train/dfl_loss train/angle_loss metrics/precision(B) metrics/recall(B) "
    "metrics/mAP50(B) metrics/mAP50-95(B) val/box_loss val/cls_loss val/dfl_loss val/angle_loss lr/pg0 lr/pg1 lr/pg2"
)


def settings(**given):
    return load_settings({**SMALL, "model": "small-obb.yaml", "task": "obb", **given})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("obb")
    lay_out(folder, train=48)
    options = {"epochs": 10, "optimizer": "AdamW", "lr0": 0.01, "warmup_epochs": 0, "mosaic": 0.0, "scale": 0.0}
    options |= {"copy_paste": 0.0, "plots": True, "name": "bars", "amp": False}  # otherwise a measured time decides
    return folder, trained_in(folder, settings(**options))


def label_of(folder: Path, index: int) -> tuple[int, torch.Tensor]:
    """Class and xywhr (1, 5) in pixels of the label of a validation image."""
    cls, *values = map(float, (folder / f"data/labels/val/{index}.txt").read_text().split())
    return int(cls), smallest_rectangles(torch.tensor(values).view(1, 4, 2) * torch.tensor([SIZE[1], SIZE[0]]))


def test_boxes_and_angles_are_learned(trained):
    folder, result = trained
    assert result.metrics.ap50 > 0.8 and result.metrics.polygon_stats["AP50"] > 0.5
    errors = []
    for index in range(4):
        found = YOLO(result.best).predict(folder / f"data/images/val/{index}.png", imgsz=64, verbose=False)[0]
        cls, truth = label_of(folder, index)
        assert found.boxes is None and int(found.obb.cls[0]) == cls
        assert float(probiou_matrix(found.obb.xywhr[:1].float(), truth)) > 0.5
        x, y, w, h, angle = found.obb.xywhr[0].tolist()
        angle = angle + (w < h) * math.pi / 2  # of the longer side
        errors.append(abs(math.remainder(angle - float(truth[0, 4]), math.pi)))
    assert np.mean(errors) < 0.3  # of angles without any relation it would be 0.79


def test_the_files_of_a_run(trained):
    folder, result = trained
    run = folder / "runs/bars"
    with open(run / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [name.strip() for name in rows[0]][2:] == COLUMNS.split() and len(rows) == 10
    assert float(rows[-1]["train/angle_loss"]) < float(rows[0]["train/angle_loss"])
    assert load_checkpoint(result.best).model().task == "obb"
    assert (run / "labels.jpg").is_file() or importlib.util.find_spec("matplotlib") is None
    for name in ("train_batch0.jpg", "val_batch0_labels.jpg", "val_batch0_pred.jpg", "worst.csv"):
        assert (run / name).is_file()


def test_val_and_predict_write_oriented_boxes(trained):
    folder, result = trained
    model, options = YOLO(result.best), {"imgsz": 64, "project": str(folder / "runs"), "save_json": True}
    metrics = model.val(data=folder / "data/data.yaml", save_txt=True, name="v", **options)
    assert metrics.conf == 0.01 and metrics.ap == pytest.approx(result.metrics.ap, abs=0.05)
    records = json.loads((folder / "runs/v/predictions.json").read_text())
    assert set(records[0]) == {"image_id", "file_name", "category_id", "score", "rbox", "poly"}
    assert {record["file_name"] for record in records} <= {f"{index}.png" for index in range(4)}
    assert len(records[0]["rbox"]) == 5 and len(records[0]["poly"]) == 8
    rows = [line.split() for line in (folder / "runs/v/labels/0.txt").read_text().splitlines()]
    assert rows and all(len(row) == 9 for row in rows)
    found = model.predict(folder / "data/images/val", save=True, save_txt=True, save_crop=True, name="p", **options)
    written = json.loads((folder / "runs/p/predictions.json").read_text())
    assert len(written) == sum(map(len, found)) and all("file_name" in record for record in written)
    first = next(each for each in found if len(each))
    record = next(record for record in written if record["file_name"] == Path(first.path).name)
    np.testing.assert_allclose(record["rbox"], first.obb.xywhr[0].tolist(), atol=1e-3)
    np.testing.assert_allclose(record["poly"], first.obb.xyxyxyxy[0].flatten().tolist(), atol=1e-3)
    crops = [Image.open(path).size for path in (folder / "runs/p/crops").rglob("*.jpg")]
    assert len(crops) == len(written)


def test_labels_of_another_form_are_told_by_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    with open("data/labels/train/1.txt", "a") as file:
        file.write("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match=r"1\.txt:2: '0 0\.5 0\.5 0\.2 0\.2' is an upright box; .* task=detect"):
        run_train(settings(), None)


def test_the_gain_of_the_angle_changes_the_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    sums = set()
    for gain in (1.0, 0.0):
        result = run_train(settings(epochs=1, angle=gain, project="runs"), None)
        sums.add(sum(float(t.double().abs().sum()) for t in load_checkpoint(result.best).state.values()))
    assert len(sums) == 2
