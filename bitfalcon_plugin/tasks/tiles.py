"""The detections of the tiles of an image become those of the image.

Tiles overlap, so an object near the border of a tile is seen by two to four of them. A tile that sees all of it gives
the box that is wanted, and a tile whose border cuts it gives a box of the rest: that box lies in the first one, yet the
IoU of the two is small, and suppression would keep both. So the parts go first (see `cut_parts`), and then the task's
own suppression decides about all others, as it does within an image. An object that is larger than the overlap may be
seen whole by no tile: more than one part of it then stays, and a larger overlap or a larger tile is the remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..ops.instances import Instances
from ..ops.nms import MAX_CANDIDATES, Suppression
from ..ops.patches import Patches
from ..ops.rotated_overlap import shared_area
from ..ops.tiles import Window
from . import Task

EDGE = 0.01  # a box that ends within this share of the tile's side from a border touches the border
COVERED = 0.5  # share of a part's area that the box of a more complete detection covers
AS_SURE = 0.5  # least score of the more complete detection, as a share of that of the part
FACING = (1, 1, -1, -1)  # the sides x1, y1, x2, y2 look inwards in the direction of rising or falling coordinates


def merge_tiles(
    tiles: Sequence[Instances], windows: Sequence[Window], size: tuple[int, int], rule: Suppression, task: Task
) -> Instances:
    """Return the detections of an image of `size` (h, w) px, best first, from those of its tiles.

    tiles: of each window the detections in pixels of the tile, suppressed already, with encoded masks where the task
    has masks. rule: iou, max_det and agnostic are those of the image. Boxes, points and oriented boxes are in pixels of
    the image; masks become patches on its plane.
    """
    detections = Instances.cat([_in_image(*each) for each in zip(tiles, range(len(windows)), windows, strict=True)])
    detections = detections.only(~cut_parts(detections, windows, size, rule.agnostic))
    order = detections.scores.sort(descending=True, stable=True).indices[:MAX_CANDIDATES]
    detections = detections.only(order)
    detections = detections.only(task.keep(detections, rule))
    if detections.encoded_masks is not None:
        detections = replace(detections, patches=_patches(detections, windows, size), encoded_masks=None)
    return replace(detections, image=None)


def _in_image(tile: Instances, number: int, window: Window) -> Instances:
    """Move boxes and points from pixels of a tile to those of the image; `image` is the number of the tile."""
    shift = tile.boxes.new_tensor(window[:2])
    points, oriented = tile.keypoints, tile.xywhr
    if points is not None:
        points = torch.cat((points[..., :2] + shift, points[..., 2:]), -1)
    if oriented is not None:
        oriented = torch.cat((oriented[:, :2] + shift, oriented[:, 2:]), 1)
    boxes, image = tile.boxes + shift.repeat(2), torch.full_like(tile.classes, number)
    return replace(tile, boxes=boxes, keypoints=points, xywhr=oriented, image=image)


def cut_parts(detections: Instances, windows: Sequence[Window], size: tuple[int, int], agnostic: bool) -> Tensor:
    """Return which detections are parts of objects that another tile sees more of: (n,) bool.

    detections: in pixels of the image of `size` (h, w); `image` is the number of the window. A detection is a part if
    it touches a border of its tile that is not one of the image, and a detection of its class (of any class where
    `agnostic`) from another tile reaches beyond that border, covers at least COVERED of its area, has at least AS_SURE
    of its score, and is more complete: it touches fewer borders, or as many and is larger. A small object inside of a
    large one is safe from this rule, unless it is cut itself, and then a neighbouring tile sees it whole.
    """
    borders = torch.tensor(windows, dtype=torch.float64).view(-1, 4)
    inner = (borders > 0) & (borders < borders.new_tensor([torch.inf, torch.inf, size[1], size[0]]))
    margin = (borders[:, 2:] - borders[:, :2]).repeat(1, 2) * EDGE
    facing = borders.new_tensor(FACING)
    boxes, tile = detections.boxes.double(), detections.image
    cut = inner[tile] & ((boxes - borders[tile]) * facing <= margin[tile])  # (n, 4)
    area = _areas(detections)
    columns = (-detections.scores.double(), -area, cut.sum(1))  # the last one counts first
    rank = torch.from_numpy(np.lexsort(columns)).argsort()  # 0 is the most complete
    parts = torch.zeros(len(detections), dtype=torch.bool)
    for number in tile[cut.any(1)].unique().tolist():
        window = borders[number]
        near = (borders[:, :2] < window[2:]).all(1) & (borders[:, 2:] > window[:2]).all(1)
        near[number] = False
        weak, strong = ((tile == number) & cut.any(1)).nonzero()[:, 0], near[tile].nonzero()[:, 0]
        beyond = (boxes[strong] - window) * facing < 0  # (m, 4)
        pairs = (cut[weak].double() @ beyond.double().T > 0) & (rank[strong] < rank[weak, None])
        pairs &= detections.scores[strong] >= AS_SURE * detections.scores[weak, None]
        if not agnostic:
            pairs &= detections.classes[weak, None] == detections.classes[strong]
        first, second = (rows[index] for rows, index in zip((weak, strong), pairs.nonzero().unbind(1)))
        covered = _shared(detections, boxes, first, second) >= COVERED * area[first]
        parts[first[covered & (area[first] > 0)]] = True
    return parts


def _areas(detections: Instances) -> Tensor:
    if detections.xywhr is not None:
        return detections.xywhr[:, 2:4].double().prod(1)
    return (detections.boxes[:, 2:] - detections.boxes[:, :2]).double().prod(1)


def _shared(detections: Instances, boxes: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the area (k,) in px^2 that pairs of detections share. boxes (n, 4): xyxy, of oriented boxes the hulls."""
    a, b = boxes[first], boxes[second]
    sides = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    shared = sides.clamp(min=0).prod(1)
    if detections.xywhr is not None:
        rows = shared.nonzero()[:, 0]  # rectangles whose hulls do not meet share nothing
        a, b = (detections.xywhr[index[rows]].double() for index in (first, second))
        shared[rows] = shared_area(a, b)
    return shared


def _patches(detections: Instances, windows: Sequence[Window], size: tuple[int, int]) -> Patches:
    """Return the masks, which are encoded on the planes of their tiles, on that of the image."""
    stacks, places = [], []
    for index, number in enumerate(detections.image.tolist()):
        plane = detections.encoded_masks[torch.tensor([index])].decode()[0]
        rows, columns = plane.any(1).nonzero()[:, 0], plane.any(0).nonzero()[:, 0]
        top, left = int(rows[0]), int(columns[0])
        stacks.append(plane[None, top : int(rows[-1]) + 1, left : int(columns[-1]) + 1].clone())
        places.append((windows[number].y1 + top, windows[number].x1 + left))
    top, left = torch.tensor(places, dtype=torch.int64).view(-1, 2).unbind(1)
    number = torch.arange(len(stacks))
    return Patches(size, stacks, number, torch.zeros_like(number), top, left)
