"""Compare what two programs compute from one network: an exported model with the network, or two ways to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..models.detector import Detector
from ..models.modules.bit_activations import QuantisedLayer
from ..ops.boxes import xyxy_from_xywh
from ..tasks import TASKS
from ..tasks.detect import Decoded, predict_decoded
from .agreement import (
    ANY,
    MIN_SIDE,
    RIGHT_ANGLE,
    TOLERANCES,
    Agreement,
    MismatchError,
    Tolerance,
    check_shape,
    largest_of,
    values_agree,
)
from .compare_detections import compare_detections
from .nms import Suppression
from .runtimes.runtime import Runtime

CONFIDENCE = 0.25  # candidates with a higher score are compared ...
MIN_CANDIDATES = 30  # ... and in any case so many of an image, the best ones
NUDGE = 1e-6  # standard deviation of the noise that shows how far 8-bit activations move by themselves
NUDGE_MARGIN = 2.0  # the tolerance is so many times what NUDGE moves
FEW_NUDGES, MANY_NUDGES = 2, 16  # changes of each image: at first, and before an exported model is refused


def further_values(model: Detector, decoded: Decoded) -> tuple[str, ...]:
    """What each value of the model's candidates behind those of the classes is (tasks.Task.further)."""
    task = TASKS[model.task]
    return task.further({name: getattr(decoded, name) for name in task.maps}, model.keypoints)


def compare_decoded(
    reference: Decoded, other: Decoded, tolerance: Tolerance, image_shape: Sequence[int], further: Sequence[str] = ()
) -> Agreement:
    """Compare two decoded predictions of the same images (..., H, W), anchor by anchor, and their maps.

    Suppression has no part in it, because near-ties decide which box it keeps. The candidates that one of the two gives
    a score above CONFIDENCE are compared, and at least the MIN_CANDIDATES best ones of the reference in each image.
    further: of `further_values`.

    Raises MismatchError for another shape, for numbers that are not finite and for maps that do not agree.
    """
    if reference.candidates.ndim == 2:
        return _compare_probabilities(reference.candidates, other.candidates, tolerance)
    maps = _compare_maps(reference, other, tolerance)
    check_shape(other.candidates, reference.candidates)
    (boxes, scores, values), (other_boxes, other_scores, other_values) = map(_parts, (reference, other))
    best = scores.amax(1)  # (B, A)
    last = best.topk(min(MIN_CANDIDATES, best.shape[1]), 1).values[:, -1:]  # (B, 1)
    compared = torch.maximum(best, other_scores.amax(1)) >= last.clamp(max=CONFIDENCE)  # (B, A)
    pixels, limit = (other_boxes - boxes).abs().amax(2), tolerance.pixels(image_shape)  # (B, A)
    agrees = tolerance.scores_agree(other_scores, scores).all(1) & (pixels <= limit)
    same, groups = values_agree(values, other_values, further, tolerance, limit, largest_of(values))
    scores = (other_scores - scores).abs().amax(1)  # (B, A)
    counts = int((agrees & same & compared).sum()), int(compared.sum()), len(best)
    largest = {name: float(each[compared].max()) for name, each in groups.items()}
    return maps + Agreement(float(pixels[compared].max()), float(scores[compared].max()), *counts, further=largest)


def _parts(decoded: Decoded) -> tuple[Tensor, Tensor, Tensor]:
    """Corners (B, A, 4), scores (B, nc, A) and further values (B, A, k) of candidates.

    Corners of oriented boxes are those before they are turned by their angle.
    """
    boxes, scores, further = decoded.candidates.tensor_split((4, 4 + decoded.nc), 1)
    return xyxy_from_xywh(boxes.transpose(1, 2)), scores, further.transpose(1, 2)


def _compare_probabilities(reference: Tensor, other: Tensor, tolerance: Tolerance) -> Agreement:
    """Compare the class probabilities (B, nc) of images."""
    check_shape(other, reference)
    agrees = tolerance.scores_agree(other, reference).all(1)
    return Agreement(None, float((other - reference).abs().max()), int(agrees.sum()), len(agrees), len(agrees))


def _compare_maps(reference: Decoded, other: Decoded, tolerance: Tolerance) -> Agreement:
    """Compare the maps beside the candidates. Raises MismatchError where they do not agree."""
    if reference.prototypes is None:
        return Agreement()
    check_shape(other.prototypes, reference.prototypes)
    differences = (other.prototypes - reference.prototypes).abs() / largest_of(reference.prototypes)
    largest, share = float(differences.max()), float((differences <= tolerance.further).float().mean())
    if share < tolerance.share:
        raise MismatchError(
            f"its prototypes differ from those of the network by up to {largest:.2%} of their largest value; "
            f"{tolerance.share:.0%} of them must agree to {tolerance.further:.2%}"
        )
    return Agreement(further={"prototypes": largest})


