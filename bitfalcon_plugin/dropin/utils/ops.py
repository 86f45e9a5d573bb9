"""Box formats, and boxes, points and masks from the network input to the image.

The conversions take tensors or arrays of any leading shape and return a new object of the same kind; lists become
float32 arrays, and integers stay integers. scale_* and clip_* change their argument in place and return it.
Written from spec/dropin-helpers.md section 10 and spec/interface.md 5.4.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops.letterbox import letterbox_fit
from .masks import (
    crop_mask,
    masks2segments,
    process_mask,
    process_mask_native,
    process_mask_upsample,
    scale_image,
    scale_masks,
)
from .nms import non_max_suppression
from .rotated import regularize_rboxes, xywhr2xyxyxyxy, xyxyxyxy2xywhr

__all__ = [
    "Profile",
    "clean_str",
    "clip_boxes",
    "clip_coords",
    "convert_torch2numpy_batch",
    "crop_mask",
    "empty_like",
    "ltwh2xywh",
    "ltwh2xyxy",
    "make_divisible",
    "masks2segments",
    "non_max_suppression",
    "process_mask",
    "process_mask_native",
    "process_mask_upsample",
    "regularize_rboxes",
    "resample_segments",
    "scale_boxes",
    "scale_coords",
    "scale_image",
    "scale_masks",
    "segment2box",
    "segments2boxes",
    "xywh2ltwh",
    "xywh2xyxy",
    "xywhn2xyxy",
    "xywhr2xyxyxyxy",
    "xyxy2ltwh",
    "xyxy2xywh",
    "xyxy2xywhn",
    "xyxyxyxy2xywhr",
]

Array = Any  # Tensor or numpy array


def _numbers(x: Array) -> Array:
    """Return tensors and arrays unchanged, and anything else as a float32 array."""
    return x if isinstance(x, (Tensor, np.ndarray)) else np.asarray(x, np.float32)


def _columns(x: Array) -> tuple[Array, ...]:
    """The four columns (...) of boxes (..., 4 or more)."""
    if x.shape[-1] < 4:
        raise AssertionError(f"boxes have shape {tuple(x.shape)}, expected (..., 4)")
    return tuple(x[..., column] for column in range(4))


def _joined(like: Array, columns: Sequence[Array]) -> Array:
    """Four columns as new boxes of the kind and type of `like`; its further columns follow unchanged."""
    if isinstance(like, Tensor):
        new = torch.stack(tuple(columns), -1).to(like.dtype)
        return torch.cat([new, like[..., 4:]], -1) if like.shape[-1] > 4 else new
    new = np.stack(columns, -1).astype(like.dtype)
    return np.concatenate([new, like[..., 4:]], -1) if like.shape[-1] > 4 else new


def empty_like(x: Array) -> Array:
    """Return an uninitialised float32 tensor or array of the shape and kind of x."""
    if isinstance(x, Tensor):
        return torch.empty_like(x, dtype=torch.float32)
    return np.empty_like(x, dtype=np.float32)


def xyxy2xywh(x: Array) -> Array:
    """Corners (..., 4) -> centre and size."""
    x = _numbers(x)
    x1, y1, x2, y2 = _columns(x)
    return _joined(x, ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1))


def xywh2xyxy(x: Array) -> Array:
    """Centre and size (..., 4) -> corners."""
    x = _numbers(x)
    cx, cy, w, h = _columns(x)
    return _joined(x, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))


def xyxy2ltwh(x: Array) -> Array:
    """Corners (..., 4) -> upper left corner and size."""
    x = _numbers(x)
    x1, y1, x2, y2 = _columns(x)
    return _joined(x, (x1, y1, x2 - x1, y2 - y1))


def xywh2ltwh(x: Array) -> Array:
    """Centre and size (..., 4) -> upper left corner and size."""
    x = _numbers(x)
    cx, cy, w, h = _columns(x)
    return _joined(x, (cx - w / 2, cy - h / 2, w, h))


def ltwh2xyxy(x: Array) -> Array:
    """Upper left corner and size (..., 4) -> corners."""
    x = _numbers(x)
    left, top, w, h = _columns(x)
    return _joined(x, (left, top, left + w, top + h))


def ltwh2xywh(x: Array) -> Array:
    """Upper left corner and size (..., 4) -> centre and size."""
    x = _numbers(x)
    left, top, w, h = _columns(x)
    return _joined(x, (left + w / 2, top + h / 2, w, h))


def xywhn2xyxy(x: Array, w: int = 640, h: int = 640, padw: float = 0, padh: float = 0) -> Array:
    """Centre and size (..., 4) as shares of w x h pixels -> corners in pixels, moved by padw and padh."""
    x = _numbers(x)
    cx, cy, bw, bh = _columns(x)
    left, top = w * (cx - bw / 2) + padw, h * (cy - bh / 2) + padh
    return _joined(x, (left, top, w * (cx + bw / 2) + padw, h * (cy + bh / 2) + padh))


def xyxy2xywhn(x: Array, w: int = 640, h: int = 640, clip: bool = False, eps: float = 0.0) -> Array:
    """Corners (..., 4) in pixels -> centre and size as shares of w x h pixels.

    clip: cut the corners of x in place to the image less eps first.
    """
    x = _numbers(x)
    if clip:
        x = clip_boxes(x, (h - eps, w - eps))
    cx, cy, bw, bh = _columns(xyxy2xywh(x))
    return _joined(x, (cx / w, cy / h, bw / w, bh / h))


def clip_boxes(boxes: Array, shape: Sequence[float]) -> Array:
    """Cut corners (..., 4) in place to an image of shape (height, width) and return them."""
    for column, limit in enumerate((shape[1], shape[0]) * 2):
        boxes[..., column] = boxes[..., column].clip(0, limit)
    return boxes


def clip_coords(coords: Array, shape: Sequence[float]) -> Array:
    """Cut points (..., 2 or more) in place to an image of shape (height, width) and return them."""
    for column, limit in enumerate((shape[1], shape[0])):
        coords[..., column] = coords[..., column].clip(0, limit)
    return coords


def _gain_and_pad(
    img1_shape: Sequence[int], img0_shape: Sequence[int], ratio_pad: Sequence | None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Factors (x, y) from the image to the network input, and pixels of padding (left, top).

    ratio_pad: ((gain of the height, gain of the width), (left, top)) where the loader knows them.
    """
    if ratio_pad is not None:
        gains, (left, top) = ratio_pad
        gains = (gains, gains) if isinstance(gains, (int, float)) else tuple(gains)
        return (float(gains[-1]), float(gains[0])), (float(left), float(top))
    size = int(img0_shape[0]), int(img0_shape[1])
    fit = letterbox_fit(size, (int(img1_shape[0]), int(img1_shape[1])))
    return (fit.resized[1] / size[1], fit.resized[0] / size[0]), (fit.pad[1], fit.pad[0])


