"""data/geometry.py: maps and the rules of survival against slow loops over points and boxes."""

from __future__ import annotations

import math

import pytest
import torch

from bitfalcon_plugin.data.augmentation.geometry import draw_maps, survives
from bitfalcon_plugin.ops.projective import move_boxes


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_maps_match_the_steps_taken_one_by_one():
    uniform = torch.rand(20, 8, generator=seeded(), dtype=torch.float64)
    gains = {"degrees": 40.0, "translate": 0.2, "scale": 0.4, "shear": 15.0, "perspective": 0.001}
    maps, scales = draw_maps(uniform, size=(64, 64), centre=(50.0, 50.0), **gains)
    for row, result, scale in zip(uniform.tolist(), maps, scales.tolist()):
        px, py, turn, grow, sx, sy, tx, ty = (2 * draw - 1 for draw in row)
        assert scale == pytest.approx(1 + 0.4 * grow)
        angle, sx, sy = math.radians(40 * turn), math.tan(math.radians(15 * sx)), math.tan(math.radians(15 * sy))
        for x, y in ((0, 0), (100, 3), (31.5, 77.25)):
            u, v = x - 50, y - 50  # centre
            depth = 1 + 0.001 * px * u + 0.001 * py * v  # perspective; the division may come last
            cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
            u, v = cos * u + sin * v, cos * v - sin * u  # rotate and scale
            u, v = u + sx * v, v + sy * u  # shear
            expected = (u / depth + (0.5 + 0.2 * tx) * 64, v / depth + (0.5 + 0.2 * ty) * 64)
            a, b, c = (result @ torch.tensor([x, y, 1.0], dtype=torch.float64)).tolist()
            assert (a / c, b / c) == pytest.approx(expected, abs=1e-9)


def slow_survivor(box: list[float], matrix: list[list[float]], scale: float, size: int) -> list[float] | None:
    """What becomes of one box, corner by corner; None when it is lost."""
    x1, y1, x2, y2 = box
    xs, ys = [], []
    for x, y in ((x1, y1), (x1, y2), (x2, y1), (x2, y2)):
        u, v, w = (row[0] * x + row[1] * y + row[2] for row in matrix)
        if w <= 1e-6:
            return None
        xs.append(min(max(u / w, 0), size))
        ys.append(min(max(v / w, 0), size))
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    area = (x2 - x1) * (y2 - y1)
    if area == 0 or width <= 2 or height <= 2 or max(width / height, height / width) >= 100:
        return None
    if width * height / (area * scale * scale) <= 0.10:
        return None
    return [min(xs), min(ys), max(xs), max(ys)]


def test_survival_matches_a_loop_over_boxes():
    generator = seeded()
    count, size = 3000, 400
    uniform = torch.rand(count, 8, generator=generator, dtype=torch.float64)
    maps, scale = draw_maps(
        uniform,
        size=(size, size),
        centre=(size, size),
        degrees=30,
        translate=0.4,
        scale=0.9,
        shear=10,
        perspective=0.001,
    )
    boxes = torch.rand(count, 4, generator=generator, dtype=torch.float64) * 2 * size
    span = boxes[:, 2:] ** 2 / 600 * torch.randint(0, 2, (count, 2), generator=generator)  # small, large, without area
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + span], dim=1)
    boxes[::7, 2] = boxes[::7, 0] + 700  # long ones: the aspect rule
    boxes[::7, 3] = boxes[::7, 1] + 2.5
    maps[::7] = torch.eye(3, dtype=torch.float64)
    moved = move_boxes(boxes, maps, (size, size))
    kept = survives(boxes, moved, scale)
    expected = [slow_survivor(*row, size) for row in zip(boxes.tolist(), maps.tolist(), scale.tolist())]
    assert kept.tolist() == [row is not None for row in expected]
    torch.testing.assert_close(moved[kept], torch.tensor([row for row in expected if row], dtype=torch.float64))
    assert 200 < int(kept.sum()) < 2000


@pytest.mark.parametrize(
    "after,scale,stays",
    [
        ((0, 0, 20, 20), 1.0, True), ((0, 0, 2, 40), 1.0, False), ((0, 0, 2.01, 40), 1.0, True),
        ((0, 0, 40, 2), 1.0, False), ((0, 0, 300, 2.9), 1.0, False), ((0, 0, 280, 2.9), 1.0, True),
        ((0, 0, 10, 4), 1.0, False), ((0, 0, 10, 4.01), 1.0, True), ((0, 0, 10, 4), 0.5, True),
        ((0, 0, 20, 4), 2.0, False),
    ],
)  # fmt: skip
def test_survival_at_the_thresholds(after, scale, stays):
    before = torch.tensor([[50.0, 50.0, 70.0, 70.0]], dtype=torch.float64)
    kept = survives(before, torch.tensor([after], dtype=torch.float64), torch.tensor([scale], dtype=torch.float64))
    assert kept.tolist() == [stays]
