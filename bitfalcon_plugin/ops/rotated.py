"""Geometry of oriented boxes: corners, smallest rectangles, distances to the sides, and cuts. From spec/pose-obb.md 2.

An oriented box is centre x, centre y, width, height, angle (xywhr). x points right and y down. The width's axis points
along (cos, sin) of the angle in radians and the height's axis along (-sin, cos), so that a positive angle turns
clockwise on the screen. An angle and the angle plus pi give the same box: it has no front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .polygons import Polygons, clip_to_boxes, hulls

LOWEST_ANGLE = -math.pi / 4  # of the canonical form, whose angles end before LOWEST_ANGLE + pi


def corners_of(boxes: Tensor) -> Tensor:
    """(..., 5) xywhr -> (..., 4, 2) corners x, y in the same unit.

    Order: centre + u + v, + u - v, - u - v, - u + v, with u and v half as long as width and height, along their axes.
    """
    angle = boxes[..., 4:]
    axis = torch.cat((angle.cos(), angle.sin()), -1)  # (..., 2)
    u = axis * boxes[..., 2:3] / 2
    v = torch.stack((-axis[..., 1], axis[..., 0]), -1) * boxes[..., 3:4] / 2
    centre = boxes[..., :2]
    return torch.stack((centre + u + v, centre + u - v, centre - u - v, centre - u + v), -2)


def hulls_of(corners: Tensor) -> Tensor:
    """(..., k, 2) points -> (..., 4) the smallest upright boxes xyxy around them."""
    return torch.cat((corners.amin(-2), corners.amax(-2)), -1)


def canonical(boxes: Tensor) -> Tensor:
    """(..., 5) xywhr -> the same rectangles with width >= height, and angles in [-pi/4, 3 pi/4)."""
    x, y, w, h, angle = boxes.unbind(-1)
    angle = torch.where(w < h, angle + math.pi / 2, angle)
    angle = (angle - LOWEST_ANGLE).remainder(math.pi)
    angle = torch.where(angle >= math.pi, 0, angle) + LOWEST_ANGLE  # a remainder can round up to pi
    return torch.stack((x, y, torch.maximum(w, h), torch.minimum(w, h), angle), -1)


def regularised(boxes: Tensor) -> Tensor:
    """(..., 5) xywhr -> the same rectangles with angles in [0, pi/2), sides exchanged where that needs it."""
    x, y, w, h, angle = boxes.unbind(-1)
    swap = angle.remainder(math.pi) >= math.pi / 2
    columns = (x, y, torch.where(swap, h, w), torch.where(swap, w, h), angle.remainder(math.pi / 2))
    return torch.stack(columns, -1)


def smallest_rectangles(points: Tensor) -> Tensor:
    """(n, k, 2) points in any order -> (n, 5) xywhr, canonical: the rectangles of the smallest area around them.

    A smallest rectangle has a side along an edge of the convex hull (Freeman and Shapira, CACM 18, 1975), and each edge
    joins two of the points: all pairs are tried, so that k should be small. Of equal areas the last pair counts.
    """
    middle = points.mean(1, keepdim=True)  # (n, 1, 2)
    points = points - middle  # small numbers keep their digits in float32
    first, second = torch.triu_indices(points.shape[1], points.shape[1], 1, device=points.device)
    edges = points[:, second] - points[:, first]  # (n, e, 2)
    angles = torch.atan2(edges[..., 1], edges[..., 0])
    along, across = _along_and_across(points[:, None], angles[..., None])  # (n, e, k) each
    low = torch.stack((along.amin(-1), across.amin(-1)), -1)  # (n, e, 2)
    high = torch.stack((along.amax(-1), across.amax(-1)), -1)
    area = (high - low).prod(-1)
    # Edges whose areas differ by rounding alone are equal, so that the same rectangle gives the same angle everywhere.
    equal = area <= area.amin(1, keepdim=True) * (1 + 1e-5) + 1e-9
    best = (equal * torch.arange(1, len(first) + 1, device=points.device)).argmax(1)  # (n,)
    rows = torch.arange(len(points), device=points.device)
    rectangles = _from_extents(low[rows, best], high[rows, best], angles[rows, best])
    return canonical(torch.cat((rectangles[:, :2] + middle[:, 0], rectangles[:, 2:]), 1))


def rectangles_of(polygons: Polygons) -> Tensor:
    """Return the smallest rectangles (n, 5) xywhr, canonical, around polygons; zeros for an object without one.

    Polygons of four points are done at once, others one by one. Where all are rectangles nothing waits for the device.
    """
    points, counts = polygons.points, polygons.counts
    if polygons.rectangles and len(points) == 4 * len(counts):
        return smallest_rectangles(points.view(-1, 4, 2))
    boxes = points.new_zeros(len(polygons), 5)
    quads = counts == 4
    boxes[quads] = smallest_rectangles(polygons[quads].points.view(-1, 4, 2))
    for index in (~quads & (counts > 0)).nonzero().flatten().tolist():
        outline = polygons[torch.tensor([index], device=counts.device)].points
        corners = outline.new_tensor(_convex_hull(outline.tolist()))
        boxes[index] = smallest_rectangles(corners[None])[0]
    return boxes


def _convex_hull(points: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """Return the corners of the convex hull, at least two points (Andrew's monotone chain, 1979)."""
    ordered = sorted(points)
    chains = []
    for chain_points in (ordered, ordered[::-1]):
        chain: list[Sequence[float]] = []
        for x, y in chain_points:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2:]
                if (bx - ax) * (y - ay) > (by - ay) * (x - ax):
                    break
                chain.pop()
            chain.append((x, y))
        chains += chain[:-1]
    return chains if len(chains) > 1 else [ordered[0], ordered[-1]]


