"""Prototypes of a segmentation head with less arithmetic: two linear layers as one, at half the size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..modules.conv import Conv, Folded
from ..modules.segment import Proto
from .fused_conv import FUSED


class MergedProto(nn.Module):
    """A folded Proto for inference: (B, c_in, H, W) -> (B, c_out, 2H, 2W), equal to rounding.

    Upsampling (2x2, stride 2) and the 3x3 convolution behind it are linear, so that together they are a convolution of
    the small plane. A 3x3 window of the large plane depends on 2x2 pixels of the small one; on which, depends on
    whether its row and its column are even or odd. These four phases are computed side by side, as channels, and the
    1x1 convolution behind them too, before they are woven into the large plane (a polyphase decomposition: Vaidyanathan
    1990, doi:10.1109/5.52200). That takes less than half of the multiplications.

    The input has a channel of ones, which carries the bias of the upsampling: it ends at the edge, as the plane does.
    """

    def __init__(self, proto: Proto):
        super().__init__()
        self.cv1 = proto.cv1
        self.cv2 = _block(_merged(proto.upsample, proto.cv2.conv), proto.cv2.act)
        self.cv3 = _block(_four_times(proto.cv3.conv), proto.cv3.act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)  # (B, c, H, W)
        x = pad(torch.cat((x, x[:, :1] * 0 + 1), 1), (1, 1, 1, 1))
        phases = self.cv3(self.cv2(x)).permute(0, 2, 3, 1).chunk(4, 3)  # (B, H+1, W+1, c_out) each
        left, right = slice(None, -1), slice(1, None)
        rows = [
            torch.stack((phases[2 * odd][:, part, left], phases[2 * odd + 1][:, part, right]), 3)
            for odd, part in enumerate((left, right))
        ]  # (B, H, W, 2, c_out) each: the even rows of the large plane, and the odd ones
        return torch.stack(rows, 2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def merge_prototypes(model: nn.Module) -> None:
    """Replace each folded Proto of a model by a MergedProto, in place, where its layers allow it."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if type(child) is Proto and _can_merge(child):
                like_weights = child.cv2.conv.weight
                setattr(parent, name, MergedProto(child).to(like_weights).train(child.training))


def _can_merge(proto: Proto) -> bool:
    blocks = proto.cv2, proto.cv3
    is_plain = all(
        type(block) is Conv
        and type(block.conv) is nn.Conv2d
        and isinstance(block.bn, nn.Identity)
        and (type(block.act) in FUSED or isinstance(block.act, nn.SiLU))
        for block in blocks
    )
    modules = (proto, *proto.modules())
    return is_plain and not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def _block(conv: nn.Conv2d, act: nn.Module) -> Conv:
    block = Conv.__new__(Conv)
    nn.Module.__init__(block)
    block.conv, block.bn, block.act = conv, Folded(), act
    return block


@torch.no_grad()
def _merged(upsample: nn.ConvTranspose2d, conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution (c + 1, 4 * width, 2, 2) that equals both, computed in float64: phases by row, then by column."""
    up, bias = upsample.weight.double().cpu(), upsample.bias.double().cpu()  # (c, middle, 2, 2)
    kernel = conv.weight.double().cpu()  # (width, middle, 3, 3)
    count, width = len(up), len(kernel)
    weight = torch.zeros(2, 2, width, count + 1, 2, 2, dtype=torch.float64)
    for place in range(36):  # of a phase and a tap of the 3x3 kernel
        row, column, down, across = place // 18, place // 9 % 2, place // 3 % 3, place % 3
        y, x = row + down - 1, column + across - 1  # of the pixel of the large plane, from that of the small one
        tap, target = kernel[:, :, down, across], weight[row, column, :, :, y // 2 + 1 - row, x // 2 + 1 - column]
        target[:, :count] += tap @ up[:, :, y % 2, x % 2].t()
        target[:, count] += tap @ bias
    out = nn.Conv2d(count + 1, 4 * width, 2, device="meta")
    return _with(out, weight.flatten(0, 2), conv.bias.repeat(4), conv)


@torch.no_grad()
def _four_times(conv: nn.Conv2d) -> nn.Conv2d:
    """The 1x1 convolution for each of four phases."""
    out = nn.Conv2d(4 * conv.in_channels, 4 * conv.out_channels, 1, groups=4, device="meta")
    return _with(out, conv.weight.repeat(4, 1, 1, 1), conv.bias.repeat(4), conv)


def _with(out: nn.Conv2d, weight: Tensor, bias: Tensor, like: nn.Conv2d) -> nn.Conv2d:
    out.weight, out.bias = (nn.Parameter(value.to(like.weight), requires_grad=False) for value in (weight, bias))
    return out
