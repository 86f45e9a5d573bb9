"""Whether an exported file gives what the network gives.

Tolerances: those of another runtime for float32 files; for 16 and 8 bits, what leaves average precision as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.detector import Detector
from ..models.modules.bit_activations import Quantising
from ..ops.boxes import xyxy_from_xywh
from .nms import Suppression
from .runtimes.runtime import Engine

CONF = 0.25  # scores that are compared are above it ...
ENOUGH = 30  # ... or among so many best of an image, where few are
NUDGE, TWICE = 1e-6, 2.0
SLACK = 0.02  # of an overlap
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


RULES = {
    "float32": Rule(1e-4, 1e-3, 1e-3, 1.0),
    "half": Rule(1e-2, 0.04, 0.25, 0.95),
    "int8": Rule(3e-2, 0.15, 1.0, 0.8),
}


@dataclass
class Agreement:
    """What a comparison found. pixels, score: the largest differences of boxes above conf; matched of count boxes agree."""

    pixels: float = 0.0
    score: float = 0.0
    matched: int = 0
    count: int = 0
    images: int = 0
    note: str = ""

    def describe(self) -> str:
        """One line."""
        return (
            f"largest difference {self.pixels:.2g} px, {self.score:.2g} in score; {self.matched} of {self.count} boxes matched "
            f"on {self.images} images{self.note}"
        )


@torch.inference_mode()
def compare(
    model: Detector, engine: Engine, batches: Iterable[Tensor], kind: str, suppression: Suppression | None = None
) -> Agreement:
    """Run both on batches (B, 3, H, W) that the engine takes; kind: of RULES. Raises MismatchError beyond its tolerance.

    model: folded, on the CPU. suppression: that of the file, where it is inside; where it leaves nothing on any image, count is 0.
    """
    found, rule = Agreement(), RULES[kind]
    for number, images in enumerate(batches):
        if not number:
            rule, found.note = _widened(rule, model, images)
        raw = engine(images).cpu()
        wanted = model.decode(model(images))
        if not raw.isfinite().all():
            raise MismatchError("it gives numbers that are not finite")
        if suppression is None and raw.shape != wanted.shape:
            raise MismatchError(f"it gives {tuple(raw.shape)} in the place of {tuple(wanted.shape)}")
        most = rule.side * max(*images.shape[2:], LEAST_SIDE)
        if suppression:
            _rows(found, raw, wanted, most, rule, suppression)
        else:
            _anchors(found, raw, wanted, most, rule)
        found.images += len(images)
    if found.matched < rule.share * found.count:
        raise MismatchError(
            f"it differs from the network ({found.describe()}; {rule.share:.0%} must agree to "
            f"{most:.2g} px and {rule.score:.2%} of a score)"
        )
    return found


def _widened(rule: Rule, model: Detector, images: Tensor) -> tuple[Rule, str]:
    # A rounding that goes the other way moves an activation of 8 bits by a whole step. What a change of the input below any
    # rounding does to a network with such layers is the least by which two programs that compute it may differ.
    if not any(isinstance(module, Quantising) and module.act != "none" for module in model.modules()):
        return rule, ""
    own, generator = Agreement(), torch.Generator().manual_seed(0)
    wanted = model.decode(model(images))
    for _ in range(2):
        moved = images + torch.randn(images.shape, generator=generator) * NUDGE
        _anchors(own, model.decode(model(moved)), wanted, 0.0, rule)
    side, score = (TWICE * value for value in (own.pixels / max(*images.shape[2:], LEAST_SIDE), own.score))
    if side <= rule.side and score <= rule.score * rule.floor:
        return rule, ""
    note = f" (8-bit activations: a change of {NUDGE:g} in the image moves the network's own boxes by {own.pixels:.2g} px and {own.score:.2g})"
    return Rule(max(side, rule.side), max(score, rule.score), 1.0, min(rule.share, 0.98)), note


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
    found.score = max(found.score, float(scores[hopeful].max()))


def _rows(found: Agreement, raw: Tensor, wanted: Tensor, most: float, rule: Rule, suppression: Suppression) -> None:
    # Each box is one of the network's, none overlaps another of its class, and each of the network's is left, or overlapped by a
    # better one that is left. So near-ties, of which either may go, have no part in it.
    iou, classes = suppression.iou, 1 - int(suppression.agnostic)
    for rows, image in zip(raw, wanted, strict=True):
        rows = rows[rows[:, 4] > 0]  # (n, 6)
        score, label = image[4:].max(0)
        least = min(rows[-1, 4].item() if len(rows) == suppression.max_det else 0.0, 1.0)
        slack = rule.score * score.clamp(min=rule.floor)  # (A,)
        hopeful = score > suppression.conf - slack
        all_ = torch.cat((xyxy_from_xywh(image[:4].t()), score[:, None], label[:, None].float(), slack[:, None]), 1)[
            hopeful
        ]  # (m, 7)
        must = (all_[:, 4] > suppression.conf + all_[:, 6]) & (
            all_[:, 4] > least + all_[:, 6]
        )  # neither at conf nor behind max_det
        found.count += len(rows) + int(must.sum())
        if not len(rows) or not len(all_):
            continue
        pixels = (rows[:, None, :4] - all_[None, :, :4]).abs().amax(2)  # (n, m)
        like = (pixels <= most) & rule.near(rows[:, None, 4], all_[None, :, 4]) & (rows[:, None, 5] == all_[None, :, 5])
        same = _overlap(rows, rows, classes).triu(1) > iou + SLACK
        found.matched += int((like.any(1) & ~same.any(0)).sum())
        better = rows[:, None, 4] >= all_[None, :, 4] - all_[None, :, 6]
        found.matched += int((((_overlap(rows, all_, classes) > iou - SLACK) & better | like).any(0) & must).sum())
        if like.any():
            found.pixels = max(found.pixels, float(pixels.masked_fill(~like, torch.inf).amin(1)[like.any(1)].max()))
            scores = (rows[:, None, 4] - all_[None, :, 4]).abs().masked_fill(~like, torch.inf).amin(1)
            found.score = max(found.score, float(scores[like.any(1)].max()))


def _overlap(a: Tensor, b: Tensor, classes: int) -> Tensor:
    """Rows (n, 6), (m, 6) or longer -> (n, m): overlap, 0 for boxes of different classes where classes is 1."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:4], b[None, :, 2:4])
    shared = (high - low).clamp(min=0).prod(2)
    sizes = [(rows[:, 2:4] - rows[:, :2]).clamp(min=0).prod(1) for rows in (a, b)]
    found = shared / (sizes[0][:, None] + sizes[1][None] - shared).clamp(min=1e-9)
    return found * ((a[:, None, 5] == b[None, :, 5]) | (not classes))