def cut(polygons: Polygons, limits: Tensor) -> tuple[Polygons, Tensor]:
    """Cut each polygon to its own upright box of `limits` (n, 4) xyxy; return what is left, and its hulls (n, 4) xyxy.

    A rectangle that reaches beyond its box becomes the smallest rectangle of its own direction around the visible part.
    Corners of that rectangle may lie outside; its hull is that of the visible part. A polygon of which nothing is left
    has no points, and a hull of zeros.
    """
    visible = clip_to_boxes(polygons, limits)
    if not polygons.rectangles:
        return visible, hulls(visible)
    box, whole = hulls(visible), hulls(polygons)
    lost = visible.counts == 0
    smaller = (~lost & (box != whole).any(1)).nonzero().flatten()
    points, counts = polygons.points.clone(), polygons.counts.masked_fill(lost, 0)
    if len(smaller):
        part = visible[smaller]
        angle = smallest_rectangles(polygons[smaller].points.view(-1, 4, 2))[:, 4]  # (c,)
        along, across = _along_and_across(part.points, angle[part.owner])
        columns = [axis.new_zeros(len(smaller)).scatter_reduce(0, part.owner, axis, kind, include_self=False)
                   for kind in ("amin", "amax") for axis in (along, across)]  # fmt: skip
        low, high = torch.stack(columns, 1).chunk(2, 1)  # (c, 2) each
        first = (polygons.counts.cumsum(0) - polygons.counts)[smaller]
        points[first[:, None] + torch.arange(4)] = corners_of(_from_extents(low, high, angle))
    return replace(polygons, points=points[~lost[polygons.owner]], counts=counts), box


def _along_and_across(points: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinates of points (..., 2) along the axes of a box with this angle (...)."""
    cos, sin = angle.cos(), angle.sin()
    x, y = points.unbind(-1)
    return x * cos + y * sin, y * cos - x * sin


def _from_extents(low: Tensor, high: Tensor, angle: Tensor) -> Tensor:
    """Return boxes (n, 5) from the lowest and highest coordinates (n, 2) along the axes of their angle (n,)."""
    middle = (low + high) / 2
    x, y = _along_and_across(middle, -angle)
    return torch.cat((torch.stack((x, y), 1), high - low, angle[:, None]), 1)


def angles_from_logits(logits: Tensor) -> Tensor:
    """Return the angles in radians, in (-pi/4, 3 pi/4), that a head means by its logits of any shape."""
    return (logits.sigmoid() - 0.25) * math.pi


def distances_to_rotated(points: Tensor, ltrb: Tensor, angle: Tensor) -> Tensor:
    """Points (..., 2), distances (..., 4) in the box's frame and angles (..., 1) -> boxes (..., 5) xywhr, in one unit.

    left and right lie along the width's axis, top and bottom along the height's.
    """
    left_top, right_bottom = ltrb.chunk(2, -1)  # (..., 2) each
    x, y = _along_and_across((right_bottom - left_top) / 2, -angle.squeeze(-1))
    return torch.cat((points + torch.stack((x, y), -1), left_top + right_bottom, angle), -1)


def rotated_to_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Inverse of `distances_to_rotated`: (..., 4) left, top, right, bottom; negative where a point lies outside."""
    middle = torch.stack(_along_and_across(boxes[..., :2] - points, boxes[..., 4]), -1)  # (..., 2)
    half = boxes[..., 2:4] / 2
    return torch.cat((half - middle, half + middle), -1)
