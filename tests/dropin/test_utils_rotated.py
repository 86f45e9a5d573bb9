"""Oriented boxes of dropin.utils, compared with rotated rectangles by hand, shapely, and integrals over a grid."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
import torch

from bitfalcon_plugin.dropin.utils.rotated import (
    batch_probiou,
    probiou,
    regularize_rboxes,
    xywhr2xyxyxyxy,
    xyxyxyxy2xywhr,
)
from tests.helpers import paths

RECORDED = json.loads(gzip.decompress((paths.RECORDED / "obb.json.gz").read_bytes()))


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_corners_and_back_as_recorded(kind):
    for case in RECORDED["obb-geometry"]["conversions"]:
        corners = xywhr2xyxyxyxy(kind([case["xywhr"]]))
        assert type(corners) is type(kind(0.0)) or isinstance(corners, np.ndarray)
        np.testing.assert_allclose(np.asarray(corners)[0], case["corners"], atol=1e-3)
        x, y, w, h, angle = np.asarray(xyxyxyxy2xywhr(np.asarray(corners, np.float32).reshape(1, 8)))[0]
        expected = case["canonical_xywhr_of_corners"]
        np.testing.assert_allclose([x, y, w, h], expected[:4], atol=1e-3)
        period = math.pi / 2 if abs(w - h) < 1e-3 else math.pi  # the angle of a square is ambiguous
        assert (
            abs(math.remainder(angle - expected[4], period)) < 1e-3 and -math.pi / 4 <= angle < 3 * math.pi / 4 + 1e-5
        )


def test_the_regular_form_as_recorded():
    for case in RECORDED["obb-geometry"]["conversions"]:
        regular = regularize_rboxes(torch.tensor([case["xywhr"]], dtype=torch.float64))[0]
        torch.testing.assert_close(
            regular, torch.tensor(case["regularised_0_to_half_pi"], dtype=torch.float64), atol=1e-3, rtol=0
        )


def test_smallest_rectangles_around_four_points():
    shapely = pytest.importorskip("shapely")
    points = np.random.default_rng(2).uniform(0, 100, (50, 4, 2)).astype(np.float32)
    for box, corners in zip(xyxyxyxy2xywhr(points), points, strict=True):
        assert math.isclose(box[2] * box[3], shapely.MultiPoint(corners).minimum_rotated_rectangle.area, rel_tol=1e-3)
        hull = shapely.Polygon(np.asarray(xywhr2xyxyxyxy(box[None]))[0]).buffer(1e-2)
        assert all(hull.contains(shapely.Point(point)) for point in corners)


def test_leading_dimensions_and_kinds():
    assert xywhr2xyxyxyxy(torch.rand(2, 3, 5)).shape == (2, 3, 4, 2)
    assert isinstance(xyxyxyxy2xywhr(torch.rand(3, 8)), torch.Tensor)
    assert xyxyxyxy2xywhr(np.zeros((0, 8), np.float32)).shape == (0, 5)


def test_probiou_as_recorded():
    for case in RECORDED["probiou"]["pairs"]:
        first, second = (torch.tensor([case[name]], dtype=torch.float32) for name in ("a", "b"))
        assert abs(float(batch_probiou(first, second)) - case["probiou"]) < 1e-5
        assert abs(float(probiou(first, second)) - case["probiou"]) < 1e-5


def test_shapes_of_probiou():
    boxes = torch.rand(4, 5) * 20 + 1
    assert batch_probiou(boxes, boxes[:3]).shape == (4, 3) and probiou(boxes, boxes).shape == (4, 1)
    assert batch_probiou(boxes.numpy(), boxes.numpy()).shape == (4, 4)
    assert batch_probiou(boxes[:0], boxes).shape == (0, 4)
    torch.testing.assert_close(batch_probiou(boxes, boxes).diagonal(), torch.full((4,), 0.9995), atol=1e-3, rtol=0)
    with_shape = probiou(torch.tensor([[0.0, 0, 10, 10, 0]]), torch.tensor([[0.0, 0, 20, 5, 0]]), CIoU=True)
    assert float(with_shape) < float(probiou(torch.tensor([[0.0, 0, 10, 10, 0]]), torch.tensor([[0.0, 0, 20, 5, 0]])))


def test_probiou_is_one_minus_the_hellinger_distance_of_two_gaussians():
    """Computed here from the densities on a grid."""
    boxes = np.array([[50, 50, 40, 12, 0.4], [58, 47, 30, 16, 1.1]])
    y, x = np.mgrid[0:100:0.25, 0:100:0.25]
    densities = []
    for cx, cy, w, h, angle in boxes:
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        covariance = turn @ np.diag([w * w / 12, h * h / 12]) @ turn.T
        offset = np.stack([x - cx, y - cy], -1)
        exponent = np.einsum("...a,ab,...b->...", offset, np.linalg.inv(covariance), offset)
        densities.append(np.exp(-exponent / 2) / (2 * math.pi * math.sqrt(np.linalg.det(covariance))))
    coefficient = np.sqrt(densities[0] * densities[1]).sum() * 0.25**2
    expected = 1 - math.sqrt(1 - coefficient)
    assert float(batch_probiou(boxes[:1], boxes[1:])) == pytest.approx(expected, abs=1e-3)
