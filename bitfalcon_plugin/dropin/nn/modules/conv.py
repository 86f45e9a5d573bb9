"""Convolution blocks by their YAML names. Those that published graphs use are the house's own classes.

The others are written from papers: GhostNet (Han et al. 2020, arXiv:1911.11907), RepVGG (Ding et al. 2021,
arXiv:2101.03697), PP-HGNet's light convolution, CBAM (Woo et al. 2018, arXiv:1807.06521). Every block maps
(B, c1, H, W) -> (B, c2, H', W').
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....models.modules.blocks import Concat, join
from ....models.modules.conv import EPS, MOMENTUM, Conv, DWConv, activation, same_padding

__all__ = [
    "CBAM",
    "ChannelAttention",
    "Concat",
    "Conv",
    "Conv2",
    "ConvTranspose",
    "DWConv",
    "DWConvTranspose2d",
    "Focus",
    "GhostConv",
    "Index",
    "LightConv",
    "RepConv",
    "SpatialAttention",
    "autopad",
]

Side = int | Sequence[int]


def autopad(k: Side, p: Side | None = None, d: int = 1) -> Side:
    """Return p, or where it is None the padding that keeps the size at stride 1 for sides k and dilation d."""
    return same_padding(k, d) if p is None else p


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPS, momentum=MOMENTUM)


class Conv2(Conv):
    """Conv with a 1x1 convolution beside it, whose output is added before the batch norm."""

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, p: Side | None = None, g: int = 1, d: int = 1, act=True
    ):
        super().__init__(c1, c2, k, s, p, g=g, d=d, act=act)
        self.cv2 = nn.Conv2d(c1, c2, 1, s, groups=g, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.act(self.bn(y if self.cv2 is None else y + self.cv2(x)))

    @torch.no_grad()
    def fuse(self) -> None:
        """Add the 1x1 kernel into the middle of the other, then fold the batch norm."""
        if self.cv2 is not None:
            height, width = self.conv.kernel_size
            self.conv.weight[:, :, height // 2, width // 2] += self.cv2.weight[:, :, 0, 0]
            self.cv2 = None
        super().fuse()


class ConvTranspose(nn.Module):
    """Transposed convolution, batch norm, activation."""

    def __init__(self, c1: int, c2: int, k: int = 2, s: int = 2, p: int = 0, bn: bool = True, act=True):
        super().__init__()
        self.conv_transpose = nn.ConvTranspose2d(c1, c2, k, s, p, bias=not bn)
        self.bn = _norm(c2) if bn else nn.Identity()
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv_transpose(x)))


class DWConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution with as many groups as input and output channels share."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p1: int = 0, p2: int = 0):
        super().__init__(c1, c2, k, s, p1, p2, groups=math.gcd(c1, c2))


class LightConv(nn.Module):
    """A 1x1 convolution without activation, then a depthwise one."""

    def __init__(self, c1: int, c2: int, k: int = 1, act: nn.Module | None = None):
        super().__init__()
        self.conv1 = Conv(c1, c2, act=False)
        self.conv2 = DWConv(c2, c2, k, act=nn.ReLU() if act is None else act)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class GhostConv(nn.Module):
    """Half of the channels from a convolution, the other half from a depthwise 5x5 one on them."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act=True):
        super().__init__()
        half = c2 // 2
        self.cv1 = Conv(c1, half, k, s, g=g, act=act)
        self.cv2 = Conv(half, half, 5, g=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        return join(y, self.cv2(y))


class RepConv(nn.Module):
    """A 3x3 and a 1x1 convolution with batch norms, added; with bn also the batch norm of the input itself.

    fuse() makes one 3x3 convolution of them, in eval mode exactly.
    """

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, p: int = 1, g: int = 1, d: int = 1, act=True, bn: bool = False
    ):
        super().__init__()
        if k != 3 or p != 1:
            raise ValueError(f"RepConv has a kernel of 3 and a padding of 1, not {k} and {p}")
        self.g, self.act = g, activation(act)
        self.bn = _norm(c1) if bn and c1 == c2 and s == 1 else None
        self.conv1 = Conv(c1, c2, k, s, p, g=g, act=False)
        self.conv2 = Conv(c1, c2, 1, s, 0, g=g, act=False)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "conv"):
            return self.act(self.conv(x))
        y = self.conv1(x) + self.conv2(x)
        return self.act(y if self.bn is None else y + self.bn(x))

    @torch.no_grad()
    def fuse(self) -> None:
        """Replace the branches by one convolution with a bias, `conv`."""
        if hasattr(self, "conv"):
            return
        self.conv1.fuse(), self.conv2.fuse()
        conv = self.conv1.conv
        conv.weight[:, :, 1:2, 1:2] += self.conv2.conv.weight
        conv.bias += self.conv2.conv.bias
        if self.bn is not None:
            factor = self.bn.weight * (self.bn.running_var + self.bn.eps).rsqrt()
            row = torch.arange(len(factor))
            conv.weight[row, row % conv.weight.shape[1], 1, 1] += factor
            conv.bias += self.bn.bias - self.bn.running_mean * factor
        self.conv = conv
        del self.conv1, self.conv2
        self.bn = None

    fuse_convs = fuse


class Focus(nn.Module):
    """Each 2x2 block of pixels becomes four times as many channels, then a convolution: half the height and width."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1, act=True):
        super().__init__()
        self.conv = Conv(4 * c1, c2, k, s, p, g=g, act=act)

    def forward(self, x: Tensor) -> Tensor:
        corners = ((0, 0), (1, 0), (0, 1), (1, 1))  # first row, then column
        return self.conv(join(*(x[..., row::2, column::2] for row, column in corners)))


class ChannelAttention(nn.Module):
    """The input times a weight for each channel, from the channels' means and maxima through one small network."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.fc = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        means, maxima = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return x * (self.fc(means) + self.fc(maxima)).sigmoid()


class SpatialAttention(nn.Module):
    """The input times a weight for each position, from the mean and the maximum over its channels."""

    def __init__(self, kernel_size: int = 7):
        super().__init__()
        self.cv1 = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        planes = join(x.mean(1, keepdim=True), x.amax(1, keepdim=True))
        return x * self.cv1(planes).sigmoid()


class CBAM(nn.Module):
    """Channel attention, then spatial attention; as many channels come out as go in."""

    def __init__(self, c1: int, kernel_size: int = 7):
        super().__init__()
        self.channel_attention = ChannelAttention(c1)
        self.spatial_attention = SpatialAttention(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial_attention(self.channel_attention(x))


class Index(nn.Module):
    """One of a list of maps."""

    def __init__(self, index: int = 0):
        super().__init__()
        self.index = index

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        return x[self.index]