def scale_boxes(
    img1_shape: Sequence[int],
    boxes: Array,
    img0_shape: Sequence[int],
    ratio_pad: Sequence | None = None,
    padding: bool = True,
    xywh: bool = False,
) -> Array:
    """Move boxes (..., 4 or more) in place from the network input to the image, and return them.

    img1_shape, img0_shape: (height, width) of both. padding: whether the input has grey borders. xywh: centre and size
    instead of corners; corners are cut to the image, centres are not.
    """
    gains, pads = _gain_and_pad(img1_shape, img0_shape, ratio_pad)
    for column in range(4):
        values, axis = boxes[..., column], column % 2
        if padding and not (xywh and column > 1):
            values = values - pads[axis]
        boxes[..., column] = values / gains[axis]
    return boxes if xywh else clip_boxes(boxes, img0_shape)


def scale_coords(
    img1_shape: Sequence[int],
    coords: Array,
    img0_shape: Sequence[int],
    ratio_pad: Sequence | None = None,
    normalize: bool = False,
    padding: bool = True,
) -> Array:
    """Move points (..., 2 or more) in place from the network input to the image, cut them to it, and return them.

    normalize: give shares of the image's width and height instead of pixels. Other arguments as of scale_boxes.
    """
    gains, pads = _gain_and_pad(img1_shape, img0_shape, ratio_pad)
    for axis in range(2):
        coords[..., axis] = (coords[..., axis] - (pads[axis] if padding else 0)) / gains[axis]
    clip_coords(coords, img0_shape)
    if normalize:
        for axis in range(2):
            coords[..., axis] = coords[..., axis] / img0_shape[1 - axis]
    return coords


