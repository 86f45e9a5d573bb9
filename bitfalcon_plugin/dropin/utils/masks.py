"""Masks of segmentation models, from prototypes and coefficients to the image.

Written from spec/segment-classify.md 1.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...config.errors import UserError
from ...ops.letterbox import letterbox_fit


def crop_mask(masks: Tensor, boxes: Tensor) -> Tensor:
    """Return masks (n, h, w) with zeros outside their boxes (n, 4) xyxy, in pixels of the masks.

    The pixel of row r and column c is kept where x1 <= c < x2 and y1 <= r < y2.
    """
    x1, y1, x2, y2 = boxes.to(masks.device)[:, :, None].unbind(1)  # (n, 1) each
    columns = torch.arange(masks.shape[2], device=masks.device)
    rows = torch.arange(masks.shape[1], device=masks.device)
    in_x, in_y = (columns >= x1) & (columns < x2), (rows >= y1) & (rows < y2)  # (n, w), (n, h)
    return masks * (in_y[:, :, None] & in_x[:, None, :])


def process_mask(
    protos: Tensor, masks_in: Tensor, bboxes: Tensor, shape: Sequence[int], upsample: bool = False
) -> Tensor:
    """Return masks (n, h, w) uint8 from prototypes (c, h, w) and coefficients (n, c).

    bboxes (n, 4): xyxy in pixels of the network input, whose (H, W) is `shape`. upsample: masks of (n, H, W).
    """
    logits = _logits(protos, masks_in)  # (n, h, w)
    boxes = bboxes.float()
    if upsample:
        logits = F.interpolate(logits[None], tuple(shape), mode="bilinear", align_corners=False)[0]
    else:
        ratios = protos.shape[2] / shape[1], protos.shape[1] / shape[0]
        boxes = boxes * boxes.new_tensor(ratios * 2)
    return crop_mask((logits > 0).to(torch.uint8), boxes)


def process_mask_native(protos: Tensor, masks_in: Tensor, bboxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Return masks (n, h0, w0) uint8 at the size `shape` of the image; bboxes (n, 4) are in pixels of the image."""
    logits = _logits(protos, masks_in)[None]
    size = int(shape[0]), int(shape[1])
    factor = _enlargement(protos.shape[1:], size)
    if factor > 1:
        logits = F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
    logits = scale_masks(logits, size)[0]
    return crop_mask((logits > 0).to(torch.uint8), bboxes)


def _logits(protos: Tensor, coefficients: Tensor) -> Tensor:
    """Prototypes (c, h, w) and coefficients (n, c) -> (n, h, w) float32."""
    return torch.einsum("nc,chw->nhw", coefficients.float(), protos.float())


def _enlargement(plane: Sequence[int], size: tuple[int, int]) -> int:
    """The smallest of 1, 2, 4 by which a plane at stride 4 is enlarged so that its padding is a whole number."""
    height, width = 4 * plane[0], 4 * plane[1]
    gain = min(height / size[0], width / size[1])
    padding = (height - round(size[0] * gain)) | (width - round(size[1] * gain))
    return 4 // math.gcd(4, padding | padding // 2)


def scale_masks(masks: Tensor, shape: Sequence[int], padding: bool = True, ratio_pad: Sequence | None = None) -> Tensor:
    """Return masks (N, C, H, W) resized to `shape` (h, w), without the grey borders of the network input.

    padding: whether there are borders. ratio_pad: ((gain of the height, of the width), (left, top)) where known.
    """
    size = int(shape[0]), int(shape[1])
    height, width = masks.shape[2:]
    if padding:
        top, left, bottom, right = _content((height, width), size, ratio_pad)
        masks = masks[:, :, top:bottom, left:right]
    if tuple(masks.shape[2:]) == size:
        return masks
    kind = masks.dtype
    resized = F.interpolate(masks.float(), size, mode="bilinear", align_corners=False)
    return resized if kind.is_floating_point else resized.to(kind)


def _content(plane: tuple[int, int], size: tuple[int, int], ratio_pad: Sequence | None) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of what an image of `size` covers of a letterboxed plane (h, w)."""
    if ratio_pad is not None:
        left, top = ratio_pad[1]
        return round(top - 0.1), round(left - 0.1), plane[0] - round(top + 0.1), plane[1] - round(left + 0.1)
    fit = letterbox_fit(size, plane)
    return *fit.pad, fit.pad[0] + fit.resized[0], fit.pad[1] + fit.resized[1]


def scale_image(masks: np.ndarray, im0_shape: Sequence[int], ratio_pad: Sequence | None = None) -> np.ndarray:
    """Return an array (H, W, C) or (H, W) without the grey borders of the input, resized to im0_shape (h, w)."""
    planes = torch.from_numpy(np.ascontiguousarray(masks))
    planes = planes[..., None] if planes.ndim == 2 else planes
    resized = scale_masks(planes.permute(2, 0, 1)[None].float(), im0_shape, True, ratio_pad)[0].permute(1, 2, 0)
    resized = resized if np.issubdtype(masks.dtype, np.floating) else resized.round()
    return resized.numpy().astype(masks.dtype)


def masks2segments(masks: Tensor | np.ndarray, strategy: str = "all") -> list[np.ndarray]:
    """Return the outline (k, 2) float32 of each mask (n, h, w), in pixels of the masks; (0, 2) for an empty mask.

    strategy: "all" joins the parts of a mask by bridges, "largest" takes the part with most points. Holes are left out.
    """
    if strategy not in ("all", "concat", "largest"):
        raise ValueError(f"strategy={strategy!r} is not known; expected 'all' or 'largest'")
    planes = torch.as_tensor(masks).detach().cpu().numpy() > 0
    outlines = []
    for plane in planes:
        parts = contours(plane)
        if not parts:
            outlines.append(np.zeros((0, 2), np.float32))
        elif strategy == "largest":
            outlines.append(max(parts, key=len).astype(np.float32))
        else:
            outlines.append(_bridged(parts).astype(np.float32))
    return outlines


def contours(plane: np.ndarray) -> list[np.ndarray]:
    """Return the outer outlines (k, 2) of a plane (h, w) bool: pixels of its border, straight runs by their ends."""
    try:
        import cv2
    except ImportError as error:
        raise UserError("outlines of masks need OpenCV: pip install opencv-python-headless .") from error
    found, _ = cv2.findContours(plane.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [part.reshape(-1, 2) for part in found]


def _bridged(parts: list[np.ndarray]) -> np.ndarray:
    """Join rings into one (k, 2) at their nearest points, by bridges that are gone there and back."""
    ring, *others = sorted(parts, key=len, reverse=True)
    while others:
        gaps = [((ring[:, None] - other[None]) ** 2).sum(2) for other in others]
        nearest = min(range(len(others)), key=lambda index: gaps[index].min())
        other = others.pop(nearest)
        here, there = np.unravel_index(gaps[nearest].argmin(), gaps[nearest].shape)
        turned = np.concatenate([other[there:], other[: there + 1]])
        ring = np.concatenate([ring[: here + 1], turned, ring[here:]])
    return ring
