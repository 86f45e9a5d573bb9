"""Planes of outlines against a test of every pixel, rectangles against all angles and OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitfalcon_plugin.dropin.data.masks import polygon2mask, polygons2masks, polygons2masks_overlap, smallest_rectangles
from bitfalcon_plugin.dropin.utils.ops import xywhr2xyxyxyxy

SIZE = (40, 56)


def star(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A ring of points (k, 2) around a place, partly outside of the image."""
    random = np.random.default_rng(seed)
    angles = np.sort(random.uniform(0, 2 * np.pi, int(random.integers(3, 9))))
    radius = random.uniform(4, 18, len(angles))
    centre = random.uniform(5, 35, 2)
    return centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def is_inside(ring: np.ndarray, x: float, y: float) -> bool:
    """Even-odd rule by a ray to the right."""
    crossings = 0
    for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            crossings += 1
    return crossings % 2 == 1


def by_pixel(ring: np.ndarray, size=SIZE) -> np.ndarray:
    return np.array([[is_inside(ring, x + 0.5, y + 0.5) for x in range(size[1])] for y in range(size[0])])


@pytest.mark.parametrize("seed", range(4))
def test_a_pixel_belongs_to_an_outline_when_its_centre_is_inside(seed):
    rings = [star(seed), star(seed + 10)]
    planes = polygons2masks(SIZE, [ring.flatten() for ring in rings], 1)
    assert planes.dtype == np.uint8 and planes.shape == (2, *SIZE)
    for plane, ring in zip(planes, rings, strict=True):
        assert np.array_equal(plane > 0, by_pixel(ring))
    assert np.array_equal(polygon2mask(SIZE, rings, color=7), planes.any(0) * 7)


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_a_smaller_plane_holds_the_middle_of_each_cell(ratio):
    full = by_pixel(star(1))
    first, last = (ratio - 1) // 2, ratio // 2 + 1
    expected = np.zeros((SIZE[0] // ratio, SIZE[1] // ratio), bool)
    for y in range(expected.shape[0]):
        for x in range(expected.shape[1]):
            middle = full[y * ratio + first : y * ratio + last, x * ratio + first : x * ratio + last]
            expected[y, x] = middle.mean() >= 0.5
    assert np.array_equal(polygons2masks(SIZE, [star(1)], 1, ratio)[0] > 0, expected)
    with pytest.raises(ValueError, match="mask_ratio"):
        polygon2mask((3, 3), [star(0)], downsample_ratio=4)


def test_one_plane_numbers_objects_from_large_to_small():
    rings = [star(seed) for seed in range(5)]
    planes = polygons2masks(SIZE, rings, 1)
    plane, order = polygons2masks_overlap(SIZE, rings)
    areas = planes.reshape(5, -1).sum(1)
    assert (np.diff(areas[order].astype(int)) <= 0).all()
    expected = np.zeros(SIZE, np.uint8)
    for number, index in enumerate(order, start=1):
        expected[planes[index] > 0] = number
    assert np.array_equal(plane, expected) and plane.dtype == np.uint8
    many, _ = polygons2masks_overlap(SIZE, rings * 60)
    assert many.dtype == np.int32 and many.max() == 300
    nothing, order = polygons2masks_overlap(SIZE, [], 4)
    assert nothing.shape == (10, 14) and not nothing.any() and not len(order)


@pytest.mark.parametrize("seed", range(6))
def test_the_smallest_rectangle_holds_all_points_and_no_angle_gives_a_smaller_one(seed):
    points = star(seed)
    cx, cy, w, h, angle = smallest_rectangles([points])[0].double().numpy()
    assert w >= h and -np.pi / 4 <= angle < 3 * np.pi / 4
    turned = (points - (cx, cy)) @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(np.abs(turned).max(0), (w / 2, h / 2), atol=1e-3)
    for each in np.linspace(0, np.pi / 2, 721):
        frame = points @ np.array([[np.cos(each), -np.sin(each)], [np.sin(each), np.cos(each)]])
        assert np.ptp(frame, axis=0).prod() >= w * h - 1e-2
    opencv = pytest.importorskip("cv2")
    (_, _), (width, height), _ = opencv.minAreaRect(points.astype(np.float32))
    assert width * height == pytest.approx(w * h, rel=1e-3)


def test_rectangles_come_back_from_their_corners():
    boxes = torch.tensor([[30.0, 20, 18, 6, 0.3], [10, 12, 9, 8, -0.7], [40, 22, 20, 4, 2.2]])
    corners = xywhr2xyxyxyxy(boxes).numpy()
    torch.testing.assert_close(smallest_rectangles(list(corners)), boxes, atol=1e-3, rtol=0)
    assert smallest_rectangles([np.array([[3.0, 4], [3, 4]])]).tolist() == [[3, 4, 0, 0, 0]]
    assert smallest_rectangles([]).shape == (0, 5)
