"""Outlines of masks against OpenCV's border following and against what fills them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bitfalcon_plugin.ops.outlines import MOST_RINGS, one_ring, rings_of


def random_masks(count: int) -> list[np.ndarray]:
    """Masks of all densities and sizes, half of them of larger blocks."""
    rng = np.random.default_rng(0)
    masks = []
    for index in range(count):
        height, width = rng.integers(1, 40, 2)
        mask = rng.random((height, width)) < rng.choice([0.05, 0.3, 0.5, 0.7, 0.95])
        masks.append(np.kron(mask, np.ones((2, 3), bool)) if index % 2 else mask)
    return masks


def test_outlines_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (extra clients)")
    for mask in random_masks(400):
        expected, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        assert sorted(ring.tolist() for ring in rings_of(mask)) == sorted(ring[:, 0].tolist() for ring in expected)


def drawn(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The rings, filled with their border by Pillow."""
    picture = Image.new("1", shape[::-1])
    for ring in rings:
        points = [tuple(point) for point in ring.tolist()]
        if len(points) > 1:
            ImageDraw.Draw(picture).polygon(points, fill=1, outline=1)
        else:
            picture.putpixel(points[0], 1)
    return np.asarray(picture)


def test_outlines_fill_a_mask_without_holes():
    y, x = np.mgrid[:60, :80]
    disc = (x - 30) ** 2 + (y - 25) ** 2 < 400
    square = (abs(x - 65) < 9) & (abs(y - 40) < 12)
    for mask in (disc, square, disc | square, np.ones((7, 9), bool), np.eye(9, dtype=bool)):
        assert np.array_equal(drawn(rings_of(mask), mask.shape), mask)
    ring = disc & ((x - 30) ** 2 + (y - 25) ** 2 > 100)
    island = ring | ((x - 30) ** 2 + (y - 25) ** 2 < 9)
    assert len(rings_of(island)) == 1 and np.array_equal(rings_of(island)[0], rings_of(disc)[0])


def test_rings_begin_at_the_top_left_and_have_corners_only():
    mask = np.zeros((6, 8), bool)
    mask[1:5, 2:7] = True
    (ring,) = rings_of(mask)
    assert ring.tolist() == [[2, 1], [2, 4], [6, 4], [6, 1]]
    mask[:] = False
    assert rings_of(mask) == [] and one_ring([]).shape == (0, 2)
    mask[3, 4] = True
    assert [ring.tolist() for ring in rings_of(mask)] == [[[4, 3]]]
    mask[3, 5] = True
    assert [ring.tolist() for ring in rings_of(mask.astype(np.uint8))] == [[[4, 3], [5, 3]]]


@pytest.mark.parametrize("mask", random_masks(60), ids=lambda mask: f"{mask.shape}")
def test_one_ring_goes_through_every_part_and_back_over_its_bridges(mask):
    rings = rings_of(mask)
    ring = one_ring(rings)
    assert {*map(tuple, ring.tolist())} == {tuple(point) for each in rings for point in each.tolist()}
    assert len(ring) == sum(map(len, rings)) + 2 * max(len(rings) - 1, 0)
    x, y = ring.astype(float).T
    area = sum(signed_area(each) for each in rings)
    assert (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 == pytest.approx(area)  # bridges have no area


def signed_area(ring: np.ndarray) -> float:
    x, y = ring.astype(float).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def test_bridges_are_the_shortest_between_two_parts():
    mask = np.zeros((20, 40), bool)
    mask[2:10, 2:12] = mask[4:6, 15:18] = mask[15:18, 30:38] = True
    ring = one_ring(rings_of(mask))
    steps = {
        tuple(sorted((a, b))) for a, b in zip(map(tuple, ring.tolist()), map(tuple, np.roll(ring, -1, 0).tolist()))
    }
    assert ((11, 2), (15, 4)) in steps and ((17, 5), (30, 15)) in steps


def test_more_rings_than_are_joined_with_care():
    mask = np.zeros((60, 60), bool)
    mask[::3, ::3] = True
    rings = rings_of(mask)
    assert len(rings) == 400 > MOST_RINGS and len(one_ring(rings)) == 3 * 400 - 2
