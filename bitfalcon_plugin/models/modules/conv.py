"""Convolution blocks: convolution, batch norm and activation in one module.

Written from spec/interface.md 3.4. Batch norm: Ioffe and Szegedy 2015, arXiv:1502.03167; depthwise-separable
convolution: Howard et al. 2017, arXiv:1704.04861. Attribute names are the keys of published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..graph.rules import EPS, MOMENTUM


class DefaultActivation(nn.SiLU):
    """The activation of a block that names none: SiLU, unless a graph's `activation:` replaces it."""


class Folded(nn.Identity):
    """Takes the place of a batch norm that was folded into its convolution."""


def activation(act: bool | nn.Module | None) -> nn.Module:
    """Return the module for an option `act`: True is the graph's default, False or None is no activation."""
    if isinstance(act, nn.Module):
        return act
    if act not in (True, False, None):
        raise TypeError(f"act={act!r} is not True, False, None or an nn.Module")
    return DefaultActivation() if act else nn.Identity()


def same_padding(k: int | Sequence[int], d: int = 1) -> int | tuple[int, ...]:
    """Return the padding that keeps the size at stride 1, for a kernel of side k, or of sides k, and dilation d."""
    if isinstance(k, int):
        return (d * (k - 1) + 1) // 2
    return tuple((d * (side - 1) + 1) // 2 for side in k)


class Conv(nn.Module):
    """Convolution without bias, batch norm, activation.

    images (B, c_in, H, W) -> (B, c_out, H', W'). p None pads so that stride 1 keeps the size.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        d: int = 1,
        act: bool | nn.Module = True,
    ):
        super().__init__()
        padding = same_padding(k, d) if p is None else p
        self.conv = nn.Conv2d(c_in, c_out, k, s, padding, dilation=d, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=EPS, momentum=MOMENTUM)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def fuse(self) -> None:
        """Fold the batch norm into the convolution, exactly; nothing when it is folded already."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv, self.act = folded(self.conv, self.bn, self.act)
            self.bn = Folded()


class DWConv(Conv):
    """Conv with as many groups as input and output channels share (gcd)."""

    def __init__(self, c_in: int, c_out: int, k: int = 1, s: int = 1, d: int = 1, act: bool | nn.Module = True):
        super().__init__(c_in, c_out, k, s, None, math.gcd(c_in, c_out), d, act)


class SepConv7x7(nn.Module):
    """7x7 depthwise and 1x1 convolution without biases, batch norm, SiLU (spec/families.md section 4).

    (B, c_in, H, W) -> (B, c_out, H, W). In a row `[c_out]` or `[declared c_in, c_out]`.
    """

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.depthwise = nn.Conv2d(c_in, c_in, 7, padding=3, groups=c_in, bias=False)
        self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=EPS, momentum=MOMENTUM)
        self.act = activation(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.pointwise(self.depthwise(x))))

    def fuse(self) -> None:
        """Fold the batch norm into the 1x1 convolution, exactly; nothing when it is folded already."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.pointwise, self.act = folded(self.pointwise, self.bn, self.act)
            self.bn = Folded()


@torch.no_grad()
def folded(conv: nn.Conv2d, bn: nn.BatchNorm2d, act: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return a convolution that equals `bn(conv(x))` in eval mode, computed in float64, and the activation after it.

    It asks for no gradient. A layer with codes of its own (modules.ternary) keeps them, and may take the activation in.
    """
    if hasattr(conv, "freeze"):
        return conv.freeze(bn, act)
    wide = torch.float32 if conv.weight.device.type == "mps" else torch.float64  # mps has no float64
    scale = bn.weight.to(wide) * (bn.running_var.to(wide) + bn.eps).rsqrt()
    bias = torch.zeros_like(scale) if conv.bias is None else conv.bias.to(wide)
    out = like(conv, nn.Conv2d)
    out.weight = nn.Parameter((conv.weight.to(wide) * scale.view(-1, 1, 1, 1)).to(conv.weight.dtype), False)
    out.bias = nn.Parameter(((bias - bn.running_mean.to(wide)) * scale + bn.bias.to(wide)).to(conv.weight.dtype), False)
    return out, act


def like(layer: nn.Module, cls: type[nn.Module]) -> nn.Module:
    """Return a `cls` with the options and parameters (not copies) of `layer`, of a related class, without its hooks."""
    out = cls.__new__(cls)  # the constructor would draw random numbers and take memory
    nn.Module.__init__(out)
    out.__dict__.update({name: value for name, value in vars(layer).items() if name not in vars(out)})
    out._parameters = dict(layer._parameters)
    return out.train(layer.training)
