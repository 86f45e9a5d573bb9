"""Transforms of classification: pictures to tensors. Facts: spec/segment-classify.md 2.5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .fitting import LetterBox, resized

DEFAULT_MEAN, DEFAULT_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # the networks are trained on [0, 1] as it is


def classify_transforms(
    size: int | Sequence[int] = 224,
    mean: Sequence[float] = DEFAULT_MEAN,
    std: Sequence[float] = DEFAULT_STD,
    interpolation: str = "BILINEAR",
    crop_fraction: float | None = None,
) -> Any:
    """Return the transform of validation: a Pillow image to (3, s, s) in [0, 1].

    The shorter side becomes `size` and the middle is cut out; two numbers stretch to (h, w). crop_fraction: the share
    of the shorter side that is cut out.
    """
    from torchvision import transforms

    mode = transforms.InterpolationMode[interpolation]
    if isinstance(size, (list, tuple)) and size[0] != size[1]:
        steps = [transforms.Resize(tuple(size), interpolation=mode)]
    else:
        side = size if isinstance(size, int) else size[0]
        shorter = int(side / crop_fraction) if crop_fraction else side
        steps = [transforms.Resize(shorter, interpolation=mode), transforms.CenterCrop(side)]
    end = [transforms.ToTensor(), transforms.Normalize(torch.tensor(mean), torch.tensor(std))]
    return transforms.Compose([*steps, *end])


def classify_augmentations(
    size: int = 224,
    mean: Sequence[float] = DEFAULT_MEAN,
    std: Sequence[float] = DEFAULT_STD,
    scale: Sequence[float] | None = None,
    ratio: Sequence[float] | None = None,
    hflip: float = 0.5,
    vflip: float = 0.0,
    auto_augment: str | None = None,
    hsv_h: float = 0.015,
    hsv_s: float = 0.4,
    hsv_v: float = 0.4,
    force_color_jitter: bool = False,
    erasing: float = 0.0,
    interpolation: str = "BILINEAR",
) -> Any:
    """Return the transform of training: a Pillow image to (3, size, size).

    scale: the share of the area that is cut out, from 0.08 to 1; ratio: of its sides. auto_augment: randaugment,
    autoaugment, augmix or None, which changes colours by hsv_*. erasing: probability of an erased rectangle.
    """
    from torchvision import transforms

    mode = transforms.InterpolationMode[interpolation]
    policies = {
        "randaugment": lambda: transforms.RandAugment(interpolation=mode),
        "autoaugment": lambda: transforms.AutoAugment(interpolation=mode),
        "augmix": lambda: transforms.AugMix(interpolation=mode),
    }
    if auto_augment and auto_augment not in policies:
        raise ValueError(f"auto_augment={auto_augment!r}; expected one of {', '.join(policies)} or None")
    areas, ratios = tuple(scale or (0.08, 1.0)), tuple(ratio or (3 / 4, 4 / 3))
    steps: list[Any] = [transforms.RandomResizedCrop(size, scale=areas, ratio=ratios, interpolation=mode)]
    if hflip:
        steps.append(transforms.RandomHorizontalFlip(p=hflip))
    if vflip:
        steps.append(transforms.RandomVerticalFlip(p=vflip))
    if auto_augment:
        steps.append(policies[auto_augment]())
    if not auto_augment or force_color_jitter:
        steps.append(transforms.ColorJitter(brightness=hsv_v, contrast=hsv_v, saturation=hsv_s, hue=hsv_h))
    steps += [transforms.ToTensor(), transforms.Normalize(torch.tensor(mean), torch.tensor(std))]
    if erasing:
        steps.append(transforms.RandomErasing(p=erasing, inplace=True))
    return transforms.Compose(steps)


class ClassifyLetterBox:
    """Resize an image (h, w, 3) into size with its proportions and pad it with grey."""

    def __init__(self, size: int | tuple[int, int] = (640, 640), auto: bool = False, stride: int = 32) -> None:
        self.h, self.w = (size, size) if isinstance(size, int) else size
        self.auto, self.stride = auto, stride

    def __call__(self, im: np.ndarray) -> np.ndarray:
        return LetterBox((self.h, self.w), auto=self.auto, stride=self.stride)(image=im)


class CenterCrop:
    """Cut the largest square out of the middle of an image (h, w, 3) or a Pillow image, and resize it to size."""

    def __init__(self, size: int | tuple[int, int] = (640, 640)) -> None:
        self.h, self.w = (size, size) if isinstance(size, int) else size

    def __call__(self, im: Any) -> np.ndarray:
        image = np.asarray(im)
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return resized(np.ascontiguousarray(image[top : top + side, left : left + side]), (self.h, self.w))


class ToTensor:
    """Turn an image (h, w, 3) BGR uint8 into (3, h, w) RGB in [0, 1], float32 or float16."""

    def __init__(self, half: bool = False) -> None:
        self.half = half

    def __call__(self, im: np.ndarray) -> torch.Tensor:
        planes = torch.from_numpy(np.ascontiguousarray(im.transpose(2, 0, 1)[::-1]))
        return (planes.half() if self.half else planes.float()) / 255
