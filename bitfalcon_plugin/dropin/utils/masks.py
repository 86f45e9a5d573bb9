"""Masks of segmentation models, from prototypes and coefficients to the image, over ops.masks and ops.outlines.

Written from spec/segment-classify.md 1.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...ops.letterbox import letterbox_fit
from ...ops.masks import inside_boxes, masks_of_input, masks_of_original, masks_of_prototypes
from ...ops.outlines import one_ring, rings_of

STRIDE = 4  # of prototypes, in pixels of the network input


def crop_mask(masks: Tensor, boxes: Tensor) -> Tensor:
    """Return masks (n, h, w) with zeros outside their boxes (n, 4) xyxy, in pixels of the masks.

    The pixel of row r and column c is kept where x1 <= c < x2 and y1 <= r < y2.
    """
    return masks * inside_boxes(boxes.to(masks.device), tuple(masks.shape[1:]))


def process_mask(
    protos: Tensor, masks_in: Tensor, bboxes: Tensor, shape: Sequence[int], upsample: bool = False
) -> Tensor:
    """Return masks (n, h, w) uint8 from prototypes (c, h, w) and coefficients (n, c).

    bboxes (n, 4): xyxy in pixels of the network input, whose (H, W) is `shape`. upsample: masks of (n, H, W).
    """
    boxes = bboxes.float()
    if upsample:
        return masks_of_input(masks_in, protos, boxes, (int(shape[0]), int(shape[1]))).planes()
    shares = boxes.new_tensor([protos.shape[2] / shape[1], protos.shape[1] / shape[0]] * 2)
    return masks_of_prototypes(masks_in, protos, boxes * shares).to(torch.uint8)


def process_mask_upsample(protos: Tensor, masks_in: Tensor, bboxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Return masks (n, H, W) uint8; the older name of process_mask(..., upsample=True)."""
    return process_mask(protos, masks_in, bboxes, shape, upsample=True)


def process_mask_native(protos: Tensor, masks_in: Tensor, bboxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Return masks (n, h0, w0) uint8 at the size `shape` of the image; bboxes (n, 4) are in pixels of the image."""
    height, width = protos.shape[1:]
    fit = letterbox_fit((int(shape[0]), int(shape[1])), (STRIDE * height, STRIDE * width))
    return masks_of_original(masks_in, protos, bboxes.float(), fit).planes()


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
    resized = F.interpolate(masks.float(), size, mode="bilinear", align_corners=False)
    return resized if masks.is_floating_point() else resized.to(masks.dtype)


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
    outlines = []
    for plane in torch.as_tensor(masks).detach().cpu().numpy():
        rings = rings_of(plane)
        ring = max(rings, key=len) if rings and strategy == "largest" else one_ring(rings)
        outlines.append(ring.astype(np.float32))
    return outlines
