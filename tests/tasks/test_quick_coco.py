"""hotcoco gives what pycocotools gives, to the last bit: boxes, masks, keypoints, curves and every number."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bitfalcon_plugin.tasks import quick_coco
from bitfalcon_plugin.tasks.coco import coco_metrics
from bitfalcon_plugin.tasks.metrics import Metrics
from bitfalcon_plugin.tasks.segment import evaluate_segments
from tests.helpers import masks
from tests.helpers.labels import detections_of
from tests.tasks import test_pose_metrics as poses
from tests.val import test_loop as boxes

pytestmark = pytest.mark.skipif(importlib.util.find_spec("hotcoco") is None, reason="needs hotcoco: bitfalcon[fast]")


def by_both(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], Metrics]) -> tuple[Metrics, Metrics]:
    """The metrics by pycocotools and by hotcoco, which computes as often as pycocotools would."""
    slow, used = compute(), []
    evaluate = quick_coco._set
    monkeypatch.setattr(quick_coco, "find_spec", importlib.util.find_spec)
    monkeypatch.setattr(quick_coco, "_set", lambda *arguments: (used.append(1), evaluate(*arguments)))
    quick = compute()
    assert used
    return slow, quick


def assert_equal(slow: object, quick: object, where: str = "") -> None:
    """Every number of two metrics is the same, nan included."""
    assert type(slow) is type(quick), where
    if isinstance(slow, (np.ndarray, float)):
        np.testing.assert_array_equal(quick, slow, err_msg=where)
    elif isinstance(slow, dict):
        assert list(slow) == list(quick), where
        for key in slow:
            assert_equal(slow[key], quick[key], f"{where}.{key}")
    elif isinstance(slow, (list, tuple)):
        assert len(slow) == len(quick), where
        for index, pair in enumerate(zip(slow, quick)):
            assert_equal(*pair, f"{where}[{index}]")
    elif hasattr(slow, "__dict__"):
        assert_equal(vars(slow), vars(quick), where)
    else:
        assert slow == quick, where


@pytest.mark.parametrize("seed", range(4))
def test_boxes(monkeypatch, seed):
    samples, detections = boxes.random_case(seed)
    slow, quick = by_both(monkeypatch, lambda: coco_metrics(samples, detections_of(detections), boxes.NAMES))
    assert 0.01 < slow.ap < 0.99
    assert_equal(slow, quick)
    assert len(pickle.dumps(quick)) > 100


@pytest.mark.parametrize("seed, boxes_only", [(0, 0.0), (1, 0.3), (2, 0.3)])
def test_masks_and_crowds(monkeypatch, seed, boxes_only):
    samples, detections = masks.random_case(seed, boxes_only)
    assert_equal(*by_both(monkeypatch, lambda: evaluate_segments(samples, detections, masks.NAMES, conf=0.25)))


@poses.EACH
def test_recorded_keypoints(monkeypatch, case):
    assert_equal(*by_both(monkeypatch, lambda: poses.evaluated(case)))


def test_nothing_found_and_nothing_labelled(monkeypatch):
    samples, detections = boxes.random_case(0)
    found = detections_of(detections)
    nothing = found.only(torch.zeros(len(found), dtype=torch.bool))
    assert_equal(*by_both(monkeypatch, lambda: coco_metrics(samples, nothing, boxes.NAMES)))


@pytest.mark.parametrize("image, category", [(-5, 1), (1, -2), (1 << 63, 1), ("1", 1)])
def test_ids_that_hotcoco_refuses_are_left_to_pycocotools(monkeypatch, image, category):
    monkeypatch.setattr(quick_coco, "find_spec", importlib.util.find_spec)
    truth = COCO()
    annotation = {"id": 1, "image_id": image, "category_id": category, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0}
    images, categories = [{"id": image, "width": 9, "height": 9}], [{"id": category, "name": "x"}]
    truth.dataset = {"images": images, "categories": categories, "annotations": [annotation]}
    truth.createIndex()
    assert not quick_coco.evaluate_quickly(COCOeval(truth, truth, "bbox"))


def test_without_labels(monkeypatch):
    samples, detections = boxes.random_case(0)
    blank = [
        sample.__class__(sample.image, sample.size, sample.labels.only(sample.labels.classes < 0)) for sample in samples
    ]
    assert_equal(*by_both(monkeypatch, lambda: coco_metrics(blank, detections_of(detections), boxes.NAMES)))
