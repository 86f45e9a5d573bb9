"""Resize 8-bit images with the arithmetic of OpenCV's INTER_LINEAR, to the same bytes.

Most programs feed detectors with images that OpenCV resized. Where a tenth of the samples differs by one grey level,
boxes move by up to 0.4 pixels. The arithmetic, found by comparing bytes: bilinear between half-pixel centres; a weight
is rounded to a multiple of 1/2048; a row is blended to sums in units of 1/2048, which are not rounded; sums s and t of
two rows with the weights v and w, in the same units, give ((s // 16 * v // 65536) + (t // 16 * w // 65536) + 2) // 4.
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

UNIT = 2048  # a weight of one
BAND = 1 << 15  # samples that are computed together: their 32-bit sums stay in a processor's cache

Bytes = NDArray[np.uint8]
Size = tuple[int, int]  # (h, w) pixels
# Sizes (h, w) before and after on which an OpenCV is tried: down, up, halved, doubled, tiny, and of one axis alone.
_SAMPLE: tuple[tuple[Size, Size], ...] = (
    ((61, 47), (23, 32)),
    ((37, 53), (64, 91)),
    ((40, 64), (20, 32)),
    ((18, 25), (36, 50)),
    ((12, 16), (48, 64)),
    ((3, 2), (5, 7)),
    ((50, 34), (50, 21)),
    ((45, 30), (15, 10)),
)


def resize_bilinear(image: Bytes, size: Size, *, reverse: bool = False, planes: bool = False) -> Bytes:
    """Resize (h, w, c) uint8 to (*size, c), or with `planes` to (c, *size). Edges are repeated, nothing is smoothed.

    reverse: the channels of the result are in reverse order: BGR becomes RGB. The result is a new array, equal to that
    of `cv2.resize(image, size[::-1])` for every size. Where the process has imported OpenCV and it gives the same bytes
    on a sample, it does the work, because it is faster; except in loader processes, where its threads would compete.
    """
    image = np.ascontiguousarray(image)
    opencv = sys.modules.get("cv2")
    if not isinstance(opencv, ModuleType) or get_worker_info() is not None or not _agrees(opencv):
        return _resize(image, size, reverse, planes)
    resized = opencv.resize(image, size[::-1]).reshape(*size, image.shape[2])
    channels = torch.from_numpy(resized).unbind(2)  # NumPy copies three interleaved channels slowly, torch does not
    if planes:
        return torch.stack(channels[::-1] if reverse else channels).numpy()
    return torch.stack(channels[::-1], 2).numpy() if reverse else resized


@functools.lru_cache(maxsize=8)
def _agrees(opencv: ModuleType) -> bool:
    """Whether `opencv.resize` gives the same bytes as the arithmetic here: some builds have another arithmetic."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    try:
        for (height, width), size in _SAMPLE:
            image = np.ascontiguousarray(noise[:height, :width])
            if not np.array_equal(opencv.resize(image, size[::-1]), _resize(image, size)):
                return False
    except Exception:  # a stand-in for OpenCV, or one that is only half imported
        return False
    return True


