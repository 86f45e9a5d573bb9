"""Image files that cannot be decoded; most of them pass a look at header and end, which is what a scan takes."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(kind: str, size: tuple[int, int] = (64, 48), mode: str = "RGB", **options) -> bytes:
    """Noise of `size` (w, h) as a file of a format of Pillow."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG with a right checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(size: tuple[int, int], data: bytes) -> bytes:
    """A complete PNG file of `size` (w, h) with any data in the place of its pixels."""
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png_of_few_rows(size: tuple[int, int] = (64, 48)) -> bytes:
    """A PNG with right checksums whose pixels end after a few rows."""
    return png(size, zlib.compress(bytes(1000)))


def jpeg_without_pixels(size: tuple[int, int] = (64, 48)) -> bytes:
    """A JPEG that ends after its header, with the mark of an end."""
    whole = encoded("JPEG", size)
    return whole[: whole.index(b"\xff\xda")] + b"\xff\xd9"


def half(kind: str) -> bytes:
    """The first half of a file."""
    whole = encoded(kind)
    return whole[: len(whole) // 2]


def webp_without_frames() -> bytes:
    """An animated WebP of no frame."""
    head = bytes([2, 0, 0, 0]) + (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
    anim = b"ANIM" + struct.pack("<I", 6) + bytes(6)
    body = b"WEBPVP8X" + struct.pack("<I", 10) + head + anim
    return b"RIFF" + struct.pack("<I", len(body)) + body


def flipped(data: bytes, place: float) -> bytes:
    """The data with a byte changed, at a share of its length."""
    at = int(len(data) * place)
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


CONTENTS: dict[str, Callable[[], bytes]] = {
    "PNG of few rows": png_of_few_rows,
    "PNG that is no stream": lambda: png((64, 48), b"garbage" * 20),
    "PNG with a wrong checksum": lambda: flipped(encoded("PNG"), 0.5),
    "JPEG without pixels": jpeg_without_pixels,
    "half a PNG": lambda: half("PNG"),
    "half a GIF": lambda: half("GIF"),
    "half a TIFF": lambda: half("TIFF"),
    "half a BMP": lambda: half("BMP"),
    "half a WebP": lambda: half("WEBP"),
    "WebP without frames": webp_without_frames,
    "nothing": lambda: b"",
    "text": lambda: b"hello",
    "zeros": lambda: bytes(5000),
}


def _replace(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


# What may become of an image file during a run, by name.
CHANGES: dict[str, Callable[[Path], None]] = {
    **{name: _replace(content()) for name, content in CONTENTS.items()},
    "removed": Path.unlink,
    "another size": _replace(encoded("PNG", (12, 34))),
    "a folder": _folder,
    "a link to itself": _circle,
    **({"a pipe": _pipe} if hasattr(os, "mkfifo") else {}),
}
