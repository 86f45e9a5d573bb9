"""What lies where before a pixel is rendered: tiles on their canvases, objects pasted once more, and all their labels.

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
from ...ops.polygons import Polygons, clip, fill, hulls
from .geometry import survives

HIDDEN = 0.30  # of a box that is there already, a pasted object's box covers less than this share
LEFT, LEFT_OUTLINED = 0.10, 0.01  # least share of the area that a map may leave: the hull of an outline is exact


@dataclass(frozen=True)
class Tile:
    """One image as read: image (3, h, w) uint8 RGB, sides at most imgsz, on any device; labels in its pixels, on the CPU."""

    image: Tensor
    labels: Instances


class Pasted(NamedTuple):
    """A tile and where its top left corner lies on the canvas; parts beyond the canvas are cut off."""

    tile: Tile
    left: int
    top: int


@dataclass(frozen=True)
class Canvas:
    """What output images are read from, all (height, width) in pixels: the size of the output, the sides of the canvas,
    and the corner of the output-sized rectangle in its middle."""

    size: tuple[int, int]
    sides: tuple[int, int]
    margin: tuple[int, int]

    @classmethod
    def around(cls, size: tuple[int, int], mosaic: bool) -> Canvas:
        """Around the middle of a mosaic lies room for partners; a letterboxed image has grey there, as outside."""
        height, width = size
        return cls(size, (2 * height, 2 * width), (height // 2, width // 2)) if mosaic else cls(size, size, (0, 0))

    @property
    def centre(self) -> tuple[float, float]:
        """(y, x) of the middle of the output-sized rectangle."""
        return self.margin[0] + self.size[0] / 2, self.margin[1] + self.size[1] / 2


def lay_out(scenes: Sequence[Sequence[Pasted]], canvas: Canvas) -> Instances:
    """The labels of all tiles where they lie on their canvases, in float64 pixels, cut to the canvas; scene by scene.

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
    if labels.polygons is None:
        return replace(labels, boxes=boxes)
    polygons = labels.polygons
    moved = polygons.points.double() + corner[polygons.owner, :2]
    polygons = clip(Polygons(moved, polygons.counts), canvas.sides)
    boxes = torch.where((polygons.counts > 0)[:, None], hulls(polygons), boxes)
    return replace(labels, boxes=boxes, polygons=polygons)


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
    mirrored = replace(labels, boxes=boxes, polygons=Polygons(points, labels.polygons.counts))
    chosen = torch.zeros(len(boxes), dtype=torch.bool)
    scenes = torch.arange(len(boxes)).split(torch.bincount(labels.image, minlength=len(draws)).tolist())
    for rows, draw in zip(scenes, draws):
        candidates = rows[labels.has_polygon[rows]]
        chosen[candidates[pick(boxes[candidates], labels.boxes[rows], fraction, draw)]] = True
    copies = mirrored.only(chosen)
    masks = {scene: fill(copies.polygons[copies.image == scene], canvas.sides) for scene in set(copies.image.tolist())}
    return Instances.cat([labels, copies]), masks


def pick(candidates: Tensor, existing: Tensor, fraction: float, draw: float) -> Tensor:
    """Indices of the candidates (k, 4) to paste among the boxes (m, 4) that are there; both xyxy.

    A candidate qualifies when it has an area and covers less than HIDDEN of each existing box. Of those that do,
    `fraction` are taken, the least covering first; `draw` from [0, 1) rounds the number up or down, so that the mean
    is exact.
    """
    shared = torch.minimum(candidates[:, None, 2:], existing[:, 2:]) - torch.maximum(
        candidates[:, None, :2], existing[:, :2]
    )
    area = (existing[:, 2:] - existing[:, :2]).prod(dim=1)
    covered = shared.clamp_min(0).prod(dim=2) / area.clamp_min(1e-9)  # (k, m)
    worst = torch.cat([covered, covered.new_zeros(len(candidates), 1)], dim=1).amax(dim=1)
    qualified = ((worst < HIDDEN) & ((candidates[:, 2:] - candidates[:, :2]).prod(dim=1) > 0)).nonzero().flatten()
    order = worst[qualified].argsort(stable=True)
    return qualified[order[: int(fraction * len(qualified) + draw)]]


def move(labels: Instances, maps: Tensor, scale: Tensor, canvas: Canvas) -> Instances:
    """The labels on the output; labels that are lost are left out. maps (n, 3, 3) and scale (n,): one for each scene."""
    moved = labels.warp(maps[labels.image], canvas.size)
    share = torch.full((len(labels),), LEFT, dtype=torch.float64).masked_fill_(labels.has_polygon, LEFT_OUTLINED)
    return moved.only(survives(labels.boxes, moved.boxes, scale[labels.image], share))
