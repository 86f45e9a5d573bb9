"""Pose: detection with keypoints, which every anchor gives beside its box.

Papers: YOLO-Pose, Maji et al. 2022, arXiv:2204.06806 (points from the anchors, and object keypoint similarity as their
loss). Written from spec/pose-obb.md 1.2, 1.5 and 1.6; the numbers agree with the recorded loss vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.detector import Detector
from ..ops.boxes import anchor_points
from ..ops.instances import Instances
from ..ops.keypoint_layout import KeypointLayout
from ..ops.letterbox import Fit
from ..ops.nms import Suppression
from .assign import Assignment
from .detect import Decoded, box_losses, suppressed_rows

if TYPE_CHECKING:  # predicting needs neither
    from ..data.dataset import Sample
    from .pose_metrics import PoseMetrics

# loss -> setting of its gain
LOSSES = {"box_loss": "box", "pose_loss": "pose", "kobj_loss": "kobj", "cls_loss": "cls", "dfl_loss": "dfl"}
GAINS = {"box_loss": 7.5, "pose_loss": 12.0, "kobj_loss": 1.0, "cls_loss": 0.5, "dfl_loss": 1.5}  # of cfg/default.yaml


def pose_loss(
    raw: Mapping[str, Tensor],
    labels: Instances,
    *,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    gains: Mapping[str, float] = GAINS,
    class_weights: Tensor | None = None,
    sigmas: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Compute the losses of raw outputs against labels, in float32 whatever autocast says.

    raw, sizes, strides, gains and class_weights: as in detect.detection_loss; raw also has "keypoints" (B, K*D, A), D
    numbers for each of K points: x, y and with D = 3 the logit of the visibility. labels: boxes and keypoints (n, K, 3)
    in pixels of the network input. sigmas (K,): spreads of the points, by default those of KeypointLayout.sigmas.

    Returns LOSSES -> scalar with its gain. pose_loss is the mean over all positives and points of 1 - OKS of the point,
    times K over the number of labelled points of the label; points that are not labelled count 0. kobj_loss is the
    mean cross-entropy of the visibility, 0 for D = 2. Without positives both are 0.
    """
    with torch.autocast(raw["boxes"].device.type, enabled=False):
        losses, assignment = box_losses(raw, labels, sizes, strides, gains, class_weights)
        pose, visibility = _keypoint_losses(raw["keypoints"].float(), labels, assignment, sizes, strides, sigmas)
        losses |= {"pose_loss": pose * gains["pose_loss"], "kobj_loss": visibility * gains["kobj_loss"]}
        return {name: losses[name] for name in gains if name in losses}


def model_options(model: Detector) -> dict[str, object]:
    """The arguments of the loss that a model states: the spreads of its keypoints."""
    return {"sigmas": model.keypoints.sigmas}


def point_values(maps: Mapping[str, Tensor], keypoints: KeypointLayout) -> tuple[str, ...]:
    """What an anchor has behind its classes: x, y and perhaps the visibility of each keypoint (see Task.further)."""
    return ("x", "y", "visibility")[: keypoints.columns] * keypoints.count


def decode_poses(decoded: Decoded, rule: Suppression) -> list[Instances]:
    """Suppress duplicates: the detections of each image, best first, with their keypoints (n, K, D).

    Boxes are xyxy, and points x, y, in pixels of the network input; a third number is the visibility, 0 to 1.
    """
    shape = decoded.kpt_shape
    return [
        replace(Instances.from_rows(rows[:, :6]), keypoints=rows[:, 6:].unflatten(1, shape))
        for rows in suppressed_rows(decoded, rule)
    ]


def place_poses(
    detections: Instances, fit: Fit, prototypes: Tensor | None = None, full_size: bool = False
) -> Instances:
    """Move the detections of one image and their keypoints to pixels of the original image, clipped to it."""
    points = fit.points_to_original(detections.keypoints[..., :2])
    keypoints = torch.cat([points, detections.keypoints[..., 2:]], -1)
    return replace(detections, boxes=fit.to_original(detections.boxes), keypoints=keypoints)


def evaluate_poses(
    samples: Sequence[Sample], detections: Instances, names: Mapping[int, str], *, conf: float
) -> PoseMetrics:
    """Compute COCO's numbers of boxes and of keypoints; see detect.evaluate_detections.

    detections: with keypoints in pixels of the original images. The sigmas are those of the samples' layout.
    """
    from .pose_metrics import pose_metrics

    return pose_metrics(samples, detections, names, samples[0].layout.sigmas, conf=conf)


def _keypoint_losses(
    points: Tensor,
    labels: Instances,
    assignment: Assignment,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    sigmas: Sequence[float] | None,
) -> tuple[Tensor, Tensor]:
    """Return pose and visibility loss over all claims (n, k), of which those that were not won count nothing.

    points (B, K*D, A): raw. Distances and areas are in strides of each anchor.
    """
    if labels.keypoints is None:  # no objects
        return points.sum() * 0, points.sum() * 0
    count = labels.keypoints.shape[1]
    anchors, stride = anchor_points(sizes, strides, device=points.device)  # (A, 2), (A,)
    layout = KeypointLayout(count, points.shape[1] // count)
    spread = points.new_tensor(layout.sigmas if sigmas is None else sigmas)  # (K,)
    chosen = points[labels.image[:, None], :, assignment.anchor].unflatten(-1, layout.shape)  # (n, k, K, D)
    cell, side = anchors[assignment.anchor], stride[assignment.anchor][..., None]  # (n, k, 2), (n, k, 1)
    place = chosen[..., :2] * 2 + (cell - 0.5)[:, :, None]  # (n, k, K, 2)
    truth = labels.keypoints.float()
    squares = (place - truth[:, None, :, :2] / side[..., None]).square().sum(-1)  # (n, k, K)
    area = (labels.boxes[:, 2:] - labels.boxes[:, :2]).float().prod(-1)[:, None, None] / side.square()  # (n, k, 1)
    error = 1 - (-squares / (8 * spread.square() * (area + 1e-9))).exp()
    labelled = (truth[..., 2] != 0).float()[:, None]  # (n, 1, K)
    factor = count / (labelled.sum(-1, keepdim=True) + 1e-9)
    won = assignment.won[..., None].float()  # (n, k, 1)
    total = (won.sum() * count).clamp(min=1)
    pose = (factor * labelled * error * won).sum() / total
    if layout.columns == 2:
        return pose, points.sum() * 0
    target = labelled.expand_as(chosen[..., 2])
    entropy = F.binary_cross_entropy_with_logits(chosen[..., 2], target, reduction="none")
    return pose, (entropy * won).sum() / total
