"""Cross-stage blocks: CSP (Wang et al. 2019, arXiv:1911.11929), ELAN (Wang et al. 2022, arXiv:2211.04800), SPP (He et
al. 2014, arXiv:1406.4729). Written from spec/interface.md 3.4 and spec/families.md section 4.

Every block maps (B, c_in, H, W) -> (B, c_out, H, W). Attribute names are the keys of published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .bit_folded import fold
from .conv import Conv


class Concat(nn.Module):
    """Join maps along `dim`: a list of (B, c_i, H, W) -> (B, sum c_i, H, W)."""

    def __init__(self, dim: int = 1):
        super().__init__()
        self.dim = dim

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat(maps, self.dim)


class Bottleneck(nn.Module):
    """Two convolutions with a hidden width e * c_out; the input is added where the widths agree."""

    def __init__(
        self, c_in: int, c_out: int, shortcut: bool = True, g: int = 1, k: Sequence[int] = (3, 3), e: float = 0.5
    ):
        super().__init__()
        hidden = int(c_out * e)
        self.cv1 = Conv(c_in, hidden, k[0])
        self.cv2 = Conv(hidden, c_out, k[1], g=g)
        self.add = bool(shortcut) and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y

    def fuse(self) -> None:
        """Fold both; the first gives the second codes where both are ternary."""
        if type(self).forward is Bottleneck.forward:
            fold(self.cv1, self.cv2)
        else:  # one of somebody else, which may read the first's output twice
            fold(self.cv1)
            fold(self.cv2)


class C2f(nn.Module):
    """Split in two, a chain of n bottlenecks on the second half, every stage joined. stage: width -> another block."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        n: int = 1,
        shortcut: bool = False,
        g: int = 1,
        e: float = 0.5,
        *,
        stage: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        hidden = int(c_out * e)
        stage = stage or (lambda width: Bottleneck(width, width, shortcut, g, e=1.0))
        self.cv1 = Conv(c_in, 2 * hidden)
        self.cv2 = Conv((2 + n) * hidden, c_out)
        self.m = nn.ModuleList(stage(hidden) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        stages = list(self.cv1(x).chunk(2, 1))  # two of (B, hidden, H, W)
        for stage in self.m:
            stages.append(stage(stages[-1]))
        return self.cv2(torch.cat(stages, 1))


class C2(nn.Module):
    """Split in two, n bottlenecks on the first half, both joined."""

    def __init__(self, c_in: int, c_out: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        hidden = int(c_out * e)
        self.cv1 = Conv(c_in, 2 * hidden)
        self.cv2 = Conv(2 * hidden, c_out)
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.cv1(x).chunk(2, 1)  # (B, hidden, H, W) each
        return self.cv2(torch.cat((self.m(a), b), 1))


class C3(nn.Module):
    """Two 1x1 branches, n bottlenecks (1x1, 3x3) on one, both joined. kernels: of the bottlenecks instead."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        *,
        kernels: tuple[int, int] = (1, 3),
    ):
        super().__init__()
        hidden = int(c_out * e)
        self.cv1 = Conv(c_in, hidden)
        self.cv2 = Conv(c_in, hidden)
        self.cv3 = Conv(2 * hidden, c_out)
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, g, kernels, 1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C3k(C3):
    """C3 whose bottlenecks use two k x k convolutions."""

    def __init__(
        self, c_in: int, c_out: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5, k: int = 3
    ):
        super().__init__(c_in, c_out, n, shortcut, g, e, kernels=(k, k))


class C3k2(C2f):
    """C2f wiring whose stages are C3k of two bottlenecks (c3k), or bottlenecks that halve their width."""

    def __init__(
        self, c_in: int, c_out: int, n: int = 1, c3k: bool = False, e: float = 0.5, g: int = 1, shortcut: bool = True
    ):
        def stage(width: int) -> nn.Module:
            return C3k(width, width, 2, shortcut, g) if c3k else Bottleneck(width, width, shortcut, g)

        super().__init__(c_in, c_out, n, shortcut, g, e, stage=stage)


class SPPF(nn.Module):
    """Three max-pools one after the other, every stage joined: the pyramid pooling of SPP at one kernel size."""

    def __init__(self, c_in: int, c_out: int, k: int = 5):
        super().__init__()
        hidden = c_in // 2
        self.cv1 = Conv(c_in, hidden)
        self.cv2 = Conv(4 * hidden, c_out)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x: Tensor) -> Tensor:
        stages = [self.cv1(x)]
        for _ in range(3):
            stages.append(self.m(stages[-1]))
        return self.cv2(torch.cat(stages, 1))


class RELAN(nn.Module):
    """Residual ELAN (YOLOv12, Tian et al. 2025, arXiv:2502.12524, section 3.3; spec/families.md section 4).

    1x1 to a hidden width e * c_out, a chain of n 3x3 blocks, every stage joined, 1x1 to c_out. With `residual`, the
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
        stages = [self.cv1(x)]
        for stage in self.m:
            stages.append(stage(stages[-1]))
        y = self.cv2(torch.cat(stages, 1))
        return y if self.gamma is None else self.shortcut(x) + self.gamma.view(-1, 1, 1) * y
