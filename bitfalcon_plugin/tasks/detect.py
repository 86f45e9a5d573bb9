"""Detection: its loss (binary cross-entropy, CIoU and distribution focal loss), detections and metrics.

Papers: CIoU, Zheng et al., "Distance-IoU Loss" (AAAI 2020); DFL, Li et al., "Generalized Focal Loss" (NeurIPS 2020,
equation 6); soft targets, Feng et al., "TOOD" (ICCV 2021). Written from these and from spec/interface.md 6.7;
the numbers agree with the recorded loss vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.images import GREY
from ..models.detector import Detector
from ..ops.boxes import anchor_points, boxes_to_distances, ciou, distances_to_boxes
from ..ops.instances import Instances
from ..ops.letterbox import Fit
from ..ops.nms import Suppression, non_max_suppression, suppress
from .assign import Assignment, assign
from .metrics import Metrics

if TYPE_CHECKING:  # predicting needs neither
    from ..data.dataset import Sample

LOSSES = {"box_loss": "box", "cls_loss": "cls", "dfl_loss": "dfl"}  # loss -> setting that holds its gain
GAINS = {"box_loss": 7.5, "cls_loss": 0.5, "dfl_loss": 1.5}  # gains of cfg/default.yaml


def detection_loss(
    raw: Mapping[str, Tensor],
    labels: Instances,
    *,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    gains: Mapping[str, float] = GAINS,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the losses of raw outputs against labels, in float32 whatever autocast says.

    raw: logits "boxes" (B, 4*reg_max, A) and "scores" (B, nc, A), levels concatenated in the order of `sizes`. labels:
    boxes xyxy in pixels of the network input, with `image`. sizes: (h, w) of each level in cells; strides: pixels per
    cell of each level. gains: loss -> its weight. class_weights: (nc,) multiply the cross-entropy of each class.

    Returns LOSSES -> scalar with its gain. With S the sum of all soft targets, at least 1: cls_loss is the
    cross-entropy over all anchors and classes, box_loss the sum of (1 - CIoU) * soft target and dfl_loss the sum of the
    distances' cross-entropy * soft target over the positives, each divided by S. A step minimises their sum times B.
    """
    with torch.autocast(raw["boxes"].device.type, enabled=False):
        return box_losses(raw, labels, sizes, strides, gains, class_weights)[0]


def box_losses(
    raw: Mapping[str, Tensor],
    labels: Instances,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    gains: Mapping[str, float],
    class_weights: Tensor | None,
) -> tuple[dict[str, Tensor], Assignment]:
    """Compute `detection_loss` outside of autocast; also return which anchors belong to which label."""
    logits, scores = raw["boxes"].float(), raw["scores"].float()
    points, stride = anchor_points(sizes, strides, device=logits.device)  # (A, 2), (A,)
    with torch.no_grad():
        shares = logits.transpose(1, 2).unflatten(-1, (4, -1)).softmax(-1)  # (B, A, 4, R)
        boxes = distances_to_boxes(points, mean_distances(shares)) * stride[:, None]  # (B, A, 4) px
        assignment = assign(scores.sigmoid().transpose(1, 2), boxes, points * stride[:, None], labels)
    box, dfl = _box_losses(logits, points, stride, assignment, labels)
    total = assignment.weight.sum().clamp(min=1)  # S
    sums = {
        "box_loss": box,
        "cls_loss": class_cross_entropy(scores, assignment, labels, class_weights),
        "dfl_loss": dfl,
    }
    return {name: value / total * gains[name] for name, value in sums.items()}, assignment


def mean_distances(shares: Tensor) -> Tensor:
    """(..., 4, R) probabilities of the whole distances 0..R-1 -> (..., 4) their means, in cells."""
    return shares @ torch.arange(shares.shape[-1], device=shares.device, dtype=shares.dtype)


def class_cross_entropy(scores: Tensor, assignment: Assignment, targets: Instances, weights: Tensor | None) -> Tensor:
    """Sum the binary cross-entropies over (B, nc, A), for soft targets that are 0 except at the positives.

    log(1 + e^x) - target * x: the second term is gathered, so that no (B, nc, A) tensor of targets is built.
    """
    positive = scores[targets.image[:, None], targets.classes[:, None], assignment.anchor]  # (N, k)
    if weights is None:
        return F.softplus(scores).sum() - (assignment.weight * positive).sum()
    of_class = weights[targets.classes][:, None]  # (N, 1)
    return (F.softplus(scores).sum((0, 2)) * weights).sum() - (assignment.weight * positive * of_class).sum()


def _box_losses(
    logits: Tensor, points: Tensor, stride: Tensor, assignment: Assignment, targets: Instances
) -> tuple[Tensor, Tensor]:
    """Return the weighted sums of box and DFL losses over all claims (N, k); a claim that was not won weighs 0."""
    chosen = logits[targets.image[:, None], :, assignment.anchor]  # (N, k, 4*R)
    log_share = chosen.unflatten(-1, (4, -1)).log_softmax(-1)  # (N, k, 4, R)
    reg_max = log_share.shape[-1]
    point = points[assignment.anchor]  # (N, k, 2)
    truth = targets.boxes.float()[:, None] / stride[assignment.anchor][..., None]  # (N, k, 4) in cells
    boxes = distances_to_boxes(point, mean_distances(log_share.exp()))  # (N, k, 4)
    box = ((1 - ciou(boxes, truth)) * assignment.weight).sum()
    distance = boxes_to_distances(point, truth).clamp(0, reg_max - 1 - 0.01)  # (N, k, 4)
    dfl = (focal_loss(log_share, distance) * assignment.weight).sum()
    return box, dfl


