"""Masks of objects: sums of prototypes (YOLACT, Bolya et al. 2019, arXiv:1904.02689), at three resolutions.

A pixel is inside a mask where the sum of the prototypes, weighted by the object's coefficients, is above 0 (which is a
probability above one half), and where the pixel's upper left corner lies in the object's box. Written from
spec/segment-classify.md 1.3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .letterbox import Fit
from .patches import Patches

MAX_PIXELS = 1 << 25  # floats that are computed at once: 128 MB
LEAST = 16  # pixels of a side of a patch, where the plane has so many


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


def masks_of_input(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, size: tuple[int, int]) -> Patches:
    """Return the masks of n objects in the size (H, W) of the network input.

    coefficients (n, m). prototypes (m, h, w) of the same image. boxes (n, 4): xyxy in pixels of the input.
    """
    maps = [_LineMap.of(plane, 1, slice(None), side) for plane, side in zip(prototypes.shape[-2:], size)]
    return _patches(coefficients, prototypes, boxes, *maps)


def masks_of_original(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, fit: Fit) -> Patches:
    """Return the masks of n objects in the size (h, w) of the original image, without a detour over the input's pixels.

    boxes (n, 4): xyxy in pixels of the original image. fit: how the image lies on the network input. The planes are
    enlarged by the smallest factor for which the padding is a whole number of pixels, the padding is cut off, and the
    rest is resized to the original.
    """
    plane = prototypes.shape[-2:]
    factor, window = _content(fit, plane)
    maps = [_LineMap.of(side, factor, inner, outer) for side, inner, outer in zip(plane, window, fit.original)]
    return _patches(coefficients, prototypes, boxes, *maps)


def masks_of_prototypes(coefficients: Tensor, prototypes: Tensor, boxes: Tensor) -> Tensor:
    """Return masks (n, h, w) bool in the size of the prototypes. boxes (n, 4): xyxy in pixels of the prototypes."""
    return (mask_logits(coefficients, prototypes) > 0) & inside_boxes(boxes, tuple(prototypes.shape[-2:]))


class _LineMap(NamedTuple):
    """How lines of a plane become lines of a mask; interpolation of planes is one map for columns and one for rows.

    weights (H, h): a linear map, on the CPU. first, beyond (H,): the first pixel of the line of h pixels that has a
    weight in each pixel of the mask, and the one after the last.
    """

    weights: Tensor
    first: Tensor
    beyond: Tensor

    @classmethod
    def of(cls, side: int, factor: int, window: slice, result: int) -> _LineMap:
        """The map that enlarges a line of `side` pixels, cuts out a window, and interpolates to `result` pixels."""
        lines = torch.eye(side)[None]  # (1, side, side)
        if factor > 1:
            lines = F.interpolate(lines, scale_factor=factor, mode="linear", align_corners=False)
        weights = F.interpolate(lines[..., window], size=result, mode="linear", align_corners=False)[0].T
        used = (weights != 0).byte()
        return cls(weights, used.argmax(1), side - used.flip(1).argmax(1))

    def window(self, start: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cut windows of `count` pixels of the mask, one from each start (g,), out of the map.

        Returns the weights (g, count, k), and the pixels of mask (g, count) and plane (g, k) that they join.
        """
        low = self.first[start]
        wide = int((self.beyond[start + count - 1] - low).max())
        low = low.clamp(max=self.weights.shape[1] - wide)
        pixels, low_pixels = start[:, None] + torch.arange(count), low[:, None] + torch.arange(wide)
        return self.weights[pixels[:, :, None], low_pixels[:, None]], pixels, low_pixels


def _patches(coefficients: Tensor, prototypes: Tensor, boxes: Tensor, down: _LineMap, across: _LineMap) -> Patches:
    """The masks of n objects on planes of H x W pixels, computed in their boxes (n, 4) xyxy in pixels of these planes.

    down, across: from the columns and from the rows of prototypes (m, h, w) to those of the planes.
    """
    size, device = (len(down.first), len(across.first)), prototypes.device
    logits = mask_logits(coefficients, prototypes)
    limit = boxes.new_tensor([size[1], size[0]] * 2)
    cells = torch.minimum(boxes.nan_to_num(0).ceil().clamp(min=0), limit).long().cpu()  # (n, 4) first, and after last
    sides = (cells[:, 2:] - cells[:, :2]).flip(1).clamp(min=LEAST)  # (n, 2) height and width
    sides = torch.minimum(2 ** sides.double().log2().ceil().long(), torch.tensor(size))  # few different ones
    start = torch.minimum(cells[:, [1, 0]], torch.tensor(size) - sides)  # (n, 2) top and left
    kinds, kind = sides.unique(dim=0, return_inverse=True)
    stacks, stack, row = [], torch.empty_like(kind), torch.empty_like(kind)
    for number, (height, width) in enumerate(kinds.tolist()):
        objects = (kind == number).nonzero().flatten()
        for part in objects.split(max(MAX_PIXELS // (2 * height * width), 1)):
            to_rows, rows, low_rows = down.window(start[part, 0], height)
            to_columns, columns, low_columns = across.window(start[part, 1], width)
            x1, y1, x2, y2 = cells[part, :, None].unbind(1)
            inside = (rows >= y1) & (rows < y2), (columns >= x1) & (columns < x2)
            parts = part, low_rows, low_columns, to_rows, to_columns.transpose(1, 2), *inside
            index, y, x, to_rows, to_columns, inside_y, inside_x = (each.to(device) for each in parts)
            patches = to_rows @ logits[index[:, None, None], y[:, :, None], x[:, None]] @ to_columns > 0
            stack[part], row[part] = len(stacks), torch.arange(len(part))
            stacks.append(patches & inside_y[:, :, None] & inside_x[:, None])
    return Patches(size, stacks, *(column.to(device) for column in (stack, row, *start.unbind(1))))


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
