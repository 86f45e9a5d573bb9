"""Instance segmentation: the loss of masks that are sums of prototypes, and the targets it compares with.

Papers: YOLACT, Bolya et al. 2019, arXiv:1904.02689 (prototypes, cropping, division by the area of the box). Written
from spec/segment-classify.md 1.6 and 1.7; the numbers agree with the recorded loss vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.formats.keypoint_rows import Shape, has_keypoints
from ..data.formats.yolo import Label, read_row
from ..ops.instances import Instances
from ..ops.letterbox import Fit
from ..ops.masks import masks_of_input, masks_of_original
from ..ops.nms import Suppression
from ..ops.polygons import Polygons, clip, fill_hulls
from .assign import Assignment
from .detect import Decoded, box_losses, suppressed_rows

if TYPE_CHECKING:  # predicting needs neither
    from ..data.dataset import Sample
    from .mask_metrics import SegmentMetrics

LOSSES = {"box_loss": "box", "seg_loss": "box", "cls_loss": "cls", "dfl_loss": "dfl"}  # loss -> setting of its gain
GAINS = {"box_loss": 7.5, "seg_loss": 7.5, "cls_loss": 0.5, "dfl_loss": 1.5}  # gains of cfg/default.yaml
TILE = 128  # pixels of a box that are computed together
PIXELS_AT_ONCE = {"cpu": 1 << 14, "cuda": 1 << 18}  # pixels of boxes whose cross-entropies are computed at once


def segmentation_loss(
    raw: Mapping[str, Tensor],
    labels: Instances,
    *,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    gains: Mapping[str, float] = GAINS,
    class_weights: Tensor | None = None,
    overlap_mask: bool = True,
    mask_ratio: int = 4,
) -> dict[str, Tensor]:
    """Compute the losses of raw outputs against labels, in float32 whatever autocast says.

    raw, sizes, strides, gains and class_weights: as in detect.detection_loss; raw also has "coefficients" (B, m, A) and
    "prototypes" (B, m, h, w). labels: boxes and polygons in pixels of the network input, or masks (n, h', w') in the
    place of polygons. overlap_mask: a pixel belongs to the smallest object that covers it, instead of to all.
    mask_ratio: the side of a pixel of the targets, in pixels of the network input.

    Returns LOSSES -> scalar with its gain. seg_loss is the mean over all positives of the cross-entropy of the mask,
    summed over the label's box and divided by the number of all pixels and by the area of the box (as a share of the
    image). Labels without a polygon have no part in it.
    """
    with torch.autocast(raw["boxes"].device.type, enabled=False):
        losses, assignment = box_losses(raw, labels, sizes, strides, gains, class_weights)
        prototypes = raw["prototypes"].float()
        size = tuple(round(side * strides[0]) for side in sizes[0])
        with torch.no_grad():
            masks = label_masks(labels, size, mask_ratio, overlap_mask)
        if masks.shape[-2:] != prototypes.shape[-2:]:
            prototypes = F.interpolate(prototypes, masks.shape[-2:], mode="bilinear", align_corners=False)
        usable = labels.has_polygon if labels.masks is None else torch.ones_like(labels.has_polygon)
        seg = _mask_loss(raw["coefficients"].float(), prototypes, labels, masks, usable, assignment, size)
        losses["seg_loss"] = seg * gains["seg_loss"]
        return {name: losses[name] for name in gains if name in losses}


def read_segment(fields: list[str], nc: int | None, kpt_shape: Shape | None = None) -> Label | list[str]:
    """Read one row of a segmentation label, a polygon; or say everything that is wrong with it (see yolo.read_row)."""
    if kpt_shape and has_keypoints(fields, kpt_shape):
        return [
            f"{len(fields)} columns are a class, a box and {kpt_shape[0]} keypoints, as kpt_shape: {list(kpt_shape)} "
            "in the YAML says; a segmentation label is a polygon. Train this dataset with task=pose or task=detect"
        ]
    if len(fields) == 5:
        return [
            f"the row {' '.join(fields)[:60]!r} is a box; a segmentation label is a polygon, `class x1 y1 x2 y2 x3 y3 "
            "...`. Draw its outline, or give boxes_without_masks=True, or task=detect"
        ]
    return read_row(fields, nc)


def evaluate_segments(
    samples: Sequence[Sample], detections: Instances, names: Mapping[int, str], *, conf: float
) -> SegmentMetrics:
    """Compute COCO's numbers of boxes and of masks; see detect.evaluate_detections.

    detections: with encoded masks in the size of the original images. The masks of the labels are their polygons.
    """
    from .coco import coco_mask_metrics  # pycocotools, which predicting needs not

    return coco_mask_metrics(samples, detections, names, conf=conf)


def decode_segments(decoded: Decoded, rule: Suppression) -> list[Instances]:
    """Suppress duplicates: the detections of each image, best first, with the coefficients of their masks.

    Boxes are xyxy in pixels of the network input.
    """
    return [
        replace(Instances.from_rows(rows[:, :6]), coefficients=rows[:, 6:]) for rows in suppressed_rows(decoded, rule)
    ]


def mask_coefficients(maps: Mapping[str, Tensor], keypoints: object) -> tuple[str, ...]:
    """What an anchor has behind its classes: a coefficient of each of the prototypes (B, m, h, w) among the maps."""
    return ("coefficient",) * maps["prototypes"].shape[1]


def place_segments(detections: Instances, fit: Fit, prototypes: Tensor, full_size: bool = False) -> Instances:
    """Give the detections of one image their masks, and move the boxes to pixels of the original image.

    prototypes (m, h, w): of the image. The masks are patches on planes of the size of the network input, or with
    full_size of the original image; some may be empty.
    """
    boxes, coefficients = fit.to_original(detections.boxes), detections.coefficients
    if full_size:
        patches = masks_of_original(coefficients, prototypes, boxes, fit)
    else:
        patches = masks_of_input(coefficients, prototypes, detections.boxes, fit.canvas)
    return replace(detections, boxes=boxes, patches=patches, coefficients=None)


def label_masks(labels: Instances, size: tuple[int, int], ratio: int = 4, overlap: bool = True) -> Tensor:
    """Return the target of each label: (n, H // ratio, W // ratio) bool, for a network input of `size` (H, W).

    A pixel of a target is inside where at least half of the central pixels of its block lie in the polygon: of 4 x 4
    pixels the central 2 x 2. overlap: the target of an object lacks the pixels of smaller objects of the same image.
    """
    masks = labels.masks
    if masks is None:
        polygons = labels.polygons or Polygons(labels.boxes.new_zeros(0, 2), torch.zeros_like(labels.classes))
        masks = reduced_fill(polygons.apply(lambda tensor: tensor.cpu()), size, ratio).to(labels.boxes.device)
    return visible_parts(masks, labels.image) if overlap else masks


def reduced_fill(polygons: Polygons, size: tuple[int, int], ratio: int) -> Tensor:
    """Fill each polygon in pixels of an input of `size`, then reduce: (n, H // ratio, W // ratio) bool."""
    height, width = size[0] // ratio, size[1] // ratio
    if not height or not width:
        raise ValueError(f"mask_ratio={ratio} leaves no pixel of an input of {size[0]}x{size[1]}; give a smaller one")
    centre = [ratio // 2 - 1, ratio // 2] if ratio % 2 == 0 else [ratio // 2]  # rows and columns of a block
    points = polygons.points.double() / ratio + 0.5
    count = torch.zeros(len(polygons), height, width, dtype=torch.uint8)
    for place in itertools.product(centre, centre):  # all blocks at once: their pixels at this place
        moved = points - (points.new_tensor(place) + 0.5) / ratio
        clipped = clip(Polygons(moved, polygons.counts), (height, width))
        for index, rows, columns, plane in fill_hulls(clipped, (height, width)):
            count[index, rows, columns] += plane
    return count >= (len(centre) ** 2 + 1) // 2


def visible_parts(masks: Tensor, image: Tensor) -> Tensor:
    """Take from each mask (n, h, w) bool the pixels of smaller masks of the same image; `image` (n,) is its index."""
    if not len(masks):
        return masks
    # Sums of bytes in 64 bits are ten times as slow.
    order = masks.view(torch.uint8).flatten(1).sum(1, dtype=torch.int32).argsort(descending=True, stable=True)
    result = torch.empty_like(masks)
    for index in image.unique().tolist():
        rows = order[image[order] == index]  # the largest first
        numbers = torch.arange(1, len(rows) + 1, device=masks.device, dtype=torch.int16)[:, None, None]
        numbered = masks[rows] * numbers
        result[rows] = (numbered == numbered.amax(0)) & masks[rows]
    return result


def _mask_loss(
    coefficients: Tensor,
    prototypes: Tensor,
    labels: Instances,
    masks: Tensor,
    usable: Tensor,
    assignment: Assignment,
    size: tuple[int, int],
) -> Tensor:
    """The mean over all positives of labels that are `usable` (n,); see segmentation_loss."""
    won = assignment.won & usable[:, None]  # (n, k)
    rows = won.any(1).nonzero().flatten()
    if not len(rows):
        return (coefficients.sum() + prototypes.sum()) * 0
    image, anchor, won = labels.image[rows], assignment.anchor[rows], won[rows]
    share = labels.boxes[rows].float() / labels.boxes.new_tensor([size[1], size[0]] * 2)  # of the image
    area = (share[:, 2] - share[:, 0]) * (share[:, 3] - share[:, 1])
    height, width = masks.shape[-2:]
    weight = won / (height * width * area * won.sum())[:, None]
    corners = share * share.new_tensor([width, height] * 2)  # (n, 4) in pixels of the targets
    chosen = coefficients[image[:, None], :, anchor]  # (n, k, m)
    return _CroppedCrossEntropy.apply(chosen, prototypes, masks[rows], corners, image, weight)


class _CroppedCrossEntropy(torch.autograd.Function):
    """The weighted sum of the cross-entropies of all pixels inside the boxes of n labels, for k candidates of each.

    coefficients (n, k, m); prototypes (B, m, h, w); masks (n, h, w) bool; boxes (n, 4) xyxy in pixels of the masks;
    image (n,) rows of the prototypes; weight (n, k). Gradients are computed together with the sum, for some tiles of
    pixels at a time, so that memory does not grow with the pixels.
    """

    @staticmethod
    def forward(ctx, coefficients, prototypes, masks, boxes, image, weight) -> Tensor:
        batch, count, height, width = prototypes.shape
        pixels = prototypes.permute(0, 2, 3, 1).reshape(-1, count)  # (B*h*w, m)
        total = pixels.new_zeros((), dtype=torch.float64 if pixels.device.type != "mps" else torch.float32)
        needed = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        of_coefficients = torch.zeros_like(coefficients) if needed else None
        of_pixels = torch.zeros_like(pixels) if needed else None
        for label, place, in_box in _tiles(boxes, (height, width)):
            chosen, index = coefficients[label], image[label, None] * (height * width) + place  # (t, k, m), (t, T)
            planes = pixels[index]  # (t, T, m)
            logits = chosen @ planes.transpose(1, 2)  # (t, k, T)
            inside = masks.flatten(1)[label[:, None], place][:, None].to(logits.dtype)
            factor = weight[label, :, None] * in_box[:, None]
            total += ((F.softplus(logits) - inside * logits) * factor).sum(dtype=total.dtype)
            if needed:
                slope = (logits.sigmoid() - inside).mul_(factor)
                of_coefficients.index_add_(0, label, slope @ planes)
                of_pixels.index_add_(0, index.flatten(), (slope.transpose(1, 2) @ chosen).flatten(0, 1))
        if needed:
            ctx.save_for_backward(of_coefficients, of_pixels.view(batch, height, width, count).permute(0, 3, 1, 2))
        return total.to(coefficients.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        of_coefficients, of_prototypes = ctx.saved_tensors
        return of_coefficients * gradient, of_prototypes * gradient, *[None] * 4


def _tiles(boxes: Tensor, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the pixels in boxes (n, 4) in tiles of TILE pixels, some tiles at a time.

    Yields the label (t,) of each tile, the places (t, TILE) of its pixels in a plane of `size` (h, w), and whether they
    lie in the box: the last tile of a box is filled up.
    """
    limit = boxes.new_tensor([size[1], size[0]] * 2)
    first = torch.minimum(boxes.ceil().clamp(min=0), limit).long()
    left, top = first[:, 0], first[:, 1]
    columns, counts = (first[:, 2] - left).clamp(min=1), (first[:, 2:] - first[:, :2]).clamp(min=0).prod(1)
    tiles = (counts + TILE - 1) // TILE  # of each box
    label = torch.repeat_interleave(tiles)
    number = torch.arange(len(label), device=boxes.device) - (tiles.cumsum(0) - tiles)[label]  # within its box
    pixel = torch.arange(TILE, device=boxes.device)
    step = max(PIXELS_AT_ONCE.get(boxes.device.type, 1 << 14) // TILE, 1)
    for part, start in zip(label.split(step), (number * TILE).split(step)):
        pair = start[:, None] + pixel  # (t, TILE) the pixel within its box
        in_box = pair < counts[part, None]
        pair = torch.minimum(pair, counts[part, None] - 1)
        row, column = pair // columns[part, None], pair % columns[part, None]
        yield part, (top[part, None] + row) * size[1] + left[part, None] + column, in_box
