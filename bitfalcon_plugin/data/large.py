"""Large pictures of which windows are read, so that memory does not grow with the picture.

What reads the windows depends on the file. Uncompressed TIFF, BMP, PPM and PGM, and arrays in .npy, are read row by row
at their places in the file. Other files are read by rasterio (GDAL), where the extra `large` is installed. A file that
neither reads is decoded as a whole, and a note says so.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..config.notes import print_note_once
from ..ops.tiles import Window
from .images import UnreadableImage, orientation_of, read_upright, reason_of

LARGE = 1 << 24  # pixels; smaller pictures are decoded as a whole
MAX_WHOLE = 1 << 29  # pixels that are decoded as a whole: 2 GB in Pillow
CACHE_MB = 64  # of GDAL
ROWS = 64  # of a compressed file that are decoded at once
BAND_BYTES = 1 << 24  # of the rows that `reduced` reads at once
# Pillow's name of the samples of a pixel -> their number, and the places of blue, green and red among them
SAMPLES = {"RGB": (3, (2, 1, 0)), "BGR": (3, (0, 1, 2)), "RGBA": (4, (2, 1, 0)), "RGBX": (4, (2, 1, 0))} | {
    "BGRA": (4, (0, 1, 2)),
    "BGRX": (4, (0, 1, 2)),
    "L": (1, (0, 0, 0)),
}
_LIMIT = threading.Lock()  # held while Pillow's limit of pixels is lifted
Read = Callable[[Window], np.ndarray]  # a window of the picture -> (h, w, 3) BGR uint8


class LargeImage:
    """A picture in a file, of which windows are read: image[y1:y2, x1:x2] is an array (h, w, 3) BGR uint8.

    shape: (H, W, 3). numpy.asarray(image) and image[:] read the picture as a whole. Nothing is kept in memory.
    Raises UnreadableImage for a file that cannot be read.
    """

    ndim, dtype = 3, np.dtype(np.uint8)

    def __init__(self, path: Path):
        self.path = path
        with self.opened():
            pass

    shape: tuple[int, int, int]

    @contextlib.contextmanager
    def opened(self) -> Iterator[Read]:
        """Open the file for several windows, and give the function that reads them.

        Windows row by row, from the top down, are quickest: a compressed file may have to be decoded from its start for
        one that lies further up.
        """
        with contextlib.ExitStack() as stack:
            with _one_error():
                size, read = _open(self.path, stack)
            self.shape = (*size, 3)

            def checked(window: Window) -> np.ndarray:
                with _one_error():
                    return read(window)

            yield checked

    def __getitem__(self, index: Any) -> np.ndarray:
        rows, columns = index if isinstance(index, tuple) else (index, slice(None))
        (y1, y2, _), (x1, x2, _) = (part.indices(side) for part, side in zip((rows, columns), self.shape))
        if y1 >= y2 or x1 >= x2:
            return np.zeros((max(y2 - y1, 0), max(x2 - x1, 0), 3), np.uint8)
        with self.opened() as read:
            return read(Window(x1, y1, x2, y2))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.uint8, copy=False)

    def reduced(self, side: int) -> np.ndarray:
        """Return a copy whose longer side has at most `side` pixels: means of k x k pixels, (h, w, 3) BGR uint8."""
        height, width, _ = self.shape
        factor = math.ceil(max(height, width) / side)
        rows = max(BAND_BYTES // (3 * width * factor), 1) * factor
        with self.opened() as read:
            bands = (read(Window(0, y, width, min(y + rows, height))) for y in range(0, height, rows))
            return np.concatenate([np.asarray(Image.fromarray(band).reduce(factor)) for band in bands])


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """Raise UnreadableImage for every error: readers raise errors of many classes for broken files."""
    try:
        yield
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(reason_of(error)) from error


def large_image(path: Path) -> LargeImage | None:
    """Return a picture to be read by windows; None for one of at most LARGE pixels. Raises UnreadableImage."""
    size = _size(path)
    if size is not None and math.prod(size) <= LARGE:
        return None
    return LargeImage(path)


def has_rasterio() -> bool:
    """Whether rasterio is installed."""
    return importlib.util.find_spec("rasterio") is not None


def _size(path: Path) -> tuple[int, int] | None:
    """Return (h, w) of a picture in a file; None where neither Pillow nor numpy knows it. Raises UnreadableImage."""
    with _one_error():
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r").shape[:2]
        with _header(path) as image:
            return None if image is None else image.size[::-1]


@contextlib.contextmanager
def _header(path: Path) -> Iterator[Image.Image | None]:
    """Give a Pillow image of any size that is not decoded; None where Pillow does not know the format.

    Image.open does the same and refuses more pixels than a limit of the whole process allows.
    """
    Image.init()
    with open(path, "rb") as file:
        prefix = file.read(16)
        for name in Image.ID:
            factory, accept = Image.OPEN[name]
            if accept is not None and (not (answer := accept(prefix)) or isinstance(answer, str)):
                continue
            file.seek(0)
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
                yield factory(file, str(path))
                return
        yield None


def _open(path: Path, stack: contextlib.ExitStack) -> tuple[tuple[int, int], Read]:
    """Return (h, w) of a picture and the function that reads its windows; `stack` closes the file."""
    if path.suffix.lower() == ".npy":
        return _open_array(path, stack)
    image = stack.enter_context(_header(path))
    upright = image is None or _orientation(image) == 1
    if image is not None and upright and (plain := _open_plain(path, image, stack)) is not None:
        return image.size[::-1], plain
    if upright and has_rasterio():
        with contextlib.suppress(_NoWindows):
            return _open_by_gdal(path, stack)
    if image is None:
        raise UnreadableImage("not a picture that can be decoded here")
    if image.width * image.height > MAX_WHOLE:
        raise UnreadableImage(
            f"{image.width}x{image.height} pixels, more than {MAX_WHOLE}, and this file can only be decoded as a "
            f"whole; {_hint(upright)}"
        )
    print_note_once(
        f"'{path}', {image.width}x{image.height} pixels, is decoded as a whole, about "
        f"{4e-9 * image.width * image.height:.1f} GB: {_hint(upright)}."
    )
    is_turned = _orientation(image) > 4
    return image.size if is_turned else image.size[::-1], _decoded_as_a_whole(image)


def _decoded_as_a_whole(image: Image.Image) -> Read:
    """Return the function that reads windows of a picture, which is decoded with the first window."""
    decode = functools.cache(lambda: read_upright(image))

    def read(window: Window) -> np.ndarray:
        with _LIMIT:  # Pillow's own limit holds for the whole process, and is below MAX_WHOLE
            before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return np.asarray(decode().crop(window))[..., ::-1]
            finally:
                Image.MAX_IMAGE_PIXELS = before

    return read


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. Of a PNG only that before the pixels: Pillow decodes them to find another."""
    return 1 if image.format == "PNG" and "exif" not in image.info else orientation_of(image)


