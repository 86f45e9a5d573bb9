"""The pose head: boxes and classes as of Detect, and the keypoints of each anchor.

Keypoints are offsets from the anchor, one set for all classes (YOLO-Pose, Maji et al. 2022, arXiv:2204.06806). Written
from spec/pose-obb.md 1.1 and 1.2. Attribute names are the keys of published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .head import DetectMore, more_branches


class Pose(DetectMore):
    """Detect with keypoints of every anchor.

    kpt_shape: number of keypoints K, and columns of each, D: 2 (x, y) or 3 (x, y, visibility).

    Raw outputs also have keypoints (Tensor[B, K*D, A]): x y [v] of the first point, of the second, ...; x and y without
    bounds, v a logit.
    """

    output = "keypoints"

    def __init__(
        self,
        nc: int,
        kpt_shape: Sequence[int],
        reg_max: int = 16,
        *,
        channels: Sequence[int],
        legacy: bool = False,
        class_width: int = 0,
    ):
        super().__init__(nc, reg_max, channels=channels, legacy=legacy, class_width=class_width)
        self.kpt_shape = tuple(kpt_shape)
        self.cv4 = more_branches(channels, self.kpt_shape[0] * self.kpt_shape[1])

    def decode_at(self, raw: dict[str, Tensor], points: Tensor, stride: Tensor) -> Tensor:
        """Raw outputs -> (B, 4+nc+K*D, A) float32: as of Detect, then keypoints in pixels of the network input.

        An offset is doubled, and counts from the upper left corner of the anchor's cell. Visibilities are
        probabilities. The order is that of the raw outputs.
        """
        keypoints = raw["keypoints"].float()
        columns = keypoints.view(keypoints.shape[0], *self.kpt_shape, -1)  # (B, K, D, A)
        xy = (2 * columns[:, :, :2] + points - 0.5) * stride
        pixels = torch.cat((xy, columns[:, :, 2:].sigmoid()), 2).flatten(1, 2)  # (B, K*D, A)
        return torch.cat((super().decode_at(raw, points, stride), pixels), 1)
