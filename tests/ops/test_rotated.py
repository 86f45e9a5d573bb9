"""Geometry of oriented boxes, compared with recorded numbers, shapely and a slow walk over directions."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
import torch

from bitfalcon_plugin.ops.boxes import anchor_points
from bitfalcon_plugin.ops.polygons import Polygons
from bitfalcon_plugin.ops.rotated import (
    angles_from_logits,
    canonical,
    corners_of,
    cut,
    distances_to_rotated,
    hulls_of,
    rectangles_of,
    regularised,
    rotated_to_distances,
    smallest_rectangles,
)
from tests.data.recorded.fill import noise
from tests.helpers.paths import RECORDED

VECTORS = json.loads(gzip.decompress((RECORDED / "obb.json.gz").read_bytes()))
GEOMETRY = VECTORS["obb-geometry"]
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def assert_same_box(found: torch.Tensor, expected: list[float], tolerance: float = 1e-3) -> None:
    """The same xywhr; the angle of a square is known up to a right angle."""
    assert found[:4].tolist() == pytest.approx(expected[:4], abs=tolerance)
    period = math.pi / 2 if abs(expected[2] - expected[3]) < tolerance else math.pi
    assert abs(math.remainder(float(found[4]) - expected[4], period)) < tolerance
    assert -math.pi / 4 <= float(found[4]) < 3 * math.pi / 4 + 1e-6


@BOTH
def test_corners_and_forms_are_the_recorded_ones(dtype):
    for case in GEOMETRY["conversions"]:
        box = torch.tensor([case["xywhr"]], dtype=dtype)
        corners = corners_of(box)
        assert corners.flatten().tolist() == pytest.approx(np.ravel(case["corners"]).tolist(), abs=1e-3)
        assert hulls_of(corners)[0].tolist() == pytest.approx(case["hull_xyxy"], abs=1e-3)
        assert regularised(box)[0].tolist() == pytest.approx(case["regularised_0_to_half_pi"], abs=1e-3)
        for points in (corners, corners.flip(1), corners.roll(1, 1)):
            assert_same_box(smallest_rectangles(points)[0], case["canonical_xywhr_of_corners"])
        assert_same_box(canonical(box)[0], case["canonical_xywhr_of_corners"])


@BOTH
def test_smallest_rectangles_are_the_recorded_ones(dtype):
    cases = GEOMETRY["minimum_area_rectangles"]
    points = [torch.tensor(case["points"], dtype=dtype) for case in cases]
    polygons = Polygons(torch.cat(points), torch.tensor([len(part) for part in points]))
    for box, case in zip(rectangles_of(polygons), cases, strict=True):
        assert_same_box(box, case["xywhr"])


def test_smallest_rectangles_of_any_polygon_against_shapely():
    shapely = pytest.importorskip("shapely")
    generator = torch.Generator().manual_seed(2)
    counts = torch.tensor([4, 3, 0, 9, 4, 40, 1, 2])
    points = torch.rand(int(counts.sum()), 2, generator=generator, dtype=torch.float64) * 100 + 300
    polygons = Polygons(points, counts)
    boxes = rectangles_of(polygons)
    for box, corners in zip(boxes, polygons.split(), strict=True):
        if not len(corners):
            assert box.tolist() == [0] * 5
            continue
        cloud = shapely.MultiPoint(corners.numpy())
        assert float(box[2] * box[3]) == pytest.approx(cloud.minimum_rotated_rectangle.area, abs=1e-6)
        rectangle = shapely.Polygon(corners_of(box).numpy())
        assert len(corners) < 3 or all(rectangle.distance(point) < 1e-9 for point in cloud.geoms)
    torch.testing.assert_close(boxes[-2, :2], polygons.split()[-2][0])
    torch.testing.assert_close(boxes[-1, 2], (points[-1] - points[-2]).norm())


def test_the_canonical_angle_never_leaves_its_range():
    angles = torch.cat([torch.arange(-20, 20) * (math.pi / 4) + shift for shift in (0.0, -1e-8, 1e-8, 1e-7, -1e-7)])
    for dtype in (torch.float32, torch.float64):
        boxes = torch.tensor([5.0, 5, 8, 3, 0], dtype=dtype).repeat(len(angles), 1)
        boxes[:, 4] = angles
        found = canonical(boxes)
        lowest, highest = (torch.tensor(turns * math.pi, dtype=dtype) for turns in (-0.25, 0.75))
        assert (found[:, 4] >= lowest).all() and (found[:, 4] < highest).all()
        turn = torch.remainder(found[:, 4] - boxes[:, 4] + 1, math.pi) - 1
        assert turn.abs().max() < 1e-5


@BOTH
def test_what_a_border_cuts_keeps_its_direction_as_recorded(dtype):
    cases = GEOMETRY["clip_to_canvas"]
    corners = torch.tensor([case["corners"] for case in cases], dtype=dtype)
    limits = torch.tensor([[0, 0, *case["canvas_w_h"]] for case in cases], dtype=dtype)
    left, boxes = cut(Polygons(corners.flatten(0, 1), torch.full((len(cases),), 4), True), limits)
    assert left.counts.tolist() == [4 * case["kept"] for case in cases] and left.rectangles
    for box, rectangle, case in zip(boxes, rectangles_of(left), cases, strict=True):
        if case["kept"]:
            assert box.tolist() == pytest.approx(case["hull_xyxy"], abs=1e-3)
            assert_same_box(rectangle, case["xywhr"])


def test_a_rectangle_inside_stays_bit_for_bit():
    corners = corners_of(torch.tensor([[50.0, 50, 40, 20, 0.5], [0, 50, 40, 20, 0.5]]))
    polygons = Polygons(corners.flatten(0, 1), torch.tensor([4, 0, 4]), True)
    left, boxes = cut(polygons, torch.tensor([[0.0, 0, 100, 100]] * 3))
    assert torch.equal(left.points[:4], corners[0]) and left.counts.tolist() == [4, 0, 4]
    assert torch.equal(boxes[0], hulls_of(corners)[0]) and boxes[1].tolist() == [0] * 4


@pytest.mark.parametrize("case", [c for c in VECTORS["pose-obb-decode"] if c["kind"] == "obb"], ids=lambda c: c["case"])
def test_decoded_boxes_are_the_recorded_ones(case):
    sizes = [(case["H"] // s, case["W"] // s) for s in (8, 16, 32)]
    points, stride = anchor_points(sizes, (8, 16, 32))
    raw = {
        name: torch.from_numpy(noise(f"decode.{case['case']}.{name}", (1, channels, len(points)))).float()
        * case["scale_of_noise"][name]
        for name, channels in (("boxes", 64), ("angle", 1))
    }
    shares = raw["boxes"].unflatten(1, (4, 16)).softmax(2)  # (1, 4, 16, A)
    ltrb = (shares * torch.arange(16)[:, None]).sum(2).transpose(1, 2)  # (1, A, 4)
    angle = angles_from_logits(raw["angle"]).transpose(1, 2)  # (1, A, 1)
    boxes = distances_to_rotated(points, ltrb, angle)
    boxes[..., :4] *= stride[:, None]
    anchors, channels = len(points), case["nc"] + 5
    decoded = torch.full((channels, anchors), torch.nan)
    decoded[:4], decoded[-1] = boxes[0, :, :4].t(), boxes[0, :, 4]
    found, expected = decoded.flatten()[case["at"]], torch.tensor(case["values"])
    of_box = ~found.isnan()
    of_angle = torch.tensor(case["at"]) >= (channels - 1) * anchors
    assert of_box.sum() > 50 and of_angle.any()
    torch.testing.assert_close(found[of_box], expected[of_box], rtol=0, atol=1e-3)
    torch.testing.assert_close(found[of_angle], expected[of_angle], rtol=0, atol=1e-6)


def test_distances_and_boxes_are_each_other_s_inverse():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(50, 2, generator=generator, dtype=torch.float64) * 20
    ltrb = torch.rand(50, 4, generator=generator, dtype=torch.float64) * 9 - 2
    angle = torch.rand(50, 1, generator=generator, dtype=torch.float64) * 6 - 3
    boxes = distances_to_rotated(points, ltrb, angle)
    torch.testing.assert_close(rotated_to_distances(points, boxes), ltrb)
    # A step along the width's axis by the distance to the right ends on the line of the first two corners.
    corners = corners_of(boxes)
    end = points + ltrb[:, 2:3] * torch.cat([angle.cos(), angle.sin()], 1)
    edge, offset = corners[:, 1] - corners[:, 0], end - corners[:, 0]
    assert (edge[:, 0] * offset[:, 1] - edge[:, 1] * offset[:, 0]).abs().max() < 1e-9
