"""Overlaps of oriented boxes: ProbIoU as recorded and in exact arithmetic, the IoU of rectangles as shapely's."""

from __future__ import annotations

import gzip
import json
import math

import pytest
import torch

from bitfalcon_plugin.ops import rotated_overlap
from bitfalcon_plugin.ops.rotated import corners_of
from bitfalcon_plugin.ops.rotated_overlap import probiou, probiou_matrix, rotated_iou
from tests.helpers.paths import RECORDED

RECORD = json.loads(gzip.decompress((RECORDED / "obb.json.gz").read_bytes()))["probiou"]


def boxes_of(count: int, seed: int, side: float = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([side, side, 50, 30, 7], dtype=torch.float64)
    return torch.rand(count, 5, generator=generator, dtype=torch.float64) * scale + torch.tensor([0, 0, 1, 1, -3.5])


def plain_probiou(a: list[float], b: list[float]) -> float:
    """ProbIoU of two boxes from spec/pose-obb.md 2.7, in the image's frame and in plain floats."""
    covariances = []
    for _, _, w, h, r in (a, b):
        along, across, cos, sin = w * w / 12, h * h / 12, math.cos(r), math.sin(r)
        covariances.append(
            (along * cos**2 + across * sin**2, along * sin**2 + across * cos**2, (along - across) * cos * sin)
        )
    (a1, b1, c1), (a2, b2, c2) = covariances
    x, y, z, dx, dy = a1 + a2, b1 + b2, c1 + c2, b[0] - a[0], b[1] - a[1]
    det = x * y - z * z
    squares = (x * dy**2 + y * dx**2 - 2 * z * dx * dy) / (4 * (det + 1e-7))
    volume = math.sqrt(max(a1 * b1 - c1**2, 0) * max(a2 * b2 - c2**2, 0))
    distance = squares + math.log(det / (4 * volume + 1e-7) + 1e-7) / 2
    return 1 - math.sqrt(1 - math.exp(-min(max(distance, 1e-7), 100)) + 1e-7)


@pytest.mark.parametrize("floor, key", [(0, "probiou"), (0.01, "probiou_floor_0.01")])
def test_probiou_is_the_recorded_one(floor, key):
    first, second = (torch.tensor([pair[name] for pair in RECORD["pairs"]]) for name in ("a", "b"))
    expected = torch.tensor([pair[key] for pair in RECORD["pairs"]])
    torch.testing.assert_close(probiou(first, second, floor), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(probiou(second, first, floor), expected, rtol=0, atol=1e-5)
    if not floor:
        matrix = torch.tensor(RECORD["matrix_first_8"])
        torch.testing.assert_close(probiou_matrix(first[:8], second[:8]), matrix, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pairs", [7, 1 << 16])
def test_pairs_at_once_change_nothing(pairs, monkeypatch):
    monkeypatch.setitem(rotated_overlap.PAIRS_AT_ONCE, "cpu", pairs)
    a, b = boxes_of(9, 0), boxes_of(5, 1)
    expected = torch.tensor([[plain_probiou(one, other) for other in b.tolist()] for one in a.tolist()])
    torch.testing.assert_close(probiou_matrix(a, b).float(), expected, rtol=0, atol=1e-6)
    assert probiou_matrix(a[:0], b).shape == (0, 5) and probiou_matrix(a, b[:0]).shape == (9, 0)
    assert rotated_iou(a[:0], b).shape == (0, 5) and rotated_iou(a, b[:0]).shape == (9, 0)


def test_long_boxes_keep_their_digits_in_float32():
    """In the image's frame the determinant of such boxes is lost in float32, and the logarithm of it is no number."""
    boxes = torch.tensor([[2000.0, 1500, 4000, 1.5, 0.8], [2001, 1501, 4000, 1.5, 0.8], [2000, 1500, 4000, 1, 0.8005]])
    exact = torch.tensor([[plain_probiou(one, other) for other in boxes.tolist()] for one in boxes.tolist()])
    torch.testing.assert_close(probiou_matrix(boxes, boxes), exact, rtol=0, atol=2e-3)
    flat = torch.tensor([[10.0, 10, 0, 0, 0], [10, 10, 50, 0, 0.4], [10, 10, 50, 0, 0.4]])
    assert probiou_matrix(flat, flat).isfinite().all()


def test_the_gradient_is_that_of_the_numbers():
    a, b = boxes_of(6, 2)[:, None].requires_grad_(), boxes_of(4, 3)[None].requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: probiou(x, y, 0.01), (a, b))


def test_the_iou_of_rectangles_is_shapely_s():
    shapely = pytest.importorskip("shapely")
    a = boxes_of(30, 4)
    upright = boxes_of(10, 5)
    upright[:, 4] = torch.arange(10) * (math.pi / 4)
    turned = a[:10, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, math.pi / 2])  # the same rectangles
    inside = a[10:20] * torch.tensor([1, 1, 0.5, 0.5, 1])
    shared_side = a[20:].clone()  # half as wide, with one side in common
    shared_side[:, 2] /= 2
    shared_side[:, :2] += shared_side[:, 2:3] / 2 * torch.stack([a[20:, 4].cos(), a[20:, 4].sin()], 1)
    b = torch.cat([boxes_of(20, 6), upright, turned, inside, shared_side, a])
    first, second = ([shapely.Polygon(ring) for ring in corners_of(boxes).numpy()] for boxes in (a, b))
    expected = [[one.intersection(two).area / one.union(two).area for two in second] for one in first]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(rotated_iou(a, b), expected, rtol=0, atol=1e-9)
    recorded = [pair["polygon_iou_for_comparison"] for pair in RECORD["pairs"]]
    found = [rotated_iou(*(torch.tensor([pair[name]]).double() for name in ("a", "b"))) for pair in RECORD["pairs"]]
    assert torch.cat(found).flatten().tolist() == pytest.approx(recorded, abs=2e-5)


def test_rectangles_without_area_share_nothing():
    flat = torch.tensor([[10.0, 10, 0, 5, 0.3], [10, 10, 0, 0, 0]], dtype=torch.float64)
    assert rotated_iou(flat, flat).tolist() == [[0, 0], [0, 0]]
