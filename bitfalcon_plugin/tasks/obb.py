"""Oriented boxes: their loss, detections and metrics.

The loss is that of detection in the frame of each box: ProbIoU (Llerena et al., arXiv:2106.06072) takes the place of
CIoU, the distances to the sides lie along the axes of the box, and a term for the angle remains where ProbIoU sees
nothing, as of squares. Written from spec/pose-obb.md 2.6 and 2.8; the numbers agree with the recorded loss vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..ops.boxes import anchor_points
from ..ops.instances import Instances
from ..ops.letterbox import Fit
from ..ops.nms import Suppression
from ..ops.rotated import angles_from_logits, corners_of, distances_to_rotated, hulls_of, rotated_to_distances
from ..ops.rotated_nms import fast_suppress, rotated_suppression
from ..ops.rotated_overlap import probiou
from .assign import Assignment, assign
from .detect import Decoded, class_cross_entropy, focal_loss, likely_candidates, mean_distances

if TYPE_CHECKING:  # predicting needs neither
    from ..data.dataset import Sample
    from .obb_metrics import ObbMetrics

# loss -> setting that holds its gain
LOSSES = {"box_loss": "box", "cls_loss": "cls", "dfl_loss": "dfl", "angle_loss": "angle"}
GAINS = {"box_loss": 7.5, "cls_loss": 0.5, "dfl_loss": 1.5, "angle_loss": 1.0}  # gains of cfg/default.yaml
VARIANCE_FLOOR = 0.01  # of the Gaussians in the box loss, in squares of the stride
SQUARENESS = 9.0  # the angle counts by exp(-log(width / height)^2 / SQUARENESS)


def obb_loss(
    raw: Mapping[str, Tensor],
    labels: Instances,
    *,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    gains: Mapping[str, float] = GAINS,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the losses of raw outputs against labels, in float32 whatever autocast says.

    raw, sizes, strides, gains and class_weights: as in detect.detection_loss; raw also has the logits "angles" (B, 1,
    A). labels: oriented boxes in pixels of the network input, with `image`. Those with a side below 2 px are left out.

    Returns LOSSES -> scalar with its gain: those of detection, in the frame of the boxes; and angle_loss, the sum over
    the positives of squareness * sin^2(2 * error of the angle) * soft target, divided by the sum of the soft targets.
    """
    with torch.autocast(raw["boxes"].device.type, enabled=False):
        logits, scores = raw["boxes"].float(), raw["scores"].float()
        angles = angles_from_logits(raw["angles"].float()).transpose(1, 2)  # (B, A, 1)
        points, stride = anchor_points(sizes, strides, device=logits.device)  # (A, 2), (A,)
        oriented = labels.oriented
        targets = replace(labels, xywhr=logits.new_zeros(0, 5) if oriented is None else oriented.float())
        with torch.no_grad():
            shares = logits.transpose(1, 2).unflatten(-1, (4, -1)).softmax(-1)  # (B, A, 4, R)
            boxes = distances_to_rotated(points, mean_distances(shares), angles)  # (B, A, 5) in cells
            boxes = torch.cat((boxes[..., :4] * stride[:, None], boxes[..., 4:]), -1)  # px
            assignment = assign(scores.sigmoid().transpose(1, 2), boxes, points * stride[:, None], targets)
        box, dfl, angle = _rotated_losses(logits, angles, points, stride, assignment, targets)
        cls = class_cross_entropy(scores, assignment, targets, class_weights)
        total = assignment.weight.sum().clamp(min=1)
        sums = {"box_loss": box, "cls_loss": cls, "dfl_loss": dfl, "angle_loss": angle}
        return {name: value / total * gains[name] for name, value in sums.items()}


def _rotated_losses(
    logits: Tensor, angles: Tensor, points: Tensor, stride: Tensor, assignment: Assignment, targets: Instances
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted sums of box, DFL and angle losses over all claims (N, k); a claim not won weighs 0."""
    image, anchor, weight = targets.image[:, None], assignment.anchor, assignment.weight
    log_share = logits[image, :, anchor].unflatten(-1, (4, -1)).log_softmax(-1)  # (N, k, 4, R)
    point, angle = points[anchor], angles[image, anchor]  # (N, k, 2), (N, k, 1)
    truth = targets.xywhr[:, None]  # (N, 1, 5)
    turn = truth[..., 4:].expand_as(angle)
    truth = torch.cat((truth[..., :4] / stride[anchor][..., None], turn), -1)  # (N, k, 5) in cells
    boxes = distances_to_rotated(point, mean_distances(log_share.exp()), angle)  # (N, k, 5)
    box = ((1 - probiou(boxes, truth, VARIANCE_FLOOR)) * weight).sum()
    distance = rotated_to_distances(point, truth).clamp(0, log_share.shape[-1] - 1 - 0.01)  # (N, k, 4)
    dfl = (focal_loss(log_share, distance) * weight).sum()
    width, height = truth[..., 2:4].clamp(min=1e-6).unbind(-1)
    squareness = (-(width / height).log().square() / SQUARENESS).exp()
    error = (2 * (angle - turn)).sin().square().squeeze(-1)  # (N, k)
    return box, dfl, (squareness * error * weight).sum()


def decode_oriented(decoded: Decoded, rule: Suppression) -> list[Instances]:
    """Suppress duplicates by ProbIoU: the oriented detections of each image, best first, in pixels of the input."""
    images = rotated_suppression(likely_candidates(decoded, rule), **vars(rule), nc=decoded.nc)
    return [_with_hulls(Instances.from_rows(rows[:, :6]), rows[:, [0, 1, 2, 3, 6]]) for rows in images]


def keep_oriented(detections: Instances, rule: Suppression) -> Tensor:
    """Return which detections of one image suppression by ProbIoU keeps; see detect.keep_detections."""
    group = torch.zeros_like(detections.classes) if rule.agnostic else detections.classes
    hidden = fast_suppress(detections.xywhr.float(), group, rule.iou)
    return (~hidden).nonzero().squeeze(1)[: rule.max_det]


def place_oriented(
    detections: Instances, fit: Fit, prototypes: Tensor | None = None, full_size: bool = False
) -> Instances:
    """Move the detections of one image to pixels of the original image. They are not cut at its border."""
    return _with_hulls(detections, fit.rotated_to_original(detections.xywhr))


def _with_hulls(detections: Instances, xywhr: Tensor) -> Instances:
    return replace(detections, boxes=hulls_of(corners_of(xywhr)), xywhr=xywhr)


def evaluate_oriented(
    samples: Sequence[Sample], detections: Instances, names: Mapping[int, str], *, conf: float
) -> ObbMetrics:
    """Compute COCO's numbers by ProbIoU and by the IoU of the rectangles; see detect.evaluate_detections."""
    from .obb_metrics import oriented_metrics

    return oriented_metrics(samples, detections, names, conf=conf)
