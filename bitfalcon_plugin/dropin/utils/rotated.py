"""Oriented boxes as scripts call them: corners, the smallest rectangle around points, and ProbIoU.

A box is centre x, centre y, width, height and angle in radians; see ops/rotated.py. Written from spec/pose-obb.md 2.2
and 2.7.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops.rotated import corners_of, regularised, smallest_rectangles
from ...ops.rotated_overlap import probiou as house_probiou
from ...ops.rotated_overlap import probiou_matrix

Array = Any  # Tensor or numpy array


def xywhr2xyxyxyxy(x: Array) -> Array:
    """Oriented boxes (..., 5) -> corners (..., 4, 2): c + u + v, c + u - v, c - u - v, c - u + v; half sides u, v."""
    corners = corners_of(torch.as_tensor(x))
    return corners if isinstance(x, Tensor) else corners.numpy()


def xyxyxyxy2xywhr(x: Array) -> Array:
    """Four corners (n, 8) or (n, 4, 2) in any order -> the smallest rectangles around them (n, 5).

    The width is the longer side and the angle lies in [-pi/4, 3 pi/4).
    """
    boxes = smallest_rectangles(torch.as_tensor(x).detach().cpu().double().reshape(-1, 4, 2))
    if isinstance(x, Tensor):
        return boxes.to(x.device, x.dtype if x.is_floating_point() else torch.float32)
    return boxes.numpy().astype(np.float32)


def regularize_rboxes(rboxes: Tensor) -> Tensor:
    """Return the same rectangles (n, 5) with angles in [0, pi/2), sides exchanged where that needs it."""
    return regularised(rboxes)


def probiou(obb1: Tensor, obb2: Tensor, CIoU: bool = False, eps: float = 1e-7) -> Tensor:
    """ProbIoU (n, 1) of oriented boxes (n, 5) and (n, 5), pair by pair; identical boxes give 0.9995.

    CIoU: subtract the term for different aspect ratios.
    """
    overlap = house_probiou(obb1, obb2, eps=eps)
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
    return probiou_matrix(torch.as_tensor(obb1), torch.as_tensor(obb2), eps)
