"""Anchor points, decoding of box sides, and the assignment of anchors.

Written from spec/dropin-helpers.md section 10.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...ops.boxes import anchor_points as house_points
from ...ops.boxes import boxes_to_distances
from ...ops.instances import Instances
from ...ops.rotated import corners_of, hulls_of
from ...tasks.assign import assign

Targets = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def make_anchors(
    feats: Sequence[Tensor], strides: Sequence[float] | Tensor, grid_cell_offset: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Return the points (A, 2) of all cells of maps (B, C, H, W), in cells, and the stride (A, 1) of each."""
    sizes = [tuple(map_.shape[-2:]) for map_ in feats]
    steps = [float(stride) for stride in strides]
    points, stride = house_points(sizes, steps, device=feats[0].device, dtype=feats[0].dtype)
    return points - 0.5 + grid_cell_offset, stride[:, None]


def dist2bbox(distance: Tensor, anchor_points: Tensor, xywh: bool = True, dim: int = -1) -> Tensor:
    """Return boxes from distances to left, top, right, bottom along `dim` about anchor points; xyxy if not xywh."""
    left_top, right_bottom = distance.chunk(2, dim)
    low, high = anchor_points - left_top, anchor_points + right_bottom
    return torch.cat(((low + high) / 2, high - low) if xywh else (low, high), dim)


def bbox2dist(anchor_points: Tensor, bbox: Tensor, reg_max: float | None = None) -> Tensor:
    """Return the distances (..., 4) from anchor points to the sides of boxes xyxy, within 0 and reg_max - 0.01."""
    distances = boxes_to_distances(anchor_points, bbox)
    return distances if reg_max is None else distances.clamp(0, reg_max - 0.01)


def dist2rbox(pred_dist: Tensor, pred_angle: Tensor, anchor_points: Tensor, dim: int = -1) -> Tensor:
    """Return centre and size of oriented boxes from distances in their frame along `dim`, and angles in radians."""
    left_top, right_bottom = pred_dist.chunk(2, dim)
    along, across = ((right_bottom - left_top) / 2).split(1, dim)
    cos, sin = pred_angle.cos(), pred_angle.sin()
    centre = torch.cat([along * cos - across * sin, along * sin + across * cos], dim) + anchor_points
    return torch.cat([centre, left_top + right_bottom], dim)


class TaskAlignedAssigner(nn.Module):
    """The assignment of anchors to ground truths by tasks.assign: score^alpha * CIoU^beta, the topk best."""

    def __init__(self, topk: int = 13, num_classes: int = 80, alpha: float = 1.0, beta: float = 6.0, eps: float = 1e-9):
        super().__init__()
        self.topk, self.num_classes, self.alpha, self.beta, self.eps = topk, num_classes, alpha, beta, eps
        self.bg_idx = num_classes

    @torch.no_grad()
    def forward(
        self,
        pd_scores: Tensor,
        pd_bboxes: Tensor,
        anc_points: Tensor,
        gt_labels: Tensor,
        gt_bboxes: Tensor,
        mask_gt: Tensor,
    ) -> Targets:
        """Return target_labels (B, A), target_bboxes (B, A, 4), target_scores (B, A, nc), fg_mask, target_gt_idx.

        pd_scores (B, A, nc) in [0, 1], pd_bboxes (B, A, 4) xyxy and anc_points (A, 2) in px; gt_labels (B, M, 1),
        gt_bboxes (B, M, 4), mask_gt (B, M, 1): which of the M rows are ground truths. An anchor without one has the
        index 0, and scores of 0.
        """
        image, row = mask_gt.squeeze(-1).bool().nonzero().unbind(1)  # (N,) each
        labels = gt_labels[image, row].reshape(-1).long()
        index = torch.zeros(pd_scores.shape[:2], dtype=torch.long, device=pd_scores.device)
        foreground, scores = torch.zeros_like(index, dtype=torch.bool), torch.zeros_like(pd_scores)
        if len(image):
            parts = self._assigned(pd_scores, pd_bboxes, anc_points, labels, gt_bboxes[image, row], image)
            truth, anchor, weight = parts  # (P,) each
            index[image[truth], anchor] = row[truth]
            foreground[image[truth], anchor] = True
            scores[image[truth], anchor, labels[truth]] = weight.to(scores.dtype)
        if not gt_bboxes.shape[1]:
            return index, pd_bboxes.new_zeros(*index.shape, gt_bboxes.shape[-1]), scores, foreground, index
        boxes = gt_bboxes.gather(1, index[..., None].expand(-1, -1, gt_bboxes.shape[-1]))
        return gt_labels.squeeze(-1).long().gather(1, index), boxes, scores, foreground, index

    def _assigned(
        self, scores: Tensor, boxes: Tensor, points: Tensor, labels: Tensor, truths: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs of N ground truths and anchors: index of the ground truth, anchor, and weight (P,)."""
        targets = self._targets(truths, labels, image)
        found = assign(scores, boxes, points, targets, topk=self.topk, alpha=self.alpha, beta=self.beta)
        truth, place = found.won.nonzero().unbind(1)
        return truth, found.anchor[truth, place], found.weight[truth, place]

    def _targets(self, truths: Tensor, labels: Tensor, image: Tensor) -> Instances:
        return Instances(truths, labels, image=image)


class RotatedTaskAlignedAssigner(TaskAlignedAssigner):
    """The same for oriented boxes (..., 5) xywhr, with ProbIoU; candidates lie inside the turned ground truth.

    A ground truth with a side below 2 px gets no anchor.
    """

    def _targets(self, truths: Tensor, labels: Tensor, image: Tensor) -> Instances:
        return Instances(hulls_of(corners_of(truths)), labels, image=image, xywhr=truths)


__all__ = ["RotatedTaskAlignedAssigner", "TaskAlignedAssigner", "bbox2dist", "dist2bbox", "dist2rbox", "make_anchors"]
