"""Ternary layers for small models. For now the head's interface only."""

from __future__ import annotations

from collections.abc import Sequence

from .head import Detect


class BitDetect(Detect):
    """The detection head that is to have ternary convolutions; for now in full precision.

    Same tensors, names and outputs as Detect with the depthwise-separable class branch, so that a checkpoint of one
    loads into the other. The ternary convolutions (BitNet b1.58, Ma et al. 2024, arXiv:2402.17764) come with their own
    issue; until then this head computes in float.
    """

    def __init__(self, nc: int, reg_max: int = 16, *, channels: Sequence[int], class_width: int = 0):
        super().__init__(nc, reg_max, channels=channels, class_width=class_width)
