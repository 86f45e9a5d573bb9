"""Fast NMS inside an exported file, for oriented boxes: (B, 4+nc+1, A) -> (B, max_det, 7).

The rule is that of ops.rotated_nms.rotated_suppression with one class a box: a box is dropped when its ProbIoU with any
better box of its class is above `iou`. A detection is centre x, centre y, width, height, score, class, angle; zeros
fill the rows that are left (spec/pose-obb.md 2.9 and 2.11).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..ops.nms import MAX_CANDIDATES
from ..ops.rotated_overlap import gaussian_overlap, gaussians_of
from .nms import Suppression, scripted

BLOCK = 128  # candidates that are compared with all better ones at once


class RotatedSuppression(Suppression):
    """Suppress as ops.rotated_nms.rotated_suppression does with the same nc, conf, iou, max_det and agnostic.

    The MAX_CANDIDATES best candidates of an image take part, as there. They are taken in blocks of BLOCK, best first,
    until every image has max_det detections or no candidate above conf is left. So memory holds B x BLOCK x A pairs,
    and a usual image takes a block or two.
    """

    oriented = True

    def forward(self, candidates: Tensor) -> Tensor:
        scores, classes = candidates[:, 4 : 4 + self.nc].max(1)  # (B, A)
        scores = scores * (scores > self.conf).to(scores.dtype)
        scores, order = (each[:, :MAX_CANDIDATES] for each in _ranked(scores))
        boxes = torch.cat((candidates[:, :4], candidates[:, 4 + self.nc :]), 1).transpose(1, 2)  # (B, A, 5)
        boxes = boxes.gather(1, order.unsqueeze(2).expand(-1, -1, 5))
        labels = classes.gather(1, order).to(boxes.dtype)
        survive = scripted(_survivors) if torch.jit.is_tracing() else _survivors
        group = labels * 0 if self.agnostic else labels
        survives = survive(gaussians_of(boxes), group, scores, self.iou, self.max_det, BLOCK)
        position = (scores * 0 + 1).cumsum(1)  # 1, 2, ... in every image
        rank = survives.to(scores.dtype) / position  # falling, without ties
        best, index = pad(rank, (0, self.max_det)).topk(self.max_det, 1)  # (B, max_det) each
        detections = torch.cat((boxes[:, :, :4], scores.unsqueeze(2), labels.unsqueeze(2), boxes[:, :, 4:]), 2)
        detections = pad(detections, (0, 0, 0, self.max_det)).gather(1, index.unsqueeze(2).expand(-1, -1, 7))
        return detections * (best > 0).to(detections.dtype).unsqueeze(2)


def _ranked(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B, A) by falling value, and their indices; of equal ones the first is first."""
    if torch.onnx.is_in_onnx_export():  # ONNX's TopK keeps the order, and its exporter has no other sort
        return scores.sort(1, descending=True)
    return scores.sort(dim=1, descending=True, stable=True)


def _survivors(gaussians: Tensor, group: Tensor, scores: Tensor, iou: float, max_det: int, block: int) -> Tensor:
    """Which boxes survive, (B, A) bool; enough are judged to know the max_det best ones.

    gaussians (B, A, 6): of the boxes, by falling score (ops.rotated_overlap). group (B, A): boxes of different groups
    never meet. scores (B, A): 0 of those that are no candidates. TorchScript compiles this function.
    """
    survives = scores > 0
    number = (group[:1] * 0 + 1).cumsum(1)  # (1, A): 1, 2, ...
    start, unfinished = 0, scores.size(1) > 0
    while unfinished:
        end = start + block
        overlap = gaussian_overlap(gaussians[:, :end].unsqueeze(1), gaussians[:, start:end].unsqueeze(2))
        meet = group[:, start:end].unsqueeze(2) == group[:, :end].unsqueeze(1)
        better = number[:, start:end].unsqueeze(2) > number[:, :end].unsqueeze(1)
        hidden = ((overlap > iou) & meet & better).any(2)  # (B, block)
        survives = torch.cat((survives[:, :start], survives[:, start:end] & ~hidden, survives[:, end:]), 1)
        enough = survives[:, :end].sum(1) >= max_det
        last = pad(scores, [0, 1])[:, end : end + 1].sum(1) <= 0
        start, unfinished = end, bool((~(enough | last)).any())
    return survives
