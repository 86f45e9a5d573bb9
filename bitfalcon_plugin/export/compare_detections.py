"""Compare the detections of an export with suppression inside with the candidates of its network.

Near-ties of scores and overlaps decide which box suppression keeps; they are no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.boxes import box_iou, xyxy_from_xywh
from ..ops.rotated_overlap import probiou_matrix
from ..tasks.detect import Decoded
from .agreement import Agreement, Tolerance, check_shape, largest_of, values_agree
from .nms import Suppression

IOU_SLACK = 0.02  # by which the overlaps of two pairs of boxes may differ


class Rows(NamedTuple):
    """Candidates or detections of one image.

    boxes (n, 4): xyxy; of oriented boxes before they are turned by their angle. scores (n,). classes (n,). further (n,
    k): the values behind.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    further: Tensor

    def __getitem__(self, index: Tensor) -> Rows:
        return Rows(*(each[index] for each in tuple(self)))


def compare_detections(
    reference: Decoded,
    output: Tensor,
    tolerance: Tolerance,
    image_shape: Sequence[int],
    suppression: Suppression,
    kinds: Sequence[str],
) -> Agreement:
    """Compare the network's candidates with the detections (B, max_det, 6+k) of suppression in the file.

    Each detection must be one of the candidates, and must not overlap a better one that suppresses it. Each candidate
    must be a detection, or overlap a better one that suppresses it: in greedy suppression a detection of its class, in
    Fast NMS any candidate of its class. A candidate that may fall below conf or behind max_det need not be there.
    kinds: what the k values are, keys of agreement.GROUPS.
    """
    check_shape(output, output.new_empty(len(reference.candidates), suppression.max_det, 6 + len(kinds)))
    agreement, pixels = Agreement(), tolerance.pixels(image_shape)
    for image, rows in zip(reference.candidates, output, strict=True):
        values, rows = image.t(), rows[rows[:, 4] > 0]
        scores, classes = values[:, 4 : 4 + suppression.nc].max(1)
        candidates = Rows(xyxy_from_xywh(values[:, :4]), scores, classes, values[:, 4 + suppression.nc :])
        boxes = xyxy_from_xywh(rows[:, :4]) if suppression.oriented else rows[:, :4]
        detections = Rows(boxes, rows[:, 4], rows[:, 5], rows[:, 6:])
        agreement += _compare_image(candidates, detections, tolerance, pixels, suppression, kinds)
    return agreement


def _compare_image(
    candidates: Rows,
    detections: Rows,
    tolerance: Tolerance,
    pixels: float,
    suppression: Suppression,
    kinds: Sequence[str],
) -> Agreement:
    """Compare the candidates and the detections, best first, of one image."""
    scale = largest_of(candidates.further)
    is_full = len(detections.scores) == suppression.max_det
    last_score = min(float(detections.scores[-1]), 1.0) if is_full else 0.0
    slack = tolerance.score * candidates.scores.clamp(min=tolerance.floor)
    near = candidates.scores > max(suppression.conf, last_score) - slack
    candidates, slack = candidates[near], slack[near]  # m of them
    needed = (candidates.scores > suppression.conf + slack) & (candidates.scores > last_score + slack)  # (m,)
    count = len(detections.scores) + int(needed.sum())
    if not len(detections.scores) or not len(candidates.scores):
        return Agreement(0.0, count=count, images=1)
    distance = (detections.boxes[:, None] - candidates.boxes).abs().amax(2)  # (n, m)
    score_distance = (detections.scores[:, None] - candidates.scores).abs()  # (n, m)
    same = (distance <= pixels) & tolerance.scores_agree(detections.scores[:, None], candidates.scores)
    same &= detections.classes[:, None] == candidates.classes
    row, column = same.nonzero().unbind(1)
    agree, groups = values_agree(
        candidates.further[column], detections.further[row], kinds, tolerance, pixels, scale
    )  # (pairs,)
    same[row, column] = agree
    repeated, hidden = _suppressed(candidates, detections, slack, same, suppression)
    matched = int((same.any(1) & ~repeated).sum()) + int(((hidden | same.any(0)) & needed).sum())
    if not same.any():
        return Agreement(0.0, 0.0, matched, count, 1)
    largest = [
        float(values.masked_fill(~same, torch.inf).amin(1)[same.any(1)].max()) for values in (distance, score_distance)
    ]
    further = {name: float(values[agree].max()) for name, values in groups.items()}
    return Agreement(*largest, matched, count, 1, further=further)


def _suppressed(
    candidates: Rows, detections: Rows, slack: Tensor, same: Tensor, suppression: Suppression
) -> tuple[Tensor, Tensor]:
    """Return which detections (n,) surely should have been suppressed, and which candidates (m,) may have been.

    slack (m,): by which the score of each candidate may differ. same (n, m): which are the same.
    """
    repeated = (_overlap(detections, detections, suppression).triu(1) > suppression.iou + IOU_SLACK).any(0)
    if not suppression.oriented:  # by detections
        better = detections.scores[:, None] >= candidates.scores - slack
        hidden = better & (_overlap(detections, candidates, suppression) > suppression.iou - IOU_SLACK)
        return repeated, hidden.any(0)
    overlap = _overlap(candidates, candidates, suppression).fill_diagonal_(-1)  # (m, m)
    above, below = candidates.scores[:, None] - candidates.scores, slack[:, None] + slack
    hidden = ((above > -below) & (overlap > suppression.iou - IOU_SLACK)).any(0)
    surely = ((above > below) & (overlap > suppression.iou + IOU_SLACK)).any(0)
    return repeated | (~same | surely).all(1), hidden


def _overlap(first: Rows, second: Rows, suppression: Suppression) -> Tensor:
    """The overlaps (n, m) by which suppression goes; 0 for other classes, unless it is agnostic."""
    if suppression.oriented:
        overlap = probiou_matrix(*(_xywhr(rows) for rows in (first, second)))
    else:
        overlap = box_iou(first.boxes, second.boxes)
    return overlap if suppression.agnostic else overlap * (first.classes[:, None] == second.classes)


def _xywhr(rows: Rows) -> Tensor:
    low, high = rows.boxes.chunk(2, 1)
    return torch.cat(((low + high) / 2, high - low, rows.further[:, -1:]), 1)
