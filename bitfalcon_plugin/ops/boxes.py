"""Box geometry: formats, overlap and pairs by overlap, and the anchor points of a head.

Papers: CIoU, Zheng et al., "Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression" (AAAI 2020,
equations 8 to 11, and the remark on the constant alpha); centre points with side distances, Tian et al., "FCOS"
(ICCV 2019, equation 1). Written from these and from spec/interface.md 4 (decode) and 6.7 (eps).
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


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """The IoU (n, m) of boxes (n, 4) and (m, 4) xyxy in one unit, in [0, 1]; 0 where both boxes have no area.

    torchvision.ops.box_iou computes the same but for boxes of no area; its import takes longer than most predictions.
    """
    low = torch.maximum(a[:, None, :2], b[None, :, :2])  # (n, m, 2)
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])  # (n, m, 2)
    shared = (high - low).clamp(min=0).prod(2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (a, b))
    return shared / (area_a[:, None] + area_b[None] - shared).clamp(min=1e-12)


def pair_greedily(overlap: Tensor, threshold: float, *, rows_in_turn: bool = False) -> Tensor:
    """Pair rows with columns of the (n, m) overlap, each at most once; returns (k, 2) indices (row, column).

    The pair with the greatest overlap is taken first, then the greatest among the rows and columns that are left, down
    to `threshold`, inclusive. rows_in_turn: the first row takes the column that it overlaps most, then the second row
    takes the best of the columns that are left, and so on. Of equal overlaps the lower row is first, then the lower
    column.
    """
    candidates = (overlap >= threshold).nonzero()  # (c, 2), by row, then by column
    order = overlap[candidates[:, 0], candidates[:, 1]].argsort(descending=True, stable=True)
    if rows_in_turn:
        order = order[candidates[order, 0].argsort(stable=True)]
    rows, columns, pairs = set(), set(), []
    for row, column in candidates[order].tolist():
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            pairs.append((row, column))
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)


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
