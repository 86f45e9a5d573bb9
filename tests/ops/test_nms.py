"""Suppression of duplicates against a slow one in plain Python, and what bounds its cost."""

from __future__ import annotations

import importlib.util
import random

import numpy as np
import pytest
import torch
import torchvision

from bitfalcon_plugin.ops import nms
from bitfalcon_plugin.ops.nms import non_max_suppression


def slow_nms(prediction, conf, iou, max_det=300, multi_label=False, agnostic=False, classes=None, cap=30_000):
    """Lists of (x1, y1, x2, y2, score, class) per image, one pair of boxes at a time, in plain floats."""
    conf = float(np.float32(conf))  # what a float32 score can be compared with
    output = []
    for image in prediction:
        corners = torchvision.ops.box_convert(image[:4].t().contiguous(), "cxcywh", "xyxy").tolist()
        result = []
        for box, row in zip(corners, image[4:].t().tolist()):
            scores = {c: score for c, score in enumerate(row) if score == score}  # NaN is no score
            if not multi_label and scores:
                best = max(scores.values())
                scores = dict([next((c, score) for c, score in scores.items() if score == best)])
            if all(abs(side) < float("inf") for side in box):
                result += [
                    (*box, score, c)
                    for c, score in scores.items()
                    if score > conf and (classes is None or c in classes)
                ]
        result.sort(key=lambda detection: -detection[4])
        kept = []
        for one in result[:cap]:
            if all((not agnostic and one[5] != other[5]) or not plain_iou(one, other) > iou for other in kept):
                kept.append(one)
            if len(kept) == max_det:
                break
        output.append(kept)
    return output


