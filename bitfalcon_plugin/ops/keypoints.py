"""Keypoints of objects, (n, K, 3) x, y and visibility: cut to a region, and exchanged in a mirror.

Written from spec/pose-obb.md 1.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cut_keypoints(keypoints: Tensor, bounds: Tensor) -> Tensor:
    """Move keypoints outside of a region onto its border, where they have the visibility 0.

    keypoints (n, K, 3). bounds (4,) or (n, 4): x1, y1, x2, y2, for all objects or for each. The border is inside.
    """
    low, high = bounds[..., None, :2], bounds[..., None, 2:]
    points = keypoints[..., :2]
    inside = ((points >= low) & (points <= high)).all(-1, keepdim=True)
    return torch.cat([torch.minimum(torch.maximum(points, low), high), keypoints[..., 2:] * inside], -1)


def hide_keypoints(keypoints: Tensor, bounds: Tensor) -> Tensor:
    """Give keypoints inside of a region the visibility 0. keypoints (n, K, 3); bounds (4,): x1, y1, x2, y2."""
    points = keypoints[..., :2]
    inside = ((points >= bounds[:2]) & (points <= bounds[2:])).all(-1, keepdim=True)
    return torch.cat([points, keypoints[..., 2:] * ~inside], -1)


def exchange_keypoints(keypoints: Tensor, mirrored: Tensor, flip: Sequence[int]) -> Tensor:
    """Exchange the keypoints (n, K, 3) of the objects that are `mirrored`, (n,) bool.

    flip: for each keypoint the one that takes its place in a mirror. The positions must be mirrored already.
    """
    return torch.where(mirrored[:, None, None], keypoints[:, list(flip)], keypoints)
