"""The filled outline of an object covers the pixels of its colour, whatever the augmentation does; nothing is shifted.

The objects are stars and rings with a hole, painted by OpenCV in a colour of their own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bitfalcon_plugin.data.augmentation.augment import augment
from bitfalcon_plugin.data.augmentation.compose import Tile
from bitfalcon_plugin.data.loading.loader import TrainLoader
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.outlines import one_ring
from bitfalcon_plugin.ops.polygons import Polygons, clip, fill_each, hulls
from tests.data.augmentation.test_augment import OFF, PAINT, SIZE, seeded
from tests.data.augmentation.test_polygons import RECIPES, as_sample, grow, share_of_paint

cv2 = pytest.importorskip("cv2", reason="OpenCV paints the objects")
SCALE = 8  # OpenCV paints this many times larger, so that its border lines count little


def star(x: float, y: float, radius: float) -> list[np.ndarray]:
    angles = np.arange(10) * np.pi / 5 + 0.3
    radii = np.where(np.arange(10) % 2, 0.45, 1) * radius
    return [np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)]


def ring(x: float, y: float, radius: float) -> list[np.ndarray]:
    angles = np.arange(16) * np.pi / 8
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    return [[x, y] + circle * radius, [x + radius * 0.15, y] + circle * radius * 0.5]


def painted(objects: dict[int, list[np.ndarray]], size: tuple[int, int]) -> Tile:
    """A tile of `size` (h, w) with objects (paint -> rings) on grey, and their outlines."""
    image = np.full((*size, 3), 114, np.uint8)
    for paint, rings in objects.items():
        plane = np.zeros((size[0] * SCALE, size[1] * SCALE), np.uint8)
        cv2.fillPoly(plane, [np.round(part * SCALE - 0.5).astype(np.int32) for part in rings], 1)
        image[plane[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE] > 0] = PAINT[paint].byte().numpy()
    points = [torch.from_numpy(one_ring(rings)).float() for rings in objects.values()]
    polygons = Polygons(torch.cat(points), torch.tensor([len(part) for part in points]))
    labels = Instances(hulls(polygons), torch.tensor([*objects]), polygons=polygons)
    return Tile(torch.from_numpy(image).permute(2, 0, 1).contiguous(), labels)


TILES = [
    painted({0: star(26, 30, 24), 1: ring(70, 66, 22)}, (SIZE, SIZE)),
    painted({2: ring(30, 36, 26)}, (72, SIZE)),
    painted({3: star(60, 28, 24), 4: ring(24, 66, 20)}, (SIZE, SIZE)),
    painted({5: star(34, 50, 26)}, (SIZE, 64)),
]


def overlap(a: Tensor, b: Tensor) -> float:
    return int((a & b).sum()) / max(int((a | b).sum()), 1)


def compare(labels: Instances, image: Tensor, least: float) -> list[float]:
    """The IoU of the outlines of each paint with its pixels, in the boxes of its labels.

    Pixels near other outlines, and near an edge beyond which an outline goes on, are left out. Of nine places to which
    the outlines could be shifted by a pixel, theirs is the best.
    """
    size = tuple(image.shape[-2:])
    planes, found = fill_each(clip(labels.polygons, size), size), []
    for paint in labels.classes.unique().tolist():
        own = planes[labels.classes == paint].any(0)
        others = planes[labels.classes != paint].any(0)
        near = torch.zeros(size, dtype=torch.bool)
        for x1, y1, x2, y2 in labels.boxes[labels.classes == paint].round().int().tolist():
            near[max(y1, 0) : y2, max(x1, 0) : x2] = True
        near &= ~grow(others, 2) if bool(others.any()) else True
        near[[0, 1, -2, -1]] = near[:, [0, 1, -2, -1]] = False
        if int((own & near).sum()) < 150:
            continue
        shown = share_of_paint(image, paint) > least
        shares = [
            overlap(torch.roll(own, (dy, dx), (0, 1)) & near, shown & near) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
        ]
        assert max(shares) == shares[4], (paint, shares)
        found.append(shares[4])
    return found


@pytest.mark.parametrize("name", [name for name in RECIPES if "mixup" not in RECIPES[name]])
def test_outlines_cover_the_pixels_of_their_object(name):
    recipe, found = replace(OFF, **RECIPES[name]), []
    for seed in range(6):
        batch = augment(TILES, TILES, recipe, seeded(seed), "cpu")
        for index, image in enumerate(batch.images):
            found += compare(batch.labels.only(batch.labels.image == index), image, 0.5)
    assert len(found) >= 20 and min(found) > 0.85 and sum(found) / len(found) > 0.95, (min(found), len(found))


def test_outlines_cover_half_of_the_paint_where_images_are_mixed():
    """Both images of a mixup keep a share near one half of their paint."""
    found = []
    for seed in range(6):
        batch = augment(TILES, TILES, replace(OFF, mixup=1.0, fliplr=0.5), seeded(seed), "cpu")
        for index, image in enumerate(batch.images):
            found += compare(batch.labels.only(batch.labels.image == index), image, 0.25)
    assert len(found) >= 20 and min(found) > 0.8 and sum(found) / len(found) > 0.93, (min(found), len(found))


def test_outlines_are_scaled_with_their_batch(tmp_path):
    samples = [as_sample(tile, tmp_path / f"{index}.png") for index, tile in enumerate(TILES)]
    loader, found, sides = TrainLoader(samples, imgsz=SIZE, batch=2, seed=0, multi_scale=0.7), [], set()
    for number in range(6):
        for batch, _ in loader.epoch(number, replace(OFF, fliplr=0.5, mosaic=0.5, scale=0.2)):
            sides.add(batch.images.shape[-1])
            for index, image in enumerate(batch.images):
                found += compare(batch.labels.only(batch.labels.image == index), image, 0.5)
    assert len(sides) > 2 and len(found) >= 20 and min(found) > 0.8, (sides, min(found), len(found))
