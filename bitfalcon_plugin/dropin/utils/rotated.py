"""Oriented boxes: corners, the smallest rectangle around points, and ProbIoU.

A box is centre x, centre y, width, height and angle in radians; the width lies along (cos r, sin r), y points down.
ProbIoU: Llerena et al., "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union" (arXiv:2106.06072).
Written from the paper and from spec/pose-obb.md 2.2 and 2.7.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops.rotated import corners_of

Array = Any  # Tensor or numpy array
PAIRS = (0, 0, 0, 1, 1, 2), (1, 2, 3, 2, 3, 3)  # of four corners
AT_ONCE = 1 << 22  # pairs of boxes whose ProbIoU is computed together


def xywhr2xyxyxyxy(x: Array) -> Array:
    """Oriented boxes (..., 5) -> corners (..., 4, 2): c + u + v, c + u - v, c - u - v, c - u + v; half sides u, v."""
    corners = corners_of(torch.as_tensor(x))
    return corners if isinstance(x, Tensor) else corners.numpy()


def xyxyxyxy2xywhr(x: Array) -> Array:
    """Four corners (n, 8) or (n, 4, 2) in any order -> the smallest rectangles around them (n, 5).

    The width is the longer side and the angle lies in [-pi/4, 3 pi/4).
    """
    points = torch.as_tensor(x).detach().cpu().double().reshape(-1, 4, 2)
    # A smallest rectangle has a side along an edge of the hull, and each edge joins two of the corners.
    edges = points[:, PAIRS[1]] - points[:, PAIRS[0]]  # (n, 6, 2)
    angles = torch.atan2(edges[..., 1], edges[..., 0])
    frame = torch.stack([angles.cos(), angles.sin(), -angles.sin(), angles.cos()], -1).unflatten(-1, (2, 2))
    turned = torch.einsum("nkab,npb->nkpa", frame, points)  # (n, 6 angles, 4 corners, 2)
    low, high = turned.amin(2), turned.amax(2)  # (n, 6, 2)
    area = (high - low).prod(-1).round(decimals=9)
    best = area.argmin(1)
    rows = torch.arange(len(points))
    frame, low, high = frame[rows, best], low[rows, best], high[rows, best]
    centre = torch.einsum("nba,nb->na", frame, (low + high) / 2)
    size, angle = high - low, angles[rows, best]
    is_turned = size[:, 0] < size[:, 1]
    width, height = size.amax(1), size.amin(1)
    angle = (angle + is_turned * (math.pi / 2) + math.pi / 4).remainder(math.pi) - math.pi / 4
    boxes = torch.cat([centre, torch.stack([width, height, angle], 1)], 1)
    if isinstance(x, Tensor):
        return boxes.to(x.device, x.dtype if x.is_floating_point() else torch.float32)
    return boxes.numpy().astype(np.float32)


def regularize_rboxes(rboxes: Tensor) -> Tensor:
    """Return the same rectangles (n, 5) with angles in [0, pi/2), sides exchanged where that needs it."""
    x, y, w, h, angle = rboxes.unbind(-1)
    swap = angle.remainder(math.pi) >= math.pi / 2
    columns = (x, y, torch.where(swap, h, w), torch.where(swap, w, h), angle.remainder(math.pi / 2))
    return torch.stack(columns, -1)


def _covariance(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The covariance [[a, c], [c, b]] (...,) of the Gaussian that stands for each oriented box (..., 5)."""
    along, across = boxes[..., 2].square() / 12, boxes[..., 3].square() / 12
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    a = along * cos.square() + across * sin.square()
    b = along * sin.square() + across * cos.square()
    return a, b, (along - across) * cos * sin


def _probiou(first: Tensor, second: Tensor, eps: float) -> Tensor:
    """ProbIoU (...) of two sets of oriented boxes (..., 5) that broadcast."""
    a1, b1, c1 = _covariance(first)
    a2, b2, c2 = _covariance(second)
    a, b, c = a1 + a2, b1 + b2, c1 + c2
    dx, dy = second[..., 0] - first[..., 0], second[..., 1] - first[..., 1]
    det = a * b - c.square()
    mahalanobis = (a * dy.square() + b * dx.square()) / (4 * (det + eps)) - c * dx * dy / (2 * (det + eps))
    volume = ((a1 * b1 - c1.square()).clamp(min=0) * (a2 * b2 - c2.square()).clamp(min=0)).sqrt()
    distance = mahalanobis + (det / (4 * volume + eps) + eps).log() / 2
    return 1 - (1 - (-distance.clamp(eps, 100)).exp() + eps).sqrt()


def probiou(obb1: Tensor, obb2: Tensor, CIoU: bool = False, eps: float = 1e-7) -> Tensor:
    """ProbIoU (n, 1) of oriented boxes (n, 5) and (n, 5), pair by pair; identical boxes give 0.9995.

    CIoU: subtract the term for different aspect ratios.
    """
    overlap = _probiou(obb1, obb2, eps)
    if CIoU:
        overlap = overlap - _aspect_term(obb1, obb2, overlap, eps)
    return overlap[..., None]


def _aspect_term(first: Tensor, second: Tensor, overlap: Tensor, eps: float) -> Tensor:
    """The term alpha * v of complete IoU (see ops.boxes.ciou) for sides of oriented boxes."""
    ratios = [torch.atan(boxes[..., 2] / (boxes[..., 3] + eps)) for boxes in (first, second)]
    v = (4 / math.pi**2) * (ratios[1] - ratios[0]).square()
    return v.detach() / (v - overlap + (1 + eps)).detach() * v


def batch_probiou(obb1: Array, obb2: Array, eps: float = 1e-7) -> Tensor:
    """ProbIoU (n, m) of oriented boxes (n, 5) with oriented boxes (m, 5)."""
    first, second = torch.as_tensor(obb1), torch.as_tensor(obb2)
    rows = max(AT_ONCE // max(len(second), 1), 1)
    parts = [_probiou(part[:, None], second[None], eps) for part in first.split(rows)]
    return torch.cat(parts) if parts else first.new_zeros(0, len(second))
