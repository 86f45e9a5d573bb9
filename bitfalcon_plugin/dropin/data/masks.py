"""Outlines as planes of pixels and as oriented boxes, for the batches of segmentation and of oriented boxes.

Facts: spec/segment-classify.md 1.6 (reduction and order of masks), spec/pose-obb.md 2.1 (rectangles).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...ops.polygons import Polygons, clip, fill_each


def polygon2mask(
    imgsz: tuple[int, int], polygons: Sequence[np.ndarray], color: int = 1, downsample_ratio: int = 1
) -> np.ndarray:
    """Return the union of outlines in an image of imgsz (h, w) as a plane (h // ratio, w // ratio) uint8.

    polygons: outlines (k, 2) or (2 k,) in pixels. A pixel belongs to an outline when its centre is inside.
    """
    planes = _filled(imgsz, polygons).any(dim=0, keepdim=True)
    return _reduced(planes, downsample_ratio)[0].numpy() * np.uint8(color)


def polygons2masks(
    imgsz: tuple[int, int], polygons: Sequence[np.ndarray], color: int = 1, downsample_ratio: int = 1
) -> np.ndarray:
    """Return a plane for each of n outlines in an image of imgsz (h, w): (n, h // ratio, w // ratio) uint8."""
    return _reduced(_filled(imgsz, polygons), downsample_ratio).numpy() * np.uint8(color)


def polygons2masks_overlap(
    imgsz: tuple[int, int], segments: Sequence[np.ndarray], downsample_ratio: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return one plane (h // ratio, w // ratio) with the numbers 1 to n of the objects, and their order (n,).

    Objects are ordered by falling area; where they overlap the smaller one shows. uint8, or int32 beyond 255 objects.
    """
    planes = _reduced(_filled(imgsz, segments), downsample_ratio)
    order = planes.flatten(1).sum(1).argsort(descending=True, stable=True)
    numbers = torch.arange(1, len(planes) + 1, dtype=torch.int32)[:, None, None]
    plane = (planes[order] * numbers).amax(0) if len(planes) else planes.new_zeros(planes.shape[1:])
    return plane.numpy().astype(np.int32 if len(planes) > 255 else np.uint8), order.numpy()


def _filled(imgsz: tuple[int, int], polygons: Sequence[np.ndarray]) -> Tensor:
    """The planes (n, h, w) bool of outlines."""
    rings = [torch.from_numpy(np.asarray(ring, dtype=np.float64).reshape(-1, 2)) for ring in polygons]
    counts = torch.tensor([len(ring) for ring in rings], dtype=torch.int64)
    size = int(imgsz[0]), int(imgsz[1])
    points = torch.cat(rings) if rings else torch.zeros(0, 2, dtype=torch.float64)
    return fill_each(clip(Polygons(points, counts), size), size)


def _reduced(planes: Tensor, ratio: int) -> Tensor:
    """Planes (n, h, w) bool at 1 / ratio of their size, uint8: 1 where the middle pixels of a cell are mostly 1."""
    if ratio == 1:
        return planes.to(torch.uint8)
    height, width = planes.shape[1] // ratio, planes.shape[2] // ratio
    if not height or not width:
        raise ValueError(f"mask_ratio={ratio} is larger than an image of {tuple(planes.shape[1:])} pixels")
    cells = planes[:, : height * ratio, : width * ratio].unflatten(1, (height, ratio)).unflatten(3, (width, ratio))
    first, last = (ratio - 1) // 2, ratio // 2 + 1  # the two middle ones of an even ratio, the one of an odd
    middle = cells[:, :, first:last, :, first:last].float().mean((2, 4))
    return (middle >= 0.5).to(torch.uint8)


def smallest_rectangles(outlines: Sequence[np.ndarray]) -> Tensor:
    """Return the smallest rectangle around each outline (k, 2): (n, 5) centre x and y, long side, short side, radians.

    The angle is that of the long side, in [-pi/4, 3 pi/4).
    """
    rows = [_smallest_rectangle(np.asarray(points, dtype=np.float64)) for points in outlines]
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)


def _smallest_rectangle(points: np.ndarray) -> tuple[float, ...]:
    hull = _convex_hull(points)
    edges = np.roll(hull, -1, axis=0) - hull
    edges = edges[(edges != 0).any(axis=1)]
    if not len(edges):
        return (*hull[0], 0.0, 0.0, 0.0)
    along = edges / np.linalg.norm(edges, axis=1, keepdims=True)  # (e, 2); a side of the rectangle lies on an edge
    across = along[:, ::-1] * [-1, 1]
    places = np.stack([hull @ along.T, hull @ across.T])  # (2, k, e)
    low, high = places.min(axis=1), places.max(axis=1)  # (2, e)
    best = int((high - low).prod(axis=0).argmin())
    middle = (low + high)[:, best] / 2
    centre = middle[0] * along[best] + middle[1] * across[best]
    width, height = (high - low)[:, best]
    angle = math.atan2(*along[best][::-1])
    if width < height:
        width, height, angle = height, width, angle + math.pi / 2
    return (*centre, width, height, (angle + math.pi / 4) % math.pi - math.pi / 4)


def _convex_hull(points: np.ndarray) -> np.ndarray:
    """The corners of the convex hull in order, by Andrew's monotone chains (Inf. Proc. Letters 9, 1979)."""
    ordered = np.unique(points, axis=0)
    if len(ordered) < 3:
        return ordered
    hull: list[np.ndarray] = []
    for chain in (ordered, ordered[::-1]):
        start = len(hull)
        for point in chain:
            while len(hull) - start > 1 and _turn(hull[-2], hull[-1], point) <= 0:
                hull.pop()
            hull.append(point)
        hull.pop()  # the first point of the other chain
    return np.array(hull)


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    """Above 0 where the way from a over b to c turns left."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
