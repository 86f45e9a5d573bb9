"""Non-maximum suppression as scripts call it, over the house's own. Written from spec/dropin-helpers.md section 10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...ops.boxes import xyxy_from_xywh
from ...ops.nms import suppress
from ...ops.rotated_nms import fast_suppress


def non_max_suppression(
    prediction: Any,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence = (),
    max_det: int = 300,
    nc: int = 0,
    max_time_img: float = 0.05,
    max_nms: int = 30000,
    max_wh: int = 7680,
    in_place: bool = True,
    rotated: bool = False,
    end2end: bool = False,
    return_idxs: bool = False,
) -> Any:
    """Decoded predictions -> the detections (n, 6 + extras) of each image: xyxy, score, class, extras; best first.

    prediction: (B, 4 + nc + extras, A), xywh in pixels and class probabilities, or a tuple that begins with it; or
    (B, n, 6) rows that are suppressed already. nc: number of classes; 0: every row behind the box is one. labels: for
    each image rows (m, 5) of class and xywh that compete with a score of 1. rotated: the last extra is the angle, boxes
    stay xywh, and ProbIoU takes the place of IoU. return_idxs: also the anchor of each detection. max_time_img, max_wh
    and in_place have no effect: there is no limit of time, and the prediction stays unchanged.
    Raises AssertionError for thresholds outside [0, 1].
    """
    for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
        if not 0 <= value <= 1:
            raise AssertionError(f"{name}={value} is not in [0, 1]")
    prediction = prediction[0] if isinstance(prediction, (list, tuple)) else prediction
    wanted = None if classes is None else torch.as_tensor(classes, device=prediction.device).reshape(-1)
    if prediction.shape[-1] == 6 or end2end:
        kept = [(rows[:, 4] > conf_thres) & _of_classes(rows[:, 5], wanted) for rows in prediction]
        places = [mask.nonzero().squeeze(1)[:max_det] for mask in kept]
        output = [rows[place] for rows, place in zip(prediction, places, strict=True)]
        return (output, places) if return_idxs else output
    nc = nc or prediction.shape[1] - 4
    output, places = [], []
    for index, image in enumerate(prediction.detach()):  # (4 + nc + extras, A)
        anchors = image.float().t()  # (A, 4 + nc + extras)
        if len(labels) > index and len(labels[index]):
            anchors = torch.cat([anchors, _as_anchors(labels[index], anchors, nc)])
        rows, place = _candidates(anchors, nc, conf_thres, multi_label and nc > 1, wanted)
        order = rows[:, 4].sort(descending=True, stable=True).indices[:max_nms]
        rows, place = rows[order], place[order]
        if rotated:
            keep = _fast_suppress(rows, iou_thres, agnostic)[:max_det]
        else:
            rows[:, :4] = xyxy_from_xywh(rows[:, :4])
            keep = suppress(rows[:, :6], iou_thres, max_det, agnostic)
        output.append(rows[keep])
        places.append(place[keep])
    return (output, places) if return_idxs else output


def _of_classes(column: Tensor, wanted: Tensor | None) -> Tensor:
    """(n,) bool: whether each class of a column (n,) is wanted."""
    return torch.ones_like(column, dtype=torch.bool) if wanted is None else torch.isin(column.long(), wanted)


def _as_anchors(rows: Any, anchors: Tensor, nc: int) -> Tensor:
    """Known objects (m, 5), class and xywh, as anchors (m, C) whose class has the probability 1."""
    known = torch.as_tensor(rows, dtype=anchors.dtype, device=anchors.device)
    added = anchors.new_zeros(len(known), anchors.shape[1])
    added[:, :4] = known[:, 1:5]
    added[torch.arange(len(known)), 4 + known[:, 0].long()] = 1
    return added


def _candidates(
    anchors: Tensor, nc: int, conf: float, multi_label: bool, wanted: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(A, C) -> rows (n, 6 + extras) xywh, score, class, extras, and the anchor (n,) of each."""
    scores = anchors[:, 4 : 4 + nc]  # (A, nc)
    finite = anchors[:, :4].isfinite().all(1)
    if multi_label:
        place, label = ((scores > conf) & finite[:, None]).nonzero().unbind(1)
        score = scores[place, label]
    else:
        best, classes = scores.nan_to_num(-1.0, torch.inf).max(1)
        place = ((best > conf) & finite).nonzero().squeeze(1)
        score, label = best[place], classes[place]
    allowed = _of_classes(label, wanted)
    place, score, label = place[allowed], score[allowed], label[allowed]
    columns = (anchors[place, :4], score[:, None], label[:, None].to(anchors.dtype), anchors[place, 4 + nc :])
    return torch.cat(columns, 1), place


def _fast_suppress(rows: Tensor, iou: float, agnostic: bool) -> Tensor:
    """Indices of the oriented boxes (n, 7 or more), by falling score, that no better one of their class overlaps."""
    group = torch.zeros_like(rows[:, 5]) if agnostic else rows[:, 5]
    hidden = fast_suppress(torch.cat([rows[:, :4], rows[:, -1:]], 1), group.long(), iou)
    return (~hidden).nonzero().squeeze(1)


def nms_rotated(boxes: Tensor, scores: Tensor, threshold: float = 0.45) -> Tensor:
    """Indices of the oriented boxes (n, 5), by falling score, that no better one overlaps by more than `threshold`."""
    order = scores.sort(descending=True, stable=True).indices
    zeros = scores.new_zeros(len(order), 1)
    rows = torch.cat([boxes[order, :4], scores[order, None], zeros, boxes[order, 4:5]], 1)
    return order[_fast_suppress(rows, threshold, True)]
