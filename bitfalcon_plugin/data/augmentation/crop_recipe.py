"""Training augmentation of whole images: a random crop, flips, a policy or colours, and an erased rectangle.

Papers: random resized crop, Szegedy et al. 1409.4842; RandAugment 1909.13719; AutoAugment 1805.09501; AugMix
1912.02781; random erasing 1708.04896, all as torchvision has them. Order and ranges: spec/segment-classify.md 2.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...config.settings import Settings

ASPECTS = (3 / 4, 4 / 3)  # width / height of the crop, on a log scale
MAX_HUE = 0.5  # of a turn: a larger shift says the same again
ERASED, ERASED_ASPECTS = (0.02, 0.33), (0.3, 3.3)  # share of the image, and height / width, of the erased rectangle


@dataclass(frozen=True)
class CropRecipe:
    """Which augmentations are drawn, and from which ranges.

    imgsz: side of the result in pixels. scale: the crop has an area from 1 - scale to 1 of the image. flipud, fliplr,
    erasing: probabilities. auto_augment: randaugment, autoaugment, augmix or none. hsv_v (brightness and contrast),
    hsv_s (saturation) and hsv_h (turns of the hue): relative ranges of colours, without a policy only.
    """

    imgsz: int
    scale: float
    flipud: float
    fliplr: float
    auto_augment: str
    hsv_h: float
    hsv_s: float
    hsv_v: float
    erasing: float

    mixing: ClassVar[tuple[str, ...]] = ()  # no images are mixed
    mosaic: ClassVar[float] = 0.0

    def described(self) -> dict[str, object]:
        """The settings by kind, "chances", "ranges" and "policy", for reports."""
        colours = (
            {} if self.auto_augment != "none" else {name: getattr(self, name) for name in ("hsv_h", "hsv_s", "hsv_v")}
        )
        chances = {name: getattr(self, name) for name in ("flipud", "fliplr", "erasing")}
        return {"chances": chances, "ranges": {"scale": self.scale, **colours}, "policy": self.auto_augment}


def crop_recipe_of(settings: Settings, closed: bool) -> CropRecipe:
    """The recipe of an epoch, the same in all of them: there is no mixing that could be closed."""
    return CropRecipe(**{field.name: getattr(settings, field.name) for field in fields(CropRecipe)})


def augment_picture(picture: Image.Image, recipe: CropRecipe, seed: int) -> Tensor:
    """Return an RGB picture augmented: (3, imgsz, imgsz) uint8, a function of the arguments alone.

    The channels are last in memory, as the network takes them.
    """
    with _seeded(seed):
        for step in steps_of(recipe):
            picture = step(picture)
        return eraser_of(recipe)(torch.from_numpy(np.array(picture)).permute(2, 0, 1))  # (s, s, 3) -> (3, s, s)


@cache
def steps_of(recipe: CropRecipe) -> tuple[Callable[[Image.Image], Image.Image], ...]:
    """The steps on the picture, in their order; steps that never do anything are left out."""
    from torchvision import transforms

    mode = transforms.InterpolationMode.BILINEAR
    area = (1 - recipe.scale, 1.0)
    policies = {
        "randaugment": lambda: transforms.RandAugment(
            num_ops=2, magnitude=9, num_magnitude_bins=31, interpolation=mode
        ),
        "autoaugment": lambda: transforms.AutoAugment(interpolation=mode),
        "augmix": lambda: transforms.AugMix(interpolation=mode),
        "none": lambda: transforms.ColorJitter(recipe.hsv_v, recipe.hsv_v, recipe.hsv_s, min(recipe.hsv_h, MAX_HUE)),
    }
    return (
        transforms.RandomResizedCrop(recipe.imgsz, scale=area, ratio=ASPECTS, interpolation=mode),
        transforms.RandomHorizontalFlip(recipe.fliplr),
        transforms.RandomVerticalFlip(recipe.flipud),
        policies[recipe.auto_augment](),
    )


@cache
def eraser_of(recipe: CropRecipe) -> Callable[[Tensor], Tensor]:
    """The step on the pixels: sets a rectangle to black."""
    from torchvision import transforms

    return transforms.RandomErasing(recipe.erasing, scale=ERASED, ratio=ERASED_ASPECTS, value=0)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator of the CPU, from which torchvision draws, for as long as the context lasts."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
