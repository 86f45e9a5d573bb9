"""How much oriented boxes overlap: ProbIoU and the IoU of the rectangles.

A box is xywhr, see ops/rotated.py. ProbIoU: Llerena et al., "Gaussian Bounding Boxes and Probabilistic
Intersection-over-Union for Object Detection" (arXiv:2106.06072); its small constants are those of spec/pose-obb.md 2.7.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .boxes import box_iou
from .instances import Instances
from .rotated import corners_of

EPS = 1e-7
VARIANCE = 1 / 12  # of a uniform distribution over a side of length 1
PAIRS_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 22}  # pairs of boxes computed together: what a CPU's cache holds


def gaussians_of(boxes: Tensor, floor: float = 0.0) -> Tensor:
    """(..., 5) xywhr -> (..., 6) the Gaussians that stand for them: mean x, y, variances along the axes, cos, sin.

    floor: is added to both variances.
    """
    variances = boxes[..., 2:4].square() * VARIANCE + floor
    return torch.cat((boxes[..., :2], variances, boxes[..., 4:].cos(), boxes[..., 4:].sin()), -1)


def gaussian_overlap(a: Tensor, b: Tensor, eps: float = EPS) -> Tensor:
    """Return ProbIoU of Gaussians (..., 6) that broadcast: 1 - Hellinger's distance, in about [0, 1).

    The Bhattacharyya distance is computed in the frame of `a`. There the determinant of the summed covariances is a sum
    of positive terms: in the image's frame it is a small difference of large numbers where boxes are long and narrow,
    and negative in float32 for some of them.
    """
    ax, ay, a_along, a_across, a_cos, a_sin = a.unbind(-1)
    bx, by, b_along, b_across, b_cos, b_sin = b.unbind(-1)
    cos, sin = a_cos * b_cos + a_sin * b_sin, a_cos * b_sin - a_sin * b_cos  # of the angle between the two
    cos2, sin2 = cos.square(), sin.square()
    along, across = b_along * cos2 + b_across * sin2, b_along * sin2 + b_across * cos2  # variances of b there
    determinant = a_along * a_across + b_along * b_across + a_along * across + a_across * along
    dx, dy = bx - ax, by - ay
    p, q = dx * a_cos + dy * a_sin, dy * a_cos - dx * a_sin
    between = (b_along - b_across) * cos * sin
    squares = (a_along + along) * q.square() + (a_across + across) * p.square() - 2 * between * p * q
    volume = (a_along * a_across * b_along * b_across).sqrt()
    distance = squares / (4 * (determinant + eps)) + (determinant / (4 * volume + eps) + eps).log() / 2
    return 1 - (1 - (-distance.clamp(eps, 100)).exp() + eps).sqrt()


def probiou(a: Tensor, b: Tensor, floor: float = 0.0, eps: float = EPS) -> Tensor:
    """Return ProbIoU (...) of oriented boxes (..., 5) that broadcast; 0.9995 for identical ones.

    It is larger than the IoU of the rectangles (0.70 for 0.60), and does not see the angle of a square. floor: is added
    to the variances, in the square of the boxes' unit. Computed in the dtype of the input: give float32 or wider.
    """
    return gaussian_overlap(gaussians_of(a, floor), gaussians_of(b, floor), eps)


def probiou_matrix(a: Tensor, b: Tensor, eps: float = EPS) -> Tensor:
    """Return ProbIoU (n, m) of oriented boxes (n, 5) and (m, 5), PAIRS_AT_ONCE at a time."""
    return _matrix(lambda one, other: gaussian_overlap(one, other, eps), gaussians_of(a), gaussians_of(b))


def overlap_of(a: Instances, b: Instances, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return how much objects overlap, (n, m): ProbIoU of oriented ones, otherwise the IoU of the boxes."""
    first, second = a.oriented, b.oriented
    if first is None or second is None:
        return box_iou(a.boxes.to(dtype), b.boxes.to(dtype))
    return probiou_matrix(first.to(dtype), second.to(dtype))


def rotated_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the exact IoU (n, m) of the rectangles (n, 5) and (m, 5) xywhr, in [0, 1]; 0 where both have no area.

    Give float64. PAIRS_AT_ONCE are computed at a time.
    """
    return _matrix(_rectangle_iou, a, b)


def _matrix(overlap: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    rows = max(PAIRS_AT_ONCE.get(a.device.type, 1 << 20) // max(len(b), 1), 1)
    a, b = a.movedim(-1, 0).contiguous(), b.movedim(-1, 0).contiguous()  # a coordinate lies in one piece
    parts = [overlap(part.movedim(0, -1)[:, None], b.movedim(0, -1)[None]) for part in a.split(rows, 1)]
    return torch.cat(parts)


def shared_area(a: Tensor, b: Tensor) -> Tensor:
    """Return the area (...) that rectangles (..., 5) xywhr that broadcast share. Give float64.

    By Green's theorem the area that b shares with an upright rectangle is the integral of y over x along the sides of
    b, with x and y held within that rectangle. So b is turned into the frame of a.
    """
    cos, sin = a[..., 4].cos(), a[..., 4].sin()
    dx, dy = b[..., 0] - a[..., 0], b[..., 1] - a[..., 1]
    columns = (dx * cos + dy * sin, dy * cos - dx * sin, b[..., 2], b[..., 3], b[..., 4] - a[..., 4])
    corners = corners_of(torch.stack(torch.broadcast_tensors(*columns), -1))  # (..., 4, 2)
    half_width, half_height = (a[..., 2:4, None] / 2).unbind(-2)  # (..., 1) each
    x, y = corners.unbind(-1)  # (..., 4)
    x_end, y_end = x.roll(-1, -1), y.roll(-1, -1)
    slope = (y_end - y) / torch.where(x_end == x, 1, x_end - x)
    start, end = (torch.minimum(torch.maximum(value, -half_width), half_width) for value in (x, x_end))
    shared = ((end - start) * _mean_held(y + (start - x) * slope, y + (end - x) * slope, half_height)).sum(-1).abs()
    return torch.minimum(shared, torch.minimum(*(boxes[..., 2] * boxes[..., 3] for boxes in (a, b))))


def _rectangle_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of rectangles (..., 5) that broadcast."""
    shared = shared_area(a, b)
    area_a, area_b = (boxes[..., 2] * boxes[..., 3] for boxes in (a, b))
    return shared / (area_a + area_b - shared).clamp(min=1e-12)


def _mean_held(y: Tensor, y_end: Tensor, limit: Tensor) -> Tensor:
    """Return the mean over a straight way from y to y_end of the value held within -limit and limit."""
    start, end = (torch.minimum(torch.maximum(value, -limit), limit) for value in (y, y_end))
    above = torch.maximum(y_end, limit) - torch.maximum(y, limit)  # parts of the way
    below = torch.minimum(y_end, -limit) - torch.minimum(y, -limit)
    total = (above - below) * limit + (end - start) * (start + end) / 2
    return torch.where(y_end == y, start, total / torch.where(y_end == y, 1, y_end - y))
