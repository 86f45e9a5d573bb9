"""Masks of objects: sums of prototypes (YOLACT, Bolya et al. 2019, arXiv:1904.02689), at three resolutions.

A pixel is inside a mask where the sum of the prototypes, weighted by the object's coefficients, is above 0 (which is a
probability above one half), and where the pixel's upper left corner lies in the object's box. Written from
spec/segment-classify.md 1.3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .letterbox import Fit

MAX_PIXELS = 1 << 25  # pixels of the float planes that are computed at once: 128 MB


def mask_logits(coefficients: Tensor, prototypes: Tensor) -> Tensor:
    """Sum prototypes (m, h, w) with coefficients (n, m): (n, h, w) float32."""
    return torch.einsum("nm,mhw->nhw", coefficients.float(), prototypes.float())


def inside_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (n, h, w) bool: the pixels (row, column) with x1 <= column < x2 and y1 <= row < y2.

    boxes (n, 4): xyxy in pixels of a plane of `size` (h, w), neither rounded nor clipped.
    """
    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(1)  # (n, 1, 1)
    rows = torch.arange(size[0], device=boxes.device)[:, None]
    columns = torch.arange(size[1], device=boxes.device)
    return ((columns >= x1) & (columns < x2)) & ((rows >= y1) & (rows < y2))


def masks_of_input(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks (n, H, W) bool in the size (H, W) of the network input.

    coefficients (n, m). prototypes (m, h, w) of the same image. boxes (n, 4): xyxy in pixels of the input.
    """
    parts = _parts(len(boxes), math.prod(size))
    return _joined([_of_input(coefficients[part], prototypes, boxes[part], size) for part in parts], size, boxes)


def masks_of_original(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, fit: Fit) -> Tensor:
    """Return masks (n, h, w) bool in the size of the original image, without a detour over the input's pixels.

    boxes (n, 4): xyxy in pixels of the original image. fit: how the image lies on the network input. The planes are
    enlarged by the smallest factor for which the padding is a whole number of pixels, the padding is cut off, and the
    rest is resized to the original.
    """
    size = fit.original
    factor, window = _content(fit, prototypes.shape[-2:])
    parts = _parts(len(boxes), max(math.prod(size), math.prod(prototypes.shape[-2:]) * factor**2))
    masks = []
    for part in parts:
        logits = mask_logits(coefficients[part], prototypes)[:, None]
        if factor > 1:
            logits = F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
        logits = F.interpolate(logits[(..., *window)], size=size, mode="bilinear", align_corners=False)[:, 0]
        masks.append((logits > 0) & inside_boxes(boxes[part], size))
    return _joined(masks, size, boxes)


def masks_of_prototypes(coefficients: Tensor, prototypes: Tensor, boxes: Tensor) -> Tensor:
    """Return masks (n, h, w) bool in the size of the prototypes. boxes (n, 4): xyxy in pixels of the prototypes."""
    return (mask_logits(coefficients, prototypes) > 0) & inside_boxes(boxes, tuple(prototypes.shape[-2:]))


def _of_input(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    logits = mask_logits(coefficients, prototypes)[:, None]
    logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[:, 0]
    return (logits > 0) & inside_boxes(boxes, size)


def _content(fit: Fit, plane: tuple[int, int]) -> tuple[int, tuple[slice, slice]]:
    """The factor by which prototypes of `plane` (h, w) are enlarged, and the rows and columns of the image on them."""
    stride = fit.canvas[0] // plane[0]
    padding = [outer - inner for outer, inner in zip(fit.canvas, _content_size(fit, 1))]
    both = padding[0] | padding[1]
    factor = stride // math.gcd(stride, both | both // 2)
    window = []
    for outer, inner in zip(plane, _content_size(fit, factor / stride)):
        start = round((outer * factor - inner) / 2 - 0.1)
        window.append(slice(start, start + inner))
    return factor, (window[0], window[1])


def _content_size(fit: Fit, share: float) -> tuple[int, int]:
    """The size in pixels (h, w) of the image on a plane whose sides are `share` of those of the network input."""
    gain = min(outer / inner for outer, inner in zip(fit.canvas, fit.original))
    if any(round(side * gain) != resized for side, resized in zip(fit.original, fit.resized)):  # it does not fill it
        gain = max(fit.resized) / max(fit.original)
    return max(round(fit.original[0] * gain * share), 1), max(round(fit.original[1] * gain * share), 1)


def _parts(count: int, pixels: int) -> list[slice]:
    """Slices of `count` objects, so that the planes of a slice have at most MAX_PIXELS pixels."""
    step = max(MAX_PIXELS // max(pixels, 1), 1)
    return [slice(start, start + step) for start in range(0, count, step)]


def _joined(masks: list[Tensor], size: tuple[int, int], boxes: Tensor) -> Tensor:
    return torch.cat(masks) if masks else torch.zeros(0, *size, dtype=torch.bool, device=boxes.device)
