"""Folded ternary layers, for inference: codes and scales, with the batch norm and the SiLU behind the layer inside.

The float weights that were trained are not in a folded layer. A layer whose output only one other layer reads gives
codes to that layer instead of floats, so that nothing is converted in between (spec/bit.md section 4.1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bit_activations import QuantisedLayer
from .bit_kernels import Convolution, Geometry


class FrozenConv2d(QuantisedLayer):
    """A convolution of codes: images (B, I, H, W) -> (B, O, H', W'). It trains nothing and asks for no gradient.

    Buffers: codes (int8, O x I/groups x kh x kw), scale and bias (float32, O), act_scale (float32, scalar; absent with
    act="given", "none" and "dynamic"). silu: apply SiLU to the output.
    """

    dims = (-3, -2, -1)

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        bias: Tensor,
        geometry: Geometry,
        *,
        rule: str,
        act: str,
        backend: str,
        act_scale: Tensor | None = None,
        silu: bool = False,
    ):
        super().__init__()
        self._start(act, backend)
        self.observing = False  # also in training mode
        self.rule, self.geometry, self.silu = rule, geometry, silu
        self.follower: tuple[FrozenConv2d, ...] = ()  # the next layer, in a tuple: it is no submodule of this one
        for name, value in (("codes", codes), ("scale", scale), ("bias", bias), ("act_scale", act_scale)):
            self.register_buffer(name, value)

    def codes_and_scales(self) -> tuple[Tensor, Tensor]:
        """Return the codes (int8, the weights' shape) and the scale of each output channel (O,)."""
        return self.codes, self.scale

    @property
    def kind(self) -> str:
        """The kind of weights, one of bit_kernels.KINDS."""
        return kind_of(self.rule, self.codes.shape, self.geometry.groups)

    def extra_repr(self) -> str:
        """Return the shape and the kind of the weights, for print."""
        silu = ", silu" if self.silu else ""
        return f"{'x'.join(map(str, self.codes.shape))}, {self.kind}, act={self.act}{silu}"

    def _sources(self) -> tuple[Tensor, ...]:
        # From the dictionary: attribute look-ups of nn.Module run in Python and take longer than the comparison.
        buffers = self._buffers
        return buffers["scale"], buffers["codes"], buffers["bias"]

    def _float_weight(self) -> Tensor:
        return self.codes.to(self.scale.dtype) * self.scale.view(-1, *[1] * (self.codes.ndim - 1))

    def _geometry(self) -> Geometry:
        return self.geometry

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        g = self.geometry
        return F.conv2d(x, weight, self.bias, g.stride, g.padding, g.dilation, g.groups)

    def _convolve(self, convolution: Convolution, codes: Tensor) -> Tensor:
        return by_images(convolution, codes)

    def _next_scale(self) -> Tensor | None:
        return self.follower[0]._buffers["act_scale"] if self.follower else None


class FrozenLinear(FrozenConv2d):
    """A linear layer of codes: (..., n_in) -> (..., n_out). codes: (n_out, n_in); buffers as of FrozenConv2d."""

    dims = (-1,)

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)

    def _convolve(self, convolution: Convolution, codes: Tensor) -> Tensor:
        return by_rows(convolution, codes)


def by_images(convolution: Convolution, codes: Tensor) -> Tensor:
    """Convolve codes of a batch (B, I, H, W), or of one image (I, H, W) -> (O, H', W')."""
    return convolution(codes) if codes.ndim == 4 else convolution(codes[None])[0]


def by_rows(convolution: Convolution, codes: Tensor) -> Tensor:
    """Apply a linear layer as a 1x1 convolution: codes (..., n_in) -> (..., n_out)."""
    flat = codes.reshape(1, -1, 1, codes.shape[-1]).permute(0, 3, 1, 2)  # (1, n_in, rows, 1)
    return convolution(flat).permute(0, 2, 3, 1).reshape(*codes.shape[:-1], -1)


def kind_of(rule: str, shape: torch.Size, groups: int) -> str:
    """Return the kind, one of bit_kernels.KINDS, of weights (O, I/groups, ...) by a rule of bit_layers.RULES."""
    depthwise = groups > 1 and groups == shape[0] and shape[1] == 1
    kind = "int8" if rule == "int8" else "ternary"
    return f"{kind} depthwise" if depthwise else kind


def fold(*blocks: nn.Module) -> None:
    """Fold blocks each of which is the only reader of the block before it; ternary layers then hand on codes.

    A block is a module with a layer `conv`, or that layer itself.
    """
    for block in blocks:
        if hasattr(block, "fuse"):
            block.fuse()
    layers = [getattr(block, "conv", block) for block in blocks]
    for first, second in zip(layers, layers[1:]):
        frozen = isinstance(first, FrozenConv2d) and isinstance(second, FrozenConv2d)
        if frozen and first.silu and second.act == "static":
            first.follower = (second,)
