"""Geometry of oriented boxes. Written from spec/pose-obb.md 2.2."""

from __future__ import annotations

import torch
from torch import Tensor


def corners_of(boxes: Tensor) -> Tensor:
    """(..., 5) centre x, centre y, width, height, angle -> (..., 4, 2) corners x, y in the same unit.

    The angle is in radians; the width's axis u points along its (cos, sin), the height's axis v along (-sin, cos).
    Order: centre + u + v, + u - v, - u - v, - u + v, with u and v half as long as the sides.
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
