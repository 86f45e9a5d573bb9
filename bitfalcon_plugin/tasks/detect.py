"""The detection loss: binary cross-entropy for classes, CIoU for boxes, distribution focal loss for the distances.

Papers: CIoU, Zheng et al., "Distance-IoU Loss" (AAAI 2020); DFL, Li et al., "Generalized Focal Loss" (NeurIPS 2020,
equation 6); soft targets, Feng et al., "TOOD" (ICCV 2021). Written from these and from spec/interface.md 6.7;
the numbers agree with the recorded loss vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import functional

from ..config.settings import Settings
from ..data.images import GREY
from ..models.detector import Detector
from ..ops.boxes import anchor_points, boxes_to_distances, ciou, distances_to_boxes
from .assign import Assignment, Targets, assign


class Gains(NamedTuple):
    """Weights of the three parts."""

    box: float = 7.5
    cls: float = 0.5
    dfl: float = 1.5


class Losses(NamedTuple):
    """Scalars, float32. The parts carry their gain and no gradient; they are what is logged."""

    box: Tensor
    cls: Tensor
    dfl: Tensor
    total: Tensor  # (box + cls + dfl) * batch size, with gradient


def detection_loss(
    raw: Mapping[str, Tensor],
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    targets: Targets,
    *,
    gains: tuple[float, float, float] = Gains(),
    class_weights: Tensor | None = None,
) -> Losses:
    """Loss of raw outputs against ground truths, in float32 whatever autocast says.

    raw: logits "boxes" (B, 4*reg_max, A) and "scores" (B, nc, A), levels concatenated in the order of `sizes`.
    sizes: (h, w) of each level in cells; strides: pixels per cell of each level.
    With S the sum of all soft targets, at least 1: cls is the cross-entropy over all anchors and classes, box the sum
    of (1 - CIoU) * soft target and dfl that of the distances' cross-entropy * soft target over the positives, each / S.
    class_weights: (nc,) multiply the cross-entropy of each class.
    """
    with torch.autocast(raw["boxes"].device.type, enabled=False):
        logits, scores = raw["boxes"].float(), raw["scores"].float()
        points, stride = anchor_points(sizes, strides, device=logits.device)  # (A, 2), (A,)
        with torch.no_grad():
            shares = logits.transpose(1, 2).unflatten(-1, (4, -1)).softmax(-1)  # (B, A, 4, R)
            boxes = distances_to_boxes(points, _distances(shares)) * stride[:, None]  # (B, A, 4) px
            found = assign(scores.sigmoid().transpose(1, 2), boxes, points * stride[:, None], targets)
        box, dfl = _positives(logits, points, stride, found, targets)
        whole = found.weight.sum().clamp(min=1)  # S
        sums = (box, _cross_entropy(scores, found, targets, class_weights), dfl)
        parts = [value / whole * gain for value, gain in zip(sums, gains, strict=True)]
        return Losses(*(part.detach() for part in parts), total=sum(parts) * len(logits))


def _distances(shares: Tensor) -> Tensor:
    """(..., 4, R) probabilities of the whole distances 0..R-1 -> (..., 4) their means, in cells."""
    return shares @ torch.arange(shares.shape[-1], device=shares.device, dtype=shares.dtype)


def _cross_entropy(scores: Tensor, found: Assignment, targets: Targets, weights: Tensor | None) -> Tensor:
    """Sum of the binary cross-entropies over (B, nc, A), for soft targets that are 0 except at the positives.

    log(1 + e^x) - target * x: the second term is gathered, so that no (B, nc, A) tensor of targets is built.
    """
    positive = scores[targets.owner[:, None], targets.classes[:, None], found.anchor]  # (N, k)
    if weights is None:
        return F.softplus(scores).sum() - (found.weight * positive).sum()
    of_class = weights[targets.classes][:, None]  # (N, 1)
    return (F.softplus(scores).sum((0, 2)) * weights).sum() - (found.weight * positive * of_class).sum()


def _positives(
    logits: Tensor, points: Tensor, stride: Tensor, found: Assignment, targets: Targets
) -> tuple[Tensor, Tensor]:
    """Weighted sums of box and DFL losses over all claims (N, k); a claim that was not won weighs 0."""
    chosen = logits[targets.owner[:, None], :, found.anchor]  # (N, k, 4*R)
    log_share = chosen.unflatten(-1, (4, -1)).log_softmax(-1)  # (N, k, 4, R)
    reg_max = log_share.shape[-1]
    point = points[found.anchor]  # (N, k, 2)
    truth = targets.boxes.float()[:, None] / stride[found.anchor][..., None]  # (N, k, 4) in cells
    boxes = distances_to_boxes(point, _distances(log_share.exp()))  # (N, k, 4)
    box = ((1 - ciou(boxes, truth)) * found.weight).sum()
    distance = boxes_to_distances(point, truth).clamp(0, reg_max - 1 - 0.01)  # (N, k, 4)
    dfl = (_focal(log_share, distance) * found.weight).sum()
    return box, dfl


def _focal(log_share: Tensor, distance: Tensor) -> Tensor:
    """Cross-entropy with the two whole distances beside the true one, mean of the sides.

    log_share: (..., 4, R) log-probabilities. distance: (..., 4) in [0, R-1). Returns (...).
    """
    below = distance.floor()
    above = distance - below  # weight of the upper neighbour
    index = below.long()[..., None]
    pair = log_share.gather(-1, torch.cat((index, index + 1), -1))  # (..., 4, 2)
    return -(pair[..., 0] * (1 - above) + pair[..., 1] * above).mean(-1)


LOOKS = ((1.0, False), (0.83, True), (0.67, False))  # of augment: scale, and whether left and right change places


def detect(model: Detector, images: Tensor, augment: bool) -> Tensor:
    """(B, 3, H, W) -> (B, 4+nc, A) as Detector.decode; with `augment` the anchors of all LOOKS, in pixels of `images`."""
    if not augment:
        return model.decode(model(images))
    height, width = images.shape[2:]
    parts = []
    for scale, mirrored in LOOKS:
        look = images.flip(3) if mirrored else images
        size = max(round(height * scale), 1), max(round(width * scale), 1)
        if scale != 1:
            look = functional.interpolate(look, size=size, mode="bilinear", align_corners=False)
            low, right = (-side % model.multiple for side in size)
            look = functional.pad(look, (0, right, 0, low), value=GREY / 255)
        part = model.decode(model(look))
        gain = part.new_tensor([width / size[1], height / size[0]] * 2)[:, None]
        boxes = part[:, :4] * gain
        if mirrored:
            boxes[:, 0] = width - boxes[:, 0]
        parts.append(torch.cat((boxes, part[:, 4:]), 1))
    return torch.cat(parts, 2)


def gains_of(settings: Settings) -> Gains:
    """The weights of the three losses."""
    return Gains(settings.box, settings.cls, settings.dfl)


def class_weights(counts: torch.Tensor, power: float) -> torch.Tensor | None:
    """Weights of the class loss, (nc,): 1 / count ** power, their mean 1; None for power 0. A class without labels counts as one."""
    if not power:
        return None
    weights = counts.clamp(min=1).float().pow(-power)
    return weights / weights.mean()
