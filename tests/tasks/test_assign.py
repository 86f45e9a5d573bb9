"""Task-aligned assignment against a slow loop written from interface.md 6.7."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bitfalcon_plugin.ops.boxes import anchor_points, xywh_from_xyxy
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks import assign as module
from bitfalcon_plugin.tasks.assign import assign
from tests.helpers.labels import targets_of
from tests.ops.test_rotated_overlap import plain_probiou

STRIDES = (8, 16, 32)


def plain_ciou(a, b) -> float:
    """Clamped CIoU of two boxes in plain floats."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    sides = [(box[2] - box[0], box[3] - box[1]) for box in (a, b)]
    iou = shared / (sides[0][0] * sides[0][1] + sides[1][0] * sides[1][1] - shared + 1e-7)
    rho = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    v = 4 / math.pi**2 * (math.atan2(*sides[0]) - math.atan2(*sides[1])) ** 2
    return max(iou - rho / (hull + 1e-7) - v * v / (v - iou + 1 + 1e-7), 0.0)


def contains(box, x: float, y: float) -> bool:
    """Whether a point lies strictly inside a box whose sides below 16 px were widened to 16 px."""
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    w, h = max(box[2] - box[0], 16), max(box[3] - box[1], 16)
    return abs(x - cx) < w / 2 and abs(y - cy) < h / 2


def contains_turned(box, x: float, y: float) -> bool:
    """Whether a point lies in an oriented box or on its edge, its sides widened alike; nothing lies in a tiny one."""
    cx, cy, w, h, angle = box
    along = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
    across = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
    return min(w, h) >= 2 and abs(along) <= max(w, 16) / 2 and abs(across) <= max(h, 16) / 2


def slow_assign(
    scores, boxes, points, targets: Instances, topk: int = 10, overlap_of=plain_ciou, contains=contains
) -> dict[tuple[int, int], tuple[int, float]]:
    """(image, anchor) -> (row of targets, soft target), one ground truth and one anchor at a time."""
    truths = targets.boxes if targets.xywhr is None else targets.xywhr
    truths = list(zip(truths.tolist(), targets.classes.tolist(), targets.image.tolist()))
    scores, boxes, points = scores.tolist(), boxes.tolist(), points.tolist()
    claims: dict[tuple[int, int], list[tuple[float, int, float]]] = {}
    for row, (box, label, image) in enumerate(truths):
        found = []
        for anchor, (x, y) in enumerate(points):
            overlap = max(overlap_of(box, boxes[image][anchor]), 0.0) if contains(box, x, y) else 0.0
            metric = scores[image][anchor][label] ** 0.5 * overlap**6
            if metric > 0:
                found.append((metric, anchor, overlap))
        for metric, anchor, overlap in sorted(found, reverse=True)[:topk]:
            claims.setdefault((image, anchor), []).append((overlap, row, metric))
    won = {cell: max(wanted, key=lambda claim: claim[0]) for cell, wanted in claims.items()}
    result = {}
    for cell, (_, row, metric) in won.items():
        own = [claim for claim in won.values() if claim[1] == row]
        result[cell] = (row, metric * max(c[0] for c in own) / (max(c[2] for c in own) + 1e-9))
    return result


def as_dict(found, targets: Instances) -> dict[tuple[int, int], tuple[int, float]]:
    cells = {}
    for row, slot in found.won.nonzero().tolist():
        cell = (targets.image[row].item(), found.anchor[row, slot].item())
        assert cell not in cells, "an anchor was won twice"
        cells[cell] = (row, found.weight[row, slot].item())
    assert not found.weight[~found.won].any()
    return cells


