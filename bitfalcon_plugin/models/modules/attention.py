"""Area attention (YOLOv12, Tian et al. 2025, arXiv:2502.12524, section 3.2) and the blocks around it.

Written from the paper, spec/interface.md sections 0 and 3.4 and spec/families.md sections 2 and 4. One attention module
serves every family: its projection has rows [all q | all k | all v], each head after head; the makers' layouts are
mapped into it by bitfalcon_plugin.compat. Every block maps (B, c, H, W) -> (B, c, H, W) unless stated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from .bit_folded import fold
from .blocks import C3k, chain, join
from .conv import Conv

HEAD_WIDTH = 32  # channels a head of A2C2f (spec/interface.md section 0)


class Attention(nn.Module):
    """Multi-head attention over the positions of a map, plus a depthwise positional convolution of the values.

    area > 1 cuts the H*W positions (row-major) into that many equal runs, which attend within themselves; where H*W is
    no multiple of it, positions are added at the end and masked. key_width: channels of q and k a head. pe: side of
    the positional convolution. Scale 1/sqrt(key_width) (Vaswani et al. 2017, arXiv:1706.03762, equation 1).
    """

    def __init__(self, dim: int, num_heads: int, area: int = 1, key_width: int | None = None, pe: int = 7):
        super().__init__()
        if num_heads < 1 or dim % num_heads or area < 1:
            raise ValueError(
                f"{dim} channels, {num_heads} heads, area {area}: heads must divide the channels, area be 1 or more"
            )
        self.num_heads, self.area = num_heads, area
        self.value_width = dim // num_heads
        self.key_width = key_width or self.value_width
        self.qkv = Conv(dim, 2 * num_heads * self.key_width + dim, act=False)
        self.proj = Conv(dim, dim, act=False)
        self.pe = Conv(dim, dim, pe, g=dim, act=False)

    def forward(self, x: Tensor) -> Tensor:
        # Everything after the projection is channels-last: one copy for a channels-first input, none for the other,
        # and the kernels see q, k and v with contiguous channels (tests/bench/attention.py).
        qkv = self.qkv(x).permute(0, 2, 3, 1).contiguous()  # (B, H, W, 2K+C)
        values = qkv[..., -self.num_heads * self.value_width :]  # (B, H, W, C)
        y = self.attend(qkv.flatten(1, 2)).unflatten(1, x.shape[-2:])  # (B, H, W, C)
        return self.proj(_channels_first(y) + self.position(_channels_first(values)))

    def position(self, values: Tensor) -> Tensor:
        """Convolve the values with `pe`, in float32 under autocast on a CPU: (B, C, H, W) -> (B, C, H, W)."""
        if not values.is_cpu or not torch.is_autocast_enabled("cpu"):
            return self.pe(values)
        # The backward pass of a depthwise 7 x 7 convolution takes 2.5 times as long in bfloat16 as in float32.
        with torch.autocast("cpu", enabled=False):
            return self.pe(values.float())

    def attend(self, tokens: Tensor) -> Tensor:
        """(B, N, 2K+C) -> (B, N, C)."""
        count, area = tokens.shape[1], self.area
        run = -(-count // area)
        mask = None
        if run * area != count:
            tokens = pad(tokens, (0, 0, 0, run * area - count))  # (B, area*run, 2K+C)
            mask = _real_positions(count, area, run, tokens.device)
        tokens = tokens.unflatten(1, (area, run))  # (B, area, run, 2K+C)
        keys = self.num_heads * self.key_width
        q, k, v = tokens.split((keys, keys, self.num_heads * self.value_width), -1)
        heads = (self.num_heads, -1)
        q, k, v = (part.unflatten(-1, heads).transpose(2, 3) for part in (q, k, v))  # (B, area, heads, run, d)
        mask = None if mask is None else mask.repeat(len(tokens), 1, 1, 1)  # (B*area, 1, 1, run)
        y = _attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask)
        y = y.unflatten(0, (-1, area))  # (B, area, heads, run, d)
        y = y.transpose(2, 3).flatten(3).flatten(1, 2)  # (B, area*run, C)
        return y[:, :count]


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    # In float32 under autocast: products of many channels overflow 16 bits, and users saw such runs turn to NaN.
    if q.is_meta or not torch.is_autocast_enabled(q.device.type):
        return scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with torch.autocast(q.device.type, enabled=False):
        return scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)


def _channels_first(x: Tensor) -> Tensor:
    # (B, H, W, C) -> (B, C, H, W), by permute alone: transposing (B, N, C) and splitting N leaves a single image with a
    # batch stride of C, and at that torch's batch norm returns a wrong gradient (2.15, CPU, input channels-first)
    return x.permute(0, 3, 1, 2)


def _real_positions(count: int, area: int, run: int, device: torch.device) -> Tensor:
    # (area, 1, 1, run) True where a key is a real position. A run of none but added ones keeps all: no softmax is empty
    real = (torch.arange(area * run, device=device) < count).view(area, 1, 1, run)
    return real | ~real.any(-1, keepdim=True)


class AAttn(Attention):
    """Area attention of YOLOv12: (dim, num_heads, area)."""

    def __init__(self, dim: int, num_heads: int, area: int = 1, *, pe: int = 7):
        super().__init__(dim, num_heads, area, pe=pe)


class ABlock(nn.Module):
    """x + attention(x), then x + mlp(x). Convolution weights start truncated-normal with deviation 0.02."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 1.2, area: int = 1, *, pe: int = 7):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.attn = AAttn(dim, num_heads, area, pe=pe)
        self.mlp = nn.Sequential(Conv(dim, hidden), Conv(hidden, dim, act=False))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)

    def fuse(self) -> None:
        """Fold the MLP; its first layer gives the second codes where both are ternary."""
        fold(*self.mlp)


