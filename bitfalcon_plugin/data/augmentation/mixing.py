"""Putting one rendered image into another: objects of another image, mixup, cutmix; labels and pixels.

Mixup is Zhang et al. (arXiv:1710.09412); cutmix Yun et al. (arXiv:1905.04899), both written from spec/interface.md
(section 6.6, steps 2, 4 and 5). Labels are decided on the CPU; pixels are moved where the images are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops.polygons import fill, select
from .compose import Labels, pick

KEPT = 0.10  # least share of a box of the cut-out rectangle's image that must lie inside the rectangle
SMALLEST = 2  # pixels: cut boxes keep sides above this


class Part(NamedTuple):
    """A scene that gives something to the image it belongs to: its number and that image's."""

    scene: int
    home: int


def lend(labels: Labels, parts: Sequence[Part], size: tuple[int, int], fraction: float, draws: Sequence[float]
         ) -> tuple[Labels, dict[Part, Tensor]]:  # fmt: skip
    """Objects of other images, pasted where they lie: the labels, and part -> mask (bool) of `size`.

    A part without anything to paste has no mask. `draws` holds a number from [0, 1) for each part.
    """
    keep, masks = torch.ones(len(labels.boxes), dtype=torch.bool), {}
    for part, draw in zip(parts, draws):
        theirs = labels.scene == part.scene
        candidates = (theirs & labels.outlined).nonzero().flatten()
        chosen = candidates[pick(labels.boxes[candidates], labels.boxes[labels.scene == part.home], fraction, draw)]
        keep[theirs] = False
        keep[chosen] = True
        if len(chosen):
            masks[part] = fill(select(labels.outlines, keep & theirs), size)
    return labels.only(keep), masks


def cut(labels: Labels, home: Tensor, parts: Sequence[Part], size: tuple[int, int], draws: Sequence[Sequence[float]]
        ) -> tuple[Labels, dict[Part, tuple[int, int, int, int]]]:  # fmt: skip
    """Rectangles of other images: the labels, and part -> rectangle (x1, y1, x2, y2), whole pixels of an image of `size`.

    `home` (n,) is the image of each scene. `draws` holds nine numbers from [0, 1) for each part: three rectangles, of each
    the share of the image that is kept (uniform, which is Beta(1, 1)) and its centre. The first that meets no box of
    the image is cut; where there is none, nothing is. Their boxes stay when a tenth of them lies inside, clipped.
    """
    keep, boxes, found = torch.ones(len(labels.boxes), dtype=torch.bool), labels.boxes.clone(), {}
    guests = torch.zeros(len(home), dtype=torch.bool)
    guests[[part.scene for part in parts]] = True
    for part, row in zip(parts, draws):
        theirs = labels.scene == part.scene
        own = labels.boxes[(home[labels.scene] == part.home) & ~guests[labels.scene]]
        free = (place for place in (_rectangle(row[at : at + 3], size) for at in (0, 3, 6)) if _is_free(place, own))
        rectangle = next(free, None)
        if rectangle is None:
            keep[theirs] = False
            continue
        found[part] = rectangle
        x1, y1, x2, y2 = rectangle
        clipped = torch.stack([boxes[theirs, 0].clamp(x1, x2), boxes[theirs, 1].clamp(y1, y2),
                               boxes[theirs, 2].clamp(x1, x2), boxes[theirs, 3].clamp(y1, y2)], dim=1)  # fmt: skip
        sides = clipped[:, 2:] - clipped[:, :2]
        area = (boxes[theirs, 2:] - boxes[theirs, :2]).prod(dim=1)
        keep[theirs] = (sides.prod(dim=1) >= KEPT * area) & (sides > SMALLEST).all(dim=1)
        boxes[theirs] = clipped
    return replace(labels, boxes=boxes).only(keep), found


def _rectangle(draws: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A rectangle with the image's proportions around a drawn centre, cut off at the image's sides."""
    share, x, y = draws
    edges = []
    for centre, side in ((x, size[1]), (y, size[0])):
        half = side * (1 - share) ** 0.5 / 2
        edges.append((max(int(centre * side - half), 0), min(int(centre * side + half), side)))
    (x1, x2), (y1, y2) = edges
    return x1, y1, x2, y2


def _is_free(rectangle: tuple[int, int, int, int], boxes: Tensor) -> bool:
    x1, y1, x2, y2 = rectangle
    meets = (boxes[:, 0] < x2) & (boxes[:, 2] > x1) & (boxes[:, 1] < y2) & (boxes[:, 3] > y1)
    return x2 > x1 and y2 > y1 and not bool(meets.any())


def stamp_(image: Tensor, source: Tensor, mask: Tensor, *, mirrored: bool = False) -> None:
    """Put what `mask` (H, W), bool on the CPU, shows of `source` into `image`, in place; both (3, H, W) on one device.

    `mirrored` takes the mirror image of `source`, which may be `image` itself.
    """
    rows, columns = mask.any(dim=1).nonzero().flatten().tolist(), mask.any(dim=0).nonzero().flatten().tolist()
    if not rows:
        return
    (top, bottom), (left, right), width = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1), mask.shape[1]
    shown = mask[top:bottom, left:right].contiguous()
    if image.device.type == "cuda":
        shown = shown.pin_memory()
    shown = shown.to(image.device, non_blocking=True)
    if mirrored:
        given = source[:, top:bottom, width - right : width - left].flip(-1)
    else:
        given = source[:, top:bottom, left:right]
    image[:, top:bottom, left:right] = torch.where(shown, given, image[:, top:bottom, left:right])
