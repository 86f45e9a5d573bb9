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

from ...ops.instances import Instances
from ...ops.polygons import clip_to_boxes, fill
from .compose import pick

KEPT = 0.10  # least share of a box of the cut-out rectangle's image that must lie inside the rectangle
SMALLEST = 2  # pixels: cut boxes keep sides above this


class Part(NamedTuple):
    """A scene that gives something to the image it belongs to: its number and that image's."""

    scene: int
    home: int


def lend(
    labels: Instances, parts: Sequence[Part], size: tuple[int, int], fraction: float, draws: Sequence[float]
) -> tuple[Instances, dict[Part, Tensor]]:
    """Paste objects of other images where they lie: the labels, and part -> mask (bool) of `size`.

    A part without anything to paste has no mask. `draws` holds a number from [0, 1) for each part.
    """
    keep, masks = torch.ones(len(labels), dtype=torch.bool), {}
    for part, draw in zip(parts, draws):
        lent = labels.image == part.scene
        candidates = (lent & labels.has_polygon).nonzero().flatten()
        chosen = candidates[pick(labels.boxes[candidates], labels.boxes[labels.image == part.home], fraction, draw)]
        keep[lent] = False
        keep[chosen] = True
        if len(chosen):
            masks[part] = fill(labels.polygons[keep & lent], size)
    return labels.only(keep), masks


def cut(
    labels: Instances, home: Tensor, parts: Sequence[Part], size: tuple[int, int], draws: Sequence[Sequence[float]]
) -> tuple[Instances, dict[Part, tuple[int, int, int, int]]]:
    """Cut rectangles out of other images: the labels, and part -> rectangle (x1, y1, x2, y2), whole pixels of `size`.

    `home` (n,) is the image of each scene. `draws` holds nine numbers from [0, 1) for each part: three rectangles, of each
    the share of the image that is kept (uniform, which is Beta(1, 1)) and its centre. The first rectangle that meets no
    box of the image is cut; where there is none, nothing is. A box of the other image stays when a tenth of it lies
    inside; it is clipped to the rectangle, and its polygon too.
    """
    keep, boxes, rectangles = torch.ones(len(labels), dtype=torch.bool), labels.boxes.clone(), {}
    bounds = boxes.new_tensor([0, 0, size[1], size[0]]).repeat(len(labels), 1)  # (N, 4) what a polygon is cut to
    guests = torch.zeros(len(home), dtype=torch.bool)
    guests[[part.scene for part in parts]] = True
    for part, row in zip(parts, draws):
        of_guest = labels.image == part.scene
        own = labels.boxes[(home[labels.image] == part.home) & ~guests[labels.image]]
        drawn = (_rectangle(row[start : start + 3], size) for start in (0, 3, 6))
        rectangle = next((rectangle for rectangle in drawn if _is_free(rectangle, own)), None)
        if rectangle is None:
            keep[of_guest] = False
            continue
        rectangles[part] = rectangle
        low, high = boxes.new_tensor(rectangle[:2] * 2), boxes.new_tensor(rectangle[2:] * 2)  # (4,) each
        clipped = torch.minimum(torch.maximum(boxes[of_guest], low), high)
        sides = clipped[:, 2:] - clipped[:, :2]
        area = (boxes[of_guest, 2:] - boxes[of_guest, :2]).prod(dim=1)
        keep[of_guest] = (sides.prod(dim=1) >= KEPT * area) & (sides > SMALLEST).all(dim=1)
        boxes[of_guest], bounds[of_guest] = clipped, boxes.new_tensor(rectangle)
    polygons = None if labels.polygons is None else clip_to_boxes(labels.polygons, bounds)
    return replace(labels, boxes=boxes, polygons=polygons).only(keep), rectangles


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
