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

from ...ops.polygons import Outlines, clip, fill, hulls, join, select
from .geometry import move_boxes, move_points, survives

HIDDEN = 0.30  # of a box that is there already, a pasted object's box covers less than this share
LEFT, LEFT_OUTLINED = 0.10, 0.01  # least share of the area that a map may leave: the hull of an outline is exact


@dataclass(frozen=True)
class Tile:
    """One image as read: image (3, h, w) uint8 RGB, sides at most imgsz, on any device; on the CPU its boxes (n, 4)
    float32 xyxy, pixels of this image, classes (n,) int64, and outlines in its pixels where it has polygons."""

    image: Tensor
    boxes: Tensor
    classes: Tensor
    outlines: Outlines | None = None


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


@dataclass(frozen=True, eq=False)
class Labels:
    """Objects of several scenes: boxes (N, 4) float64 xyxy, classes (N,), scene (N,), outlines of the N or None."""

    boxes: Tensor
    classes: Tensor
    scene: Tensor
    outlines: Outlines | None

    def only(self, keep: Tensor) -> Labels:
        """The objects that `keep` (N,) bool names."""
        outlines = None if self.outlines is None else select(self.outlines, keep)
        return Labels(self.boxes[keep], self.classes[keep], self.scene[keep], outlines)

    @property
    def outlined(self) -> Tensor:
        """(N,) bool: which objects have a polygon."""
        return torch.zeros(len(self.boxes), dtype=torch.bool) if self.outlines is None else self.outlines.counts > 0


def lay_out(scenes: Sequence[Sequence[Pasted]], canvas: Canvas) -> Labels:
    """The labels of all tiles where they lie on their canvases, cut off at its sides; scene by scene."""
    flat = [(index, pasted) for index, scene in enumerate(scenes) for pasted in scene]
    counts = torch.tensor([len(pasted.tile.boxes) for _, pasted in flat])
    corner = torch.tensor([(pasted.left, pasted.top) * 2 for _, pasted in flat])  # (tiles, 4)
    limit = torch.tensor(canvas.sides[::-1] * 2, dtype=torch.float64)
    boxes = torch.cat([pasted.tile.boxes for _, pasted in flat]).double() + corner.repeat_interleave(counts, dim=0)
    boxes = torch.minimum(boxes.clamp_min_(0), limit)  # (N, 4)
    classes = torch.cat([pasted.tile.classes for _, pasted in flat])
    scene = torch.tensor([index for index, _ in flat]).repeat_interleave(counts)  # (N,)
    if all(pasted.tile.outlines is None for _, pasted in flat):
        return Labels(boxes, classes, scene, None)
    outlines = join([pasted.tile.outlines for _, pasted in flat], counts.tolist())
    moved = outlines.points.double() + corner.repeat_interleave(counts, dim=0)[outlines.of, :2]
    outlines = clip(Outlines(moved, outlines.counts), canvas.sides)
    return Labels(torch.where((outlines.counts > 0)[:, None], hulls(outlines), boxes), classes, scene, outlines)


def paste_mirrored(
    labels: Labels, canvas: Canvas, fraction: float, draws: Sequence[float]
) -> tuple[Labels, dict[int, Tensor]]:
    """Objects of each scene once more, mirrored left to right: all labels, and scene -> mask of the canvas (bool) inside
    which it shows its own mirror image. `draws` holds a number from [0, 1) for each scene."""
    if labels.outlines is None or not fraction:
        return labels, {}
    x1, y1, x2, y2 = labels.boxes.unbind(1)
    width = canvas.sides[1]
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    points = torch.stack([width - labels.outlines.points[:, 0], labels.outlines.points[:, 1]], dim=1)
    mirrored = replace(labels, boxes=boxes, outlines=Outlines(points, labels.outlines.counts))
    chosen = torch.zeros(len(boxes), dtype=torch.bool)
    for part, draw in zip(
        torch.arange(len(boxes)).split(torch.bincount(labels.scene, minlength=len(draws)).tolist()), draws
    ):
        candidates = part[labels.outlined[part]]
        chosen[candidates[pick(boxes[candidates], labels.boxes[part], fraction, draw)]] = True
    copies = mirrored.only(chosen)
    masks = {
        scene: fill(select(copies.outlines, copies.scene == scene), canvas.sides)
        for scene in set(copies.scene.tolist())
    }
    return _both(labels, copies), masks


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


def move(labels: Labels, maps: Tensor, scale: Tensor, canvas: Canvas) -> Labels:
    """The labels on the output, those that are lost left out. maps (n, 3, 3) and scale (n,): one for each scene."""
    moved = move_boxes(labels.boxes, maps[labels.scene], canvas.size)
    share, outlines = LEFT, labels.outlines
    if outlines is not None:
        outlined, outlines = labels.outlined, _warp(outlines, maps[labels.scene], canvas.size)
        moved = torch.where(outlined[:, None], hulls(outlines), moved)
        share = torch.full((len(moved),), LEFT, dtype=torch.float64).masked_fill_(outlined, LEFT_OUTLINED)
    keep = survives(labels.boxes, moved, scale[labels.scene], share)
    return replace(labels, boxes=moved, outlines=outlines).only(keep)


def _warp(outlines: Outlines, maps: Tensor, size: tuple[int, int]) -> Outlines:
    """Polygons through their own maps (n, 3, 3), cut to the output; one that meets the horizon is gone."""
    of = outlines.of
    points, visible = move_points(outlines.points, maps[of])
    lost = torch.bincount(of[~visible], minlength=len(outlines.counts)) > 0
    return clip(Outlines(points[~lost[of]], outlines.counts.masked_fill(lost, 0)), size)


def _both(first: Labels, second: Labels) -> Labels:
    counts = torch.cat([first.outlines.counts, second.outlines.counts])
    points = torch.cat([first.outlines.points, second.outlines.points])
    return Labels(
        torch.cat([first.boxes, second.boxes]),
        torch.cat([first.classes, second.classes]),
        torch.cat([first.scene, second.scene]),
        Outlines(points, counts),
    )
