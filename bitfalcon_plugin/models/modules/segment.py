"""The segmentation head: boxes and classes as of Detect, prototype masks, and coefficients of each anchor.

The mask of an object is a sum of prototypes, weighted by its coefficients (YOLACT, Bolya et al. 2019,
arXiv:1904.02689). Written from spec/segment-classify.md 1.2. Attribute names are the keys of published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .bit_folded import fold
from .conv import Conv
from .head import DetectMore, Raw, more_branches


class Proto(nn.Module):
    """Prototype masks: (B, c_in, H, W) -> (B, c_out, 2H, 2W). width: channels between the first and the last layer."""

    def __init__(self, c_in: int, width: int = 256, c_out: int = 32):
        super().__init__()
        self.cv1 = Conv(c_in, width, 3)
        self.upsample = nn.ConvTranspose2d(width, width, 2, 2, bias=True)
        self.cv2 = Conv(width, width, 3)
        self.cv3 = Conv(width, c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


class Segment(DetectMore):
    """Detect with prototypes of the finest level, and mask coefficients of every anchor.

    masks: number of prototypes. width: channels inside the branch of the prototypes.

    Raw outputs also have coefficients (Tensor[B, masks, A]), without bounds, and prototypes (Tensor[B, masks, H/4,
    W/4]) for images of (H, W) and a finest level of stride 8.
    """

    output = "coefficients"

    def __init__(
        self,
        nc: int,
        masks: int = 32,
        width: int = 256,
        reg_max: int = 16,
        *,
        channels: Sequence[int],
        legacy: bool = False,
        class_width: int = 0,
    ):
        super().__init__(nc, reg_max, channels=channels, legacy=legacy, class_width=class_width)
        self.proto = Proto(channels[0], width, masks)
        self.cv4 = more_branches(channels, masks)

    def forward(self, maps: Sequence[Tensor]) -> Raw:
        raw = super().forward(maps)
        raw["prototypes"] = self.proto(maps[0])
        return raw

    def fuse(self) -> None:
        """Fold the branches; a ternary layer gives the next one codes."""
        super().fuse()
        fold(self.proto.cv1)
        fold(self.proto.cv2, self.proto.cv3)

    def decode_at(self, raw: dict[str, Tensor], points: Tensor, stride: Tensor) -> Tensor:
        """Raw outputs -> (B, 4+nc+masks, A) float32: as of Detect, then the mask coefficients."""
        return torch.cat((super().decode_at(raw, points, stride), raw["coefficients"].float()), 1)
