"""Decode image files and arrays to uint8 RGB tensors, and fit them onto the network input.

Pillow decodes, or for JPEG files a quicker decoder that gives the same bytes (ops/jpeg.py). Whatever is wrong with a
picture is raised as UnreadableImage with the reason, so that a caller can set the picture aside and count it. Images
are resized as OpenCV does it, as the recorded detections need it. Written from interface.md 5.2, 5.4 and 8.1.
"""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..ops.jpeg import decode_jpeg
from ..ops.letterbox import Fit
from ..ops.resize import resize_bilinear
from .large_pictures import decode_in_turn

# All suffixes that either upstream accepts. A file that this Pillow cannot decode is unreadable.
IMAGE_SUFFIXES = frozenset(".avif .bmp .dng .heic .heif .jp2 .jpeg .jpg .mpo .pfm .png .tif .tiff .webp".split())
GREY = 114  # padding around a letterboxed image

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {  # EXIF orientation -> the Pillow operation that turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

SMALLEST_SIDE = 10  # px; smaller images are left out of a dataset (interface.md 5.2)
BY_WINDOWS = "With tile=1024 predict, val and data read it by windows"
MAX_PIXELS = 178_956_970  # twice the number from which Pillow warns; half a gigabyte of RGB


class UnreadableImage(Exception):
    """A picture that cannot be decoded. The message is the reason, without the path."""


class _WithoutWarnings:
    """A context that silences Pillow's warnings while at least one thread is inside.

    `warnings.catch_warnings` swaps a process-wide list, and overlapping threads would restore it in the wrong order. So
    only the first thread that enters and the last that leaves touch it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._saved: warnings.catch_warnings | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._threads == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._threads += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self._saved.__exit__(None, None, None)


_without_warnings = _WithoutWarnings()


def read_image(source: Path | str | Image.Image | np.ndarray) -> Tensor:
    """Decode a picture to a tensor (3, H, W), uint8 RGB, upright.

    Args:
        source: a file; a Pillow image; or a uint8 array in OpenCV's order: (H, W, 3) BGR, (H, W, 4) BGRA, (H, W) or
            (H, W, 1) grey, also in a file .npy. The tensor never shares memory with it.

    EXIF orientation is applied, alpha is dropped, 16-bit samples are divided by 256. Raises UnreadableImage with the
    reason: not a picture, truncated, a decompression bomb, another dtype or shape.
    """
    return read_interleaved(source).contiguous()


def read_interleaved(source: Path | str | BytesIO | Image.Image | np.ndarray) -> Tensor:
    """Decode a picture as `read_image`, to a view (3, H, W) of memory (H, W, 3): one copy less for what follows."""
    if isinstance(source, (str, Path)) and Path(source).suffix.lower() == ".npy":
        source = _read_array(source)
    rgb = _rgb_of_array(source) if isinstance(source, np.ndarray) else _pixels(source)
    return torch.from_numpy(rgb).permute(2, 0, 1)


def _pixels(source: Path | str | BytesIO | Image.Image) -> np.ndarray:
    """Decode a file, its bytes or a Pillow image to (H, W, 3) uint8 RGB, upright."""
    if isinstance(source, (str, Path)):
        with _opened(source) as image:
            if image.format in ("JPEG", "MPO") and orientation_of(image) == 1:
                pixels = decode_jpeg(source, image)
                if pixels is not None:
                    return pixels
            return np.array(read_upright(image))
    return np.array(read_picture(source))


@contextmanager
def _opened(source: Path | str | BytesIO) -> Iterator[Image.Image]:
    """Open a picture, from a file or from its bytes; whatever goes wrong inside is raised as UnreadableImage."""
    with _without_warnings:
        try:
            if not isinstance(source, BytesIO):
                check_file(source)
            with Image.open(source) as image:
                _check_size(image)
                yield image
        except Exception as error:  # Pillow's plugins raise errors of any class for broken files
            raise UnreadableImage(reason_of(error)) from error


def _read_array(path: Path | str) -> np.ndarray:
    try:
        return np.load(path)
    except Exception as error:  # numpy raises errors of several classes for broken files
        raise UnreadableImage(reason_of(error)) from error


def read_picture(source: Path | str | BytesIO | Image.Image) -> Image.Image:
    """Return a file, its bytes or a Pillow image as a Pillow image: RGB, upright, with the pixels of `read_image`."""
    if not isinstance(source, Image.Image):
        with _opened(source) as image:
            return read_upright(image)
    with _without_warnings:
        try:
            return read_upright(source)
        except Exception as error:
            raise UnreadableImage(reason_of(error)) from error


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the picture that `read_image(path)` gives.

    A file that is complete is read only as far as its header. A file that does not end as its format says, or that is
    of a format without a cheap check, is decoded. Raises UnreadableImage with the reason.
    """
    with _without_warnings:
        try:
            check_file(path)
            with Image.open(path) as image:
                _check_size(image)
                pixels = image.width * image.height
                is_complete = _COMPLETE.get(image.format)
                if is_complete and is_complete(path, image):
                    width, height = image.size
                    # A PNG that comes here has no EXIF, and Pillow would decode the pixels to say so.
                    turned = image.format != "PNG" and orientation_of(image) in (5, 6, 7, 8)
                    return (width, height) if turned else (height, width)
        except Exception as error:
            raise UnreadableImage(reason_of(error)) from error
    return decode_in_turn(pixels, _decoded_size, path)


def _decoded_size(path: Path) -> tuple[int, int]:
    _, height, width = read_interleaved(path).shape
    return height, width


def check_file(path: Path | str) -> None:
    """Raise ValueError for a folder, a pipe or a device, which would never end; OSError for what is not there."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("not a file")


def header_size(path: Path) -> tuple[int, int]:
    """(height, width) as the header of a picture states it, upright or not. Raises UnreadableImage."""
    with _opened(path) as image:
        return image.height, image.width


def _check_size(image: Image.Image) -> None:
    # Pillow has a limit too, but any other package of the process can switch it off.
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}: a decompression bomb? {BY_WINDOWS}"
        )


def check_sides(size: tuple[int, int]) -> None:
    """Raise UnreadableImage if an image of `size` (h, w) px is too small for a dataset."""
    if min(size) < SMALLEST_SIDE:
        raise UnreadableImage(f"{size[1]}x{size[0]} pixels, expected sides of {SMALLEST_SIDE} or more")


def resize_pixels(pixels: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Resize (h, w, 3) BGR uint8 to (*size, 3) RGB uint8, with the values of `resize`."""
    if pixels.shape[:2] == tuple(size):
        return torch.stack(torch.from_numpy(pixels).unbind(2)[::-1], 2)
    return torch.from_numpy(resize_bilinear(pixels, size, reverse=True))


def tile_of(pixels: np.ndarray, fit: Fit) -> Tensor:
    """Resize (h, w, 3) BGR uint8 as `fit` says, to RGB uint8 (h', w', 3)."""
    return resize_pixels(pixels, fit.resized)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (3, H, W) uint8 to (3, *size) uint8, contiguous; return the same tensor if it has that size.

    The values are those of OpenCV's INTER_LINEAR; see ops/resize.py.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if image.stride(0) == 1:  # interleaved in memory
        return torch.from_numpy(resize_bilinear(image.permute(1, 2, 0).numpy(), size, planes=True))
    scaled = image.new_empty((len(image), *size))
    for plane, target in zip(image.numpy(), scaled.numpy(), strict=True):
        target[...] = resize_bilinear(plane[..., None], size)[..., 0]
    return scaled


def letterbox(image: Tensor, fit: Fit) -> Tensor:
    """Resize (3, H, W) uint8 as `fit` says and pad it with grey 114 -> (3, *fit.canvas) uint8."""
    scaled = resize(image, fit.resized)
    if fit.resized == fit.canvas:
        return scaled
    canvas = scaled.new_full((3, *fit.canvas), GREY)
    (top, left), (height, width) = fit.pad, fit.resized
    canvas[:, top : top + height, left : left + width] = scaled
    return canvas


def read_upright(image: Image.Image) -> Image.Image:
    """Convert a Pillow image to mode RGB, upright."""
    image.load()  # raises for a truncated file, and turns a TIFF upright
    method = None if image.format == "TIFF" else _UPRIGHT.get(orientation_of(image))
    if method is not None:  # not `if method`: FLIP_LEFT_RIGHT is 0
        image = image.transpose(method)
    if image.mode[0] in "IF":
        image = Image.fromarray(_eight_bits(np.asarray(image), image.mode))
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(grey: np.ndarray, mode: str) -> np.ndarray:
    """Convert grey samples of more than 8 bits to uint8: 16-bit integers / 256 as OpenCV does, floats in [0, 1] * 255.

    Raises ValueError for other ranges.
    """
    low, high = grey.min(), grey.max()
    if mode == "F" and 0 <= low and high <= 1:  # False for nan
        return (grey * 255 + 0.5).astype(np.uint8)
    if mode != "F" and 0 <= low and high <= 0xFFFF:
        return (grey // 256).astype(np.uint8)
    raise ValueError(f"grey samples from {low} to {high}; expected 8 or 16 bits, or floats in [0, 1]")


def _rgb_of_array(array: np.ndarray) -> np.ndarray:
    """Copy an array in OpenCV's order to (H, W, 3) uint8 RGB."""
    if array.dtype != np.uint8:
        raise UnreadableImage(f"array of {array.dtype}; expected uint8 samples from 0 to 255")
    if array.ndim == 2:
        array = array[..., None]  # (H, W) -> (H, W, 1)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise UnreadableImage(f"array of shape {array.shape}; expected (H, W, 3) BGR, (H, W, 4) BGRA or (H, W) grey")
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)  # (H, W, 1) -> (H, W, 3)
    return np.array(array[..., 2::-1], order="C")


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none or it cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF in a sound picture
        return 1


def _is_complete_jpeg(path: Path, image: Image.Image) -> bool:
    with open(path, "rb") as file:
        file.seek(-2, 2)
        return file.read() == b"\xff\xd9"  # end marker


def _is_complete_png(path: Path, image: Image.Image) -> bool:
    # EXIF may follow the pixels, where only decoding finds it: such files are decoded.
    data = path.read_bytes()
    if any(name in data for name in (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")):
        return False
    try:
        image.verify()  # every checksum
    except Exception:
        return False  # decoding finds out whether the error matters
    return True


# Format -> check whether a file is complete, without decoding it. Opening a WebP has already parsed it to its end.
_COMPLETE = {
    "JPEG": _is_complete_jpeg,
    "MPO": _is_complete_jpeg,
    "PNG": _is_complete_png,
    "WEBP": lambda path, image: True,
}


def reason_of(error: Exception) -> str:
    """The text of an error in one line, without the object addresses that Pillow puts into it."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that can be decoded here"
    if isinstance(error, Image.DecompressionBombError):
        return f"{' '.join(str(error).split())} {BY_WINDOWS}"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
