"""Heads by their YAML names and with the constructors that scripts use, over the house's own heads.

A head that a script builds has strides of 0 until the script sets them: `head.stride = torch.tensor([8.0, 16, 32])`.
Its outputs are those that scripts read: maps in training, (decoded, maps) in evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....config.errors import UserError
from ....models.modules import classify as house_classify
from ....models.modules import head as house
from ....models.modules import segment as house_segment
from .stand_ins import unknown


class _Kin(type):
    """The kind of the heads here: heads of the house, which a graph builds, are instances of them too."""

    house: type = object

    def __instancecheck__(cls, instance: Any) -> bool:
        own = cls.__dict__.get("house")
        return super().__instancecheck__(instance) or own is not None and isinstance(instance, own)


class _Levels(metaclass=_Kin):
    """What the heads here have in common: the attributes of scripts, and outputs as maps."""

    dynamic = export = end2end = False
    format = shape = None
    max_det = 300

    def _prepare(self, channels: Sequence[int]) -> None:
        self.nl, self.no = len(channels), self.nc + 4 * self.reg_max
        self.stride = torch.zeros(self.nl)

    def forward(self, maps: Sequence[Tensor]) -> Any:
        raw = super().forward(maps)  # type: ignore[misc]
        flat = torch.cat([raw["boxes"], raw["scores"]], 1)
        levels = flat.split([height * width for height, width in raw.sizes], 2)
        levels = [level.unflatten(2, size) for level, size in zip(levels, raw.sizes, strict=True)]
        others = [raw[name] for name in ("coefficients", "prototypes") if name in raw]
        if self.training:
            return (levels, *others) if others else levels
        y = self.decode(raw, raw.sizes, self.stride.tolist())
        if self.export:
            return (y, others[-1]) if others else y
        return y, (levels, *others) if others else levels

    def bias_init(self) -> None:
        """Set the last biases for the strides, so that an untrained head expects few objects."""
        self.start_biases(self.stride.tolist())


class Detect(_Levels, house.Detect):
    """The detection head: Detect(nc=80, ch=(64, 128, 256)); legacy, a class attribute: dense class branches."""

    house = house.Detect
    legacy = False

    def __init__(self, nc: int = 80, ch: Sequence[int] = (), *more: Any, **options: Any):
        channels = more[-1] if more else ch  # (nc, reg_max, end2end, ch) too
        house.Detect.__init__(self, nc, channels=channels, legacy=self.legacy, **options)
        self._prepare(channels)


class Segment(_Levels, house_segment.Segment):
    """The segmentation head: Segment(nc=80, nm=32, npr=256, ch=(64, 128, 256))."""

    house = house_segment.Segment
    legacy = False

    def __init__(self, nc: int = 80, nm: int = 32, npr: int = 256, ch: Sequence[int] = (), **options: Any):
        house_segment.Segment.__init__(self, nc, nm, npr, channels=ch, legacy=self.legacy, **options)
        self.nm, self.npr = nm, npr
        self._prepare(ch)


class Classify(house_classify.Classify, metaclass=_Kin):
    """The head of a classifier: Classify(c1, c2), from c1 channels to c2 classes.

    k, s, p, g: of its convolution; only those of published graphs, 1x1 at every place, are here.
    """

    house = house_classify.Classify
    export = False

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1):
        if (k, s, p or 0, g) != (1, 1, 0, 1):
            raise UserError(f"Classify(k={k}, s={s}, p={p}, g={g}): only a 1x1 convolution, k=1 s=1 g=1, is here.")
        house_classify.Classify.__init__(self, c2, channels=(c1,))

    def forward(self, x: Tensor | Sequence[Tensor]) -> Any:
        """A map, or maps that are put behind one another -> logits (B, c2); in evaluation (probabilities, logits)."""
        raw = super().forward([x if isinstance(x, Tensor) else torch.cat(list(x), 1)])
        if self.training:
            return raw["logits"]
        probabilities = self.decode(raw)
        return probabilities if self.export else (probabilities, raw["logits"])


OTHERS = {
    "Pose": "the head of a finder of keypoints",
    "OBB": "the head of a detector of oriented boxes",
    "v10Detect": "the head of YOLOv10, with two sets of branches",
    "RTDETRDecoder": "the decoder of RT-DETR",
    "WorldDetect": "a head with text",
    "YOLOEDetect": "a head with text",
}
globals().update({name: unknown(name, what, __name__) for name, what in OTHERS.items()})
__all__ = ["Classify", "Detect", "Segment", *OTHERS]
