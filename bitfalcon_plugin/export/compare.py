"""Compare what two programs compute from the same network: an exported model with the network, or two ways to run it.

The tolerances are those of another runtime for float32; for 16 and 8 bits, what leaves the average precision unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.detector import Detector
from ..models.modules.bit_activations import QuantisedLayer
from ..ops.boxes import box_iou, xyxy_from_xywh
from ..tasks import TASKS
from ..tasks.detect import Decoded, predict_decoded
from .nms import Suppression
from .runtimes.runtime import Runtime

CONFIDENCE = 0.25  # candidates with a higher score are compared ...
MIN_CANDIDATES = 30  # ... and in any case so many of an image, the best ones
NUDGE = 1e-6  # standard deviation of the noise that shows how far 8-bit activations move by themselves
NUDGE_MARGIN = 2.0  # the tolerance is so many times what NUDGE moves
IOU_SLACK = 0.02  # by which the IoU of two pairs of boxes may differ
MIN_SIDE = 320  # pixels: smaller images get the tolerance of this side


class MismatchError(Exception):
    """An exported model that does not give what its network gives. The user did nothing wrong."""


@dataclass(frozen=True)
class Tolerance:
    """How far two programs may differ and still agree.

    side: the largest difference of a coordinate, as a share of the longer side of the image. score: the largest
    difference of a score, as a share of the reference's score; a score below `floor` counts as `floor`. further: the
    largest difference of any other value, as a share of the largest such value in the batch. share: the share of the
    boxes, and of the values of a map, that must agree, in [0, 1].
    """

    side: float
    score: float
    floor: float
    further: float
    share: float

    def pixels(self, image_shape: Sequence[int]) -> float:
        """The largest difference of a coordinate in pixels, for images of shape (..., H, W)."""
        return self.side * max(*image_shape[-2:], MIN_SIDE)

    def scores_agree(self, scores: Tensor, reference: Tensor) -> Tensor:
        """Whether each score is near enough to the reference's (bool, broadcast shape)."""
        return (scores - reference).abs() <= self.score * reference.clamp(min=self.floor)


TOLERANCES = {
    "float32": Tolerance(1e-4, 1e-3, 1e-3, 1e-3, 1.0),
    "half": Tolerance(1e-2, 0.04, 0.25, 0.04, 0.95),
    "int8": Tolerance(3e-2, 0.15, 1.0, 0.15, 0.8),
}
ANY = Tolerance(torch.inf, torch.inf, 1.0, torch.inf, 0.0)  # to measure a difference


@dataclass(frozen=True)
class Agreement:
    """The result of a comparison; `a + b` is that of both.

    pixels, score: the largest difference of a coordinate and of a score; pixels is None where there are no boxes.
    matched: how many of `count` boxes agree, or of images where there are no boxes. images: how many images were
    compared. note: why the tolerance is wider than usual, or "". further: the largest difference of another value, as
    Tolerance.further; None where there is no other value.
    """

    pixels: float | None = None
    score: float = 0.0
    matched: int = 0
    count: int = 0
    images: int = 0
    note: str = ""
    further: float | None = None

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            _largest(self.pixels, other.pixels),
            max(self.score, other.score),
            self.matched + other.matched,
            self.count + other.count,
            self.images + other.images,
            self.note or other.note,
            _largest(self.further, other.further),
        )

    def describe(self) -> str:
        """Return the result as one line of text."""
        if self.pixels is None:
            return (
                f"largest difference {self.score:.2g} in probability; {self.matched} of {self.count} images "
                f"matched{self.note}"
            )
        further = "" if self.further is None else f", {self.further:.2g} in other values"
        return (
            f"largest difference {self.pixels:.2g} px, {self.score:.2g} in score{further}; {self.matched} of "
            f"{self.count} boxes matched on {self.images} images{self.note}"
        )


def _largest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


def compare_decoded(reference: Decoded, other: Decoded, tolerance: Tolerance, image_shape: Sequence[int]) -> Agreement:
    """Compare two decoded predictions of the same images (..., H, W), anchor by anchor, and their maps.

    Suppression has no part in it, because near-ties decide which box it keeps. The candidates that one of the two gives
    a score above CONFIDENCE are compared, and at least the MIN_CANDIDATES best ones of the reference in each image.

    Raises MismatchError for another shape, for numbers that are not finite and for maps that do not agree.
    """
    if reference.candidates.ndim == 2:
        return _compare_probabilities(reference.candidates, other.candidates, tolerance)
    maps = _compare_maps(reference, other, tolerance)
    (boxes, scores, values), (other_boxes, other_scores, other_values) = map(_parts, (reference, other))
    _check_shape(other.candidates, reference.candidates)
    best = scores.amax(1)  # (B, A)
    last = best.topk(min(MIN_CANDIDATES, best.shape[1]), 1).values[:, -1:]  # (B, 1)
    compared = torch.maximum(best, other_scores.amax(1)) >= last.clamp(max=CONFIDENCE)  # (B, A)
    pixels = (other_boxes - boxes).abs().amax(2)  # (B, A)
    agrees = tolerance.scores_agree(other_scores, scores).all(1) & (pixels <= tolerance.pixels(image_shape))
    further = None
    if values.shape[1]:
        shares = _differences(values, other_values).amax(1)  # (B, A)
        agrees &= shares <= tolerance.further
        further = float(shares[compared].max())
    scores = (other_scores - scores).abs().amax(1)  # (B, A)
    counts = int((agrees & compared).sum()), int(compared.sum()), len(best)
    return maps + Agreement(float(pixels[compared].max()), float(scores[compared].max()), *counts, further=further)


