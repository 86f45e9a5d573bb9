"""What folding makes of a ternary layer: its codes and scales alone, with the batch norm and SiLU behind it inside.

For inference; the weights that were trained are not here any more. A layer whose output one other layer reads gives it codes
instead of floats, so that nothing is converted in between (spec/bit.md section 4.1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .integer import Convolution, Geometry
from .quantised import Quantising


class FrozenConv2d(Quantising):
    """A convolution of codes: images (B, I, H, W) -> (B, O, H', W').

    Buffers: codes (int8, O x I/groups x kh x kw), scale and bias (float32, O), act_scale (float32, scalar; absent with act="given",
    "none" and "dynamic"). silu: whether the output goes through SiLU. It trains nothing and asks for no gradient.
    """

    dims = (-3, -2, -1)

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor, geometry: Geometry, *, rule: str, act: str, backend: str,
                 act_scale: Tensor | None = None, silu: bool = False):
        super().__init__()
        self._start(act, backend)
        self.observing = False  # also in training mode
        self.rule, self.geometry, self.silu = rule, geometry, silu
        self.follower: tuple[FrozenConv2d, ...] = ()  # in a tuple: it is no part of this layer
        for name, value in (("codes", codes), ("scale", scale), ("bias", bias), ("act_scale", act_scale)):
            self.register_buffer(name, value)

    def codes_and_scales(self) -> tuple[Tensor, Tensor]:
        """Codes (int8, the weights' shape) and the scale of each output channel (O)."""
        return self.codes, self.scale

    @property
    def kind(self) -> str:
        """Kind of weights, of integer.KINDS."""
        return kind_of(self.rule, self.codes.shape, self.geometry.groups)

    def extra_repr(self) -> str:
        """For print: the weights' shape and kind."""
        return f"{'x'.join(map(str, self.codes.shape))}, {self.kind}, act={self.act}{', silu' if self.silu else ''}"

    def _made_of(self) -> tuple[Tensor, Tensor]:
        return self.scale, self.codes

    def _dense(self) -> Tensor:
        return self.codes.to(self.scale.dtype) * self.scale.view(-1, *[1] * (self.codes.ndim - 1))

    def _geometry(self) -> Geometry:
        return self.geometry

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        g = self.geometry
        return F.conv2d(x, weight, self.bias, g.stride, g.padding, g.dilation, g.groups)

    def _convolve(self, ready: Convolution, codes: Tensor) -> Tensor:
        return ready(codes) if codes.ndim == 4 else ready(codes[None])[0]

    def _finished(self, y: Tensor) -> Tensor:
        return F.silu(y) if self.silu else y

    def _silu(self) -> bool:
        return self.silu

    def _following(self) -> Tensor | None:
        return self.follower[0].act_scale if self.follower else None


class FrozenLinear(FrozenConv2d):
    """The same for a linear layer: (..., n_in) -> (..., n_out). codes: (n_out, n_in)."""

    dims = (-1,)

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)

    def _convolve(self, ready: Convolution, codes: Tensor) -> Tensor:
        return by_rows(ready, codes)


def by_rows(ready: Convolution, codes: Tensor) -> Tensor:
    """A linear layer as a 1x1 convolution: codes (..., n_in) -> (..., n_out)."""
    flat = codes.reshape(1, -1, 1, codes.shape[-1]).permute(0, 3, 1, 2)  # (1, n_in, rows, 1)
    return ready(flat).permute(0, 2, 3, 1).reshape(*codes.shape[:-1], -1)


def kind_of(rule: str, shape: torch.Size, groups: int) -> str:
    """Of integer.KINDS, for weights (O, I/groups, ...) by a rule of ternary.RULES."""
    depthwise = groups > 1 and groups == shape[0] and shape[1] == 1
    return ("int8" if rule == "int8" else "ternary") + (" depthwise" if depthwise else "")


def chain(*blocks: nn.Module) -> None:
    """Let each block (with a layer `conv`) give codes to the next, where both are folded ternary layers with SiLU between them.

    Only for blocks whose output the next alone reads.
    """
    for first, second in zip((block.conv for block in blocks), (block.conv for block in blocks[1:])):
        if isinstance(first, FrozenConv2d) and isinstance(second, FrozenConv2d) and first.silu and second.act == "static":
            first.follower = (second,)
