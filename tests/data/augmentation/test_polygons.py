"""The polygons of a batch lie on the pixels of their objects, whatever the augmentation does to image and labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from bitfalcon_plugin.data.augmentation.augment import Batch, augment
from bitfalcon_plugin.data.augmentation.compose import Tile
from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.data.loading.loader import TrainLoader
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.polygons import clip, fill
from tests.data.augmentation.test_augment import OFF, PAINT, SIZE, seeded
from tests.data.augmentation.test_compose import drawn

GREY = 114 / 255
AFFINE = {"degrees": 30, "shear": 10, "translate": 0.2, "scale": 0.4}
MIXES = {"mosaic": 0.7, "mixup": 0.5, "cutmix": 0.5, "copy_paste": 0.8}
RECIPES = {
    "off": {}, "mosaic": {"mosaic": 1}, "affine": AFFINE, "perspective": {"perspective": 0.001},
    "flips": {"fliplr": 0.5, "flipud": 0.5}, "mixup": {"mixup": 1}, "cutmix": {"cutmix": 1},
    "copy-paste of itself": {"copy_paste": 1}, "copy-paste of others": {"copy_paste": 1, "copy_paste_mode": "mixup"},
    "all, itself": {**AFFINE, **MIXES, "perspective": 0.0005, "fliplr": 0.5, "flipud": 0.5},
    "all, others": {**AFFINE, **MIXES, "perspective": 0.0005, "fliplr": 0.5, "copy_paste_mode": "mixup"},
}  # fmt: skip
TILES = [
    drawn((0, (6, 8, 44, 60)), (1, (8, 66, 40, 90))), drawn((2, (52, 50, 92, 92))),
    drawn((3, (6, 50, 46, 90)), (4, (60, 6, 92, 34))), drawn((5, (10, 6, 50, 40)), size=(72, SIZE)),
]  # fmt: skip


def grow(mask: Tensor, border: int) -> Tensor:
    """The mask (H, W) bool and `border` pixels around it."""
    return max_pool2d(mask[None, None].float(), 2 * border + 1, stride=1, padding=border)[0, 0] > 0


def share_of_paint(image: Tensor, paint: int) -> Tensor:
    """The share of the paint (H, W) in each pixel of an image (3, H, W): 1 for the paint alone, 0 for grey."""
    return ((image - GREY) / (PAINT[paint] / 255 - GREY)[:, None, None]).amin(dim=0)


def inside_and_same(labels: Instances, masks: list[Tensor], index: int, border: int) -> tuple[Tensor, Tensor]:
    """The inside of an object, and the union of all objects of its class in its image, each (H, W) bool.

    The inside lies `border` pixels away from the edge of the object, from that of the image and from other objects.
    masks: of all labels.
    """
    neighbours = [
        other for other in range(len(labels)) if labels.image[other] == labels.image[index] and other != index
    ]
    inside = pad(~grow(~masks[index], border)[border:-border, border:-border], [border] * 4)
    same = masks[index].clone()
    for other in neighbours:
        inside &= ~grow(masks[other], border)
        if labels.classes[other] == labels.classes[index]:
            same |= masks[other]
    return inside, same


def check_polygons(batch: Batch, share: float, border: int = 2) -> int:
    """Compare each polygon with the pixels that are paint of its class by more than `share`; return their number.

    Inside a polygon, `border` pixels away from its edge, from the image's edge and from other objects, every pixel is
    such paint. In its box, `border` pixels away from all polygons of its class, no pixel is.
    """
    labels, size, compared = batch.labels, tuple(batch.images.shape[-2:]), 0
    assert len(labels.polygons) == len(labels.boxes) == len(labels.classes) and bool(labels.has_polygon.all())
    masks = [fill(clip(labels.polygons[torch.tensor([index])], size), size) for index in range(len(labels))]
    for index, (polygon, box) in enumerate(zip(labels.polygons.split(), labels.boxes)):
        assert (polygon >= box[:2] - 1e-3).all() and (polygon <= box[2:] + 1e-3).all()
        paint, image = int(labels.classes[index]), int(labels.image[index])
        inside, same = inside_and_same(labels, masks, index, border)
        shown = share_of_paint(batch.images[image], paint)
        assert (shown[inside] > share).all()
        x1, y1, x2, y2 = box.round().int().tolist()
        stray = (shown > share) & ~grow(same, border)
        assert not stray[y1:y2, x1:x2].any()
        compared += int(inside.sum()) > 20
    return compared


@pytest.mark.parametrize("name", RECIPES)
def test_polygons_lie_on_their_paint(name):
    recipe, compared = replace(OFF, **RECIPES[name]), 0
    share = 0.3 if recipe.mixup else 0.9
    for seed in range(8):
        batch = augment(TILES, TILES, recipe, seeded(seed), "cpu")
        compared += check_polygons(batch, share)
    assert compared >= 40


def as_sample(tile: Tile, path: Path) -> Sample:
    height, width = tile.image.shape[1:]
    Image.fromarray(tile.image.permute(1, 2, 0).numpy()).save(path)
    return Sample(path, (height, width), tile.labels.scaled(1 / width, 1 / height))


def test_polygons_are_scaled_with_the_batch(tmp_path):
    samples = [as_sample(tile, tmp_path / f"{index}.png") for index, tile in enumerate(TILES)]
    loader = TrainLoader(samples, imgsz=SIZE, batch=2, seed=0, multi_scale=0.7)
    recipe, compared, sides = replace(OFF, **AFFINE, fliplr=0.5), 0, set()
    for number in range(12):
        for batch, _ in loader.epoch(number, recipe):
            compared += check_polygons(batch, 0.9, border=3)
            sides.add(batch.images.shape[-1])
    assert compared >= 40 and sides == {64, 96, 128, 160}
