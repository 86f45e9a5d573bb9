"""data/outlines.py: polygons cut, measured and filled together, against loops over one point after the other."""

from __future__ import annotations

import pytest
import torch

from bitfalcon_plugin.ops.polygons import Polygons, clip, fill, hulls, join

SIZE = (20, 28)  # (height, width)


def outlines(*polygons: list[tuple[float, float]]) -> Polygons:
    points = torch.tensor([point for polygon in polygons for point in polygon], dtype=torch.float64).view(-1, 2)
    return Polygons(points, torch.tensor([len(polygon) for polygon in polygons]))


def noise(seed: int, count: int = 6, low: float = 0.0) -> list[list[tuple[float, float]]]:
    """Polygons of 3 to 9 random corners, most of them with crossing edges; every third on the half-pixel grid."""
    generator = torch.Generator().manual_seed(seed)
    polygons = []
    for index in range(count):
        corners = int(torch.randint(3, 10, (1,), generator=generator))
        points = torch.rand(corners, 2, generator=generator, dtype=torch.float64)
        points = low + points * (torch.tensor([SIZE[1], SIZE[0]]) - 2 * low)
        points = (points * 2).round() / 2 if index % 3 == 0 else points
        polygons.append([tuple(point) for point in points.tolist()])
    return polygons


def inside(polygon: list[tuple[float, float]], x: float, y: float) -> bool:
    """Even-odd rule: a ray to the right of the point crosses the polygon an odd number of times."""
    odd = False
    for (ax, ay), (bx, by) in zip(polygon, polygon[1:] + polygon[:1]):
        if (ay <= y) != (by <= y) and x > ax + (y - ay) / (by - ay) * (bx - ax):
            odd = not odd
    return odd


def slow_fill(polygons: list[list[tuple[float, float]]]) -> torch.Tensor:
    height, width = SIZE
    return torch.tensor(
        [[any(inside(polygon, x + 0.5, y + 0.5) for polygon in polygons) for x in range(width)] for y in range(height)]
    )


def slow_clip(polygon: list[tuple[float, float]], size: tuple[int, int]) -> list[tuple[float, float]]:
    """Sutherland and Hodgman's algorithm, one edge after the other."""
    for axis, border, sign in ((0, 0, 1), (0, size[1], -1), (1, 0, 1), (1, size[0], -1)):
        kept = []
        for a, b in zip(polygon, polygon[1:] + polygon[:1]):
            da, db = (a[axis] - border) * sign, (b[axis] - border) * sign
            if (da >= 0) != (db >= 0):
                share = da / (da - db)
                kept.append((a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])))
            if db >= 0:
                kept.append(b)
        polygon = kept
    return polygon


@pytest.mark.parametrize("seed", range(12))
def test_filling_is_the_even_odd_rule_at_pixel_centres(seed):
    polygons = noise(seed)
    mask = fill(outlines(*polygons), SIZE)
    assert mask.dtype == torch.bool and torch.equal(mask, slow_fill(polygons)) and bool(mask.any())


def test_filling_rectangles_takes_whole_pixels():
    mask = fill(outlines([(2, 3), (7, 3), (7, 5), (2, 5)], [], [(0, 0), (28, 0), (28, 1), (0, 1)]), SIZE)
    expected = torch.zeros(SIZE, dtype=torch.bool)
    expected[3:5, 2:7] = True
    expected[0] = True
    assert torch.equal(mask, expected)
    assert not fill(outlines([], []), SIZE).any() and not fill(outlines([(1, 1), (5, 1), (9, 1)]), SIZE).any()


@pytest.mark.parametrize("seed", range(12))
def test_cutting_agrees_with_a_loop_over_edges(seed):
    polygons = noise(seed, count=9, low=-12.0)
    polygons[4] = []
    cut = clip(outlines(*polygons), SIZE)
    expected = [slow_clip(polygon, SIZE) for polygon in polygons]
    assert cut.counts.tolist() == [len(polygon) for polygon in expected]
    for result, polygon in zip(cut.split(), expected):
        ring = torch.tensor(polygon, dtype=torch.float64).view(-1, 2)
        turns = [torch.roll(ring, turn, 0) for turn in range(max(len(ring), 1))]
        assert any(torch.allclose(result, turned, atol=1e-9, rtol=0) for turned in turns)
    boxes = hulls(cut)
    for box, polygon in zip(boxes.tolist(), expected):
        xs, ys = [x for x, _ in polygon] or [0], [y for _, y in polygon] or [0]
        assert box == pytest.approx([min(xs), min(ys), max(xs), max(ys)], abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_cutting_does_not_change_what_is_seen(seed):
    polygons = noise(seed, low=-9.0)
    mask = fill(clip(outlines(*polygons), SIZE), SIZE)
    assert torch.equal(mask, slow_fill(polygons))


def test_a_polygon_that_holds_the_whole_picture_becomes_it():
    around = [(-50, -50), (100, -50), (100, 100), (-50, 100)]
    assert hulls(clip(outlines(around, [(-9, -9), (-1, -9), (-1, -1)]), SIZE)).tolist() == [
        [0, 0, 28, 20],
        [0, 0, 0, 0],
    ]
    assert fill(clip(outlines(around), SIZE), SIZE).all()


def test_joining_and_selecting_keep_points_with_their_objects():
    first, second = outlines([(0, 0), (1, 0), (1, 1)], []), outlines([(5, 5), (6, 5), (6, 6), (5, 6)])
    whole = join([first, None, second], [2, 2, 1])
    assert whole.counts.tolist() == [3, 0, 0, 0, 4] and whole.owner.tolist() == [0] * 3 + [4] * 4
    kept = whole[torch.tensor([False, True, False, False, True])]
    assert kept.counts.tolist() == [0, 4] and torch.equal(kept.points, second.points)
    assert torch.equal(kept.scaled(2, 3).points, second.points * torch.tensor([2.0, 3.0]).double())
    assert [len(polygon) for polygon in whole.split()] == [3, 0, 0, 0, 4]
    assert join([None], [3]).counts.tolist() == [0, 0, 0]
