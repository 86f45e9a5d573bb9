"""Polygons of many objects in one flat list of points: cut, measured and filled together.

Cutting is Sutherland and Hodgman's (Reentrant Polygon Clipping, CACM 17, 1974), a half-plane at a time over all
polygons at once. Filling is the even-odd rule at pixel centres: each crossing of an edge with a row of centres is one
mark, and the parity of the marks up to a pixel says whether the pixel is inside. All of it is tensor arithmetic: exact,
the same on every machine, and independent of a drawing library's rule for border pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Polygons:
    """The polygons of n objects.

    points (P, 2): x and y, object after object, in shares of an image or in pixels. counts (n,) int64: the number of
    points of each object; 0 for an object that has a box alone. rectangles: each polygon has four points, or none, and
    stands for the smallest rectangle around it, an oriented box.
    """

    points: Tensor
    counts: Tensor
    rectangles: bool = False

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, keep: Tensor) -> Polygons:
        """The polygons that `keep` selects: a mask (n,) bool, or indices (m,) int64 in any order."""
        if keep.dtype == torch.bool:
            return replace(self, points=self.points[keep[self.owner]], counts=self.counts[keep])
        counts, starts = self.counts[keep], (self.counts.cumsum(0) - self.counts)[keep]
        inside = torch.arange(int(counts.sum()), device=counts.device)
        inside = inside - torch.repeat_interleave(counts.cumsum(0) - counts, counts)  # (P,) position within the polygon
        points = self.points[torch.repeat_interleave(starts, counts) + inside]
        return replace(self, points=points, counts=counts)

    @property
    def owner(self) -> Tensor:
        """(P,) int64, ascending: the object that each point belongs to."""
        return torch.repeat_interleave(self.counts)

    def apply(self, function: Callable[[Tensor], Tensor]) -> Polygons:
        """The polygons with `function` applied to both tensors."""
        return replace(self, points=function(self.points), counts=function(self.counts))

    def scaled(self, width: float, height: float) -> Polygons:
        """The same polygons with x times `width` and y times `height`."""
        return replace(self, points=self.points * self.points.new_tensor([width, height]))

    def split(self) -> list[Tensor]:
        """The points (k, 2) of each object; k is 0 for an object without a polygon."""
        return list(self.points.split(self.counts.tolist()))


def join(parts: Sequence[Polygons | None], sizes: Sequence[int]) -> Polygons:
    """Put lists of polygons behind one another. A part that is None stands for `size` objects without a polygon."""
    points = [part.points for part in parts if part is not None]
    counts = [torch.zeros(size, dtype=torch.int64) if part is None else part.counts for part, size in zip(parts, sizes)]
    rectangles = any(part.rectangles for part in parts if part is not None)
    return Polygons(torch.cat(points) if points else torch.empty(0, 2), torch.cat(counts), rectangles)


def clip(polygons: Polygons, size: tuple[int, int]) -> Polygons:
    """Cut each polygon to an image of `size` (height, width): to [0, width] x [0, height]."""
    return clip_to_boxes(polygons, polygons.points.new_tensor([0, 0, size[1], size[0]]).expand(len(polygons), 4))


def clip_to_boxes(polygons: Polygons, boxes: Tensor) -> Polygons:
    """Cut each polygon to its own box of `boxes` (n, 4) xyxy; of rectangles see rotated.cut_rectangles.

    A polygon that is cut in two keeps a bridge without area along the border; neither its hull nor its filling shows
    the bridge.
    """
    points, owner, count = polygons.points, polygons.owner, len(polygons)
    for side, axis, inward in ((0, 0, 1), (2, 0, -1), (1, 1, 1), (3, 1, -1)):
        if not len(points):
            break
        border = boxes[owner, side].to(points.dtype)
        depth = (points[:, axis] - border) * inward  # above 0: inside
        if bool((depth >= 0).all()):
            continue
        after = _successor(owner, count)
        inside, share = depth >= 0, depth / (depth - depth[after])
        cut = torch.lerp(points, points[after], share[:, None])
        cut[:, axis] = border  # exactly, without rounding
        # An edge gives the point where it crosses the border, then its end where that is inside.
        keep = torch.stack([inside != inside[after], inside[after]], dim=1)  # (P, 2)
        points = torch.stack([cut, points[after]], dim=1)[keep]
        owner = owner[:, None].expand(-1, 2)[keep]
    return Polygons(points, torch.bincount(owner, minlength=count))


def hulls(polygons: Polygons) -> Tensor:
    """Return the axis-aligned boxes (n, 4) xyxy of the polygons; zeros for an object without a polygon."""
    points, count = polygons.points, len(polygons)
    index = polygons.owner[:, None].expand(-1, 2)
    low = points.new_zeros(count, 2).scatter_reduce_(0, index, points, "amin", include_self=False)
    high = points.new_zeros(count, 2).scatter_reduce_(0, index, points, "amax", include_self=False)
    return torch.cat([low, high], dim=1)


def areas(polygons: Polygons) -> Tensor:
    """Return the area (n,) of each polygon by the shoelace formula; 0 for an object without a polygon."""
    if not len(polygons.points):
        return polygons.points.new_zeros(len(polygons))
    (x, y), (x_next, y_next) = polygons.points.T, polygons.points[_successor(polygons.owner, len(polygons))].T
    twice = polygons.points.new_zeros(len(polygons))
    return twice.scatter_add_(0, polygons.owner, x * y_next - x_next * y).abs() / 2


def fill(polygons: Polygons, size: tuple[int, int]) -> Tensor:
    """Return the union of the polygons as a mask (height, width) bool: the pixels whose centre is inside a polygon.

    `size` is (height, width); the polygons lie inside it (see `clip`).
    """
    mask = torch.zeros(size, dtype=torch.bool)
    for _, rows, columns, plane in fill_hulls(polygons, size):
        mask[rows, columns] |= plane
    return mask


def fill_each(polygons: Polygons, size: tuple[int, int]) -> Tensor:
    """Return the mask of each polygon, (n, height, width) bool, as `fill` does; zeros for an object without one."""
    masks = torch.zeros(len(polygons), *size, dtype=torch.bool)
    for index, rows, columns, plane in fill_hulls(polygons, size):
        masks[index, rows, columns] = plane
    return masks


def fill_hulls(polygons: Polygons, size: tuple[int, int]) -> Iterator[tuple[int, slice, slice, Tensor]]:
    """Yield for each polygon its number, the rows and columns of its hull, and its mask there."""
    numbers = (polygons.counts > 0).nonzero().flatten()
    polygons = polygons[numbers]
    if not len(polygons):
        return
    box = hulls(polygons)
    left, top = box[:, 0].floor().long(), box[:, 1].floor().long()
    width = box[:, 2].ceil().long() - left + 1  # a column more, for crossings right of all centres
    height = box[:, 3].ceil().long() - top
    start = torch.cumsum(width * height, 0) - width * height  # where each polygon's rows begin in one flat plane
    edge, row, x = _crossings(polygons)
    owner = polygons.owner[edge]
    column = (x - 0.5).floor().long() + 1 - left[owner]  # the first centre right of the crossing
    column = torch.minimum(column.clamp_min_(0), width[owner] - 1)
    flat = start[owner] + (row - top[owner]) * width[owner] + column
    marks = torch.zeros(int((width * height).sum()), dtype=torch.uint8)
    marks.scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.uint8))
    # Every row has an even number of crossings, so that the parity begins anew by itself.
    inside = marks.cumsum(0, dtype=torch.uint8).bitwise_and_(1).bool()
    planes = inside.split((width * height).tolist())
    for number, plane, x, y, wide in zip(numbers.tolist(), planes, left.tolist(), top.tolist(), width.tolist()):
        shape = plane.view(-1, wide)[: size[0] - y, : min(wide - 1, size[1] - x)]
        yield number, slice(y, y + shape.shape[0]), slice(x, x + shape.shape[1]), shape


def _successor(owner: Tensor, count: int) -> Tensor:
    """Return (P,) the index of the next point of the same polygon; after the last point comes the first."""
    after = torch.arange(1, len(owner) + 1)
    counts = torch.bincount(owner, minlength=count)
    ends = torch.cumsum(counts, 0)[counts > 0]
    after[ends - 1] = ends - counts[counts > 0]
    return after


def _crossings(polygons: Polygons) -> tuple[Tensor, Tensor, Tensor]:
    """Find where edges cross rows of pixel centres: (index of the edge, row, x) of each crossing."""
    a = polygons.points.double()
    b = a[_successor(polygons.owner, len(polygons))]
    # An edge crosses the centres at or above its upper end and strictly above its lower one: a corner counts once.
    first = (torch.minimum(a[:, 1], b[:, 1]) - 0.5).ceil().long()
    last = (torch.maximum(a[:, 1], b[:, 1]) - 0.5).ceil().long()
    edge = torch.repeat_interleave(last - first)
    row = torch.arange(len(edge)) - (torch.cumsum(last - first, 0) - (last - first))[edge] + first[edge]
    share = (row + 0.5 - a[edge, 1]) / (b[edge, 1] - a[edge, 1])
    return edge, row, torch.lerp(a[edge, 0], b[edge, 0], share)
