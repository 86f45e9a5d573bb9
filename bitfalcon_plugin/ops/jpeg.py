"""Decode JPEG files by torchvision's decoder, to the bytes of Pillow's and in less time.

Both use libjpeg-turbo. The decoding itself takes the same time, but Pillow keeps four bytes a pixel and copies them
several times on their way to an array. torchvision's library is loaded alone, without torchvision. It is used only for
the kinds of file on which this process has found it to give the same bytes; Pillow decodes everything else.
tests/bench/loader.py compares thousands of files and measures both.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Decoder = Callable[[Tensor, int, bool], Tensor]  # bytes, RGB, turn upright -> (3, H, W)
RGB = 3  # torchvision.io.ImageReadMode.RGB
END = b"\xff\xd9"
FIRST = 4  # so many files are left to Pillow: loading the library takes longer than they do
# Factors (h, v) of the components of files that the decoder is used for: grey, 4:4:4, 4:2:2 and 4:2:0.
SAMPLINGS = (((1, 1),), ((1, 1),) * 3, ((2, 1), (1, 1), (1, 1)), ((2, 2), (1, 1), (1, 1)))
_SAMPLES = [("L", 0), ("RGB", 0), ("RGB", 1), ("RGB", 2)]  # mode, and `subsampling` of Pillow: the files of SAMPLINGS

_files = itertools.count()


def decode_jpeg(path: str | Path, image: Image.Image) -> NDArray[np.uint8] | None:
    """Return the pixels (H, W, 3) uint8 RGB of a file, or None where Pillow is to decode it.

    image: the file as Pillow has opened it, not decoded yet. Decoded are complete baseline files, grey or of three
    components in the usual samplings. EXIF orientation is not looked at.
    """
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB") or "progressive" in image.info:
        return None
    if tuple(component[1:3] for component in image.layer) not in SAMPLINGS or next(_files) < FIRST:
        return None
    decode = _decoder()
    data = None if decode is None else np.fromfile(path, np.uint8)
    if data is None or data[-2:].tobytes() != END:
        return None
    try:
        pixels = decode(torch.from_numpy(data), RGB, False).permute(1, 2, 0).numpy()
    except RuntimeError:  # Pillow says what is wrong
        return None
    return pixels if pixels.shape == (image.height, image.width, 3) else None


@functools.lru_cache(1)
def _decoder() -> Decoder | None:
    """torchvision's decoder, if it is there and gives the same bytes as Pillow's here."""
    package = importlib.util.find_spec("torchvision")
    for folder in package.submodule_search_locations or () if package else ():
        for library in sorted(Path(folder).glob("image*")):
            try:
                torch.ops.load_library(str(library))
                decode = torch.ops.image.decode_jpeg
                return decode if _agrees(decode) else None
            except (OSError, AttributeError, RuntimeError):  # without libjpeg, or a version that has no decoder
                continue
    return None


def _agrees(decode: Decoder) -> bool:
    """Whether a decoder gives the bytes of Pillow on a file of each of SAMPLINGS, in a good and in a bad quality."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize((53, 71), Image.Resampling.BOX)
    noise = random.integers(-20, 21, (71, 53, 3))
    picture = Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))
    for (mode, subsampling), quality in itertools.product(_SAMPLES, (30, 90)):
        file = io.BytesIO()
        picture.convert(mode).save(file, "JPEG", quality=quality, subsampling=subsampling)
        data = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
        expected = np.asarray(Image.open(file).convert("RGB"))
        if not np.array_equal(decode(data, RGB, False).permute(1, 2, 0).numpy(), expected):
            return False
    return True
