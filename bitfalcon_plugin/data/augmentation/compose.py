"""Compose scenes before a pixel is rendered: tiles on their canvases, objects pasted once more, and all their labels.

Written from spec/interface.md (section 6.6, steps 1 to 3). Copy-paste is Ghiasi et al. (Simple Copy-Paste is a Strong
Data Augmentation Method for Instance Segmentation, arXiv:2012.07177) in the form that section gives it.
Everything here is on the CPU; boxes and points are float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops.instances import Instances
from ...ops.keypoints import cut_keypoints
from ...ops.polygons import clip, fill
from ...ops.rotated import cut
from .geometry import survives

MAX_HIDDEN = 0.30  # a pasted object's box covers less than this share of an existing box
MIN_AREA, MIN_AREA_POLYGON = 0.10, 0.01  # least share of its area that a map leaves of a box, and of a polygon's hull


@dataclass(frozen=True)
class Tile:
    """One image as read, and its labels.

    image (3, h, w): uint8 RGB, sides at most imgsz, on any device. labels: in pixels of the image, on the CPU.
    """

    image: Tensor
    labels: Instances


class Pasted(NamedTuple):
    """A tile and where its top left corner lies on the canvas; parts beyond the canvas are cut off."""

    tile: Tile
    left: int
    top: int


@dataclass(frozen=True)
class Canvas:
    """The canvas that an output image is read from; all (height, width) in pixels."""

    size: tuple[int, int]  # of the output
    sides: tuple[int, int]  # of the canvas
    margin: tuple[int, int]  # the corner of the output-sized rectangle in the middle of the canvas

    @classmethod
    def around(cls, size: tuple[int, int], mosaic: bool) -> Canvas:
        """The canvas for an output of `size`: twice as large for a mosaic, otherwise as large."""
        height, width = size
        return cls(size, (2 * height, 2 * width), (height // 2, width // 2)) if mosaic else cls(size, size, (0, 0))

    @property
    def centre(self) -> tuple[float, float]:
        """(y, x) of the middle of the output-sized rectangle."""
        return self.margin[0] + self.size[0] / 2, self.margin[1] + self.size[1] / 2


def lay_out(scenes: Sequence[Sequence[Pasted]], canvas: Canvas) -> Instances:
    """The labels of all tiles in float64 pixels of their canvases, cut to the canvas; scene by scene.

    The `image` of each label is the index of its scene.
    """
    tiles = [(index, pasted) for index, scene in enumerate(scenes) for pasted in scene]
    counts = torch.tensor([len(pasted.tile.labels) for _, pasted in tiles])
    corner = torch.tensor([(pasted.left, pasted.top) * 2 for _, pasted in tiles])  # (tiles, 4)
    corner = corner.repeat_interleave(counts, dim=0)  # (N, 4)
    scene = torch.tensor([index for index, _ in tiles]).repeat_interleave(counts)  # (N,)
    labels = replace(Instances.cat([pasted.tile.labels for _, pasted in tiles]), image=scene)
    limit = torch.tensor(canvas.sides[::-1] * 2, dtype=torch.float64)
    boxes = torch.minimum((labels.boxes.double() + corner).clamp_min_(0), limit)  # (N, 4)
    labels = replace(labels, keypoints=_on_canvas(labels.keypoints, corner[:, :2], canvas))
    if labels.polygons is None:
        return replace(labels, boxes=boxes)
    polygons = labels.polygons
    moved = polygons.points.double() + corner[polygons.owner, :2]
    bounds = torch.cat([torch.zeros(2, dtype=torch.float64), limit[:2]]).expand(len(boxes), 4)
    polygons, visible = cut(replace(polygons, points=moved), bounds)
    boxes = torch.where((polygons.counts > 0)[:, None], visible, boxes)
    return replace(labels, boxes=boxes, polygons=polygons)


def _on_canvas(keypoints: Tensor | None, corner: Tensor, canvas: Canvas) -> Tensor | None:
    """Keypoints (N, K, 3) of tiles whose left and top on the canvas are `corner` (N, 2); those beyond it are hidden."""
    if keypoints is None:
        return None
    moved = torch.cat([keypoints[..., :2].double() + corner[:, None], keypoints[..., 2:].double()], dim=-1)
    return cut_keypoints(moved, moved.new_tensor([0, 0, canvas.sides[1], canvas.sides[0]]))


def paste_mirrored(
    labels: Instances, canvas: Canvas, fraction: float, draws: Sequence[float]
) -> tuple[Instances, dict[int, Tensor]]:
    """Paste objects of each scene once more, mirrored left to right.

    Returns all labels, and scene -> mask of the canvas (bool): inside the mask a scene shows its own mirror image.
    `draws` holds a number from [0, 1) for each scene.
    """
    if labels.polygons is None or not fraction:
        return labels, {}
    x1, y1, x2, y2 = labels.boxes.unbind(1)
    width = canvas.sides[1]
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    points = torch.stack([width - labels.polygons.points[:, 0], labels.polygons.points[:, 1]], dim=1)
    mirrored = replace(labels, boxes=boxes, polygons=replace(labels.polygons, points=points))
    chosen = torch.zeros(len(boxes), dtype=torch.bool)
    scenes = torch.arange(len(boxes)).split(torch.bincount(labels.image, minlength=len(draws)).tolist())
    for rows, draw in zip(scenes, draws):
        candidates = rows[labels.has_polygon[rows]]
        chosen[candidates[pick(boxes[candidates], labels.boxes[rows], fraction, draw)]] = True
    copies = mirrored.only(chosen)
    masks = {}
    for scene in set(copies.image.tolist()):
        masks[scene] = fill(clip(copies.polygons[copies.image == scene], canvas.sides), canvas.sides)
    return Instances.cat([labels, copies]), masks


def pick(candidates: Tensor, existing: Tensor, fraction: float, draw: float) -> Tensor:
    """Return the indices of the candidates (k, 4) to paste among the existing boxes (m, 4); both xyxy.

    A candidate qualifies if it has an area and covers less than MAX_HIDDEN of each existing box. A `fraction` of those
    are taken, the least covering first; `draw` from [0, 1) rounds the number up or down, so that the mean is exact.
    """
    low = torch.maximum(candidates[:, None, :2], existing[:, :2])  # (k, m, 2)
    shared = torch.minimum(candidates[:, None, 2:], existing[:, 2:]) - low
    area = (existing[:, 2:] - existing[:, :2]).prod(dim=1)
    covered = shared.clamp_min(0).prod(dim=2) / area.clamp_min(1e-9)  # (k, m)
    worst = torch.cat([covered, covered.new_zeros(len(candidates), 1)], dim=1).amax(dim=1)
    qualified = ((worst < MAX_HIDDEN) & ((candidates[:, 2:] - candidates[:, :2]).prod(dim=1) > 0)).nonzero().flatten()
    order = worst[qualified].argsort(stable=True)
    return qualified[order[: int(fraction * len(qualified) + draw)]]


def move(labels: Instances, maps: Tensor, scale: Tensor, canvas: Canvas) -> Instances:
    """Move labels to the output and drop the lost ones. maps (n, 3, 3) and scale (n,): one for each scene."""
    moved = labels.warp(maps[labels.image], canvas.size)
    share = torch.full((len(labels),), MIN_AREA, dtype=torch.float64)
    share.masked_fill_(labels.has_polygon, MIN_AREA_POLYGON)
    return moved.only(survives(labels.boxes, moved.boxes, scale[labels.image], share))
