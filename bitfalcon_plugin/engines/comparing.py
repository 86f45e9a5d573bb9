"""Whether an exported file gives what the network gives.

Tolerances: those of another runtime for float32 files; for 16 and 8 bits, what leaves average precision as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..boxes import xyxy_from_xywh
from ..model import Detector
from .interface import Engine
from .suppressing import Suppression

CONF = 0.25  # scores that are compared are above it ...
ENOUGH = 30  # ... or among so many best of an image, where few are
LEAST_SIDE = 320  # pixels: smaller images are held to the tolerance of this side


class MismatchError(Exception):
    """An export that does not give what its network gives. It is no fault of the user's."""


@dataclass(frozen=True)
class Rule:
    """side: most that a coordinate may differ, as a share of the image's longer side. score: most that a score may, as a share of it;
    scores below floor as of that. share: of the boxes that must agree."""

    side: float
    score: float
    floor: float
    share: float

    def near(self, scores: Tensor, wanted: Tensor) -> Tensor:
        """Whether scores agree."""
        return (scores - wanted).abs() <= self.score * wanted.clamp(min=self.floor)


RULES = {"float32": Rule(1e-4, 1e-3, 1e-3, 1.0), "half": Rule(1e-2, 0.04, 0.25, 0.95), "int8": Rule(3e-2, 0.15, 1.0, 0.8)}


@dataclass
class Agreement:
    """What a comparison found. pixels, score: the largest differences over all that was compared; matched of count boxes agree."""

    pixels: float = 0.0
    score: float = 0.0
    matched: int = 0
    count: int = 0
    images: int = 0

    def describe(self) -> str:
        """One line."""
        return (f"largest difference {self.pixels:.2g} px, {self.score:.2g} in score; {self.matched} of {self.count} boxes matched "
                f"on {self.images} images")


@torch.inference_mode()
def compare(model: Detector, engine: Engine, batches: Iterable[Tensor], kind: str, suppression: Suppression | None = None) -> Agreement:
    """Run both on batches (B, 3, H, W) that the engine takes; kind: of RULES. Raises MismatchError beyond its tolerance.

    model: folded, on the CPU. suppression: that of the file, where it is inside; where it leaves nothing on any image, count is 0.
    """
    rule, found = RULES[kind], Agreement()
    for images in batches:
        raw = engine(images).cpu()
        wanted = model.decode(model(images))
        if not raw.isfinite().all():
            raise MismatchError("it gives numbers that are not finite")
        if suppression is None and raw.shape != wanted.shape:
            raise MismatchError(f"it gives {tuple(raw.shape)} in the place of {tuple(wanted.shape)}")
        most = rule.side * max(*images.shape[2:], LEAST_SIDE)
        (_rows if suppression else _anchors)(found, raw, suppression(wanted) if suppression else wanted, most, rule)
        found.images += len(images)
    if found.matched < rule.share * found.count:
        raise MismatchError(f"it differs from the network ({found.describe()}; {rule.share:.0%} must agree to "
                            f"{most:.2g} px and {rule.score:.2%} of a score)")
    return found


def _anchors(found: Agreement, raw: Tensor, wanted: Tensor, most: float, rule: Rule) -> None:
    # Anchor by anchor: suppression, which near-ties decide, has no part in it.
    best = wanted[:, 4:].amax(1)  # (B, A)
    least = torch.minimum(best.topk(min(ENOUGH, best.shape[1]), 1).values[:, -1:], torch.tensor(CONF))
    hopeful = best >= least
    pixels = (xyxy_from_xywh(raw[:, :4].transpose(1, 2)) - xyxy_from_xywh(wanted[:, :4].transpose(1, 2))).abs().amax(2)
    scores = (raw[:, 4:] - wanted[:, 4:]).abs().amax(1)
    near = rule.near(raw[:, 4:], wanted[:, 4:]).all(1)
    found.matched += int(((pixels <= most) & near & hopeful).sum())
    found.count += int(hopeful.sum())
    found.pixels = max(found.pixels, float(pixels[hopeful].max()))
    found.score = max(found.score, float(scores.max()))


def _rows(found: Agreement, raw: Tensor, wanted: Tensor, most: float, rule: Rule) -> None:
    # Box by box: each has its like in the other's answer. Of near-ties either may have been suppressed.
    for ours, theirs in zip(wanted, raw, strict=True):  # (n, 6) each
        ours, theirs = ours[ours[:, 4] > 0], theirs[theirs[:, 4] > 0]
        found.count += max(len(ours), len(theirs))
        if not len(ours) or not len(theirs):
            continue
        pixels = (ours[:, None, :4] - theirs[None, :, :4]).abs().amax(2)
        scores = (ours[:, None, 4] - theirs[None, :, 4]).abs()
        like = (ours[:, None, 5] == theirs[None, :, 5]) & (pixels <= most) & rule.near(theirs[None, :, 4], ours[:, None, 4])
        found.matched += min(int(like.any(0).sum()), int(like.any(1).sum()))
        if like.any():
            found.pixels, found.score = max(found.pixels, float(pixels[like].max())), max(found.score, float(scores[like].max()))