def tolerance_for(
    kind: str, model: Detector, batches: Sequence[Tensor], nudges: int = FEW_NUDGES
) -> tuple[Tolerance, str]:
    """The tolerance for a precision (a key of TOLERANCES), and a note where it is wider than usual, else "".

    In a network with 8-bit activations a rounding that goes the other way moves an activation by a whole step. Two
    programs that compute such a network may differ by what a change of the images below any rounding does to it.
    model: folded, on the device of the images. batches: images (B, 3, H, W), each changed `nudges` times.
    """
    usual = TOLERANCES[kind]
    if not _rounds_activations(model):
        return usual, ""
    generator = torch.Generator().manual_seed(0)
    unrest, side = Agreement(), 0.0
    for images in batches:
        reference = predict_decoded(model, images)
        kinds = further_values(model, reference)
        for _ in range(nudges):
            nudged = images + NUDGE * torch.randn(images.shape, generator=generator).to(images)
            moved = compare_decoded(reference, predict_decoded(model, nudged), ANY, images.shape, kinds)
            pixels = max(moved.pixels or 0.0, moved.further.get("points", 0.0))
            side = max(side, NUDGE_MARGIN * pixels / max(*images.shape[2:], MIN_SIDE))
            unrest += moved
    groups = {name: value / RIGHT_ANGLE if name == "angles" else value for name, value in unrest.further.items()}
    groups.pop("points", None)
    score = NUDGE_MARGIN * max(unrest.score, groups.pop("visibilities", 0.0))
    further = NUDGE_MARGIN * max(groups.values(), default=0.0)
    if side <= usual.side and score <= usual.score * usual.floor and further <= usual.further:
        return usual, ""
    change = f"{unrest.score:.2g}" if unrest.pixels is None else f"{unrest.pixels:.2g} px and {unrest.score:.2g}"
    note = f" (8-bit activations: a change of {NUDGE:g} in the image moves the network's own results by {change})"
    further = max(further, usual.further)
    return Tolerance(max(side, usual.side), max(score, usual.score), 1.0, further, min(usual.share, 0.98)), note


def _rounds_activations(model: Detector) -> bool:
    return any(isinstance(module, QuantisedLayer) and module.act != "none" for module in model.modules())


@torch.inference_mode()
def compare(
    model: Detector, runtime: Runtime, batches: Sequence[Tensor], kind: str, suppression: Suppression | None = None
) -> Agreement:
    """Run the network and its exported model on batches of images (B, 3, H, W) that the exported model takes.

    model: folded, on the CPU. kind: the precision, a key of TOLERANCES. suppression: that of the exported model, where
    it is inside; where it leaves nothing on any image, the result has a count of 0.

    Raises MismatchError where the two differ by more than the tolerance.
    """
    pairs = [(images.shape, predict_decoded(model, images), runtime(images)) for images in batches]
    try:
        return _compare_outputs(model, pairs, suppression, *tolerance_for(kind, model, batches[:1], FEW_NUDGES))
    except MismatchError:
        if not _rounds_activations(model):
            raise
    # A few changes of a few images can miss the activation that the exported model rounds the other way.
    return _compare_outputs(model, pairs, suppression, *tolerance_for(kind, model, batches, MANY_NUDGES))


def _compare_outputs(
    model: Detector,
    pairs: Sequence[tuple[torch.Size, Decoded, Tensor | Mapping[str, Tensor]]],
    suppression: Suppression | None,
    tolerance: Tolerance,
    note: str,
) -> Agreement:
    """Compare outputs: the shape of the images (B, 3, H, W), what the network gives, what the exported model gives."""
    agreement = Agreement(note=note)
    for shape, reference, output in pairs:
        first, maps = (output["candidates"], output) if isinstance(output, Mapping) else (output, {})
        maps = {name: maps[name].cpu() for name in TASKS[model.task].maps}
        other, kinds = Decoded(first.cpu(), model.nc, **maps), further_values(model, reference)
        if suppression is None:
            agreement += compare_decoded(reference, other, tolerance, shape, kinds)
        else:
            agreement += _compare_maps(reference, other, tolerance)
            agreement += compare_detections(reference, other.candidates, tolerance, shape, suppression, kinds)
    if agreement.matched < tolerance.share * agreement.count:
        raise MismatchError(
            f"it differs from the network ({agreement.describe()}; {tolerance.share:.0%} must agree to "
            f"{tolerance.pixels(pairs[0][0]):.2g} px and {tolerance.score:.2%} of a score)"
        )
    return agreement
