"""Object keypoint similarity: what IoU is for boxes, for keypoints (cocodataset.org, keypoint evaluation).

Written from spec/pose-obb.md 1.6; the numbers agree with recorded ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.instances import Instances

BOX_SHARE = 0.53  # the area of an object without an outline, as a share of its box


def keypoint_similarity(
    truth: Tensor, points: Tensor, area: Tensor, sigmas: Sequence[float] | Tensor, eps: float = 1e-7
) -> Tensor:
    """OKS (n, m) in [0, 1] of labelled keypoints (n, K, 3) with found ones (m, K, 2 or 3).

    A label counts where its third number is not 0; without any the OKS is 0. area (n,): of each labelled object, in the
    unit of the points squared. sigmas (K,): spread of each point.
    """
    spread = torch.as_tensor(sigmas, dtype=truth.dtype, device=truth.device)
    squares = (truth[:, None, :, :2] - points[None, :, :, :2]).square().sum(-1)  # (n, m, K)
    exponent = squares / (8 * spread.square() * (area[:, None, None] + eps))
    counts = (truth[..., 2] != 0).to(truth.dtype)[:, None]  # (n, 1, K)
    return ((-exponent).exp() * counts).sum(-1) / (counts.sum(-1) + eps)


def similarity_of(detections: Instances, labels: Instances, sigmas: Sequence[float]) -> Tensor:
    """OKS (n, m) of the keypoints of n detections with those of m labels, in the area that COCO takes for the boxes."""
    area = BOX_SHARE * (labels.boxes[:, 2:] - labels.boxes[:, :2]).double().prod(1)
    truth, points = labels.keypoints, detections.keypoints
    if truth is None or points is None:  # one of the two is empty
        return torch.zeros(len(detections), len(labels), dtype=torch.float64)
    return keypoint_similarity(truth.double(), points.double(), area, sigmas).T
