"""Losses for trainings of one's own, over the house's detection loss.

Written from spec/dropin-helpers.md section 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config.errors import UserError
from ...ops.boxes import ciou, distances_to_boxes, xyxy_from_xywh
from ...ops.instances import Instances
from ...tasks.detect import GAINS, LOSSES, detection_loss
from .metrics import OKS_SIGMA
from .tal import TaskAlignedAssigner, bbox2dist


class VarifocalLoss(nn.Module):
    """Varifocal loss (Zhang et al. 2021, arXiv:2008.13367, equation 2): summed over images, mean over anchors."""

    def __init__(self, gamma: float = 2.0, alpha: float = 0.75):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, pred_score: Tensor, gt_score: Tensor, label: Tensor) -> Tensor:
        """Return the loss of logits (B, A, nc) with targets in [0, 1], and label 1 for positives, 0 otherwise."""
        positive = gt_score * label
        weight = positive + self.alpha * pred_score.sigmoid().pow(self.gamma) * (1 - label)
        with torch.autocast(pred_score.device.type, enabled=False):
            loss = F.binary_cross_entropy_with_logits(pred_score.float(), gt_score.float(), weight, reduction="none")
        return loss.mean(1).sum()


class FocalLoss(nn.Module):
    """Focal loss (Lin et al. 2017, arXiv:1708.02002, equation 5): summed over images, mean over anchors."""

    def __init__(self, gamma: float = 1.5, alpha: float = 0.25):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """Return the loss of logits (B, A, nc) with labels of the same shape; alpha 0 or less: without that weight."""
        entropy = F.binary_cross_entropy_with_logits(pred, label, reduction="none")
        probability = pred.sigmoid()
        missed = label * (1 - probability) + (1 - label) * probability
        loss = entropy * missed.pow(self.gamma)
        if self.alpha > 0:
            loss = loss * (label * self.alpha + (1 - label) * (1 - self.alpha))
        return loss.mean(1).sum()


class DFLoss(nn.Module):
    """Distribution focal loss (Li et al. 2020, arXiv:2006.04388, equation 6)."""

    def __init__(self, reg_max: int = 16):
        super().__init__()
        self.reg_max = reg_max

    def forward(self, pred_dist: Tensor, target: Tensor) -> Tensor:
        """Return (n, 1): logits (n * 4, reg_max) against distances (n, 4) in cells, mean of the four sides."""
        target = target.clamp(0, self.reg_max - 1 - 0.01)
        below = target.floor()
        shares = torch.stack([below + 1 - target, target - below], -1)  # (n, 4, 2)
        bins = torch.stack([below, below + 1], -1).long()
        logs = pred_dist.log_softmax(-1).reshape(*target.shape, -1).gather(-1, bins)
        return -(logs * shares).sum(-1).mean(-1, keepdim=True)


class BboxLoss(nn.Module):
    """CIoU and distribution focal loss of the positives, weighted by their soft targets."""

    def __init__(self, reg_max: int = 16):
        super().__init__()
        self.dfl_loss = DFLoss(reg_max) if reg_max > 1 else None

    def forward(
        self,
        pred_dist: Tensor,
        pred_bboxes: Tensor,
        anchor_points: Tensor,
        target_bboxes: Tensor,
        target_scores: Tensor,
        target_scores_sum: Tensor,
        fg_mask: Tensor,
        *more: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return both losses. pred_dist (B, A, 4 * reg_max), boxes (B, A, 4) xyxy in cells, fg_mask (B, A) bool."""
        weight = target_scores.sum(-1)[fg_mask]  # (n,)
        box = ((1 - ciou(pred_bboxes[fg_mask], target_bboxes[fg_mask])) * weight).sum() / target_scores_sum
        if self.dfl_loss is None:
            return box, box.new_zeros(())
        distances = bbox2dist(anchor_points, target_bboxes, self.dfl_loss.reg_max - 1)[fg_mask]
        logits = pred_dist[fg_mask].reshape(-1, self.dfl_loss.reg_max)
        return box, (self.dfl_loss(logits, distances)[:, 0] * weight).sum() / target_scores_sum


class KeypointLoss(nn.Module):
    """The loss of keypoints by their similarity (spec/pose-obb.md 1.5). sigmas (k,): spread of each point."""

    def __init__(self, sigmas: Any = OKS_SIGMA):
        super().__init__()
        self.sigmas = torch.as_tensor(sigmas)

    def forward(self, pred_kpts: Tensor, gt_kpts: Tensor, kpt_mask: Tensor, area: Tensor) -> Tensor:
        """Return the loss of points (n, k, 2 or 3). kpt_mask (n, k): which are labelled. area (n, 1) of the objects."""
        squares = (pred_kpts[..., :2] - gt_kpts[..., :2]).square().sum(-1)
        exponent = squares / (8 * self.sigmas.to(squares).square() * (area + 1e-9))
        counted = (kpt_mask != 0).to(squares)
        share = counted.shape[1] / (counted.sum(1, keepdim=True) + 1e-9)
        return (share * counted * (1 - (-exponent).exp())).mean()


