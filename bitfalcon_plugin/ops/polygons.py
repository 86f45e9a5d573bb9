"""Outlines of objects: polygons of many objects in one flat list of points, cut, measured and filled together.

Cutting is Sutherland and Hodgman's (Reentrant Polygon Clipping, CACM 17, 1974), a half-plane at a time over all polygons
at once. Filling is the even-odd rule at pixel centres: each crossing of an edge with a row of centres is one mark, and the
parity of the marks up to a pixel says whether it is inside. Nothing but tensor arithmetic: exact, the same on every
machine, and without a drawing library's own idea of which border pixels belong to a polygon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Outlines:
    """Polygons of n objects. points (P, 2): x and y, object after object; counts (n,) int64: how many points belong to
    each object, 0 where it has a box alone. Of an image relative to it, of a tile in its pixels."""

    points: Tensor
    counts: Tensor

    @property
    def of(self) -> Tensor:
        """(P,) int64, ascending: the object that each point belongs to."""
        return torch.repeat_interleave(self.counts)

    def scaled(self, width: float, height: float) -> Outlines:
        """The same polygons with x times `width` and y times `height`."""
        return Outlines(self.points * torch.tensor([width, height], dtype=self.points.dtype), self.counts)

    def polygons(self) -> list[Tensor]:
        """(k, 2) for each object; k is 0 where it has no polygon."""
        return list(self.points.split(self.counts.tolist()))


def join(parts: Sequence[Outlines | None], sizes: Sequence[int]) -> Outlines:
    """One list after the other; a part that is None stands for so many objects without a polygon."""
    points = [part.points for part in parts if part is not None]
    counts = [torch.zeros(size, dtype=torch.int64) if part is None else part.counts for part, size in zip(parts, sizes)]
    return Outlines(torch.cat(points) if points else torch.empty(0, 2), torch.cat(counts))


def select(outlines: Outlines, keep: Tensor) -> Outlines:
    """The objects that `keep` (n,) bool names."""
    return Outlines(outlines.points[keep[outlines.of]], outlines.counts[keep])


def clip(outlines: Outlines, size: tuple[int, int]) -> Outlines:
    """What of each polygon lies in [0, width] x [0, height]; `size` is (height, width). A polygon that is cut in two
    keeps a bridge without area along the border, which neither its hull nor its filling shows."""
    points, of, count = outlines.points, outlines.of, len(outlines.counts)
    for axis, limit in ((0, size[1]), (1, size[0])):
        for inward, border in ((1, 0), (-1, limit)):
            depth = (points[:, axis] - border) * inward  # above 0: inside
            if not len(points) or bool((depth >= 0).all()):
                continue
            after = _successor(of, count)
            inside, share = depth >= 0, depth / (depth - depth[after])
            cut = torch.lerp(points, points[after], share[:, None])
            cut[:, axis] = border  # whatever the rounding
            # An edge gives the point where it crosses the border, then its end where that is inside.
            keep = torch.stack([inside != inside[after], inside[after]], dim=1)  # (P, 2)
            points = torch.stack([cut, points[after]], dim=1)[keep]
            of = of[:, None].expand(-1, 2)[keep]
    return Outlines(points, torch.bincount(of, minlength=count))


def hulls(outlines: Outlines) -> Tensor:
    """Axis-aligned boxes (n, 4) xyxy of the polygons; zeros where there is none."""
    points, count = outlines.points, len(outlines.counts)
    at = outlines.of[:, None].expand(-1, 2)
    low = points.new_zeros(count, 2).scatter_reduce_(0, at, points, "amin", include_self=False)
    high = points.new_zeros(count, 2).scatter_reduce_(0, at, points, "amax", include_self=False)
    return torch.cat([low, high], dim=1)


def fill(outlines: Outlines, size: tuple[int, int]) -> Tensor:
    """The union of the polygons as a mask (height, width) bool: a pixel belongs to it when its centre is inside one.

    `size` is (height, width); the polygons lie inside it (see `clip`).
    """
    mask = torch.zeros(size, dtype=torch.bool)
    kept = select(outlines, outlines.counts > 0)
    if not len(kept.counts):
        return mask
    box = hulls(kept)
    left, top = box[:, 0].floor().long(), box[:, 1].floor().long()
    width = box[:, 2].ceil().long() - left + 1  # a column more, for crossings right of all centres
    height = box[:, 3].ceil().long() - top
    start = torch.cumsum(width * height, 0) - width * height  # where each polygon's rows begin in one flat plane
    edge, row, x = _crossings(kept)
    of = kept.of[edge]
    column = (x - 0.5).floor().long() + 1 - left[of]  # the first centre right of the crossing
    column = torch.minimum(column.clamp_min_(0), width[of] - 1)
    flat = start[of] + (row - top[of]) * width[of] + column
    marks = torch.zeros(int((width * height).sum()), dtype=torch.uint8)
    marks.scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.uint8))
    # Every row has an even number of crossings, so that the parity begins anew by itself.
    inside = marks.cumsum(0, dtype=torch.uint8).bitwise_and_(1).bool()
    planes = inside.split((width * height).tolist())
    for plane, x, y, wide in zip(planes, left.tolist(), top.tolist(), width.tolist()):
        shape = plane.view(-1, wide)[: size[0] - y, : min(wide - 1, size[1] - x)]
        mask[y : y + shape.shape[0], x : x + shape.shape[1]] |= shape
    return mask


def _successor(of: Tensor, count: int) -> Tensor:
    """(P,) index of the next point of the same polygon, around."""
    after = torch.arange(1, len(of) + 1)
    counts = torch.bincount(of, minlength=count)
    ends = torch.cumsum(counts, 0)[counts > 0]
    after[ends - 1] = ends - counts[counts > 0]
    return after


def _crossings(outlines: Outlines) -> tuple[Tensor, Tensor, Tensor]:
    """Where edges cross rows of pixel centres: (index of the edge, row, x) of each crossing."""
    a = outlines.points.double()
    b = a[_successor(outlines.of, len(outlines.counts))]
    # An edge crosses the centres at or above its upper end and strictly above its lower one: a corner counts once.
    first = (torch.minimum(a[:, 1], b[:, 1]) - 0.5).ceil().long()
    last = (torch.maximum(a[:, 1], b[:, 1]) - 0.5).ceil().long()
    edge = torch.repeat_interleave(last - first)
    row = torch.arange(len(edge)) - (torch.cumsum(last - first, 0) - (last - first))[edge] + first[edge]
    share = (row + 0.5 - a[edge, 1]) / (b[edge, 1] - a[edge, 1])
    return edge, row, torch.lerp(a[edge, 0], b[edge, 0], share)