@dataclass(frozen=True)
class A2C2fOptions:
    """Options of a row of A2C2f, in their order; `pe` is chosen by the family (see graph.rules.Variant)."""

    a2: bool = True  # parts are pairs of area-attention blocks; otherwise C3k
    area: int = 1  # runs of positions that attend within themselves; unused without a2
    residual: bool = False  # input + gamma * output; unused without a2
    mlp_ratio: float = 2.0  # hidden channels of the feed-forward over its width; unused without a2
    e: float = 0.5  # hidden channels over c_out
    g: int = 1  # groups inside C3k
    shortcut: bool = True  # of the bottlenecks inside C3k
    pe: int = field(default=7, kw_only=True)  # side of the positional convolution

    def check(self, c_in: int, c_out: int, hidden: int) -> None:
        """Raise ValueError for widths that attention cannot have."""
        if hidden < HEAD_WIDTH or hidden % HEAD_WIDTH:
            raise ValueError(f"hidden width {hidden} (c_out {c_out} x e {self.e}) is not a multiple of {HEAD_WIDTH}")
        if self.residual and c_in != c_out:
            raise ValueError(f"a residual stage needs as many channels in ({c_in}) as out ({c_out})")

    def part(self, width: int) -> nn.Module:
        """One part of the chain: (B, width, H, W) -> (B, width, H, W)."""
        if not self.a2:
            return C3k(width, width, 2, self.shortcut, self.g)
        heads = width // HEAD_WIDTH
        return nn.Sequential(*(ABlock(width, heads, self.mlp_ratio, self.area, pe=self.pe) for _ in range(2)))


class A2C2f(nn.Module):
    """R-ELAN stage of YOLOv12: a chain of n pairs of area-attention blocks (a2) or n C3k, everything joined.

    (B, c_in, H, W) -> (B, c_out, H, W). residual: input + gamma * output with a learned gamma a channel, from 0.01.
    The hidden width int(c_out * e) must be a multiple of 32 with a2. row, named: see A2C2fOptions.
    """

    Options = A2C2fOptions

    def __init__(self, c_in: int, c_out: int, n: int = 1, *row, **named):
        super().__init__()
        options = self.Options(*row, **named)
        width = int(c_out * options.e)
        if options.a2:
            options.check(c_in, c_out, width)
        self.cv1, self.cv2 = Conv(c_in, width), Conv((1 + n) * width, c_out)
        scaled = options.a2 and options.residual
        self.gamma = nn.Parameter(torch.full((c_out,), 0.01)) if scaled else None
        self.m = nn.ModuleList(options.part(width) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(chain([self.cv1(x)], self.m))
        return y if self.gamma is None else x + self.gamma.view(-1, 1, 1) * y


class PSABlock(nn.Module):
    """Attention with half-width keys and a two-layer feed-forward, both residual (spec/interface.md 3.4)."""

    def __init__(self, dim: int, num_heads: int | None = None, shortcut: bool = True):
        super().__init__()
        heads = num_heads or max(dim // 64, 1)
        self.attn = Attention(dim, heads, key_width=dim // heads // 2, pe=3)
        self.ffn = nn.Sequential(Conv(dim, 2 * dim), Conv(2 * dim, dim, act=False))
        self.add = bool(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x) if self.add else self.attn(x)
        return x + self.ffn(x) if self.add else self.ffn(x)

    def fuse(self) -> None:
        """Fold the feed-forward; its first layer gives the second codes where both are ternary."""
        fold(*self.ffn)


class C2PSA(nn.Module):
    """Split in two, n PSABlocks on the second half, both joined. c_in must equal c_out."""

    def __init__(self, c_in: int, c_out: int, n: int = 1, e: float = 0.5):
        super().__init__()
        if c_in != c_out:
            raise ValueError(f"C2PSA needs as many channels in ({c_in}) as out ({c_out})")
        hidden = int(c_in * e)
        self.cv1, self.cv2 = Conv(c_in, 2 * hidden), Conv(2 * hidden, c_in)
        self.m = nn.Sequential(*(PSABlock(hidden) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        passed, changed = self.cv1(x).chunk(2, 1)  # (B, hidden, H, W) each
        return self.cv2(join(passed, self.m(changed)))


class AreaAttn(nn.Module):
    """The owner's attention stage (spec/families.md section 4): 1x1 where the width changes, then n ABlocks.

    (B, c_in, H, W) -> (B, c_out, H, W), any H and W. Heads: the largest divisor of c_out not above max(1, c_out // 32).
    """

    def __init__(self, c_in: int, c_out: int, n: int = 1, area: int = 4, mlp_ratio: float = 2.0):
        super().__init__()
        limit = max(1, c_out // HEAD_WIDTH)
        heads = next(count for count in range(limit, 0, -1) if c_out % count == 0)
        self.cv1 = Conv(c_in, c_out) if c_in != c_out else nn.Identity()
        self.m = nn.Sequential(*(ABlock(c_out, heads, mlp_ratio, area) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.m(self.cv1(x))
