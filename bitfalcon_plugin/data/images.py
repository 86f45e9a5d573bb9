"""Image files and arrays to uint8 RGB tensors, and their way onto the network input.

Decoding is Pillow's. Every way in which a picture can fail ends as UnreadableImage with the reason, so that a caller
can set it aside and count it. The resize is bilinear with half-pixel centres and the result rounded half up, which
the recorded detections need (interface.md 5.4). Written from interface.md 5.2, 5.4 and 8.1.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from ..ops.letterbox import Fit

# What either upstream accepts. A format that this Pillow cannot decode is set aside with that reason.
IMAGE_SUFFIXES = frozenset(".avif .bmp .dng .heic .heif .jp2 .jpeg .jpg .mpo .pfm .png .tif .tiff .webp".split())
GREY = 114  # padding around a letterboxed image

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Exception):
    """A picture that cannot be decoded; the message is the reason alone, without the path."""


MOST_PIXELS = 178_956_970  # twice what Pillow warns of; half a gigabyte of RGB


class _Quiet:
    """Silences Pillow's warnings while at least one thread is inside.

    `warnings.catch_warnings` swaps a process-wide list, so overlapping threads would restore it in the wrong order:
    only the first one in and the last one out touch it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: warnings.catch_warnings | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_quiet = _Quiet()


def read_image(source: Path | str | Image.Image | np.ndarray) -> Tensor:
    """Decode a picture to a tensor (3, H, W), uint8 RGB, upright.

    Args:
        source: a file; a Pillow image; or a uint8 array in OpenCV's order: (H, W, 3) BGR, (H, W, 4) BGRA,
            (H, W) or (H, W, 1) grey. The tensor never shares memory with it.

    EXIF orientation is applied, alpha dropped, 16-bit samples divided by 256. Raises UnreadableImage with the reason:
    not a picture, truncated, a decompression bomb, another dtype or shape.
    """
    if isinstance(source, np.ndarray):
        rgb = _rgb_of_array(source)
    else:
        with _quiet:
            try:
                if isinstance(source, Image.Image):
                    rgb = _rgb(source)
                else:
                    with Image.open(source) as image:
                        _bounded(image)
                        rgb = _rgb(image)
            except Exception as error:  # Pillow's plugins raise whatever a broken file makes them stumble over
                raise UnreadableImage(_reason(error)) from error
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()  # (H, W, 3) -> (3, H, W)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the picture that `read_image(path)` gives, from the header where the file is visibly whole.

    A file that does not end as its format says, and formats without a cheap check, are decoded in full. Raises
    UnreadableImage with the reason.
    """
    with _quiet:
        try:
            with Image.open(path) as image:
                _bounded(image)
                whole = _WHOLE.get(image.format)
                if whole and whole(path, image):
                    width, height = image.size
                    # a PNG with EXIF was not "whole", and asking one without it would decode the pixels
                    turned = image.format != "PNG" and _orientation(image) in (5, 6, 7, 8)
                    return (width, height) if turned else (height, width)
        except Exception as error:
            raise UnreadableImage(_reason(error)) from error
    _, height, width = read_image(path).shape
    return height, width


def _bounded(image: Image.Image) -> None:
    # Pillow's own limit is a variable that other packages of a process switch off.
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels, more than {MOST_PIXELS}: a decompression bomb?")


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (3, H, W) uint8 to (3, *size) uint8, on the image's device; the image itself where the size is the same.

    Bilinear between the half-pixel centres, edges repeated, no antialiasing; rounded half up: floor(x + 0.5).
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    scaled = functional.interpolate(image[None].float(), size=tuple(size), mode="bilinear", align_corners=False)
    return scaled[0].add_(0.5).to(torch.uint8)  # positive, so the cast is the floor


def place(image: Tensor, fit: Fit) -> Tensor:
    """Put (3, H, W) uint8 on the canvas of `fit`: resized, padded with grey 114 -> (3, *fit.canvas) uint8."""
    scaled = resize(image, fit.resized)
    if fit.resized == fit.canvas:
        return scaled
    canvas = scaled.new_full((3, *fit.canvas), GREY)
    (top, left), (height, width) = fit.pad, fit.resized
    canvas[:, top : top + height, left : left + width] = scaled
    return canvas


def _rgb(image: Image.Image) -> np.ndarray:
    """Pillow image -> (H, W, 3) uint8 RGB, upright."""
    image.load()  # first: only now a truncated file is noticed, and Pillow itself turns a TIFF upright
    method = None if image.format == "TIFF" else _UPRIGHT.get(_orientation(image))
    if method is not None:  # mirroring is 0
        image = image.transpose(method)
    if image.mode[0] in "IF":
        grey = _eight_bits(np.asarray(image), image.mode)
        return np.repeat(grey[..., None], 3, axis=2)  # (H, W) -> (H, W, 3)
    return np.array(image.convert("RGB"))


def _eight_bits(grey: np.ndarray, mode: str) -> np.ndarray:
    """Deep grey to uint8: 16-bit integers / 256 as OpenCV does, floats in [0, 1] * 255; other ranges are refused."""
    low, high = grey.min(), grey.max()
    if mode == "F" and 0 <= low and high <= 1:  # false for nan
        return (grey * 255 + 0.5).astype(np.uint8)
    if mode != "F" and 0 <= low and high <= 0xFFFF:
        return (grey // 256).astype(np.uint8)
    raise ValueError(f"grey samples from {low} to {high}; expected 8 or 16 bits, or floats in [0, 1]")


def _rgb_of_array(array: np.ndarray) -> np.ndarray:
    """OpenCV-ordered array -> (H, W, 3) uint8 RGB of its own memory."""
    if array.dtype != np.uint8:
        raise UnreadableImage(f"array of {array.dtype}; expected uint8 samples from 0 to 255")
    if array.ndim == 2:
        array = array[..., None]  # (H, W) -> (H, W, 1)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise UnreadableImage(f"array of shape {array.shape}; expected (H, W, 3) BGR, (H, W, 4) BGRA or (H, W) grey")
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)  # (H, W, 1) -> (H, W, 3)
    return np.array(array[..., 2::-1], order="C")  # a copy, whatever the strides were


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or it cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF in a sound picture
        return 1


def _jpeg_whole(path: Path, image: Image.Image) -> bool:
    with open(path, "rb") as file:
        file.seek(-2, 2)
        return file.read() == b"\xff\xd9"  # end marker


def _png_whole(path: Path, image: Image.Image) -> bool:
    # EXIF may stand behind the pixels, where only decoding finds it: such files take the slow way.
    data = path.read_bytes()
    if any(name in data for name in (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")):
        return False
    try:
        image.verify()  # every checksum
    except Exception:
        return False  # decoding will say what is wrong, if it matters
    return True


# Format -> whether the file is visibly complete, without decoding it. Opening a WebP has already parsed it to its end.
_WHOLE = {"JPEG": _jpeg_whole, "MPO": _jpeg_whole, "PNG": _png_whole, "WEBP": lambda path, image: True}


def _reason(error: Exception) -> str:
    """What went wrong, in one line and without Pillow's object addresses."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that can be decoded here"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
