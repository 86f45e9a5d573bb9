"""Blocks by their YAML names. Those that published graphs use are the house's own classes.

The others are written from papers: CSPNet (Wang et al. 2019, arXiv:1911.11929), SPP (He et al. 2014, arXiv:1406.4729),
GhostNet (arXiv:1911.11907), ResNet (He et al. 2015, arXiv:1512.03385), YOLOv10 (Wang et al. 2024, arXiv:2405.14458).
Every block maps (B, c1, H, W) -> (B, c2, H', W').
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ....models.modules.attention import C2PSA, A2C2f, AAttn, ABlock, Attention, PSABlock
from ....models.modules.blocks import C2, C3, SPPF, Bottleneck, C2f, C3k, C3k2, StageOptions, join
from ....models.modules.conv import EPS, MOMENTUM, Conv, DWConv, activation
from ....models.modules.head import DFL as HouseDFL
from ....models.modules.segment import Proto
from .conv import GhostConv, RepConv
from .stand_ins import unknown
from .transformer import TransformerBlock

__all__ = [
    "A2C2f",
    "AAttn",
    "ABlock",
    "Attention",
    "Bottleneck",
    "BottleneckCSP",
    "C1",
    "C2",
    "C2PSA",
    "C2f",
    "C2fCIB",
    "C2fPSA",
    "C3",
    "C3Ghost",
    "C3TR",
    "C3k",
    "C3k2",
    "C3x",
    "CIB",
    "DFL",
    "GhostBottleneck",
    "PSA",
    "PSABlock",
    "Proto",
    "RepC3",
    "ResNetBlock",
    "ResNetLayer",
    "SCDown",
    "SPP",
    "SPPF",
    "TorchVision",
]


class DFL(HouseDFL):
    """Expectation of a distribution over c1 bins: (B, 4 * c1, A) logits -> (B, 4, A) in strides."""

    def __init__(self, c1: int = 16):
        super().__init__(c1)
        self.c1 = c1


class SPP(nn.Module):
    """Max-pools of several sizes side by side, joined with the input between two 1x1 convolutions."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13)):
        super().__init__()
        hidden = c1 // 2
        self.cv1, self.cv2 = Conv(c1, hidden), Conv(hidden * (len(k) + 1), c2)
        self.m = nn.ModuleList(nn.MaxPool2d(side, 1, side // 2) for side in k)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        return self.cv2(join(y, *(pool(y) for pool in self.m)))


class C1(nn.Module):
    """A 1x1 convolution, and n 3x3 ones on its output, added."""

    def __init__(self, c1: int, c2: int, n: int = 1):
        super().__init__()
        self.cv1 = Conv(c1, c2)
        self.m = nn.Sequential(*(Conv(c2, c2, 3) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        return self.m(y) + y


class BottleneckCSP(nn.Module):
    """Cross-stage block whose two branches are normalised and activated after they are joined."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1, self.cv4 = Conv(c1, hidden), Conv(2 * hidden, c2)
        self.cv2, self.cv3 = nn.Conv2d(c1, hidden, 1, bias=False), nn.Conv2d(hidden, hidden, 1, bias=False)
        self.bn, self.act = nn.BatchNorm2d(2 * hidden, eps=EPS, momentum=MOMENTUM), activation(True)
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        deep, short = self.cv3(self.m(self.cv1(x))), self.cv2(x)
        return self.cv4(self.act(self.bn(join(deep, short))))


class _C3Of(C3):
    """C3 with other parts on its first branch."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__(c1, c2, n, shortcut, g, e)
        self.m = self.chain_of(int(c2 * e), n, shortcut, g)

    def chain_of(self, width: int, count: int, shortcut: bool, groups: int) -> nn.Module:
        """The parts: (B, width, H, W) -> (B, width, H, W)."""
        raise NotImplementedError


class C3x(_C3Of):
    """C3 whose bottlenecks have kernels of 1x3 and 3x1."""

    def chain_of(self, width: int, count: int, shortcut: bool, groups: int) -> nn.Module:
        kernels = ((1, 3), (3, 1))
        return nn.Sequential(*(Bottleneck(width, width, shortcut, groups, kernels, 1.0) for _ in range(count)))


class C3TR(_C3Of):
    """C3 with a transformer of n layers and four heads."""

    def chain_of(self, width: int, count: int, shortcut: bool, groups: int) -> nn.Module:
        return TransformerBlock(width, width, 4, count)


class C3Ghost(_C3Of):
    """C3 with ghost bottlenecks."""

    def chain_of(self, width: int, count: int, shortcut: bool, groups: int) -> nn.Module:
        return nn.Sequential(*(GhostBottleneck(width, width) for _ in range(count)))


class GhostBottleneck(nn.Module):
    """Two ghost convolutions, a depthwise one between them at stride 2, and a shortcut."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1):
        super().__init__()
        hidden = c2 // 2
        between = DWConv(hidden, hidden, k, s, act=False) if s == 2 else nn.Identity()
        self.conv = nn.Sequential(GhostConv(c1, hidden), between, GhostConv(hidden, c2, act=False))
        shortcut = (DWConv(c1, c1, k, s, act=False), Conv(c1, c2, act=False)) if s == 2 else ()
        self.shortcut = nn.Sequential(*shortcut) if shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shortcut(x)


class RepC3(nn.Module):
    """Two 1x1 branches, n RepConv on the first, added; a 1x1 convolution where the hidden width is not c2."""

    def __init__(self, c1: int, c2: int, n: int = 3, e: float = 1.0):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1, self.cv2 = Conv(c1, hidden), Conv(c1, hidden)
        self.m = nn.Sequential(*(RepConv(hidden, hidden) for _ in range(n)))
        self.cv3 = Conv(hidden, c2) if hidden != c2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(self.m(self.cv1(x)) + self.cv2(x))


class PSA(nn.Module):
    """Split in two, attention and a feed-forward network on the second half, both residual, joined. c1 equals c2."""

    def __init__(self, c1: int, c2: int, e: float = 0.5):
        super().__init__()
        if c1 != c2:
            raise ValueError(f"PSA needs as many channels in ({c1}) as out ({c2})")
        self.c = int(c1 * e)
        self.cv1, self.cv2 = Conv(c1, 2 * self.c), Conv(2 * self.c, c1)
        block = PSABlock(self.c)
        self.attn, self.ffn = block.attn, block.ffn

    def forward(self, x: Tensor) -> Tensor:
        passed, changed = self.cv1(x).chunk(2, 1)
        changed = changed + self.attn(changed)
        return self.cv2(join(passed, changed + self.ffn(changed)))


class C2fPSA(C2f):
    """C2f whose parts are blocks of attention."""

    @staticmethod
    def parts(options: StageOptions, width: int, count: int) -> list[nn.Module]:
        return [PSABlock(width) for _ in range(count)]


class SCDown(nn.Module):
    """A 1x1 convolution, then a depthwise one of kernel k and stride s without activation."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 2):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c2), Conv(c2, c2, k, s, g=c2, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv2(self.cv1(x))


class CIB(nn.Module):
    """Depthwise and 1x1 convolutions in turns, the middle depthwise one of 7x7 with lk; the input is added."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, e: float = 0.5, lk: bool = False):
        super().__init__()
        hidden = int(c2 * e)
        wide = 2 * hidden
        middle = Conv(wide, wide, 7 if lk else 3, g=wide)
        self.cv1 = nn.Sequential(Conv(c1, c1, 3, g=c1), Conv(c1, wide), middle, Conv(wide, c2), Conv(c2, c2, 3, g=c2))
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        return x + y if self.add else y


class C2fCIB(C2f):
    """C2f whose parts are CIB: (c1, c2, n, shortcut=False, lk=False, g=1, e=0.5)."""

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = False, lk: bool = False, g: int = 1, e: float = 0.5
    ):
        super().__init__(c1, c2, n, shortcut, g, e)
        width = int(c2 * e)
        self.m = nn.ModuleList(CIB(width, width, shortcut, 1.0, lk) for _ in range(n))


class ResNetBlock(nn.Module):
    """The bottleneck of ResNet: 1x1, 3x3 of stride s and 1x1 to e * c2 channels; the input is added."""

    def __init__(self, c1: int, c2: int, s: int = 1, e: int = 4):
        super().__init__()
        wide = e * c2
        self.cv1, self.cv2, self.cv3 = Conv(c1, c2), Conv(c2, c2, 3, s), Conv(c2, wide, act=False)
        self.shortcut = nn.Sequential(Conv(c1, wide, 1, s, act=False)) if s != 1 or c1 != wide else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.cv3(self.cv2(self.cv1(x))) + self.shortcut(x)).relu()


class ResNetLayer(nn.Module):
    """n bottlenecks of ResNet, the first of stride s; is_first: the stem, a 7x7 convolution and a max-pool."""

    def __init__(self, c1: int, c2: int, s: int = 1, is_first: bool = False, n: int = 1, e: int = 4):
        super().__init__()
        self.is_first = is_first
        if is_first:
            parts: list[nn.Module] = [Conv(c1, c2, 7, 2, 3), nn.MaxPool2d(3, 2, 1)]
        else:
            parts = [ResNetBlock(c1, c2, s, e), *(ResNetBlock(e * c2, c2, 1, e) for _ in range(n - 1))]
        self.layer = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class TorchVision(nn.Module):
    """A network of torchvision as a backbone, with fresh weights: its last `truncate` children are left out.

    weights: without effect, nothing is fetched. unwrap: take the children out of the network, of a single child its
    own. split: forward gives the maps of all children.
    """

    def __init__(self, model: str, weights: Any = None, unwrap: bool = True, truncate: int = 2, split: bool = False):
        super().__init__()
        from torchvision.models import get_model

        network = get_model(model, weights=None)
        self.split = split
        if not unwrap:
            network.head = network.heads = nn.Identity()
            self.m = network
            self.split = False
            return
        layers = list(network.children())
        if isinstance(layers[0], nn.Sequential):  # features, as of MobileNet and EfficientNet
            layers = [*layers[0].children(), *layers[1:]]
        self.m = nn.Sequential(*layers[: len(layers) - truncate])

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if not self.split:
            return self.m(x)
        maps = [x]
        for layer in self.m:
            maps.append(layer(maps[-1]))
        return maps


UNKNOWN = {
    "ADown": "the downsampling of YOLOv9",
    "AConv": "the downsampling of YOLOv9",
    "ELAN1": "a block of YOLOv9",
    "RepNCSPELAN4": "a block of YOLOv9",
    "SPPELAN": "a block of YOLOv9",
    "RepCSP": "a block of YOLOv9",
    "CBLinear": "an auxiliary branch of YOLOv9",
    "CBFuse": "an auxiliary branch of YOLOv9",
    "HGStem": "the stem of PP-HGNet",
    "HGBlock": "a block of PP-HGNet",
    "RepVGGDW": "a large-kernel block of YOLOv10",
    "C2fAttn": "a block with text",
    "MaxSigmoidAttnBlock": "a block with text",
    "ImagePoolingAttn": "a block with text",
    "ContrastiveHead": "a head with text",
    "BNContrastiveHead": "a head with text",
}
globals().update({name: unknown(name, what, __name__) for name, what in UNKNOWN.items()})
__all__ += list(UNKNOWN)  # noqa: PLE0604