def _parts(decoded: Decoded) -> tuple[Tensor, Tensor, Tensor]:
    """Corners (B, A, 4), scores (B, nc, A) and further values (B, k, A) of candidates."""
    boxes, scores, further = decoded.candidates.tensor_split((4, 4 + decoded.nc), 1)
    return xyxy_from_xywh(boxes.transpose(1, 2)), scores, further


def _differences(values: Tensor, others: Tensor) -> Tensor:
    """The absolute differences of two tensors of one shape, as shares of the largest of `values`."""
    return (others - values).abs() / values.abs().amax().clamp(min=1e-6)


def _compare_probabilities(reference: Tensor, other: Tensor, tolerance: Tolerance) -> Agreement:
    """Compare the class probabilities (B, nc) of images."""
    _check_shape(other, reference)
    agrees = tolerance.scores_agree(other, reference).all(1)
    return Agreement(None, float((other - reference).abs().max()), int(agrees.sum()), len(agrees), len(agrees))


def _compare_maps(reference: Decoded, other: Decoded, tolerance: Tolerance) -> Agreement:
    """Compare the maps beside the candidates. Raises MismatchError where they do not agree."""
    if reference.prototypes is None:
        return Agreement()
    _check_shape(other.prototypes, reference.prototypes)
    differences = _differences(reference.prototypes, other.prototypes)
    largest, share = float(differences.max()), float((differences <= tolerance.further).float().mean())
    if share < tolerance.share:
        raise MismatchError(
            f"its prototypes differ from those of the network by up to {largest:.2%} of their largest value; "
            f"{tolerance.share:.0%} of them must agree to {tolerance.further:.2%}"
        )
    return Agreement(further=largest)


def _check_shape(other: Tensor, reference: Tensor) -> None:
    """Raise MismatchError for another shape than that of the reference, and for numbers that are not finite."""
    if other.shape != reference.shape:
        raise MismatchError(f"it gives {tuple(other.shape)} in the place of {tuple(reference.shape)}")
    if not other.isfinite().all():
        raise MismatchError("it gives numbers that are not finite")


def tolerance_for(kind: str, model: Detector, images: Tensor) -> tuple[Tolerance, str]:
    """The tolerance for a precision (a key of TOLERANCES), and a note where it is wider than usual, else "".

    In a network with 8-bit activations a rounding that goes the other way moves an activation by a whole step. Two
    programs that compute such a network may differ by what a change of the images (B, 3, H, W) below any rounding does
    to it. model: folded, on the device of the images.
    """
    usual = TOLERANCES[kind]
    if not any(isinstance(module, QuantisedLayer) and module.act != "none" for module in model.modules()):
        return usual, ""
    generator = torch.Generator().manual_seed(0)
    reference, unrest = predict_decoded(model, images), Agreement()
    for _ in range(2):
        nudged = images + NUDGE * torch.randn(images.shape, generator=generator).to(images)
        unrest += compare_decoded(reference, predict_decoded(model, nudged), ANY, images.shape)
    side = NUDGE_MARGIN * (unrest.pixels or 0.0) / max(*images.shape[2:], MIN_SIDE)
    score, further = NUDGE_MARGIN * unrest.score, NUDGE_MARGIN * (unrest.further or 0.0)
    if side <= usual.side and score <= usual.score * usual.floor and further <= usual.further:
        return usual, ""
    moved = f"{unrest.score:.2g}" if unrest.pixels is None else f"{unrest.pixels:.2g} px and {unrest.score:.2g}"
    note = f" (8-bit activations: a change of {NUDGE:g} in the image moves the network's own results by {moved})"
    further = max(further, usual.further)
    return Tolerance(max(side, usual.side), max(score, usual.score), 1.0, further, min(usual.share, 0.98)), note


