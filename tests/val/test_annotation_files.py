"""val on annotation files: COCO's numbers are pycocotools' on the file and on predictions.json, to the last digit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.data.from_settings import find_data, scan_split
from bitfalcon_plugin.ops.encoded_masks import EncodedMasks
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.predict.writer import write_files
from bitfalcon_plugin.tasks import TASKS, quick_coco
from bitfalcon_plugin.tasks.metrics import STATS
from bitfalcon_plugin.tasks.pose_metrics import POINT_STATS
from tests.helpers.coco_files import coco_dataset, numbers_of_files

BY_WHAT = ["pycocotools", "hotcoco"]


@pytest.fixture(params=BY_WHAT)
def engine(request, monkeypatch) -> str:
    if request.param == "hotcoco":
        pytest.importorskip("hotcoco")
    else:
        monkeypatch.setattr(quick_coco, "find_spec", lambda name: None)
    return request.param


def samples_of(data: Path, task: str, **values: object) -> tuple:
    settings = load_settings({"data": str(data), "task": task, "mode": "val", "save_json": True, **values})
    spec, settings = find_data(settings, TASKS[task].data)
    return spec, settings, scan_split(spec, "val", settings, TASKS[task].data).samples


def detections_near(samples: list[Sample], classes: int, seed: int = 0) -> Instances:
    """Detections of most labels of every kind, moved, with masks and keypoints, of a right or a wrong class."""
    generator = np.random.default_rng(seed)
    boxes, images, found, scores, planes, points = [], [], [], [], [], []
    for index, sample in enumerate(samples):
        truth, (height, width) = sample.truth, sample.size
        for row in [*range(len(truth.classes))] * 3:
            x, y, w, h = truth.boxes[row] + generator.normal(0, 2.0, 4)
            plane = torch.zeros(height, width, dtype=torch.bool)
            plane[max(int(y), 0) : int(y + h), max(int(x), 0) : int(x + w)] = True
            wrong = generator.random() < 0.2
            boxes.append([x, y, x + max(w, 1), y + max(h, 1)])
            images.append(index)
            found.append(int(generator.integers(classes)) if wrong else int(truth.classes[row]))
            scores.append(round(float(generator.random()), 1))  # many equal ones
            planes.append(EncodedMasks.of(plane[None]).codes[0])
            if truth.keypoints is not None:
                moved = truth.keypoints[row, :, :2] + generator.normal(0, 2.0, truth.keypoints.shape[1:2] + (2,))
                points.append(np.concatenate([moved, np.ones((len(moved), 1))], 1))
    keypoints = torch.tensor(np.array(points), dtype=torch.float32) if points else None
    return Instances(
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(found),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(images),
        encoded_masks=EncodedMasks(planes),
        keypoints=keypoints,
    )


def both(tmp_path: Path, task: str, kind: str, **keys: object) -> tuple:
    """Metrics of a task, and pycocotools' numbers of the two files."""
    data = coco_dataset(tmp_path, keypoints=task == "pose", **keys)
    spec, settings, samples = samples_of(data, task)
    found = detections_near(list(samples), 3)
    if task != "segment":
        found = replace(found, encoded_masks=None)
    if task != "pose":
        found = replace(found, keypoints=None)
    metrics = TASKS[task].evaluate(samples, found, spec.names, conf=0.25)
    write_files(tmp_path, samples, found, spec.names, settings, coco=False)
    sigmas = samples[0].layout.sigmas if kind == "keypoints" else None
    files = tmp_path / "annotations/instances_val.json", tmp_path / "predictions.json"
    return metrics, numbers_of_files(*files, kind, sigmas)


def same(stats: dict, names: tuple, expected: list[float]) -> None:
    numbers = [-1.0 if math.isnan(stats[name]) else stats[name] for name in names]
    assert numbers == expected and 0.1 < numbers[0] < 0.95


@pytest.mark.parametrize("task", ["detect", "segment", "pose"])
def test_the_twelve_numbers_of_boxes(tmp_path, engine, task):
    metrics, expected = both(tmp_path, task, "bbox")
    same(metrics.stats, STATS, expected)


def test_the_twelve_numbers_of_masks(tmp_path, engine):
    metrics, expected = both(tmp_path, "segment", "segm")
    same(metrics.mask_stats, STATS, expected)


def test_the_ten_numbers_of_keypoints(tmp_path, engine):
    metrics, expected = both(tmp_path, "pose", "keypoints")
    same(metrics.pose_stats, POINT_STATS, expected)
    assert math.isnan(metrics.pose_stats["APsmall"]) and "APsmall nan" in metrics.table()


def test_names_in_another_order_than_the_ids(tmp_path, engine):
    metrics, expected = both(tmp_path, "detect", "bbox", names=["cow", "dog", "cat"])
    same(metrics.stats, STATS, expected)
    assert metrics.names == {0: "cow", 1: "dog", 2: "cat"}