class v8DetectionLoss:
    """The loss of a detector: criterion(preds, batch) -> (loss times the batch size, (box, cls, dfl) without gradient).

    model: a network whose last row is a head; the gains are box, cls and dfl of model.args.
    """

    def __init__(self, model: nn.Module, tal_topk: int = 10, *more: Any):
        head = model.model[-1]
        given = getattr(model, "args", None) or {}
        given = given if isinstance(given, Mapping) else vars(given)
        gains = {LOSSES[name]: given.get(LOSSES[name], gain) for name, gain in GAINS.items()}
        self.hyp = SimpleNamespace(**{**given, **gains})
        self.bce = nn.BCEWithLogitsLoss(reduction="none")
        self.nc, self.reg_max = head.nc, head.reg_max
        self.no, self.use_dfl = self.nc + 4 * self.reg_max, self.reg_max > 1
        self.stride = torch.as_tensor(getattr(model, "stride", getattr(head, "stride", None))).float()
        self.device = next(model.parameters()).device
        self.assigner = TaskAlignedAssigner(tal_topk, self.nc, alpha=0.5, beta=6.0)
        self.bbox_loss = BboxLoss(self.reg_max).to(self.device)
        self.proj = torch.arange(self.reg_max, dtype=torch.float, device=self.device)

    def __call__(self, preds: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Compute the loss of raw outputs, as training and as evaluation gives them.

        batch: batch_idx (n,), cls (n,) or (n, 1), bboxes (n, 4), centre and size as shares of the image.
        """
        raw, sizes = self.raw_outputs(preds)
        strides = self.stride.tolist()
        device = raw["boxes"].device
        height, width = (side * strides[0] for side in sizes[0])
        shares = torch.as_tensor(batch["bboxes"], device=device).float().reshape(-1, 4)
        boxes = xyxy_from_xywh(shares) * shares.new_tensor([width, height] * 2)
        classes, image = (torch.as_tensor(batch[key], device=device).reshape(-1).long() for key in ("cls", "batch_idx"))
        gains = {name: getattr(self.hyp, setting) for name, setting in LOSSES.items()}
        labels = Instances(boxes, classes, image=image)
        losses = detection_loss(raw, labels, sizes=sizes, strides=strides, gains=gains)
        items = torch.stack([losses[name] for name in LOSSES])
        return items.sum() * len(raw["boxes"]), items.detach()

    def raw_outputs(self, preds: Any) -> tuple[Mapping[str, Tensor], list[tuple[int, int]]]:
        """Return logits of boxes (B, 4 * reg_max, A) and scores (B, nc, A), and the (h, w) of the levels.

        preds: a dict of these, or maps (B, 4 * reg_max + nc, h, w) of the levels; or a tuple that ends with these.
        """
        if isinstance(preds, tuple):
            preds = preds[-1]
        if isinstance(preds, Mapping) and not hasattr(preds, "sizes"):
            return preds, [tuple(map_.shape[-2:]) for map_ in preds["feats"]]
        if isinstance(preds, Mapping):
            return preds, list(preds.sizes)
        flat = torch.cat([map_.flatten(2) for map_ in preds], 2)  # (B, no, A)
        boxes, scores = flat.split((4 * self.reg_max, self.nc), 1)
        return {"boxes": boxes, "scores": scores}, [tuple(map_.shape[-2:]) for map_ in preds]

    def bbox_decode(self, anchor_points: Tensor, pred_dist: Tensor) -> Tensor:
        """Return boxes (B, A, 4) xyxy in cells from logits (B, A, 4 * reg_max) about anchor points (A, 2)."""
        if self.use_dfl:
            pred_dist = pred_dist.unflatten(-1, (4, -1)).softmax(-1) @ self.proj.to(pred_dist)
        return distances_to_boxes(anchor_points, pred_dist)


class v8ClassificationLoss:
    """The loss of a classifier: criterion(preds, batch) -> (cross-entropy, the same without gradient)."""

    def __call__(self, preds: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """preds: logits (B, nc), or (probabilities, logits). batch: cls (B,)."""
        logits = preds[1] if isinstance(preds, (list, tuple)) else preds
        loss = F.cross_entropy(logits, batch["cls"].long())
        return loss, loss.detach()


class _OfModel:
    """The loss of another task, as the model computes it: criterion(preds, batch) is model.loss(batch, preds)."""

    task = ""

    def __init__(self, model: nn.Module, *more: Any):
        if getattr(model, "task", None) != self.task or not hasattr(model, "loss"):
            raise UserError(f"{type(self).__name__} needs a model of the task {self.task}, as YOLO(...).model is one.")
        self.model = model

    def __call__(self, preds: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the loss times the number of images, and the losses without gradient."""
        return self.model.loss(batch, preds)


class v8SegmentationLoss(_OfModel):
    """The loss of a segmenter; its batch also has img and masks."""

    task = "segment"


class v8PoseLoss(_OfModel):
    """The loss of a finder of keypoints."""

    task = "pose"


class v8OBBLoss(_OfModel):
    """The loss of a detector of oriented boxes."""

    task = "obb"


class E2EDetectLoss:
    """The loss of a head with two sets of branches, which no graph here has."""

    def __init__(self, *args: Any, **kwargs: Any):
        raise UserError("E2EDetectLoss is for heads with two sets of branches, and no graph here has one.")