def scene(seed: int, images: int = 3, truths: int = 9, nc: int = 4, height: int = 128, width: int = 160):
    """Scores, boxes and points of all anchors, and crowded targets: a predicted box is a noisy copy of a truth."""
    generator = torch.Generator().manual_seed(seed)
    points, stride = anchor_points([(height // s, width // s) for s in STRIDES], STRIDES)
    points = points * stride[:, None]
    size = torch.tensor([width, height])
    centre = (0.3 + 0.4 * torch.rand(images * truths, 2, generator=generator)) * size  # close together
    side = 3 + 90 * torch.rand(images * truths, 2, generator=generator) ** 2
    boxes = torch.cat((centre - side / 2, centre + side / 2), 1)
    owner = torch.arange(images).repeat_interleave(truths)
    pick = torch.randint(truths, (images, len(points)), generator=generator) + torch.arange(images)[:, None] * truths
    predicted = boxes[pick] + torch.randn(images, len(points), 4, generator=generator) * 4
    scores = torch.rand(images, len(points), nc, generator=generator)
    some = owner != 1  # the image in the middle has none
    targets = targets_of(boxes[some], torch.randint(nc, (len(owner),), generator=generator)[some], owner[some])
    return scores, predicted, points, targets


def assert_same(got: dict, expected: dict) -> None:
    assert {cell: row for cell, (row, _) in got.items()} == {cell: row for cell, (row, _) in expected.items()}
    for cell, (_, weight) in expected.items():
        assert got[cell][1] == pytest.approx(weight, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("topk", [10, 3])
def test_agrees_with_a_slow_loop(seed, topk):
    scores, boxes, points, targets = scene(seed)
    got = as_dict(assign(scores, boxes, points, targets, topk=topk), targets)
    expected = slow_assign(scores, boxes, points, targets, topk)
    assert len(expected) > 20
    assert_same(got, expected)


@pytest.mark.parametrize("seed", range(3))
def test_oriented_boxes_agree_with_a_slow_loop(seed):
    scores, boxes, points, targets = scene(seed)
    generator = torch.Generator().manual_seed(seed)
    truths = torch.cat([xywh_from_xyxy(targets.boxes), torch.rand(len(targets), 1, generator=generator) * 3], 1)
    truths[0, 3], truths[1, 2:4] = 1.9, 2.0  # the first has no candidates
    predicted = torch.cat([xywh_from_xyxy(boxes), torch.rand(*boxes.shape[:2], 1, generator=generator) * 3], 2)
    predicted[..., 2:4] = predicted[..., 2:4].clamp(min=1)
    targets = replace(targets, xywhr=truths)
    got = as_dict(assign(scores, predicted, points, targets), targets)
    expected = slow_assign(scores, predicted, points, targets, 10, plain_probiou, contains_turned)
    assert len(expected) > 20 and 0 not in {row for row, _ in got.values()}
    assert_same(got, expected)


def test_the_scene_has_what_it_should_test():
    """Anchors wanted by several ground truths, so that some of these end with fewer; small and large ones."""
    scores, boxes, points, targets = scene(0)
    found = assign(scores, boxes, points, targets)
    assert found.anchor.shape == (18, 10)
    side = (targets.boxes[:, 2:] - targets.boxes[:, :2]).amin(1)
    assert (side < 16).any() and (side > 32).any()
    alone = [assign(scores, boxes, points, targets.only(torch.tensor([i]))) for i in range(18)]
    assert sum(one.won.sum() for one in alone) > found.won.sum()


def test_order_and_chunks_do_not_matter(monkeypatch):
    scores, boxes, points, targets = scene(5)
    whole = as_dict(assign(scores, boxes, points, targets), targets)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", {"cpu": 2 * len(points)})  # two ground truths at a time
    assert_same(as_dict(assign(scores, boxes, points, targets), targets), whole)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", {"cpu": 1})
    order = torch.randperm(len(targets.image), generator=torch.Generator().manual_seed(0))
    shuffled = targets_of(targets.boxes[order], targets.classes[order], targets.image[order])
    mixed = as_dict(assign(scores, boxes, points, shuffled), shuffled)
    assert_same({cell: (order[row].item(), weight) for cell, (row, weight) in mixed.items()}, whole)


def test_one_small_truth_by_hand():
    """A 4 x 4 px truth around (12, 12), where each anchor predicts its own cell: only the anchor there overlaps it."""
    points, stride = anchor_points([(4, 4)], [8])
    points = points * stride[:, None]
    boxes = torch.cat((points - 4, points + 4), 1)[None]  # (1, 16, 4): each anchor predicts its own cell
    targets = targets_of(torch.tensor([[10.0, 10, 14, 14]]), torch.tensor([1]), torch.tensor([0]))
    found = assign(torch.full((1, 16, 2), 0.25), boxes, points, targets)
    overlap = 16 / 64  # 4 x 4 inside 8 x 8, same centre and shape
    metric = 0.25**0.5 * overlap**6
    assert as_dict(found, targets) == {(0, 5): (0, pytest.approx(metric * overlap / (metric + 1e-9), rel=1e-5))}


def test_a_small_truth_between_four_anchors_is_seen_by_all_of_them():
    """Unwidened, the 4 x 4 px truth around (16, 16) would hold none of the points at 12 and 20 px around it."""
    points, stride = anchor_points([(4, 4)], [8])
    truth = torch.tensor([[14.0, 14, 18, 18]])
    targets = targets_of(truth, torch.tensor([0]), torch.tensor([0]))
    found = assign(torch.full((1, 16, 2), 0.25), truth.expand(1, 16, 4), points * stride[:, None], targets)
    weights = {cell: weight for cell, (_, weight) in as_dict(found, targets).items()}
    assert weights == {(0, anchor): pytest.approx(1.0) for anchor in (5, 6, 9, 10)}


def test_a_point_on_the_edge_is_outside():
    points = torch.tensor([[20.0, 20.0], [20.0, 40.0], [30.0, 30.0]])
    boxes = torch.tensor([20.0, 20, 60, 60]).expand(1, 3, 4)
    targets = targets_of(torch.tensor([[20.0, 20, 60, 60]]), torch.tensor([0]), torch.tensor([0]))
    assert list(as_dict(assign(torch.ones(1, 3, 1), boxes, points, targets), targets)) == [(0, 2)]


def test_two_equal_truths_share_nothing_and_the_first_wins():
    scores, boxes, points, _ = scene(0, images=1)
    box = torch.tensor([[40.0, 40, 100, 100]]).expand(2, 4)
    boxes = box[0] + torch.randn(boxes.shape, generator=torch.Generator().manual_seed(0))
    targets = targets_of(box, torch.tensor([2, 2]), torch.tensor([0, 0]))
    assert assign(scores, boxes, points, targets).won.tolist() == [[True] * 10, [False] * 10]


def test_no_truths_and_truths_without_area():
    scores, boxes, points, targets = scene(0)
    none = targets_of(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    assert assign(scores, boxes, points, none).won.shape == (0, 10)
    flat = targets_of(torch.tensor([[50.0, 50, 50, 80], [60, 60, 60, 60]]), torch.tensor([0, 1]), torch.tensor([0, 2]))
    found = assign(scores, boxes, points, flat)
    assert not found.won.any() and not found.weight.any()


def test_nothing_waits_for_the_device():
    """Meta tensors hold no data: whatever asked for a value or for a shape that depends on values would fail."""
    scores, boxes, points, targets = scene(0)
    targets = targets.to("meta")
    turned = replace(targets, xywhr=torch.zeros(18, 5, device="meta"))
    for truths, predicted in ((targets, boxes), (turned, torch.zeros(*boxes.shape[:2], 5))):
        found = assign(scores.to("meta"), predicted.to("meta"), points.to("meta"), truths)
        assert found.weight.shape == found.won.shape == found.anchor.shape == (18, 10)


def test_half_precision_input_is_computed_in_float32():
    scores, boxes, points, targets = scene(2)
    scores, boxes = scores.bfloat16(), boxes.bfloat16()
    half = assign(scores, boxes, points, targets)
    assert half.weight.dtype == torch.float32
    assert_same(as_dict(half, targets), slow_assign(scores.float(), boxes.float(), points, targets))
