"""Suppression of oriented boxes: Fast NMS (Bolya et al., YOLACT, arXiv:1904.02689, section 3.3) by ProbIoU.

A box is dropped when any better box of its class overlaps it, also one that is dropped itself; greedy suppression keeps
more. Written from spec/pose-obb.md 2.9.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .nms import MAX_CANDIDATES, candidates
from .rotated_overlap import VARIANCE, gaussian_overlap, gaussians_of

BLOCK = {"cpu": 512, "cuda": 4096}  # candidates that are compared with as many better ones at once
FIRST_COLUMNS = 16  # better ones that are compared first
FIRST = 4  # times max_det: the candidates of each image that are tried first
SMALLEST_AREA = 0.1  # px^2; ProbIoU of smaller boxes is made of its small constants


def rotated_suppression(
    prediction: Tensor,
    *,
    conf: float,
    iou: float,
    max_det: int = 300,
    multi_label: bool = False,
    agnostic: bool = False,
    classes: Sequence[int] | None = None,
    nc: int | None = None,
) -> list[Tensor]:
    """Decoded predictions -> the oriented detections of each image, best first.

    prediction: (B, 4+nc+1, A), xywh pixels, class probabilities, angle in radians. Returns per image (n, 7) float32:
    x, y, width, height, score, class, angle. iou: of ProbIoU. Further arguments, the order of equal scores and the
    ValueError are those of nms.non_max_suppression. No matrix of all pairs of candidates is made.
    """
    nc = prediction.shape[1] - 5 if nc is None else nc
    chosen = candidates(prediction, conf=conf, multi_label=multi_label, classes=classes, nc=nc)
    images = [rows[rows[:, 6].isfinite()] for rows in chosen]
    keep: list[Tensor] = [rows.new_zeros(0, dtype=torch.long) for rows in images]
    pending = [index for index, rows in enumerate(images) if len(rows)]
    for limit in (FIRST * max_det, MAX_CANDIDATES):  # the fate of a box depends on better ones alone
        if not pending:
            break
        parts = [images[index][:limit] for index in pending]
        rows = torch.cat(parts)
        number = torch.arange(len(parts), device=rows.device)
        group = number.repeat_interleave(torch.tensor([len(part) for part in parts], device=rows.device))
        group = group if agnostic else group * nc + rows[:, 5].long()
        hidden = fast_suppress(rows[:, [0, 1, 2, 3, 6]], group, iou).split([len(part) for part in parts])
        for index, mask in zip(pending, hidden):
            keep[index] = (~mask).nonzero().squeeze(1)[:max_det]
        pending = [index for index in pending if len(keep[index]) < max_det and len(images[index]) > limit]
    return [rows[kept] for rows, kept in zip(images, keep)]


def fast_suppress(boxes: Tensor, group: Tensor, iou: float) -> Tensor:
    """Which boxes are dropped: (n,) bool.

    boxes (n, 5) xywhr, within each group by falling score. group (n,) int64: boxes of different groups never meet. A
    box is dropped whose ProbIoU with an earlier one of its group is above `iou`.
    """
    order = group.argsort(stable=True)
    group, gaussians = group[order], gaussians_of(boxes[order])
    reach = _reach(gaussians, iou)
    planes = gaussians.t().contiguous()  # (6, n): a coordinate lies in one piece
    hidden = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    block = BLOCK.get(boxes.device.type, 2048)
    starts = torch.searchsorted(group, group[::block].contiguous()).tolist()  # of the group of each block's first box
    for first, start in zip(range(0, len(boxes), block), starts):
        last = min(first + block, len(boxes))
        rows = torch.arange(first, last, device=boxes.device)
        for column, end in _columns(start, last, block):
            x, y = (planes[axis, rows, None] - planes[axis, column:end] for axis in (0, 1))
            near = x.square_().add_(y.square_()) <= reach[rows, None] + reach[column:end]
            near &= group[rows, None] == group[column:end]
            if end > first:
                near &= rows[:, None] > torch.arange(column, end, device=rows.device)
            worse, better = near.nonzero().unbind(1)
            worse, better = rows[worse], better + column
            pair = (planes[:, better].movedim(0, -1), planes[:, worse].movedim(0, -1))
            hidden[worse[gaussian_overlap(*pair) > iou]] = True
            rows = rows[~hidden[rows]]
    return torch.empty_like(hidden).scatter_(0, order, hidden)


def _columns(start: int, last: int, block: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of better boxes to compare with: few at first, as the best ones hide most of the others."""
    size = FIRST_COLUMNS
    while start < last:
        yield start, min(start + size, last)
        start, size = start + size, min(2 * size, block)


def _reach(gaussians: Tensor, iou: float) -> Tensor:
    """Return (n,): two boxes overlap by `iou` only if their squared distance is at most the sum of their reaches.

    ProbIoU above `iou` means a Bhattacharyya distance below a limit, of which the centres' distance is one part: their
    squared distance over 4 times the largest variance of the sum of both.
    """
    share = 1 - (1 - iou) ** 2
    limit = -math.log(share) if share > 0 else math.inf
    long, short = gaussians[:, 2:4].amax(1), gaussians[:, 2:4].amin(1)
    reach = 4 * (limit + 1e-3) * (long + 1e-7 / short)  # the constants of ProbIoU change the limit by less than this
    return torch.where((long * short).sqrt() < SMALLEST_AREA * VARIANCE, torch.inf, reach)