@torch.inference_mode()
def compare(
    model: Detector, runtime: Runtime, batches: Sequence[Tensor], kind: str, suppression: Suppression | None = None
) -> Agreement:
    """Run the network and its exported model on batches of images (B, 3, H, W) that the exported model takes.

    model: folded, on the CPU. kind: the precision, a key of TOLERANCES. suppression: that of the exported model, where
    it is inside; where it leaves nothing on any image, the result has a count of 0.

    Raises MismatchError where the two differ by more than the tolerance.
    """
    tolerance, note = tolerance_for(kind, model, batches[0])
    agreement = Agreement(note=note)
    for images in batches:
        output, reference = runtime(images), predict_decoded(model, images)
        first, maps = (output["candidates"], output) if isinstance(output, Mapping) else (output, {})
        maps = {name: maps[name].cpu() for name in TASKS[model.task].maps}
        output = Decoded(first.cpu(), model.nc, **maps)
        if suppression is None:
            agreement += compare_decoded(reference, output, tolerance, images.shape)
        else:
            agreement += _compare_maps(reference, output, tolerance)
            agreement += _compare_detections(reference, output.candidates, tolerance, images.shape, suppression)
    if agreement.matched < tolerance.share * agreement.count:
        raise MismatchError(
            f"it differs from the network ({agreement.describe()}; {tolerance.share:.0%} must agree to "
            f"{tolerance.pixels(images.shape):.2g} px and {tolerance.score:.2%} of a score)"
        )
    return agreement


def _compare_detections(
    reference: Decoded, output: Tensor, tolerance: Tolerance, image_shape: Sequence[int], suppression: Suppression
) -> Agreement:
    """Compare the network's candidates with the detections (B, max_det, 6+k) of suppression in the file."""
    further = reference.candidates.shape[1] - 4 - reference.nc
    _check_shape(output, output.new_empty(len(reference.candidates), suppression.max_det, 6 + further))
    agreement, pixels = Agreement(), tolerance.pixels(image_shape)
    for image, rows in zip(reference.candidates, output, strict=True):
        agreement += _compare_image(image, rows[rows[:, 4] > 0], tolerance, pixels, suppression)
    return agreement


def _compare_image(
    candidates: Tensor, detections: Tensor, tolerance: Tolerance, pixels: float, suppression: Suppression
) -> Agreement:
    """Compare the candidates (4+nc+k, A) with the detections (n, 6+k) of one image.

    Each detection must be one of the candidates and must not overlap a better detection of its class. Each candidate
    must be a detection or overlap a better one. So a near-tie, of which suppression may keep either, is no difference.
    A candidate that may fall below conf or behind max_det need not be there.
    """
    boxes, scores, further = candidates.t().tensor_split((4, 4 + suppression.nc), 1)
    scores, classes = scores.max(1)  # (A,) each
    slack = tolerance.score * scores.clamp(min=tolerance.floor)  # (A,)
    near = scores > suppression.conf - slack
    boxes, further = xyxy_from_xywh(boxes)[near], further[near]  # (m, 4), (m, k)
    scores, classes, slack = scores[near], classes[near], slack[near]  # (m,) each
    is_full = len(detections) == suppression.max_det
    last_score = min(detections[-1, 4].item(), 1.0) if is_full else 0.0
    needed = (scores > suppression.conf + slack) & (scores > last_score + slack)  # (m,)
    count = len(detections) + int(needed.sum())
    if not len(detections) or not len(boxes):
        return Agreement(0.0, count=count, images=1)
    distance = (detections[:, None, :4] - boxes[None]).abs().amax(2)  # (n, m)
    score_distance = (detections[:, None, 4] - scores[None]).abs()  # (n, m)
    same = (distance <= pixels) & tolerance.scores_agree(detections[:, None, 4], scores[None])
    same &= detections[:, None, 5] == classes[None]
    largest_further = None
    if further.shape[1]:
        scale = candidates[4 + suppression.nc :].abs().amax().clamp(min=1e-6)
        shares = torch.cdist(detections[:, 6:], further, p=torch.inf) / scale  # (n, m)
        same &= shares <= tolerance.further
        largest_further = float(shares[same].max()) if same.any() else None
    repeated = _iou(detections, detections[:, :4], detections[:, 5], suppression).triu(1) > suppression.iou + IOU_SLACK
    better = detections[:, None, 4] >= scores[None] - slack[None]
    suppressed = better & (_iou(detections, boxes, classes, suppression) > suppression.iou - IOU_SLACK)
    matched = int((same.any(1) & ~repeated.any(0)).sum()) + int(((suppressed | same).any(0) & needed).sum())
    if not same.any():
        return Agreement(0.0, 0.0, matched, count, 1)
    largest = [
        float(values.masked_fill(~same, torch.inf).amin(1)[same.any(1)].max()) for values in (distance, score_distance)
    ]
    return Agreement(*largest, matched, count, 1, further=largest_further)


def _iou(detections: Tensor, boxes: Tensor, classes: Tensor, suppression: Suppression) -> Tensor:
    """The IoU (n, m) of detections (n, 6) and boxes (m, 4); 0 for other classes, unless suppression is agnostic."""
    iou = box_iou(detections[:, :4], boxes)
    return iou if suppression.agnostic else iou * (detections[:, None, 5] == classes[None])