def plain_iou(a, b) -> float:
    """Overlap of two boxes; 0 where neither has an area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else 0.0


def crowd(anchors: int, nc: int, images: int = 2, seed: int = 0) -> torch.Tensor:
    """(images, 4 + nc, anchors): noisy copies of a few objects, one of them beyond the left edge."""
    generator = torch.Generator().manual_seed(seed)
    objects = [[50.0, 60, 40, 80], [70, 60, 50, 70], [200, 150, 90, 30], [-20, 100, 60, 60], [180, 40, 25, 25]]
    pick = torch.randint(len(objects), (images, anchors), generator=generator)
    boxes = torch.tensor(objects)[pick] + torch.randn(images, anchors, 4, generator=generator) * 4
    scores = torch.rand(images, anchors, nc, generator=generator) ** 2
    return torch.cat((boxes, scores), 2).transpose(1, 2)


def assert_same_detections(got: list[torch.Tensor], expected: list[list[tuple]]) -> None:
    assert [len(rows) for rows in got] == [len(rows) for rows in expected]
    for rows, want in zip(got, expected):
        assert rows.dtype == torch.float32 and rows.shape[1] == 6
        assert torch.equal(rows, torch.tensor(want).reshape(-1, 6))


@pytest.mark.parametrize("nc", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"conf": 0.1, "iou": 0.5},
        {"conf": 0.1, "iou": 0.5, "multi_label": True},
        {"conf": 0.3, "iou": 0.7, "agnostic": True},
        {"conf": 0.3, "iou": 0.7, "agnostic": True, "multi_label": True, "max_det": 7},
        {"conf": 0.05, "iou": 0.6, "classes": [0, 2], "multi_label": True},
        {"conf": 0.05, "iou": 0.6, "classes": [2]},
        {"conf": 0.999999, "iou": 0.6},
    ],
)
def test_nms_agrees_with_a_slow_loop(nc, options):
    prediction = crowd(150, nc)
    assert_same_detections(non_max_suppression(prediction, **options), slow_nms(prediction, **options))


@pytest.mark.parametrize("max_det", [1, 4, 20, 300])
def test_nms_in_blocks_and_with_a_cap_changes_nothing(monkeypatch, max_det):
    prediction = crowd(300, 3, seed=1)
    options = {"conf": 0.01, "iou": 0.45, "multi_label": True, "max_det": max_det}
    monkeypatch.setattr(nms, "BLOCK", 2)
    assert_same_detections(non_max_suppression(prediction, **options), slow_nms(prediction, **options))
    monkeypatch.setattr(nms, "MAX_CANDIDATES", 25)
    assert_same_detections(non_max_suppression(prediction, **options), slow_nms(prediction, **options, cap=25))


def test_nms_of_many_classes_loses_no_precision():
    """Pairs a hair above and below the threshold, where a shift in float32 (class 79, 1280 px) rounds to 1/128 px."""
    side = 100.0
    for shift, kept in ((17.645, 1), (17.65, 2)):  # IoU = (100 - d) / (100 + d): 0.70003 and 0.69996
        boxes = torch.tensor([[1230.3, 1230.3, side, side], [1230.3 - shift, 1230.3, side, side]])
        scores = torch.zeros(2, 80)
        scores[:, 79] = torch.tensor([0.9, 0.8])
        prediction = torch.cat((boxes, scores), 1).t()[None]
        assert len(non_max_suppression(prediction, conf=0.25, iou=0.7)[0]) == kept


def test_nms_never_mixes_classes_wherever_the_boxes_lie():
    generator = torch.Generator().manual_seed(0)
    for reach in (1.0, 100.0, 1e5):
        centres = (torch.rand(2, 1, generator=generator) - 0.5) * reach
        boxes = torch.cat((centres.expand(2, 60), torch.full((2, 60), reach)))  # 60 equal boxes
        prediction = torch.cat((boxes, torch.eye(60) * 0.5))[None]
        assert len(non_max_suppression(prediction, conf=0.1, iou=0.1)[0]) == 60
        assert len(non_max_suppression(prediction, conf=0.1, iou=0.1, agnostic=True)[0]) == 1
        assert len(non_max_suppression(prediction, conf=0.1, iou=0.1, multi_label=True, max_det=50)[0]) == 50


def test_nms_shifts_classes_past_every_other_box():
    """Five classes along a diagonal, every 5 px: a shift that ends among other boxes meets one at IoU 0.72 or more."""
    steps = torch.arange(-200.0, 400, 5)
    side = torch.full_like(steps, 30)
    boxes = torch.stack((steps, steps, side, side))  # (4, 120), each with IoU 0.53 to the next
    scores = torch.zeros(5, 5, len(steps))
    scores[range(5), range(5)] = torch.linspace(0.3, 0.9, 5 * len(steps)).view(5, -1)
    prediction = torch.cat((boxes.repeat(1, 5), scores.transpose(0, 1).flatten(1)))[None]  # (1, 9, 600)
    assert len(non_max_suppression(prediction, conf=0.25, iou=0.6, max_det=1000)[0]) == 600


def test_a_score_must_exceed_conf():
    prediction = torch.tensor([10.0, 10, 5, 5, 0.25, 0.5]).view(1, 6, 1)
    for multi_label, conf, kept in ((False, 0.5, 0), (False, 0.49, 1), (True, 0.25, 1), (True, 0.24, 2)):
        assert len(non_max_suppression(prediction, conf=conf, iou=0.5, multi_label=multi_label)[0]) == kept


def test_nms_of_odd_input():
    prediction = crowd(50, 2)
    assert [tuple(rows.shape) for rows in non_max_suppression(prediction[:, :, :0], conf=0.1, iou=0.5)] == [(0, 6)] * 2
    half = non_max_suppression(prediction.bfloat16(), conf=0.1, iou=0.5)
    assert_same_detections(half, slow_nms(prediction.bfloat16().float(), 0.1, 0.5))
    broken = prediction.clone()
    broken[0, 2, 7], broken[0, 0, 8], broken[0, 4:, 9] = torch.inf, torch.nan, torch.nan
    keep = [index for index in range(50) if index not in (7, 8, 9)]
    for multi_label in (False, True):
        got = non_max_suppression(broken[:1], conf=0.1, iou=0.5, multi_label=multi_label)
        assert_same_detections(got, slow_nms(prediction[:1, :, keep], 0.1, 0.5, multi_label=multi_label))
    with pytest.raises(ValueError, match="4 \\+ classes"):
        non_max_suppression(torch.zeros(1, 4, 10), conf=0.1, iou=0.5)


def random_case(seed: int) -> tuple[torch.Tensor, dict]:
    """A small prediction on a coarse grid, so that scores tie and overlaps equal the threshold, and options for it."""
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    images, nc, anchors = chance.randint(0, 3), chance.choice((1, 2, 5)), chance.choice((0, 1, 7, 60))
    centres = torch.randint(0, 8, (images, 2, anchors), generator=generator) * 5.0
    sides = torch.randint(0, 4, (images, 2, anchors), generator=generator) * 10.0  # 0: boxes without area
    scores = torch.randint(0, chance.choice((3, 9, 1000)), (images, nc, anchors), generator=generator) / 8
    prediction = torch.cat((centres, sides, scores), 1)
    if chance.random() < 0.3:
        holes = torch.rand(prediction.shape, generator=generator) < 0.05
        prediction[holes] = chance.choice((torch.nan, torch.inf, -torch.inf))
    return prediction, {
        "conf": chance.choice((0.0, 0.1, 0.125, 0.5)),
        "iou": chance.choice((0.0, 1 / 3, 0.5, 0.7, 1.0)),
        "max_det": chance.choice((1, 3, 10, 300)),
        "multi_label": chance.random() < 0.5,
        "agnostic": chance.random() < 0.5,
        "classes": chance.choice((None, None, [0], [1, 4], [])),
    }


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_nms_of_random_cases_equals_the_slow_one(monkeypatch, start):
    for seed in range(start, start + 100):
        prediction, options = random_case(seed)
        expected = slow_nms(prediction, **options)
        assert_same_detections(non_max_suppression(prediction, **options), expected)
        with monkeypatch.context() as patch:
            patch.setattr(nms, "BLOCK", 2)
            patch.setattr(nms, "MAX_CANDIDATES", 9)
            assert_same_detections(non_max_suppression(prediction, **options), slow_nms(prediction, **options, cap=9))


def test_nms_of_more_candidates_than_are_taken():
    """40,000 candidates with ties at the 30,000th, and no image is dropped."""
    prediction = crowd(500, 80, images=3, seed=2)
    prediction[:, 4:] = (prediction[:, 4:] * 50).round() / 100 + 0.25
    got = non_max_suppression(prediction, conf=0.2, iou=0.3, multi_label=True, max_det=2000)
    assert_same_detections(got, slow_nms(prediction, 0.2, 0.3, multi_label=True, max_det=2000))
    assert min(len(rows) for rows in got) > 300


def test_of_equal_scores_the_first_are_taken_and_in_their_order():
    score = torch.tensor([0.5, 0.9, 0.5, 0.5, 0.7, 0.5])
    assert nms._ranked(score, 6).tolist() == [1, 4, 0, 2, 3, 5]
    assert nms._ranked(score, 4).tolist() == [1, 4, 0, 2]
    assert nms._ranked(torch.full((5,), torch.inf), 3).tolist() == [0, 1, 2]


def test_the_kernel_never_sees_more_than_a_block_and_what_is_kept(monkeypatch):
    """Few objects with the best scores, then boxes that do not touch: in one piece that is quadratic in 30,000."""
    seen, kernel = [], nms._kernel()
    monkeypatch.setattr(nms, "_kernel", lambda: lambda boxes, *rest: seen.append(len(boxes)) or kernel(boxes, *rest))
    heap = torch.tensor([50.0, 50, 20, 20]).expand(7000, 4) + torch.rand(7000, 4)
    apart = torch.stack((torch.arange(500) * 3.0 + 200, torch.zeros(500), torch.ones(500), torch.ones(500)), 1)
    scores = torch.linspace(0.9, 0.1, 7500)
    prediction = torch.cat((torch.cat((heap, apart)), scores[:, None]), 1).t()[None]
    assert len(non_max_suppression(prediction, conf=0.01, iou=0.5)[0]) == 300
    assert len(seen) == 4 and max(seen) < nms.BLOCK + 300


def test_half_precision_scores_are_compared_with_the_whole_threshold():
    prediction = torch.tensor([10.0, 10, 5, 5, 0.25]).view(1, 5, 1).bfloat16()
    assert len(non_max_suppression(prediction, conf=0.2499, iou=0.5)[0]) == 1  # in bfloat16 this threshold is 0.25


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nms_on_a_gpu_is_the_same():
    prediction = crowd(2000, 5, images=3, seed=4)
    options = {"conf": 0.01, "iou": 0.5, "multi_label": True}
    got = non_max_suppression(prediction.cuda(), **options)
    assert all(rows.is_cuda for rows in got)
    assert_same_detections([rows.cpu() for rows in got], slow_nms(prediction, **options))


def test_without_its_library_alone_torchvision_is_imported(monkeypatch):
    nms._kernel.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    try:
        assert nms._kernel() is torchvision.ops.nms
        prediction = crowd(60, 3)
        assert_same_detections(non_max_suppression(prediction, conf=0.1, iou=0.5), slow_nms(prediction, 0.1, 0.5))
    finally:
        nms._kernel.cache_clear()
