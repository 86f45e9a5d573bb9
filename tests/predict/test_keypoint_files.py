"""Keypoints in the files that predict and val write: predictions.json and label files, and pycocotools reads them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.predict.coco_json import CocoJson
from bitfalcon_plugin.predict.results import Results
from bitfalcon_plugin.predict.writer import write_files

POINTS = torch.tensor([[[10.5, 20.25, 0.9], [0.0, 0.0, 0.01]], [[30.0, 40.0, 0.5], [1.0, 2.0, 0.2]]])


def detections(points: torch.Tensor) -> Instances:
    boxes = torch.tensor([[5.0, 10, 25, 30], [20, 30, 40, 60]])
    scores, image = torch.tensor([0.75, 0.5]), torch.tensor([1, 0])
    return Instances(boxes, torch.tensor([0, 1]), scores, image, keypoints=points)


def written(folder: Path, points: torch.Tensor) -> list[dict]:
    samples = [Sample(Path(f"{name}.jpg"), (100, 200), Instances.empty()) for name in "ab"]
    settings = load_settings({"save_json": True, "save_txt": True, "save_conf": True})
    write_files(folder, samples, detections(points), {0: "a", 1: "b"}, settings, coco=False)
    return json.loads((folder / "predictions.json").read_text())


def test_validation_writes_the_points_of_each_detection(tmp_path, capsys):
    rows = written(tmp_path, POINTS)
    assert [row["image_id"] for row in rows] == ["a", "b"]
    assert rows[1]["keypoints"] == [10.5, 20.25, 0.9, 0, 0, 0.01] and rows[1]["bbox"] == [5, 10, 20, 20]
    assert (tmp_path / "labels/b.txt").read_text() == "0 0.075 0.2 0.1 0.2 0.0525 0.2025 0.9 0 0 0.01 0.75\n"
    truth = COCO()
    truth.dataset = {"images": [{"id": "a"}, {"id": "b"}], "annotations": [], "categories": [{"id": 1}, {"id": 2}]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        read = truth.loadRes(str(tmp_path / "predictions.json"))
    assert read.anns[2]["keypoints"] == rows[1]["keypoints"] and read.anns[2]["area"] == 400


def test_points_without_confidence_are_triples_in_json_and_pairs_in_labels(tmp_path, capsys):
    rows = written(tmp_path, POINTS[..., :2])
    assert rows[1]["keypoints"] == [10.5, 20.25, 1, 0, 0, 1]
    assert (tmp_path / "labels/a.txt").read_text() == "1 0.15 0.45 0.1 0.3 0.15 0.4 0.005 0.02 0.5\n"


def test_records_of_detections_without_keypoints_have_none(tmp_path):
    with CocoJson(tmp_path / "a.json") as file:
        file.add("a", (1, 2, 3, 4), 0.5, 0)
    assert "keypoints" not in json.loads((tmp_path / "a.json").read_text())[0]


@pytest.mark.parametrize("columns", [3, 2])
def test_supervision_reads_keypoints(columns):
    sv = pytest.importorskip("supervision", reason="supervision is not installed (extra clients)")
    rows = torch.tensor([[5.0, 10, 25, 30, 0.75, 1], [20, 30, 40, 60, 0.5, 0]])
    image, names = np.zeros((100, 200, 3), np.uint8), {0: "cat", 1: "dog"}
    result = Results(image, "a.jpg", names, boxes=rows, keypoints=POINTS[..., :columns])
    found = sv.KeyPoints.from_ultralytics(result)
    assert len(found) == 2 and found.class_id.tolist() == [1, 0]
    np.testing.assert_allclose(found.xy, POINTS[..., :2])
    assert [*found.data["class_name"]] == ["dog", "cat"]
    confidence = getattr(found, "keypoint_confidence", None)
    if columns == 3:
        np.testing.assert_allclose(confidence, POINTS[..., 2])
    else:
        assert confidence is None
    picture = sv.VertexAnnotator(radius=2).annotate(image.copy(), found)
    assert picture[20, 10].any()
    nothing = Results(image, "a.jpg", names, boxes=rows[:0], keypoints=POINTS[:0, :, :columns])
    assert len(sv.KeyPoints.from_ultralytics(nothing)) == 0
