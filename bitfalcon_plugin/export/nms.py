"""Suppression inside an exported file, for programs that have none: (B, 4+nc+k, A) -> (B, max_det, 6+k).

The rule is that of ops.nms.non_max_suppression with one class a box: the best class, scores above conf, greedy by
falling score, boxes of different classes apart. A detection is x1, y1, x2, y2, score, class, and the k further values
of its candidate; zeros fill the rows that are left (spec/interface.md section 9, spec/segment-classify.md 1.10).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

APART = 7680.0  # pixels between the boxes of different classes (spec/interface.md 8.2)


class Suppression(nn.Module):
    """Suppress as ops.nms.non_max_suppression does with the same nc, conf, iou, max_det and agnostic.

    oriented: whether the boxes are oriented.
    """

    oriented = False

    def __init__(self, nc: int, conf: float = 0.25, iou: float = 0.7, max_det: int = 300, agnostic: bool = False):
        super().__init__()
        self.nc, self.conf, self.iou, self.max_det, self.agnostic = nc, conf, iou, max_det, agnostic

    def forward(self, candidates: Tensor) -> Tensor:
        scores, classes = candidates[:, 4 : 4 + self.nc].max(1)  # (B, A)
        centre, size = candidates[:, :2], candidates[:, 2:4]
        corners = torch.cat((centre - size / 2, centre + size / 2), 1).transpose(1, 2)  # (B, A, 4)
        labels = classes.to(corners.dtype).unsqueeze(2)  # (B, A, 1)
        moved = corners + labels * (0.0 if self.agnostic else APART)
        if torch.onnx.is_in_onnx_export():
            survivors = _OnnxSuppression.apply(
                moved, scores, scores.unsqueeze(1), self.conf, self.iou, self.max_det
            )  # (B, A)
        else:
            suppress = scripted(_greedy) if torch.jit.is_tracing() else _greedy
            survivors = suppress(moved, scores, self.conf, self.iou, self.max_det)
        columns, further = [corners, scores.unsqueeze(2), labels], int(candidates.shape[1]) - 4 - self.nc
        if further:
            columns.append(candidates[:, 4 + self.nc :].transpose(1, 2))
        detections = torch.cat(columns, 2)  # (B, A, 6+k)
        best, anchors = pad(survivors, (0, self.max_det)).topk(self.max_det, 1)  # (B, max_det) each
        detections = pad(detections, (0, 0, 0, self.max_det))  # (B, A + max_det, 6+k)
        detections = detections.gather(1, anchors.unsqueeze(2).expand(-1, -1, 6 + further))
        return detections * (best > 0).to(detections.dtype).unsqueeze(2)


@cache
def scripted(loop: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, compiled by TorchScript: a trace keeps its loop, and would unroll that of a plain one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(loop)


def _greedy(boxes: Tensor, scores: Tensor, conf: float, iou: float, max_det: int) -> Tensor:
    """boxes (B, A, 4) xyxy, scores (B, A) -> (B, A): the score of each box that survives, 0 elsewhere.

    TorchScript compiles this function, so it calls nothing else of this package.
    """
    survivors = torch.zeros_like(scores)
    for image in range(boxes.size(0)):
        candidates = (scores[image] > conf).nonzero().squeeze(1)
        order = candidates[scores[image][candidates].argsort(stable=True, descending=True)]
        count = 0
        while order.numel() > 0 and count < max_det:
            best, others = order[0], order[1:]
            survivors[image, best] = scores[image, best]
            box, other = boxes[image, best], boxes[image, others]
            low, high = torch.maximum(box[:2], other[:, :2]), torch.minimum(box[2:], other[:, 2:])
            shared = (high - low).clamp(min=0).prod(1)
            union = (box[2:] - box[:2]).prod() + (other[:, 2:] - other[:, :2]).prod(1) - shared
            order = others[shared <= iou * union]
            count += 1
    return survivors


class _OnnxSuppression(torch.autograd.Function):
    """The result of _greedy, recorded as ONNX's own NonMaxSuppression.

    one_class (B, 1, A): the scores with an axis of classes.
    """

    @staticmethod
    def forward(ctx, boxes: Tensor, scores: Tensor, one_class: Tensor, conf: float, iou: float, max_det: int) -> Tensor:
        return _greedy(boxes, scores, conf, iou, max_det)

    @staticmethod
    def symbolic(g, boxes, scores, one_class, conf: float, iou: float, max_det: int):
        def constant(value, dtype) -> object:
            return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        limits = constant([max_det], torch.int64), constant([iou], torch.float32), constant([conf], torch.float32)
        indices = g.op("NonMaxSuppression", boxes, one_class, *limits)  # (n, 3): image, class, anchor
        indices = g.op("Gather", indices, constant([0, 2], torch.int64), axis_i=1)  # (n, 2)
        empty = g.op("Mul", scores, constant(0.0, torch.float32))
        survivors = g.op("GatherND", scores, indices)
        return g.op("ScatterND", empty, indices, survivors).setType(scores.type())
