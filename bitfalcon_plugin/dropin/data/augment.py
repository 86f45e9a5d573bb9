"""Transforms under the names that scripts import, and the row of them that a training applies.

Each takes the dict of one image and returns it; see transform.py. Facts: spec/dropin-helpers.md section 8,
spec/interface.md 6.6.
"""

from __future__ import annotations

from typing import Any

from ..utils import LOGGER
from .classify import (
    DEFAULT_MEAN,
    DEFAULT_STD,
    CenterCrop,
    ClassifyLetterBox,
    ToTensor,
    classify_augmentations,
    classify_transforms,
)
from .fitting import Albumentations, Format, LetterBox, RandomFlip, RandomHSV
from .masks import polygons2masks, polygons2masks_overlap
from .partners import BaseMixTransform, CopyPaste, CutMix, MixUp, Mosaic
from .transform import BaseTransform, Compose
from .warping import RandomPerspective

DEFAULT_CROP_FRACTION = 1.0

__all__ = [
    "Albumentations",
    "BaseMixTransform",
    "BaseTransform",
    "CenterCrop",
    "ClassifyLetterBox",
    "Compose",
    "CopyPaste",
    "CutMix",
    "DEFAULT_CROP_FRACTION",
    "DEFAULT_MEAN",
    "DEFAULT_STD",
    "Format",
    "LetterBox",
    "MixUp",
    "Mosaic",
    "RandomFlip",
    "RandomHSV",
    "RandomPerspective",
    "ToTensor",
    "classify_augmentations",
    "classify_transforms",
    "polygons2masks",
    "polygons2masks_overlap",
    "v8_transforms",
]


def v8_transforms(dataset: Any, imgsz: int, hyp: Any, stretch: bool = False) -> Compose:
    """Return the augmentation of a training, up to but without Format.

    hyp: the settings, as attributes. stretch: an image without mosaic is not letterboxed first.
    """
    mosaic = Mosaic(dataset, imgsz=imgsz, p=hyp.mosaic)
    fit = None if stretch else LetterBox(new_shape=(imgsz, imgsz))
    ranges = {name: getattr(hyp, name) for name in ("degrees", "translate", "scale", "shear", "perspective")}
    affine = RandomPerspective(**ranges, pre_transform=fit)
    first = Compose([mosaic, affine])
    mode = getattr(hyp, "copy_paste_mode", "flip")
    paste = CopyPaste(dataset, pre_transform=Compose([mosaic, affine]), p=hyp.copy_paste, mode=mode)
    if mode == "flip":
        first.insert(1, paste)
    else:
        first.append(paste)
    flip_idx = _flip_idx(dataset, hyp)
    return Compose(
        [
            first,
            MixUp(dataset, pre_transform=first, p=hyp.mixup),
            CutMix(dataset, pre_transform=first, p=getattr(hyp, "cutmix", 0.0)),
            Albumentations(p=1.0, transforms=getattr(hyp, "augmentations", None)),
            RandomHSV(hgain=hyp.hsv_h, sgain=hyp.hsv_s, vgain=hyp.hsv_v),
            RandomFlip(direction="vertical", p=hyp.flipud, flip_idx=flip_idx),
            RandomFlip(direction="horizontal", p=hyp.fliplr, flip_idx=flip_idx),
        ]
    )


def _flip_idx(dataset: Any, hyp: Any) -> list[int]:
    """The dataset's flip_idx. Without one, keypoints are not mirrored: both flips become 0. Raises ValueError."""
    data = getattr(dataset, "data", None) or {}
    indices, shape = list(data.get("flip_idx") or []), data.get("kpt_shape")
    if not getattr(dataset, "use_keypoints", False):
        return indices
    if not indices and (hyp.fliplr or hyp.flipud):
        hyp.fliplr = hyp.flipud = 0.0
        LOGGER.warning(
            "The dataset has no 'flip_idx' (which keypoint each becomes in a mirror): fliplr=0.0 flipud=0.0 are used."
        )
    if indices and shape and len(indices) != shape[0]:
        raise ValueError(f"flip_idx={indices} has {len(indices)} entries; expected kpt_shape[0] = {shape[0]}")
    return indices
