"""A segmentation model trained on diamonds: masks are learned, files are written, and each setting acts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from bitfalcon_plugin.train.run import run_train
from bitfalcon_plugin.yolo import YOLO
from tests.helpers.outlined import diamond, lay_out
from tests.helpers.small_runs import trained_in
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
    options = {"epochs": 20, "optimizer": "AdamW", "lr0": 0.01, "mosaic": 0.0, "plots": True, "name": "diamonds"}
    return folder, trained_in(folder, settings(**options))


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
    seen = found.masks.data[0].bool()
    assert (seen & truth).sum() / (seen | truth).sum() > 0.6
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


def test_val_writes_masks(trained):
    """predictions.json gives pycocotools the numbers that val prints; label files hold outlines."""
    folder, result = trained
    metrics = YOLO(result.best).val(
        data=folder / "data/data.yaml", imgsz=64, save_json=True, save_txt=True, project=str(folder / "runs"), name="v"
    )
    records = json.loads((folder / "runs/v/predictions.json").read_text())
    assert records and {"bbox", "segmentation", "score", "category_id", "image_id"} <= set(records[0])
    assert records[0]["segmentation"]["size"] == [48, 64] and isinstance(records[0]["segmentation"]["counts"], str)
    first = (folder / "runs/v/labels/0.txt").read_text().splitlines()[0].split()
    assert len(first) % 2 == 1 and len(first) >= 7 and all(0 <= float(value) <= 1 for value in first[1:])
    for name in ("val_batch0_labels.jpg", "val_batch0_pred.jpg", "worst.csv"):
        assert (folder / "runs/v" / name).is_file()
    truth = coco_truth(folder / "data")
    evaluation = COCOeval(truth, truth.loadRes(records), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(metrics.mask_ap, abs=1e-9)


def coco_truth(data: Path) -> COCO:
    """The validation labels as annotations, made by pycocotools from the label files alone."""
    annotations, images = [], []
    for path in sorted((data / "labels/val").iterdir()):
        images.append({"id": int(path.stem), "height": 48, "width": 64})
        for line in path.read_text().splitlines():
            cls, *values = map(float, line.split())
            ring = [value * (64 if index % 2 == 0 else 48) for index, value in enumerate(values)]
            code = mask.merge(mask.frPyObjects([ring], 48, 64))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": int(path.stem),
                    "category_id": int(cls) + 1,
                    "iscrowd": 0,
                    "segmentation": code,
                    "area": float(mask.area(code)),
                    "bbox": mask.toBbox(code).tolist(),
                }
            )
    truth = COCO()
    truth.dataset = {"images": images, "annotations": annotations, "categories": [{"id": i + 1} for i in range(3)]}
    truth.createIndex()
    return truth


def test_predict_writes_masks(trained):
    folder, result = trained
    source, options = folder / "data/images/val", {"imgsz": 64, "project": str(folder / "runs"), "name": "p"}
    options["save_crop"] = "masked"
    results = YOLO(result.best).predict(source, save=True, save_txt=True, save_json=True, verbose=False, **options)
    crops = list((folder / "runs/p/crops").rglob("*.png"))
    assert len(crops) == sum(map(len, results)) and Image.open(crops[0]).mode == "RGBA"
    records = json.loads((folder / "runs/p/predictions.json").read_text())
    assert len(records) == sum(map(len, results)) and records[0]["segmentation"]["size"] == [48, 64]
    found = next(each for each in results if len(each))
    assert found.masks.data.shape[1:] == tuple(found.input_shape)
    decoded = mask.decode(found.masks.rle[0])
    assert decoded.shape == (48, 64) and 0 < decoded.sum() < 48 * 64
    assert (folder / "runs/p/0.jpg").is_file() and (folder / "runs/p/labels/0.txt").is_file()


def test_what_is_not_there_is_said(trained, capsys):
    folder, result = trained
    model = YOLO(result.best)
    plain, augmented = (
        model.predict(folder / "data/images/val/0.png", imgsz=64, augment=on, verbose=False)[0] for on in (False, True)
    )
    assert "masks are computed at one scale" in capsys.readouterr().err
    assert torch.equal(plain.masks.data, augmented.masks.data)
    assert model.task == "segment"


def test_boxes_without_masks_train_boxes_and_are_measured(tmp_path, monkeypatch, capsys):
    """A dataset in which a third of the labels are boxes trains, where that is asked for; its masks are measured."""
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    for path in sorted((tmp_path / "data/labels").rglob("*.txt"))[::3]:
        cls, *values = map(float, path.read_text().split())
        (x1, x2), (y1, y2) = ((min(part), max(part)) for part in (values[0::2], values[1::2]))
        path.write_text(f"{cls:.0f} {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}\n")
    with pytest.raises(UserError, match="boxes_without_masks=True"):
        run_train(settings(epochs=1), None)
    result = run_train(settings(epochs=1, boxes_without_masks=True), None)
    assert "10 boxes, 6 of them outlined" in capsys.readouterr().out
    assert result.metrics.instances == 4 and 0 <= result.metrics.mask_ap <= 1
    with open("runs/train/results.csv") as file:
        (row,) = csv.DictReader(file)
    assert float(row["train/seg_loss"]) > 0 and float(row["val/seg_loss"]) > 0
