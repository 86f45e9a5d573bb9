"""The head for oriented boxes: the distributions of Detect in the frame of each box, classes, and an angle.

Written from spec/pose-obb.md 2.1 and 2.3. Attribute names are the keys of published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...ops.rotated import angles_from_logits, distances_to_rotated
from .head import DetectMore, more_branches


class OBB(DetectMore):
    """Detect with an angle of every anchor. angles: outputs for it, always 1.

    Raw outputs also have angles (Tensor[B, 1, A]), logits. Distances lie along the axes of the box.
    """

    output = "angles"

    def __init__(
        self,
        nc: int,
        angles: int = 1,
        reg_max: int = 16,
        *,
        channels: Sequence[int],
        legacy: bool = False,
        class_width: int = 0,
    ):
        super().__init__(nc, reg_max, channels=channels, legacy=legacy, class_width=class_width)
        if angles != 1:
            raise ValueError(f"a box has one angle, not {angles}")
        self.cv4 = more_branches(channels, angles)

    def decode_at(self, raw: dict[str, Tensor], points: Tensor, stride: Tensor) -> Tensor:
        """Raw outputs -> (B, 4+nc+1, A) float32: xywh in pixels of the network input, class probabilities, angle.

        The angle is in radians, from -pi/4 to 3 pi/4 (see ops.rotated).
        """
        angles = angles_from_logits(raw["angles"].float())  # (B, 1, A)
        distances = self.dfl(raw["boxes"]).transpose(1, 2)  # (B, A, 4) in strides
        boxes = distances_to_rotated(points.t(), distances, angles.transpose(1, 2))  # (B, A, 5)
        xywh = boxes.transpose(1, 2)[:, :4] * stride  # (B, 4, A)
        return torch.cat((xywh, raw["scores"].float().sigmoid(), angles), 1)