def _resize(image: Bytes, size: Size, reverse: bool = False, planes: bool = False) -> Bytes:
    """`resize_bilinear` of a contiguous image by NumPy alone."""
    (height, width, channels), (new_height, new_width) = image.shape, size
    picked_rows, picked_columns = _picked(height, new_height), _picked(width, new_width)
    if picked_rows and picked_columns:
        return _means(image, picked_rows, picked_columns, reverse, planes)
    order = np.arange(channels)[::-1] if reverse else np.arange(channels)
    columns, weights = _columns(width, new_width)
    # Positions in a row of samples: (2, new_width, channels), or (2, channels, new_width).
    positions = columns[:, None] * channels + order[:, None] if planes else columns[..., None] * channels + order
    shape = positions.shape[1:]
    weights = np.broadcast_to(weights[:, None] if planes else weights[..., None], positions.shape)
    left, right = positions.reshape(2, -1)
    left_weights, right_weights = weights.reshape(2, -1)
    (upper, lower), (upper_weights, lower_weights) = _rows(height, new_height)

    samples = image.reshape(height, width * channels)
    result = np.empty((channels, new_height, new_width) if planes else (new_height, *shape), np.uint8)
    lines = result.transpose(1, 0, 2) if planes else result  # (new_height, *shape), a view
    band = max(BAND // len(left), 1)
    # Buffers for all bands: memory that is new for every step would cost more than the arithmetic.
    sums, others, blended, addend = np.empty((4, 2 * band, len(left)), np.int32)
    for first in range(0, new_height, band):
        last = min(first + band, new_height)
        rows, above, below = _source_rows(samples, upper[first:last], lower[first:last])
        count, total, other = last - first, sums[: len(rows)], others[: len(rows)]
        _weigh(rows, left, left_weights, total)
        _weigh(rows, right, right_weights, other)
        total += other
        total >>= 4
        value = _share(total, above, upper_weights[first:last], blended[:count])
        value += _share(total, below, lower_weights[first:last], addend[:count])
        value += 2
        value >>= 2
        np.copyto(lines[first:last], value.reshape(count, *shape), casting="unsafe")
    return result


def _picked(old: int, new: int) -> tuple[slice, ...]:
    """The old rows or columns that are averaged, with equal weights, for the new ones; none for other weights.

    Where `old` is k times `new`, a new position is the middle one of k old ones if k is odd, and the mean of the two
    in the middle if k is even. There is a slice for each of them, with an old position for every new one.
    """
    step, rest = divmod(old, new)
    if rest:
        return ()
    return tuple(slice(first, None, step) for first in sorted({(step - 1) // 2, step // 2}))


def _means(image: Bytes, rows: tuple[slice, ...], columns: tuple[slice, ...], reverse: bool, planes: bool) -> Bytes:
    """Return what `_resize` returns, several times as fast, where each new sample is the mean of 1, 2 or 4 old ones."""
    first, *others = (image[each] for each in rows)
    sums = np.add(first, *others, dtype=np.uint16) if others else first
    count = len(rows) * len(columns)
    channels = [_mean_columns(sums[..., channel], columns, count) for channel in range(image.shape[2])]
    return np.stack(channels[::-1] if reverse else channels, 0 if planes else 2)


def _mean_columns(sums: NDArray, columns: tuple[slice, ...], count: int) -> Bytes:
    """The means of `count` samples, rounded half up, from the sums (rows, columns) of the samples above each other."""
    first, *others = (sums[:, each] for each in columns)
    total = np.add(first, *others, dtype=np.uint16) if others else first
    return total if count == 1 else ((total + count // 2) // count).astype(np.uint8)


def _weigh(rows: Bytes, positions: NDArray, weights: NDArray, out: NDArray) -> None:
    """Write samples of each row times their weights to `out` (rows, n)."""
    np.multiply(rows.take(positions, axis=1, mode="clip"), weights, out=out)  # "clip" is quicker than a check


def _share(sums: NDArray, rows: NDArray, weights: NDArray, out: NDArray) -> NDArray:
    """Return `out`: the chosen rows of `sums` times their weights (n, 1), over 65536, rounded down."""
    np.take(sums, rows, axis=0, out=out, mode="clip")
    out *= weights
    out >>= 16
    return out


def _source_rows(samples: Bytes, upper: NDArray, lower: NDArray) -> tuple[Bytes, NDArray, NDArray]:
    """The rows that lines of the result blend, and the indices of each line's upper and lower row among them."""
    first, last = upper[0], lower[-1] + 1
    if last - first <= 2 * len(upper):
        return samples[first:last], upper - first, lower - first
    chosen = np.arange(len(upper))  # a much smaller result leaves rows out
    return samples[np.concatenate((upper, lower))], chosen, chosen + len(upper)


@functools.lru_cache(maxsize=64)  # frames of a video have one size; this saves 2 to 9 % of a resize
def _columns(old: int, new: int) -> tuple[NDArray, NDArray]:
    """For each of `new` columns the two old ones that it blends, (2, new), and their weights, (2, new)."""
    index, weights = _neighbours(old, new)
    outside = (index < 0) | (index >= old - 1)
    weights[:, outside] = np.array([[UNIT], [0]])  # the edge alone
    return np.stack((index, index + 1)).clip(0, old - 1), weights


@functools.lru_cache(maxsize=64)
def _rows(old: int, new: int) -> tuple[NDArray, NDArray]:
    """For each of `new` rows the two old ones that it blends, (2, new), and their weights, (2, new, 1).

    At an edge both are the same row with the weights that they would have, which rounds otherwise than the row alone.
    """
    index, weights = _neighbours(old, new)
    return np.stack((index, index + 1)).clip(0, old - 1), weights[..., None]


def _neighbours(old: int, new: int) -> tuple[NDArray, NDArray]:
    """For each new position the old index at or before it (new,), not clipped, and both neighbours' weights (2, new).

    Each step is rounded as OpenCV rounds it: the position in double precision, then its fraction in single precision.
    """
    position = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    index = np.floor(position)
    fraction = position - index
    weights = np.rint(np.stack((np.float32(1) - fraction, fraction)) * np.float32(UNIT))
    return index.astype(np.intp), weights.astype(np.int32)