def segment2box(segment: np.ndarray, width: int = 640, height: int = 640) -> np.ndarray:
    """Return the corners (4,) around the points (k, 2) that lie in an image of width x height pixels; else zeros."""
    segment = np.asarray(segment)
    x, y = segment.T
    inside = segment[(x >= 0) & (y >= 0) & (x <= width) & (y <= height)]
    if not len(inside):
        return np.zeros(4, segment.dtype)
    return np.concatenate([inside.min(0), inside.max(0)]).astype(segment.dtype)


def segments2boxes(segments: Sequence[np.ndarray]) -> np.ndarray:
    """Return centre and size (n, 4) of the hulls of n lists of points (k, 2)."""
    hulls = [np.concatenate([np.min(points, 0), np.max(points, 0)]) for points in segments]
    return xyxy2xywh(np.asarray(hulls, np.float32).reshape(-1, 4))


def resample_segments(segments: list, n: int = 1000) -> list:
    """Replace each ring of points (k, 2) in the list by n points of its closed outline; returns the list.

    The vertices stay where n is large enough; the other points stand evenly between them.
    """
    for index, segment in enumerate(segments):
        if len(segment) == n:
            continue
        ring = np.concatenate([segment, segment[:1]]).astype(np.float64)
        vertices = np.arange(len(ring), dtype=np.float64)
        places = np.linspace(0, len(ring) - 1, n)
        if n > len(ring):
            places = np.sort(np.concatenate([vertices, np.linspace(0, len(ring) - 1, n - len(ring) + 2)[1:-1]]))
        columns = [np.interp(places, vertices, ring[:, axis]) for axis in range(2)]
        segments[index] = np.stack(columns, 1).astype(np.float32)
    return segments


def make_divisible(x: float, divisor: int | Tensor) -> int:
    """Return x rounded up to a multiple of divisor."""
    divisor = int(divisor.max()) if isinstance(divisor, Tensor) else divisor
    return math.ceil(x / divisor) * divisor


def clean_str(s: str) -> str:
    """Return a text with an underscore in place of each character but letters, digits, spaces and . / : - _."""
    return re.sub(r"[^\w\s./:\\-]", "_", s)


def convert_torch2numpy_batch(batch: Tensor) -> np.ndarray:
    """Return images (B, C, H, W) in [0, 1] as an array (B, H, W, C) of uint8."""
    return (batch.permute(0, 2, 3, 1).contiguous() * 255).clamp(0, 255).to(torch.uint8).cpu().numpy()


class Profile(contextlib.ContextDecorator):
    """A stopwatch, as a context and as a decorator: t seconds in total, dt seconds of the latest turn.

    device: a GPU is waited for at both ends.
    """

    def __init__(self, t: float = 0.0, device: torch.device | str | None = None):
        self.t, self.dt = t, 0.0
        self.device = None if device is None else torch.device(device)

    def __enter__(self) -> Profile:
        self.start = self.time()
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        self.dt = self.time() - self.start
        self.t += self.dt

    def __str__(self) -> str:
        return f"Elapsed time is {self.t} s"

    def time(self) -> float:
        """Seconds of a clock that only runs forward."""
        if self.device is not None and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