def _hint(upright: bool) -> str:
    if not upright:
        return "its EXIF orientation turns it, and turned pictures are not read by windows"
    return "pip install 'bitfalcon[large]' reads it by windows, and so is an uncompressed TIFF read without it"


def _open_array(path: Path, stack: contextlib.ExitStack) -> tuple[tuple[int, int], Read]:
    array = np.load(path, mmap_mode="r")
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.flags.c_contiguous:
        raise UnreadableImage(f"array of {array.dtype} {array.shape}; expected uint8 (H, W, 3), BGR, in rows")
    size = array.shape[:2]
    pieces = np.array([[0, 0, size[1], size[0], array.offset, 3 * size[1], 1]])
    return size, _PlainReader(stack.enter_context(open(path, "rb")), pieces, *SAMPLES["BGR"])


def _open_plain(path: Path, image: Image.Image, stack: contextlib.ExitStack) -> Read | None:
    """Return the reader of a file whose samples lie in it as they are; None for another file."""
    if not image.tile or any(codec != "raw" for codec, *_ in image.tile):
        return None
    pieces, kinds = [], set()
    for _, extents, offset, args in image.tile:
        kind, stride, direction = (args, 0, 1) if isinstance(args, str) else args
        kinds.add(kind)
        samples = SAMPLES.get(kind, (0,))[0]
        pieces.append([*extents, offset, stride or (extents[2] - extents[0]) * samples, direction])
    if len(kinds) != 1 or not kinds <= SAMPLES.keys() or image.mode == "P":
        return None
    table = np.array(pieces, np.int64)
    end = table[:, 4] + (table[:, 3] - table[:, 1] - 1) * table[:, 5]  # the last row of each piece begins here
    if path.stat().st_size < end.max():
        raise UnreadableImage("image file is truncated")
    return _PlainReader(stack.enter_context(open(path, "rb")), table, *SAMPLES[kinds.pop()])


