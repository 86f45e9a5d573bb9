"""The detection head: raw outputs, and the decoding of raw outputs into boxes.

Anchor-free, decoupled and with box sides as distributions (Generalized Focal Loss, Li et al. 2020, arXiv:2006.04388).
Written from spec/interface.md sections 3.4 and 4. Attribute names are the keys of published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...ops.boxes import anchor_points
from .bit_activations import Quantised, QuantisedLayer
from .bit_folded import fold
from .bit_layers import BitConv2d
from .conv import Conv, DWConv

BOX_BIAS = 2.0  # spec/families.md section 3


class Raw(dict):
    """The raw outputs of a head by name, the same in training and in inference.

    boxes (Tensor[B, 4*reg_max, A]): logits of the distributions of left, top, right, bottom, in strides.
    scores (Tensor[B, nc, A]): class logits. A runs over the levels, fine to coarse, each row-major.
    Other heads have other outputs. sizes: (h, w) of each level, which decoding needs; () for outputs without levels.

    An index is the map of a level: raw[0] (Tensor[B, 4*reg_max+nc, h, w]) is the finest, boxes before scores.
    """

    def __init__(self, outputs: Mapping[str, Tensor], sizes: Sequence[tuple[int, int]] = ()):
        super().__init__(outputs)
        self.sizes = tuple(sizes)

    def __missing__(self, key: object) -> Tensor:
        if isinstance(key, int):
            return self.levels()[key]
        raise KeyError(key)

    def levels(self) -> list[Tensor]:
        """The map (B, 4*reg_max+nc, h, w) of each level, fine to coarse: box logits, then class logits."""
        both = torch.cat((self["boxes"], self["scores"]), 1)
        parts = both.split([height * width for height, width in self.sizes], 2)
        return [part.unflatten(2, size) for part, size in zip(parts, self.sizes, strict=True)]

    @classmethod
    def from_levels(cls, levels: Sequence[Tensor], box_channels: int) -> Raw:
        """The raw outputs whose maps are `levels`. box_channels: 4*reg_max."""
        both = torch.cat([level.flatten(2) for level in levels], 2)
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        return cls({"boxes": both[:, :box_channels], "scores": both[:, box_channels:]}, sizes)


class DFL(nn.Module):
    """Expectation of a distribution over reg_max bins: (B, 4*reg_max, A) logits -> (B, 4, A) in strides."""

    def __init__(self, reg_max: int = 16):
        super().__init__()
        self.conv = nn.Conv2d(reg_max, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data.copy_(torch.tensor(range(reg_max)).view(1, reg_max, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        bins = self.conv.weight.float().view(1, 1, -1, 1)
        # A view instead of unflatten, which the ONNX exporter writes from opset 13 on.
        shares = x.float().view(x.shape[0], 4, bins.shape[2], -1).softmax(2)  # (B, 4, reg_max, A)
        return (shares * bins).sum(2)  # (B, 4, A); a matrix product would lose digits under autocast


class Detect(nn.Module):
    """Box and class branches on each level. channels: of the levels, fine to coarse.

    legacy: class branch of two dense 3x3 convolutions (v8 graphs) instead of the depthwise-separable one.
    class_width: hidden channels of the class branches; 0: by channels and nc. Weights for other classes keep theirs.
    """

    def __init__(
        self, nc: int, reg_max: int = 16, *, channels: Sequence[int], legacy: bool = False, class_width: int = 0
    ):
        super().__init__()
        self.nc, self.reg_max = nc, reg_max
        box = max(16, channels[0] // 4, 4 * reg_max)
        hidden = class_width or max(channels[0], min(nc, 100))
        self.cv2 = nn.ModuleList(
            nn.Sequential(Conv(c, box, 3), Conv(box, box, 3), nn.Conv2d(box, 4 * reg_max, 1)) for c in channels
        )
        classes = _dense_classes if legacy else _separable_classes
        self.cv3 = nn.ModuleList(classes(c, hidden, nc) for c in channels)
        self.dfl = DFL(reg_max)

    def forward(self, maps: Sequence[Tensor]) -> Raw:
        maps = [self._shared(level, x) for level, x in enumerate(maps)]
        outputs = {"boxes": joined(self.cv2, maps), "scores": joined(self.cv3, maps)}
        return Raw(outputs, [tuple(x.shape[-2:]) for x in maps])

    def _shared(self, level: int, x: Tensor) -> Tensor | Quantised:
        # A level that both branches take as codes is quantised once, by the box branch (see `share`).
        first, other = _first(self.cv2[level]), _first(self.cv3[level])
        return first.quantise(x) if isinstance(other, QuantisedLayer) and other.act == "given" else x

    def branches(self) -> Iterator[nn.Sequential]:
        """Every branch of every level."""
        yield from (*self.cv2, *self.cv3)

    def class_layers(self) -> list[str]:
        """The layers that have a row for each class, by their names in the head."""
        return [f"cv3.{level}.2" for level in range(len(self.cv3))]

    def fuse(self) -> None:
        """Fold the branches; a ternary layer gives the next one codes."""
        for branch in self.branches():
            fold(*blocks_of(branch))

    def decode(self, raw: dict[str, Tensor], sizes: Sequence[tuple[int, int]], strides: Sequence[float]) -> Tensor:
        """Raw outputs -> (B, 4+nc, A) float32: xywh in pixels of the network input, then class probabilities."""
        points, stride = anchor_points(sizes, strides, device=raw["boxes"].device)
        return self.decode_at(raw, points.t(), stride[None])

    def decode_at(self, raw: dict[str, Tensor], points: Tensor, stride: Tensor) -> Tensor:
        """Decode as `decode` does, at given anchors: a head of another task overrides this method.

        points (2, A): x, y in cells of the level. stride (1, A): pixels a cell. The operations are those that every
        runtime of an exported model has.
        """
        near, far = self.dfl(raw["boxes"]).chunk(2, 1)  # (B, 2, A) each, in strides
        low, high = points - near, points + far
        return torch.cat(((low + high) / 2 * stride, (high - low) * stride, raw["scores"].float().sigmoid()), 1)

    @torch.no_grad()
    def start_biases(self, strides: Sequence[float]) -> None:
        """Set the last biases so that an untrained head expects about five objects in a 640 px image."""
        for box, classes, stride in zip(self.cv2, self.cv3, strides, strict=True):
            box[-1].bias.fill_(BOX_BIAS)
            classes[-1].bias.fill_(math.log(5 / self.nc / (640 / stride) ** 2))


class DetectMore(Detect):
    """Detect with one more output for every anchor, from the branches cv4, which a subclass makes with `more_branches`.

    output: the name of that output, (B, C, A), in Raw.
    """

    output = ""

    def forward(self, maps: Sequence[Tensor]) -> Raw:
        raw = super().forward(maps)
        raw[self.output] = joined(self.cv4, maps)
        return raw

    def branches(self) -> Iterator[nn.Sequential]:
        yield from super().branches()
        yield from self.cv4


def more_branches(channels: Sequence[int], outputs: int) -> nn.ModuleList:
    """Return a branch for each level, whose widths are `channels`, with `outputs` channels at its end."""
    hidden = max(channels[0] // 4, outputs)
    return nn.ModuleList(
        nn.Sequential(Conv(c, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, outputs, 1)) for c in channels
    )


def joined(branches: Sequence[nn.Module], maps: Sequence[Tensor | Quantised]) -> Tensor:
    """Return the outputs (B, C, A) of a branch for each level, one level after the other."""
    return torch.cat([branch(x).flatten(2) for branch, x in zip(branches, maps, strict=True)], 2)


def share(head: Detect) -> None:
    """Let each class branch's first layer take the codes of the box branch's first layer, where both are ternary."""
    for boxes, classes in zip(head.cv2, head.cv3):
        first, other = _first(boxes), _first(classes)
        if hasattr(other, "take_scale"):  # not one that is folded
            other.take_scale(first.act_scale if isinstance(first, QuantisedLayer) and first.act == "static" else None)


def blocks_of(branch: nn.Module) -> Iterator[Conv]:
    """The Conv blocks of a branch, in order."""
    return (module for module in branch.modules() if isinstance(module, Conv))


def _first(branch: nn.Module) -> nn.Module:
    # The layer that a branch begins with: of a Conv block, or in its place once it is all that is left of the block.
    while isinstance(branch, (nn.Sequential, Conv)):
        branch = branch.conv if isinstance(branch, Conv) else branch._modules["0"]
    return branch


def _dense_classes(c_in: int, hidden: int, nc: int) -> nn.Sequential:
    return nn.Sequential(Conv(c_in, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, nc, 1))


def _separable_classes(c_in: int, hidden: int, nc: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(DWConv(c_in, c_in, 3), Conv(c_in, hidden)),
        nn.Sequential(DWConv(hidden, hidden, 3), Conv(hidden, hidden)),
        nn.Conv2d(hidden, nc, 1),
    )


class BitDetect(Detect):
    """A detection head with ternary convolutions in both branches. Last layers, distributions and decoding stay float.

    Same tensors as Detect with the depthwise-separable class branch, and an `act_scale` for each quantised layer that
    quantises its own input; a state without those loads (see BitConv2d). Each level is quantised once, by the first
    layer of its box branch, for both branches. Depthwise layers have int8 weights. Raw outputs are those of Detect.
    """

    def __init__(self, nc: int, reg_max: int = 16, *, channels: Sequence[int], class_width: int = 0):
        super().__init__(nc, reg_max, channels=channels, class_width=class_width)
        for block in (block for branch in (*self.cv2, *self.cv3) for block in blocks_of(branch)):
            rule = "int8" if block.conv.groups > 1 else "absmean"
            block.conv = BitConv2d.of(block.conv, rule=rule)
        share(self)
