"""Cross-stage blocks: CSP (Wang et al. 2019, arXiv:1911.11929), ELAN (Wang et al. 2022, arXiv:2211.04800), SPP (He et
al. 2014, arXiv:1406.4729). Written from spec/interface.md 3.4 and spec/families.md section 4.

Every block maps (B, c_in, H, W) -> (B, c_out, H, W). Attribute names are the keys of published checkpoints. What a row
of the graph may say after c_out (and the repeats) is one dataclass a block, its `Options`, in the order of the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .bit_folded import fold
from .conv import Conv


def join(*maps: Tensor) -> Tensor:
    """Maps (B, c_i, H, W) -> one map (B, sum c_i, H, W)."""
    return torch.cat(maps, 1)


def chain(maps: Sequence[Tensor], parts: Iterable[nn.Module]) -> Tensor:
    """Join maps and the output of every part; each part reads the map before it."""
    for part in parts:
        maps = [*maps, part(maps[-1])]
    return join(*maps)


class Concat(nn.Module):
    """Join maps along `dim`: a list of (B, c_i, H, W) -> (B, sum c_i, H, W)."""

    def __init__(self, dim: int = 1):
        super().__init__()
        self.dim = dim

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat(maps, self.dim)


@dataclass(frozen=True)
class BottleneckOptions:
    """Options of a row of Bottleneck."""

    shortcut: bool = True  # add the input where the widths agree
    g: int = 1  # groups of the second convolution
    k: Sequence[int] = (3, 3)  # sides of the two kernels
    e: float = 0.5  # hidden channels over c_out


class Bottleneck(nn.Module):
    """Two convolutions with a hidden width between them; the input is added where the widths agree."""

    Options = BottleneckOptions

    def __init__(self, c_in: int, c_out: int, *row, **named):
        super().__init__()
        options = self.Options(*row, **named)
        hidden = int(c_out * options.e)
        first, second = options.k
        self.cv1, self.cv2 = Conv(c_in, hidden, first), Conv(hidden, c_out, second, g=options.g)
        self.add = bool(options.shortcut) and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y

    def fuse(self) -> None:
        """Fold both convolutions; the first gives the second codes where both are ternary."""
        if type(self).forward is Bottleneck.forward:
            fold(self.cv1, self.cv2)
        else:  # a subclass of somebody else, which may read the first convolution's output twice
            fold(self.cv1)
            fold(self.cv2)


@dataclass(frozen=True)
class StageOptions:
    """Options of a row of C2 and C3; `shortcut` and `g` are those of the bottlenecks inside."""

    shortcut: bool = True
    g: int = 1
    e: float = 0.5  # hidden channels over c_out

    def bottlenecks(self, width: int, count: int, kernels: tuple[int, int] = (3, 3)) -> list[Bottleneck]:
        """Bottlenecks from `width` to `width` channels that do not narrow in between."""
        return [Bottleneck(width, width, self.shortcut, self.g, kernels, 1.0) for _ in range(count)]


@dataclass(frozen=True)
class C2fOptions(StageOptions):
    """Options of a row of C2f."""

    shortcut: bool = False


@dataclass(frozen=True)
class C3kOptions(StageOptions):
    """Options of a row of C3k; k: side of the kernels of the bottlenecks."""

    k: int = 3


@dataclass(frozen=True)
class C3k2Options:
    """Options of a row of C3k2; c3k: its parts are C3k of two bottlenecks."""

    c3k: bool = False
    e: float = 0.5
    g: int = 1
    shortcut: bool = True


class C2f(nn.Module):
    """Split in two, a chain of n parts from the second half on, everything joined. The parts are bottlenecks."""

    Options: type = C2fOptions

    def __init__(self, c_in: int, c_out: int, n: int = 1, *row, **named):
        super().__init__()
        options = self.Options(*row, **named)
        width = int(c_out * options.e)
        self.cv1, self.cv2 = Conv(c_in, 2 * width), Conv((2 + n) * width, c_out)
        self.m = nn.ModuleList(self.parts(options, width, n))

    @staticmethod
    def parts(options: StageOptions, width: int, count: int) -> list[nn.Module]:
        """The parts of the chain: each maps (B, width, H, W) -> (B, width, H, W)."""
        return options.bottlenecks(width, count)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv2(chain(self.cv1(x).chunk(2, 1), self.m))  # a chain from two of (B, width, H, W)


class C2(nn.Module):
    """Split in two, n bottlenecks on the first half, both joined."""

    Options = StageOptions

    def __init__(self, c_in: int, c_out: int, n: int = 1, *row, **named):
        super().__init__()
        options = self.Options(*row, **named)
        width = int(c_out * options.e)
        self.cv1, self.cv2 = Conv(c_in, 2 * width), Conv(2 * width, c_out)
        self.m = nn.Sequential(*options.bottlenecks(width, n))

    def forward(self, x: Tensor) -> Tensor:
        changed, passed = self.cv1(x).chunk(2, 1)  # (B, width, H, W) each
        return self.cv2(join(self.m(changed), passed))


class C3(nn.Module):
    """Two 1x1 branches, n bottlenecks (1x1, 3x3) on the first, both joined."""

    Options: type = StageOptions

    def __init__(self, c_in: int, c_out: int, n: int = 1, *row, **named):
        super().__init__()
        options = self.Options(*row, **named)
        width = int(c_out * options.e)
        self.cv1, self.cv2, self.cv3 = Conv(c_in, width), Conv(c_in, width), Conv(2 * width, c_out)
        self.m = nn.Sequential(*options.bottlenecks(width, n, self.kernels(options)))

    @staticmethod
    def kernels(options: StageOptions) -> tuple[int, int]:
        """Sides of the two kernels of a bottleneck."""
        return 1, 3

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(join(self.m(self.cv1(x)), self.cv2(x)))


class C3k(C3):
    """C3 whose bottlenecks use two k x k convolutions."""

    Options = C3kOptions

    @staticmethod
    def kernels(options: C3kOptions) -> tuple[int, int]:
        """Sides of the two kernels of a bottleneck."""
        return options.k, options.k


class C3k2(C2f):
    """C2f whose parts are C3k of two bottlenecks (c3k), or bottlenecks that halve their width."""

    Options = C3k2Options

    @staticmethod
    def parts(options: C3k2Options, width: int, count: int) -> list[nn.Module]:
        """The parts of the chain: each maps (B, width, H, W) -> (B, width, H, W)."""
        shape = (width, width, 2) if options.c3k else (width, width)
        kind = C3k if options.c3k else Bottleneck
        return [kind(*shape, options.shortcut, options.g) for _ in range(count)]


class SPPF(nn.Module):
    """Three max-pools one after the other, everything joined: the pyramid pooling of SPP at one kernel size."""

    def __init__(self, c_in: int, c_out: int, k: int = 5):
        super().__init__()
        hidden = c_in // 2
        self.cv1, self.cv2 = Conv(c_in, hidden), Conv(4 * hidden, c_out)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv2(chain([self.cv1(x)], 3 * [self.m]))


class RELAN(nn.Module):
    """Residual ELAN (YOLOv12, Tian et al. 2025, arXiv:2502.12524, section 3.3; spec/families.md section 4).

    1x1 to a hidden width e * c_out, a chain of n 3x3 blocks, everything joined, 1x1 to c_out. With `residual`, the
    input (projected by a 1x1 where the widths differ) + gamma * that; gamma, one scale a channel, starts at 0.01.
    """

    def __init__(self, c_in: int, c_out: int, n: int = 1, residual: bool = True, e: float = 0.5):
        super().__init__()
        hidden = int(c_out * e)
        self.cv1 = Conv(c_in, hidden)
        self.m = nn.ModuleList(Conv(hidden, hidden, 3) for _ in range(n))
        self.cv2 = Conv((1 + n) * hidden, c_out)
        self.gamma = nn.Parameter(torch.full((c_out,), 0.01)) if residual else None
        self.shortcut = Conv(c_in, c_out, act=False) if residual and c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(chain([self.cv1(x)], self.m))
        return y if self.gamma is None else self.shortcut(x) + self.gamma.view(-1, 1, 1) * y