def focal_loss(log_share: Tensor, distance: Tensor) -> Tensor:
    """Return the cross-entropy with the whole distances below and above the true one, mean of the four sides.

    log_share: (..., 4, R) log-probabilities. distance: (..., 4) in [0, R-1). Returns (...).
    """
    below = distance.floor()
    above = distance - below  # weight of the upper neighbour
    index = below.long()[..., None]
    pair = log_share.gather(-1, torch.cat((index, index + 1), -1))  # (..., 4, 2)
    return -(pair[..., 0] * (1 - above) + pair[..., 1] * above).mean(-1)


# The copies of an image in augmented prediction: scale, and whether left and right are exchanged.
COPIES = ((1.0, False), (0.83, True), (0.67, False))


class Decoded(NamedTuple):
    """The decoded outputs of a batch of images.

    candidates: as Detector.decode gives them, (B, 4+nc+k, A), or (B, nc) of a classifier. nc: number of classes.
    prototypes (B, m, h, w): of a segmentation model. size: (H, W) of the images, where it is known. kpt_shape: number
    of keypoints of a pose model, and of numbers for each.
    """

    candidates: Tensor
    nc: int
    prototypes: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    kpt_shape: tuple[int, int] | None = None

    @classmethod
    def of(cls, model: Detector, raw: Mapping[str, Tensor] | Tensor, size: tuple[int, int]) -> Decoded:
        """Decode the raw outputs of a model or of an exported model for images of `size`."""
        prototypes = raw.get("prototypes") if isinstance(raw, Mapping) else None
        layout = getattr(model, "keypoints", None)
        return cls(model.decode(raw), model.nc, prototypes, size, layout and layout.shape)


def predict_decoded(model: Detector, images: Tensor, augment: bool = False) -> Decoded:
    """Run the network on images (B, 3, H, W) in [0, 1].

    With `augment` the anchors of all COPIES are concatenated, in pixels of `images`.
    """
    height, width = size = tuple(images.shape[2:])
    if not augment:
        return Decoded.of(model, model(images), size)
    parts = []
    for scale, mirrored in COPIES:
        copy = images.flip(3) if mirrored else images
        size = max(round(height * scale), 1), max(round(width * scale), 1)
        if scale != 1:
            copy = F.interpolate(copy, size=size, mode="bilinear", align_corners=False)
            bottom, right = (-side % model.multiple for side in size)
            copy = F.pad(copy, (0, right, 0, bottom), value=GREY / 255)
        part = model.decode(model(copy))
        gain = part.new_tensor([width / size[1], height / size[0]] * 2)[:, None]
        boxes = part[:, :4] * gain
        if mirrored:
            boxes[:, 0] = width - boxes[:, 0]
        parts.append(torch.cat((boxes, part[:, 4:]), 1))
    return Decoded(torch.cat(parts, 2), model.nc, size=size)


def suppressed_rows(decoded: Decoded, rule: Suppression) -> list[Tensor]:
    """Suppress duplicates: the rows (n, 6+k) of each image, best first, as `non_max_suppression` gives them."""
    return non_max_suppression(likely_candidates(decoded, rule), **vars(rule), nc=decoded.nc)


def likely_candidates(decoded: Decoded, rule: Suppression) -> Tensor:
    """The candidates (B, 4+nc+k, A') without most of those that suppression leaves out for their score."""
    candidates = decoded.candidates
    if rule.multi_label:
        return candidates
    return candidates[:, :, (candidates[:, 4 : 4 + decoded.nc].amax(1) > rule.conf).any(0)]


def decode_detections(decoded: Decoded, rule: Suppression) -> list[Instances]:
    """Suppress duplicates: the detections of each image, best first. Boxes are xyxy in pixels of the network input."""
    return [Instances.from_rows(rows) for rows in suppressed_rows(decoded, rule)]


def keep_detections(detections: Instances, rule: Suppression) -> Tensor:
    """Return which detections of one image suppression keeps, by their boxes: indices, at most rule.max_det.

    The detections are given by falling score.
    """
    return suppress(detections.rows(), rule.iou, rule.max_det, rule.agnostic)


def place_detections(
    detections: Instances, fit: Fit, prototypes: Tensor | None = None, full_size: bool = False
) -> Instances:
    """Move the detections of one image from pixels of the network input to pixels of the original image."""
    return replace(detections, boxes=fit.to_original(detections.boxes))


def evaluate_detections(
    samples: Sequence[Sample], detections: Instances, names: Mapping[int, str], *, conf: float
) -> Metrics:
    """Compute COCO's numbers of `detections` in pixels of the original images; `image` is the index of the sample.

    names: class index -> name. conf: the confusion matrix counts detections with a higher score.
    """
    from .coco import coco_metrics  # pycocotools takes a tenth of a second to import, and predicting needs none of it

    return coco_metrics(samples, detections, names, conf=conf)


def class_weights(counts: torch.Tensor, power: float) -> torch.Tensor | None:
    """Return weights (nc,) of the class loss: 1 / count ** power with the mean 1; None for power 0.

    counts (nc,): labels of each class; 0 counts as 1.
    """
    if not power:
        return None
    weights = counts.clamp(min=1).float().pow(-power)
    return weights / weights.mean()
