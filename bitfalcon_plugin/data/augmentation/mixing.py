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
from ...ops.keypoints import cut_keypoints, hide_keypoints
from ...ops.polygons import Polygons, clip, fill
from ...ops.rotated import cut
from .compose import pick

MIN_SHARE = 0.10  # least share of a box of the guest that must lie inside the rectangle
MIN_SIDE = 2  # pixels: cut boxes keep sides above this

Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels


class Guest(NamedTuple):
    """A scene that gives something to an image: the indices of the scene and of the image."""

    scene: int
    image: int


def paste_objects(
    labels: Instances, guests: Sequence[Guest], size: tuple[int, int], fraction: float, draws: Sequence[float]
) -> tuple[Instances, dict[Guest, Tensor]]:
    """Choose the objects of guests that are pasted where they lie: the labels, and guest -> mask (bool) of `size`.

    A guest without anything to paste has no mask. `draws` holds a number from [0, 1) for each guest.
    """
    keep, masks = torch.ones(len(labels), dtype=torch.bool), {}
    for guest, draw in zip(guests, draws):
        of_guest = labels.image == guest.scene
        candidates = (of_guest & labels.has_polygon).nonzero().flatten()
        existing = labels.boxes[labels.image == guest.image]
        chosen = candidates[pick(labels.boxes[candidates], existing, fraction, draw)]
        keep[of_guest] = False
        keep[chosen] = True
        if len(chosen):
            masks[guest] = fill(clip(labels.polygons[keep & of_guest], size), size)
    return labels.only(keep), masks


def cut_rectangles(
    labels: Instances, images: Tensor, guests: Sequence[Guest], size: tuple[int, int], draws: Sequence[Sequence[float]]
) -> tuple[Instances, dict[Guest, Rectangle]]:
    """Cut rectangles out of guests: the labels, and guest -> rectangle within `size`.

    `images` (n,) is the image of each scene. `draws` holds nine numbers from [0, 1) for each guest: three rectangles,
    of each the share of the image that is kept (uniform, which is Beta(1, 1)) and the centre. The first rectangle that
    meets no box of the image is cut, or none. A box of the guest stays if a tenth of it lies inside; it is cut to the
    rectangle, and its polygon too. Keypoints lose their visibility where the other image is shown.
    """
    keep, rectangles = torch.ones(len(labels), dtype=torch.bool), {}
    is_cut = torch.zeros_like(keep)
    bounds = labels.boxes.new_tensor([0, 0, size[1], size[0]]).repeat(len(labels), 1)  # (N, 4) what a label is cut to
    points = None if labels.keypoints is None else labels.keypoints.clone()
    is_guest = torch.zeros(len(images), dtype=torch.bool)
    is_guest[[guest.scene for guest in guests]] = True
    for guest, row in zip(guests, draws):
        of_guest = labels.image == guest.scene
        of_image = (images[labels.image] == guest.image) & ~is_guest[labels.image]
        candidates = (_rectangle(row[start : start + 3], size) for start in (0, 3, 6))
        rectangle = next((each for each in candidates if _is_free(each, labels.boxes[of_image])), None)
        if rectangle is None:
            keep[of_guest] = False
            continue
        rectangles[guest] = rectangle
        is_cut[of_guest], bounds[of_guest] = True, bounds.new_tensor(rectangle)
        if points is not None:
            points[of_image] = hide_keypoints(points[of_image], points.new_tensor(rectangle))
    boxes, polygons = _cut(labels, bounds)
    sides, old_sides = boxes[:, 2:] - boxes[:, :2], labels.boxes[:, 2:] - labels.boxes[:, :2]
    keep &= ~is_cut | (sides.prod(dim=1) >= MIN_SHARE * old_sides.prod(dim=1)) & (sides > MIN_SIDE).all(dim=1)
    boxes = torch.where(is_cut[:, None], boxes, labels.boxes)
    keypoints = None if points is None else cut_keypoints(points, bounds)
    return replace(labels, boxes=boxes, polygons=polygons, keypoints=keypoints).only(keep), rectangles


def _cut(labels: Instances, bounds: Tensor) -> tuple[Tensor, Polygons | None]:
    """Cut boxes and polygons to `bounds` (n, 4) xyxy. The box of an oriented object is the hull of its visible part."""
    boxes = torch.minimum(torch.maximum(labels.boxes, bounds[:, [0, 1, 0, 1]]), bounds[:, [2, 3, 2, 3]])
    if labels.polygons is None:
        return boxes, None
    polygons, visible = cut(labels.polygons, bounds)
    return visible if polygons.rectangles else boxes, polygons


def _rectangle(draws: Sequence[float], size: tuple[int, int]) -> Rectangle:
    """A rectangle with the image's proportions around a drawn centre, cut off at the image's sides."""
    share, x, y = draws
    edges = []
    for centre, side in ((x, size[1]), (y, size[0])):
        half = side * (1 - share) ** 0.5 / 2
        edges.append((max(int(centre * side - half), 0), min(int(centre * side + half), side)))
    (x1, x2), (y1, y2) = edges
    return x1, y1, x2, y2


def _is_free(rectangle: Rectangle, boxes: Tensor) -> bool:
    x1, y1, x2, y2 = rectangle
    meets = (boxes[:, 0] < x2) & (boxes[:, 2] > x1) & (boxes[:, 1] < y2) & (boxes[:, 3] > y1)
    return x2 > x1 and y2 > y1 and not bool(meets.any())


def stamp_(image: Tensor, source: Tensor, mask: Tensor, *, mirrored: bool = False) -> None:
    """Copy the pixels of `source` inside `mask` into `image`, in place.

    image, source: (3, H, W) on one device; they may be the same tensor. mask: (H, W) bool on the CPU. mirrored: copy
    from the mirror image of `source`.
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
        pixels = source[:, top:bottom, width - right : width - left].flip(-1)
    else:
        pixels = source[:, top:bottom, left:right]
    image[:, top:bottom, left:right] = torch.where(shown, pixels, image[:, top:bottom, left:right])