class _PlainReader:
    """Reads windows of samples that lie in a file as they are.

    pieces (n, 7): the part x1, y1, x2, y2 of the picture that lies in one piece, the place of its first row in the
    file, the bytes from row to row, and -1 where the last row comes first. samples: of a pixel. order: see SAMPLES.
    """

    def __init__(self, file: Any, pieces: np.ndarray, samples: int, order: tuple[int, int, int]):
        self.file, self.pieces, self.samples, self.order = file, pieces, samples, list(order)

    def __call__(self, window: Window) -> np.ndarray:
        x1, y1, x2, y2 = window
        result = np.empty((y2 - y1, x2 - x1, 3), np.uint8)
        left, top, right, bottom = self.pieces[:, :4].T
        for piece in self.pieces[(left < x2) & (right > x1) & (top < y2) & (bottom > y1)].tolist():
            self._copy(piece, window, result)
        return result

    def _copy(self, piece: list[int], window: Window, result: np.ndarray) -> None:
        left, top, right, bottom, offset, stride, direction = piece
        x1, x2 = max(left, window.x1), min(right, window.x2)
        for y in range(max(top, window.y1), min(bottom, window.y2)):
            row = y - top if direction > 0 else bottom - 1 - y
            self.file.seek(offset + row * stride + (x1 - left) * self.samples)
            data = self.file.read((x2 - x1) * self.samples)
            if len(data) < (x2 - x1) * self.samples:
                raise UnreadableImage("image file is truncated")
            pixels = np.frombuffer(data, np.uint8).reshape(-1, self.samples)
            result[y - window.y1, x1 - window.x1 : x2 - window.x1] = pixels[:, self.order]


class _NoWindows(Exception):
    """A file that GDAL does not read, or that has no 8-bit or 16-bit samples."""


def _open_by_gdal(path: Path, stack: contextlib.ExitStack) -> tuple[tuple[int, int], Read]:
    import rasterio
    from rasterio.enums import ColorInterp

    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE_MB))
    try:
        data = stack.enter_context(rasterio.open(path))
    except rasterio.errors.RasterioError as error:
        raise _NoWindows from error
    is_grey = data.count < 3
    if set(data.dtypes) - {"uint8", "uint16"} or data.colorinterp[0] == ColorInterp.palette:
        raise _NoWindows
    bands = [1, 1, 1] if is_grey else [3, 2, 1]

    def read(window: Window) -> np.ndarray:
        x1, y1, x2, y2 = window
        planes = data.read(bands[:1] if is_grey else bands, window=((y1, y2), (x1, x2)))
        pixels = (planes if planes.dtype == np.uint8 else planes // 256).astype(np.uint8, copy=False)
        return np.ascontiguousarray(np.broadcast_to(pixels.transpose(1, 2, 0), (y2 - y1, x2 - x1, 3)))

    (block_height, block_width), *_ = data.block_shapes
    in_rows = block_width >= data.width and block_height < data.height
    return (data.height, data.width), _Bands(read, data.width) if in_rows else read


class _Bands:
    """Reads windows of a file that lies in whole rows: the rows of the last window are kept for those beside it."""

    def __init__(self, read: Read, width: int):
        self.read, self.width = read, width
        self.start, self.rows = 0, np.empty((0, width, 3), np.uint8)  # of the picture, from row `start` on

    def __call__(self, window: Window) -> np.ndarray:
        x1, y1, x2, y2 = window
        end = self.start + len(self.rows)
        if not self.start <= y1 <= end or y2 > end:
            kept = self.rows[y1 - self.start :] if self.start <= y1 <= end else self.rows[:0]
            rows = np.empty((y2 - y1, self.width, 3), np.uint8)
            rows[: len(kept)] = kept
            for y in range(y1 + len(kept), y2, ROWS):
                bottom = min(y + ROWS, y2)
                rows[y - y1 : bottom - y1] = self.read(Window(0, y, self.width, bottom))
            self.start, self.rows = y1, rows
        top = y1 - self.start
        return self.rows[top : top + y2 - y1, x1:x2].copy()
