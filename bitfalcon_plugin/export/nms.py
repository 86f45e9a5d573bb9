"""Suppression inside an exported file, for runtimes that have nobody to do it: (B, 4+nc, A) -> (B, max_det, 6).

The rule is that of boxes.non_max_suppression with one class a box: best class, scores above conf, greedy by falling score, boxes of
different classes apart. Rows are x1, y1, x2, y2, score, class, zeros where nothing is left (spec/interface.md section 9).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

APART = 7680.0  # pixels between the boxes of different classes (spec/interface.md 8.2)


class Suppression(nn.Module):
    """conf, iou, max_det, agnostic: as of boxes.non_max_suppression."""

    def __init__(self, conf: float = 0.25, iou: float = 0.7, max_det: int = 300, agnostic: bool = False):
        super().__init__()
        self.conf, self.iou, self.max_det, self.agnostic = conf, iou, max_det, agnostic

    def forward(self, found: Tensor) -> Tensor:
        scores, classes = found[:, 4:].max(1)  # (B, A)
        centre, size = found[:, :2], found[:, 2:4]
        corners = torch.cat((centre - size / 2, centre + size / 2), 1).transpose(1, 2)  # (B, A, 4)
        shift = 0.0 if self.agnostic else APART
        moved = corners + classes.to(corners.dtype).unsqueeze(2) * shift
        if torch.onnx.is_in_onnx_export():
            kept = _OnnxSuppression.apply(moved, scores, self.conf, self.iou, self.max_det)
        else:
            suppress = _recorded_loop() if torch.jit.is_tracing() else _greedy
            kept = suppress(moved, scores, self.conf, self.iou, self.max_det)
        rows = torch.cat((corners, scores.unsqueeze(2), classes.to(corners.dtype).unsqueeze(2)), 2)  # (B, A, 6)
        best, place = torch.nn.functional.pad(kept, (0, self.max_det)).topk(
            self.max_det, 1
        )  # kept: scores, 0 elsewhere
        rows = torch.nn.functional.pad(rows, (0, 0, 0, self.max_det))
        return rows.gather(1, place.unsqueeze(2).expand(-1, -1, 6)) * (best > 0).to(rows.dtype).unsqueeze(2)


@lru_cache(1)
def _recorded_loop() -> Callable[..., Tensor]:
    # A recording keeps a compiled function's loop, and would unroll a plain one.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(_greedy)


def _greedy(boxes: Tensor, scores: Tensor, conf: float, iou: float, max_det: int) -> Tensor:
    """boxes (B, A, 4) xyxy, scores (B, A) -> (B, A): the score where a box is kept, 0 elsewhere."""
    kept = torch.zeros_like(scores)
    for image in range(boxes.size(0)):
        hopeful = (scores[image] > conf).nonzero().squeeze(1)
        order = hopeful[scores[image][hopeful].argsort(stable=True, descending=True)]
        count = 0
        while order.numel() > 0 and count < max_det:
            first, rest = order[0], order[1:]
            kept[image, first] = scores[image, first]
            box, others = boxes[image, first], boxes[image, rest]
            low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
            shared = (high - low).clamp(min=0).prod(1)
            union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
            order = rest[shared <= iou * union]
            count += 1
    return kept


class _OnnxSuppression(torch.autograd.Function):
    """The same, recorded as ONNX's own NonMaxSuppression."""

    @staticmethod
    def forward(ctx, boxes: Tensor, scores: Tensor, conf: float, iou: float, max_det: int) -> Tensor:
        return _greedy(boxes, scores, conf, iou, max_det)

    @staticmethod
    def symbolic(g, boxes, scores, conf: float, iou: float, max_det: int):
        def number(value, kind) -> object:
            return g.op("Constant", value_t=torch.tensor(value, dtype=kind))

        one_class = g.op("Unsqueeze", scores, number([1], torch.int64))  # (B, 1, A)
        found = g.op(
            "NonMaxSuppression",
            boxes,
            one_class,
            number([max_det], torch.int64),
            number([iou], torch.float32),
            number([conf], torch.float32),
        )  # (n, 3): image, class, anchor
        places = g.op("Gather", found, number([0, 2], torch.int64), axis_i=1)  # (n, 2)
        empty = g.op("Mul", scores, number(0.0, torch.float32))
        values = g.op("GatherND", scores, places)
        return g.op("ScatterND", empty, places, values).setType(scores.type())
