"""Box geometry: formats, overlap, anchors, how an image lies on the network input, and suppression of duplicates.

Papers: CIoU, Zheng et al., "Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression" (AAAI 2020,
equations 8 to 11, and the remark on the constant alpha); centre points with side distances, Tian et al., "FCOS"
(ICCV 2019, equation 1). Written from these and from spec/interface.md 4 (decode), 5.4 (letterbox), 6.7 (eps) and
8.2 (suppression).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def xyxy_from_xywh(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height -> (..., 4) corners x1, y1, x2, y2, in the same unit."""
    centre, size = boxes.chunk(2, -1)  # (..., 2) each
    half = size / 2
    return torch.cat((centre - half, centre + half), -1)  # (..., 4)


def xywh_from_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) corners x1, y1, x2, y2 -> (..., 4) centre x, centre y, width, height, in the same unit."""
    low, high = boxes.chunk(2, -1)  # (..., 2) each
    return torch.cat(((low + high) / 2, high - low), -1)  # (..., 4)


def ciou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Complete IoU of two broadcastable sets of boxes (..., 4) xyxy in one unit -> (...) in (-1.5, 1].

    IoU - (rho^2 / c^2 + alpha * v): rho the distance of the centres, c the diagonal of the hull, v the difference of
    the aspect ratios and alpha its weight, through which no gradient flows. Boxes of no area give finite values and
    gradients. Computed in the dtype of the input: give float32 or wider.
    """
    ax1, ay1, ax2, ay2 = a.unbind(-1)
    bx1, by1, bx2, by2 = b.unbind(-1)
    aw, ah, bw, bh = ax2 - ax1, ay2 - ay1, bx2 - bx1, by2 - by1
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    shared = width * height
    iou = shared / (aw * ah + bw * bh - shared + eps)
    hull_w = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_h = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    # (sum of corners)/2 are the centres, hence the quarter
    distance = ((bx1 + bx2 - ax1 - ax2).square() + (by1 + by2 - ay1 - ay2).square()) / 4
    v = (4 / math.pi**2) * (torch.atan(bw / (bh + eps)) - torch.atan(aw / (ah + eps))).square()
    with torch.no_grad():
        alpha = v / (v - iou + (1 + eps))
    return iou - distance / (hull_w.square() + hull_h.square() + eps) - alpha * v


def anchor_points(
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Centres of the grid cells of all levels, row-major, in the order given (fine to coarse).

    sizes: (h, w) of each level in cells; strides: pixels per cell of each level.
    Returns points (A, 2) as x, y in cells of their own level (0.5, 1.5, ...), and stride (A,).
    """
    points, steps = [], []
    for (h, w), stride in zip(sizes, strides, strict=True):
        y = torch.arange(h, device=device, dtype=dtype) + 0.5
        x = torch.arange(w, device=device, dtype=dtype) + 0.5
        points.append(torch.stack((x.repeat(h), y.repeat_interleave(w)), -1))  # (h * w, 2)
        steps.append(torch.full((h * w,), float(stride), device=device, dtype=dtype))
    return torch.cat(points), torch.cat(steps)


def distances_to_boxes(points: Tensor, ltrb: Tensor) -> Tensor:
    """Points (A, 2) or (..., A, 2) and distances to the sides (..., A, 4) -> boxes (..., A, 4) xyxy, in one unit."""
    left_top, right_bottom = ltrb.chunk(2, -1)  # (..., A, 2) each
    return torch.cat((points - left_top, points + right_bottom), -1)  # (..., A, 4)


def boxes_to_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Inverse of `distances_to_boxes`: (..., A, 4) left, top, right, bottom; negative where a point lies outside."""
    low, high = boxes.chunk(2, -1)  # (..., A, 2) each
    return torch.cat((points - low, high - points), -1)  # (..., A, 4)
