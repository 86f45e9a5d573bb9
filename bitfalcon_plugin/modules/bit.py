"""The detection head with ternary convolutions (spec/bit.md section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence

from .head import Detect, blocks_of, share
from .ternary import BitConv2d


class BitDetect(Detect):
    """The detection head with ternary convolutions in both branches; its last layers, distributions and decoding stay float.

    Same tensors as Detect with the depthwise-separable class branch, and an `act_scale` for each quantised layer that
    quantises its own input; a state without those loads (see BitConv2d). Each level is quantised once, by the first layer
    of its box branch, for both branches. Depthwise layers have int8 weights. Raw outputs are those of Detect.
    """

    def __init__(self, nc: int, reg_max: int = 16, *, channels: Sequence[int], class_width: int = 0):
        super().__init__(nc, reg_max, channels=channels, class_width=class_width)
        for block in (block for branch in (*self.cv2, *self.cv3) for block in blocks_of(branch)):
            rule = "int8" if block.conv.groups > 1 else "absmean"
            block.conv = BitConv2d.of(block.conv, rule=rule)
        share(self)
