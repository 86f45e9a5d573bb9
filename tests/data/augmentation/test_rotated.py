"""Oriented boxes of a batch lie on the pixels of their objects: painted rectangles at any angle follow every map."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bitfalcon_plugin.data.augmentation.augment import Batch, augment
from bitfalcon_plugin.data.augmentation.compose import Tile
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.polygons import Polygons, clip, fill
from bitfalcon_plugin.ops.rotated import corners_of, hulls_of
from tests.data.augmentation.test_augment import OFF, PAINT, SIZE, seeded
from tests.data.augmentation.test_polygons import MIXES, grow, inside_and_same, share_of_paint
from tests.helpers.labels import tile_of

TURNS = {"degrees": 180, "translate": 0.2, "scale": 0.3}
# Maps that keep right angles, and others: there the smallest rectangle around an object is larger than the object.
RIGHT_ANGLES = {
    "off": {}, "mosaic": {"mosaic": 1}, "turns": TURNS, "flips": {"fliplr": 0.5, "flipud": 0.5},
    "mixup": {"mixup": 1}, "cutmix": {"cutmix": 1}, "copy-paste of itself": {"copy_paste": 1},
    "copy-paste of others": {"copy_paste": 1, "copy_paste_mode": "mixup"},
    "all, itself": {**TURNS, **MIXES, "fliplr": 0.5, "flipud": 0.5},
    "all, others": {**TURNS, **MIXES, "fliplr": 0.5, "copy_paste_mode": "mixup"},
}  # fmt: skip
SLANTED = {
    "shear": {"shear": 20, "degrees": 90}, "perspective": {"perspective": 0.002, "degrees": 90},
    "all": {**TURNS, **MIXES, "mixup": 0, "shear": 15, "perspective": 0.001, "fliplr": 0.5},
}  # fmt: skip


def rectangles(*objects: tuple[int, tuple[float, ...]], size: tuple[int, int] = (SIZE, SIZE)) -> Tile:
    """Rectangles (paint, xywhr) on grey; they may reach beyond the tile."""
    corners = corners_of(torch.tensor([box for _, box in objects]))
    image = torch.full((3, *size), 114, dtype=torch.uint8)
    for (paint, _), ring in zip(objects, corners, strict=True):
        image[:, fill(clip(Polygons(ring, torch.tensor([4])), size), size)] = PAINT[paint][:, None].byte()
    polygons = Polygons(corners.flatten(0, 1), torch.full((len(objects),), 4), rectangles=True)
    boxes = torch.minimum(hulls_of(corners).clamp(min=0), torch.tensor([size[1], size[0]] * 2))
    return tile_of(image, boxes, torch.tensor([paint for paint, _ in objects]), polygons)


TILES = [
    rectangles((0, (30, 26, 44, 16, 0.5)), (1, (32, 72, 50, 20, -0.3))), rectangles((2, (60, 60, 24, 24, 0.7))),
    rectangles((3, (30, 60, 60, 14, 2.1)), (4, (76, 22, 30, 22, 1.2))),
    rectangles((5, (28, 36, 40, 24, 0.2)), size=(72, SIZE)),
]  # fmt: skip


def visible_of(labels: Instances, index: int, size: tuple[int, int]) -> torch.Tensor:
    """The pixels (H, W) of an object's rectangle."""
    ring = corners_of(labels.oriented[index])
    return fill(clip(Polygons(ring, torch.tensor([4])), size), size)


def check_rectangles(batch: Batch, share: float, *, filled: bool, border: int = 2) -> int:
    """Compare each rectangle with the pixels that are paint of its class; return how many were compared.

    No pixel of the paint lies outside of the rectangles of its class, `border` pixels away. filled: inside a rectangle
    and its hull, that far from its edge, from the image's edge and from other objects, every pixel is such paint.
    """
    labels, size, compared = batch.labels, tuple(batch.images.shape[-2:]), 0
    assert labels.polygons.rectangles and (labels.polygons.counts == 4).all()
    masks = [visible_of(labels, index, size) for index in range(len(labels))]
    for index, box in enumerate(labels.boxes):
        paint, image = int(labels.classes[index]), int(labels.image[index])
        inside, same = inside_and_same(labels, masks, index, border)
        shown = share_of_paint(batch.images[image], paint)
        x1, y1, x2, y2 = box.round().int().tolist()
        inside[: y1 + border], inside[y2 - border :] = False, False
        inside[:, : x1 + border], inside[:, x2 - border :] = False, False
        assert not filled or (shown[inside] > share).all()
        stray = (shown > share) & ~grow(same, border)
        assert not stray[y1:y2, x1:x2].any()
        compared += int(inside.sum()) > 20
    return compared


@pytest.mark.parametrize("name", RIGHT_ANGLES)
def test_rectangles_lie_on_their_paint(name):
    recipe, compared = replace(OFF, **RIGHT_ANGLES[name]), 0
    share = 0.3 if recipe.mixup else 0.9
    for seed in range(8):
        compared += check_rectangles(augment(TILES, TILES, recipe, seeded(seed), "cpu"), share, filled=True)
    assert compared >= 40


@pytest.mark.parametrize("name", SLANTED)
def test_rectangles_hold_what_a_map_made_of_their_objects(name):
    recipe, compared = replace(OFF, **SLANTED[name]), 0
    for seed in range(8):
        compared += check_rectangles(augment(TILES, TILES, recipe, seeded(seed), "cpu"), 0.9, filled=False)
    assert compared >= 25


def test_what_the_image_cuts_keeps_its_angle_and_its_sides_end_at_the_cut():
    tile = rectangles((0, (SIZE, 40, 60, 20, 0.5)), (1, (30, 60, 40, 20, 0.25)))
    labels = augment([tile], [tile], OFF, seeded(), "cpu").labels
    (x, y, w, h, angle), whole = labels.oriented.tolist()
    assert angle == pytest.approx(0.5, abs=1e-5) and h == pytest.approx(20, abs=1e-3) and 30 < w < 45
    top = y - (w * math.sin(0.5) + h * math.cos(0.5)) / 2
    assert labels.boxes[0, 2] == SIZE and labels.boxes[0, 1] == pytest.approx(top, abs=1e-3)
    assert whole == pytest.approx([30, 60, 40, 20, 0.25], abs=1e-4)


def test_a_guest_s_object_that_meets_the_cut_rectangle_with_its_hull_alone_is_dropped():
    """A long diagonal: its hull covers the tile, its pixels only a stripe."""
    diagonal = rectangles((0, (48, 48, 120, 6, math.pi / 4)))
    empty = rectangles((1, (90, 6, 8, 8, 0.0)))
    seen = set()
    for seed in range(40):
        batch = augment([empty], [diagonal], replace(OFF, cutmix=1), seeded(seed), "cpu")
        check_rectangles(batch, 0.9, filled=True)
        seen.add(len(batch.labels))
    assert seen == {1, 2}
