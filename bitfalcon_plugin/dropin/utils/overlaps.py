"""Overlap of boxes, masks and points. Written from spec/dropin.md section 5 and spec/pose-obb.md 1.6."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops import boxes as ops_boxes
from ...ops.keypoint_layout import COCO_SIGMAS
from ...tasks.oks import keypoint_similarity

OKS_SIGMA = np.array(COCO_SIGMAS, np.float32)


def box_iou(box1: Any, box2: Any, eps: float = 1e-7) -> Tensor:
    """IoU (n, m) of boxes (n, 4) with boxes (m, 4), xyxy; eps has no effect: boxes of no area overlap nothing."""
    first, second = torch.as_tensor(box1).float(), torch.as_tensor(box2).float()
    return ops_boxes.box_iou(first.reshape(-1, 4), second.reshape(-1, 4).to(first.device))


def bbox_iou(
    box1: Tensor,
    box2: Tensor,
    xywh: bool = True,
    GIoU: bool = False,
    DIoU: bool = False,
    CIoU: bool = False,
    eps: float = 1e-7,
) -> Tensor:
    """IoU (..., 1) of boxes (..., 4) that broadcast, or its generalised, distance or complete form.

    xywh: centre and size instead of corners. GIoU: Rezatofighi et al. 2019, arXiv:1902.09630; DIoU and CIoU: Zheng et
    al. 2020, arXiv:1911.08287.
    """
    if xywh:
        box1, box2 = ops_boxes.xyxy_from_xywh(box1), ops_boxes.xyxy_from_xywh(box2)
    if CIoU:
        return ops_boxes.ciou(box1, box2, eps)[..., None]
    shared = _area(torch.maximum(box1[..., :2], box2[..., :2]), torch.minimum(box1[..., 2:4], box2[..., 2:4]))
    union = _area(box1[..., :2], box1[..., 2:4]) + _area(box2[..., :2], box2[..., 2:4]) - shared + eps
    iou = shared / union
    low, high = torch.minimum(box1[..., :2], box2[..., :2]), torch.maximum(box1[..., 2:4], box2[..., 2:4])
    if DIoU:
        centres = (box1[..., :2] + box1[..., 2:4] - box2[..., :2] - box2[..., 2:4]) / 2
        iou = iou - centres.square().sum(-1) / ((high - low).square().sum(-1) + eps)
    elif GIoU:
        hull = _area(low, high) + eps
        iou = iou - (hull - union) / hull
    return iou[..., None]


def _area(low: Tensor, high: Tensor) -> Tensor:
    """Area (...) between corners (..., 2); 0 where they are not in order."""
    return (high - low).clamp(min=0).prod(-1)


def bbox_ioa(box1: np.ndarray, box2: np.ndarray, iou: bool = False, eps: float = 1e-7) -> np.ndarray:
    """Intersection (n, m) of boxes (n, 4) and (m, 4), xyxy, over the area of box2; iou: over their union."""
    first, second = np.asarray(box1)[:, None], np.asarray(box2)[None]
    sides = np.minimum(first[..., 2:4], second[..., 2:4]) - np.maximum(first[..., :2], second[..., :2])
    shared = sides.clip(0).prod(-1)
    area = (second[..., 2:4] - second[..., :2]).prod(-1)
    if iou:
        area = area + (first[..., 2:4] - first[..., :2]).prod(-1) - shared
    return shared / (area + eps)


def mask_iou(mask1: Tensor, mask2: Tensor, eps: float = 1e-7) -> Tensor:
    """IoU (n, m) of masks of p pixels, (n, p) and (m, p), of zeros and ones."""
    mask1, mask2 = mask1.float(), mask2.float()
    shared = mask1 @ mask2.t()
    return shared / (mask1.sum(1)[:, None] + mask2.sum(1)[None] - shared + eps)


def kpt_iou(kpt1: Tensor, kpt2: Tensor, area: Tensor, sigma: Any, eps: float = 1e-7) -> Tensor:
    """Object keypoint similarity (n, m) of labelled points (n, k, 3) with found points (m, k, 2 or 3).

    A label counts where its third column is not 0. area (n,): of each labelled object in px. sigma (k,): spread of each
    point, as OKS_SIGMA.
    """
    return keypoint_similarity(kpt1, kpt2, area, sigma, eps)
