"""compose.py: labels with polygons follow their pixels, objects are pasted mirrored if they hide little."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bitfalcon_plugin.data.augmentation import augment as stage
from bitfalcon_plugin.data.augmentation.augment import augment
from bitfalcon_plugin.data.augmentation.compose import Canvas, Tile, move, pick
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.polygons import Polygons, clip, fill
from tests.data.augmentation.test_augment import DEFAULTS, OFF, PAINT, SIZE, assert_same, noise, paint_mask, seeded
from tests.helpers.labels import tile_of
from tests.ops.test_polygons import slow_clip

RIGHT = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)]  # a right-angled triangle, of a box of one by one


def drawn(*objects: tuple[int, tuple[int, int, int, int]], size: tuple[int, int] = (SIZE, SIZE)) -> Tile:
    """Triangles (paint, box) on grey; a box is given where they lie, the triangle fills its upper right half."""
    image = torch.full((3, *size), 114, dtype=torch.uint8)
    points, boxes = [], torch.tensor([box for _, box in objects], dtype=torch.float32)
    for paint, (x1, y1, x2, y2) in objects:
        polygon = torch.tensor(RIGHT) * torch.tensor([x2 - x1, y2 - y1]) + torch.tensor([x1, y1])
        points.append(polygon)
        image[:, fill(Polygons(polygon, torch.tensor([3])), size)] = PAINT[paint][:, None].byte()
    counts = torch.full((len(objects),), 3)
    return tile_of(image, boxes, torch.tensor([paint for paint, _ in objects]), Polygons(torch.cat(points), counts))


def one_scene(tile: Tile) -> Instances:
    labels = tile.labels
    polygons = replace(labels.polygons, points=labels.polygons.points.double())
    return replace(labels, boxes=labels.boxes.double(), image=torch.zeros_like(labels.classes), polygons=polygons)


# Which objects


def slow_pick(candidates: list, existing: list, fraction: float, draw: float) -> list[int]:
    result = []
    for index, (x1, y1, x2, y2) in enumerate(candidates):
        worst = 0.0
        for a1, b1, a2, b2 in existing:
            shared = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            if (a2 - a1) * (b2 - b1) > 0:
                worst = max(worst, shared / ((a2 - a1) * (b2 - b1)))
        if worst < 0.3 and (x2 - x1) * (y2 - y1) > 0:
            result.append((worst, index))
    return [index for _, index in sorted(result)[: int(fraction * len(result) + draw)]]


@pytest.mark.parametrize("seed", range(20))
def test_picking_agrees_with_a_loop(seed):
    generator = seeded(seed)
    corner = torch.randint(0, 60, (24, 2), generator=generator).double()
    boxes = torch.cat([corner, corner + torch.randint(0, 25, (24, 2), generator=generator)], dim=1)
    candidates, existing = boxes[:12], boxes[12 : 12 + seed % 13]
    for fraction, draw in ((1.0, 0.0), (0.5, 0.0), (0.1, 0.99), (0.0, 0.5), (0.3, 0.5)):
        result = pick(candidates, existing, fraction, draw).tolist()
        assert result == slow_pick(candidates.tolist(), existing.tolist(), fraction, draw)
    assert pick(candidates[:0], existing, 1.0, 0.0).tolist() == []


def test_the_number_of_pasted_objects_has_the_right_mean():
    objects = [(paint, (4 + 12 * paint, 4 + 14 * paint, 12 + 12 * paint, 16 + 14 * paint)) for paint in range(3)]
    tile = drawn(*objects)
    batch = augment([tile] * 400, [tile], replace(OFF, copy_paste=0.1), seeded(), "cpu")
    pasted = len(batch.labels.boxes) - 1200
    assert 80 < pasted < 160  # 0.1 of 3 of 400 is 120; rounding to whole numbers alone gives none


# Mirrored copies


@pytest.mark.parametrize("mosaic", [0.0, 0.0001])  # on a small canvas and in the middle of a large one
def test_an_object_is_pasted_mirrored(mosaic):
    tile = drawn((0, (8, 20, 40, 70)), (1, (20, 76, 34, 92)))
    batch = augment([tile], [], replace(OFF, mosaic=mosaic, copy_paste=1), seeded(), "cpu")
    mirrored = [[SIZE - 40, 20, SIZE - 8, 70], [SIZE - 34, 76, SIZE - 20, 92]]
    assert batch.labels.boxes.tolist() == [*tile.labels.boxes.tolist(), *mirrored]
    assert batch.labels.classes.tolist() == [0, 1, 0, 1]
    expected = tile.image.clone()
    shown = (tile.image.flip(2) != 114).any(dim=0)
    expected[:, shown] = tile.image.flip(2)[:, shown]
    assert torch.equal(batch.images[0], expected / 255) and int(shown.sum()) > 800


def test_objects_that_would_hide_others_or_themselves_stay():
    middle = drawn((0, (30, 20, 66, 70)))  # its mirror image lies on itself
    covered = drawn((0, (8, 20, 40, 70)), (1, (60, 30, 70, 50)))  # the mirrored first would cover the second
    for tile, count in ((middle, 1), (covered, 3)):
        batch = augment([tile], [], replace(OFF, copy_paste=1), seeded(), "cpu")
        assert len(batch.labels.boxes) == count
    assert batch.labels.classes.tolist() == [0, 1, 1]


def test_boxes_without_outlines_are_left_alone():
    tiles = [noise(seed=seed) for seed in range(6)]
    recipe = replace(DEFAULTS, mixup=0.3)
    plain = augment(tiles, tiles, recipe, seeded(), "cpu")
    for mode in ("flip", "mixup"):
        changed = replace(recipe, copy_paste=0.7, copy_paste_mode=mode)
        assert_same(plain, augment(tiles, tiles, changed, seeded(), "cpu"))
    mixed = drawn((0, (8, 20, 40, 70)), (1, (8, 76, 22, 92)))
    labels = mixed.labels
    polygons = Polygons(labels.polygons.points[3:], torch.tensor([0, 3]))
    mixed = replace(mixed, labels=replace(labels, polygons=polygons))
    batch = augment([mixed], [], replace(OFF, copy_paste=1), seeded(), "cpu")
    assert batch.labels.classes.tolist() == [0, 1, 1]


def test_later_draws_stand_behind_the_earlier_ones():
    rows = torch.rand(5, 99, generator=seeded(3), dtype=torch.float64)
    draws = stage._Draws.take(5, seeded(3))
    earlier = [draws.mosaic[:, :2].flatten(1), draws.warp[:, :2].flatten(1), draws.mixup]
    assert torch.equal(torch.cat([*earlier, draws.hsv, draws.flips, draws.weight], dim=1), rows)


def test_copy_paste_leaves_every_other_draw():
    tiles = [drawn((0, (8, 20, 40, 70))), noise(96), drawn((2, (50, 4, 90, 30)), (3, (8, 50, 40, 90)))]
    recipe = replace(DEFAULTS, mixup=0.5)
    plain = augment(tiles * 3, tiles, recipe, seeded(), "cpu")
    pasted = augment(tiles * 3, tiles, replace(recipe, copy_paste=1), seeded(), "cpu")
    assert len(pasted.labels.boxes) > len(plain.labels.boxes)
    rows = {(owner, *box) for owner, box in zip(pasted.labels.image.tolist(), map(tuple, pasted.labels.boxes.tolist()))}
    assert rows > {
        (owner, *box) for owner, box in zip(plain.labels.image.tolist(), map(tuple, plain.labels.boxes.tolist()))
    }
    same = [(a == b).float().mean() for a, b in zip(plain.images, pasted.images)]
    assert min(same) < 1 and sum(same) / len(same) > 0.5


# Polygons through maps


WARPS = {
    "defaults": {"translate": 0.1, "scale": 0.5, "fliplr": 0.5}, "rotate": {"degrees": 45, "flipud": 0.5},
    "all": {"degrees": 30, "shear": 10, "perspective": 0.0005, "translate": 0.2, "scale": 0.3, "fliplr": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
@pytest.mark.parametrize("warp", WARPS)
def test_boxes_of_outlines_fit_the_paint(warp, mosaic):
    """Also where the image or the canvas cuts them, and whatever the angle: the hull of what is seen of a polygon."""
    places = [(8, 8, 44, 60), (50, 50, 92, 90), (6, 64, 46, 90), (52, 10, 90, 40)]
    tiles = [drawn((paint, place)) for paint, place in enumerate(places)]
    recipe, compared = replace(OFF, mosaic=mosaic, **WARPS[warp]), 0
    for seed in range(60):
        batch = augment([tiles[seed % 4]], tiles, recipe, seeded(seed), "cpu")
        for box, paint in zip(batch.labels.boxes, batch.labels.classes.tolist()):
            if batch.labels.classes.tolist().count(paint) > 1:
                continue  # one tile, drawn twice
            x1, y1 = (box[:2] - 4).floor().int().clamp_min(0).tolist()
            x2, y2 = (box[2:] + 4).ceil().int().tolist()
            rows, columns = paint_mask(batch.images[0, :, y1:y2, x1:x2], paint).nonzero().unbind(1)
            sides = [columns.min() + x1, rows.min() + y1, columns.max() + x1 + 1, rows.max() + y1 + 1]
            result = torch.tensor(sides).float()
            # the thin tips of triangles are less than half paint
            torch.testing.assert_close(result, box, atol=4.0, rtol=0)
            assert (result[:2] > box[:2] - 1.1).all() and (result[2:] < box[2:] + 1.1).all()
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("seed", range(10))
def test_outlines_are_moved_as_point_by_point(seed):
    generator, canvas = seeded(seed), Canvas.around((60, 80), mosaic=False)
    points = torch.rand(5, 2, generator=generator, dtype=torch.float64) * torch.tensor([80.0, 60.0])
    low, high = points.amin(dim=0), points.amax(dim=0)
    labels = Instances(
        torch.cat([low, high])[None],
        torch.tensor([7]),
        image=torch.tensor([0]),
        polygons=Polygons(points, torch.tensor([5])),
    )
    matrix = torch.eye(3, dtype=torch.float64) + torch.randn(
        3, 3, generator=generator, dtype=torch.float64
    ) * torch.tensor([[0.3, 0.3, 15.0], [0.3, 0.3, 15.0], [0.001, 0.001, 0.0]])
    result = move(labels, matrix[None], torch.ones(1, dtype=torch.float64), canvas)
    ring = [(matrix @ torch.tensor([x, y, 1.0], dtype=torch.float64)).tolist() for x, y in points.tolist()]
    ring = slow_clip([(u / w, v / w) for u, v, w in ring], (60, 80))
    if len(result.boxes):
        xs, ys = [x for x, _ in ring], [y for _, y in ring]
        assert result.boxes[0].tolist() == pytest.approx([min(xs), min(ys), max(xs), max(ys)], abs=1e-9)
        assert result.classes.tolist() == [7] and result.polygons.counts.tolist() == [len(ring)]
    else:
        width, height = (max(side) - min(side) if ring else 0 for side in zip(*ring)) if ring else (0, 0)
        assert (
            min(width, height) <= 2 or width * height <= 0.01 * float((high - low).prod()) or max(width, height) > 100
        )


def test_an_outline_may_lose_more_of_its_area_than_a_box():
    tile = drawn((0, (0, 0, SIZE, SIZE)))
    shift = torch.tensor([[1, 0, -0.95 * SIZE], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    canvas, one = Canvas.around((SIZE, SIZE), mosaic=False), torch.ones(1, dtype=torch.float64)
    labels = one_scene(tile)
    assert len(move(labels, shift[None], one, canvas).boxes) == 1  # a twentieth is left
    assert len(move(replace(labels, polygons=None), shift[None], one, canvas).boxes) == 0


def test_an_outline_behind_the_horizon_is_gone():
    tile = drawn((0, (0, 0, SIZE, SIZE)))
    tilted = torch.tensor([[1, 0, 0], [0, 1, 0], [-0.02, 0, 1]], dtype=torch.float64)
    labels = one_scene(tile)
    result = move(labels, tilted[None], torch.ones(1, dtype=torch.float64), Canvas.around((SIZE, SIZE), mosaic=False))
    assert result.boxes.shape == (0, 4) and result.polygons.counts.tolist() == []


def test_outlines_beyond_the_canvas_are_cut_before_they_are_mirrored():
    whole = clip(Polygons(torch.tensor([[-40.0, 10], [40, 10], [40, 50]]).double(), torch.tensor([3])), (SIZE, SIZE))
    assert float(whole.points[:, 0].min()) == 0
    tiles = [drawn((0, (0, 0, SIZE, SIZE))), drawn((1, (0, 0, 40, 40)))]
    batch = augment(tiles * 8, tiles, replace(DEFAULTS, copy_paste=1), seeded(), "cpu")
    assert ((batch.labels.boxes >= 0) & (batch.labels.boxes <= SIZE)).all() and batch.images.isfinite().all()
