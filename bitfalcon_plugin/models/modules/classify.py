"""The classification head: class logits of a whole image, from the average of its features.

Global average pooling before one linear layer (Lin et al. 2013, arXiv:1312.4400). Written from
spec/segment-classify.md 2.2. Attribute names are the keys of published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .conv import Conv
from .head import Raw

FEATURES = 1280  # channels before the linear layer, at every scale
NORM = (1e-5, 0.1)  # eps and momentum of batch norm in classification models: the defaults of torch


class Classify(nn.Module):
    """1x1 convolution to FEATURES channels, mean over all positions, dropout, linear layer. channels: of its one row.

    dropout: the layer nn.Dropout, whose share p is 0 until a training sets it.
    """

    def __init__(self, nc: int, *, channels: Sequence[int]):
        super().__init__()
        if len(channels) != 1:
            raise ValueError(f"it reads one row, not {len(channels)}")
        self.nc = nc
        self.conv = Conv(channels[0], FEATURES)
        self.dropout = nn.Dropout(0.0)
        self.linear = nn.Linear(FEATURES, nc)

    def forward(self, maps: Sequence[Tensor]) -> Raw:
        """One map (B, C, H, W) of any size -> Raw of the class logits (B, nc)."""
        features = self.conv(maps[0]).mean((2, 3))  # (B, FEATURES)
        return Raw({"logits": self.linear(self.dropout(features))})

    def class_layers(self) -> list[str]:
        """The layers that have a row for each class, by their names in the head."""
        return ["linear"]

    def decode(self, raw: Mapping[str, Tensor], sizes: Sequence = (), strides: Sequence[float] = ()) -> Tensor:
        """Raw outputs -> (B, nc) float32: class probabilities, which add up to 1. sizes, strides: unused."""
        return raw["logits"].float().softmax(1)
