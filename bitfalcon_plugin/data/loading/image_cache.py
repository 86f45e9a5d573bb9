"""Caches of decoded and resized images between epochs: in memory that all loader processes share, or in files.

The cached bytes are those that decoding and resizing give, so that batches are the same with a cache and without. Files
lie in the user's cache folder, never inside a dataset. They hold raw bytes behind a header of numbers: nothing in them
is ever interpreted. A tile is read anew when the size or the modification time of its image file has changed.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import struct
import tempfile
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...config.files import cache_dir
from .packed_lists import PackedPaths, PackedSizes

MARGIN = 1.5  # free memory must be this many times the size of a cache: everything else grows as well
HEADER = struct.Struct("<8sqqiiI")  # mark, size and mtime (ns) of the image file, h, w, CRC-32 of the pixels
MARK = b"bftile02"

Size = tuple[int, int]  # (h, w) pixels


class TileCache(Protocol):
    """Tiles (3, h, w) uint8 by the index of their image. Works in loader processes, however they were started."""

    def get(self, index: int) -> Tensor | None:
        """The tile, or None if it is not in the cache."""

    def put(self, index: int, tile: Tensor) -> None:
        """Store a tile. A tile that cannot be stored is left out."""


CacheAndNote = tuple[TileCache | None, str]  # a cache, or None and the reason; one line for the user


def open_cache(
    kind: bool | str, paths: Sequence[str], shapes: Sequence[Size], content: int | str, copies: int = 1
) -> CacheAndNote:
    """Open a cache for the tiles of images, and return it with a note for the user.

    kind: False (None and an empty note), "ram" (or True), or "disk". shapes: (h, w) of the tiles. content: what the
    tiles are, imgsz or a word; files of different content lie in different folders. copies: the number of processes of
    a run that open a cache on this machine; memory must suffice for all. Where memory or disk space is short the result
    is None, and the note says why.
    """
    if not kind:
        return None, ""
    needed = sum(3 * height * width for height, width in shapes)
    if kind == "disk":
        return _on_disk(paths, shapes, content, needed)
    return _in_memory(shapes, needed, copies)


def _in_memory(shapes: Sequence[Size], needed: int, copies: int) -> CacheAndNote:
    free = free_memory()
    if free is not None and needed * copies * MARGIN > free:
        return None, (
            f"cache=ram is off: {len(shapes)} images need {_in_units(needed * copies)}, times {MARGIN} for "
            f"everything else, and {_in_units(free)} are free; cache=disk keeps them in files."
        )
    try:
        cache = SharedTiles(shapes)
    except OSError as error:
        return None, f"cache=ram is off: {_in_units(needed)} of shared memory cannot be had ({error.strerror})."
    return cache, f"cache=ram: up to {_in_units(needed)} for {len(shapes)} images, filled as they are first read."


def _on_disk(paths: Sequence[str], shapes: Sequence[Size], content: int | str, needed: int) -> CacheAndNote:
    folder = cache_dir() / "tiles" / str(content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"'{folder}' cannot be written ({error.strerror}); $BITFALCON_CACHE names another."
        return None, f"cache=disk is off: {reason}"
    cache = TileFiles(folder, paths, shapes)
    stored = sum(cache.path(index).exists() for index in range(len(paths)))
    missing = needed * (len(paths) - stored) // max(len(paths), 1)
    free = shutil.disk_usage(folder).free
    if missing > free:
        return None, f"cache=disk is off: {_in_units(missing)} are needed in '{folder}', {_in_units(free)} are free."
    sizes = f"{stored} of {len(paths)} images are in '{folder}', {_in_units(missing)} will be written."
    return cache, f"cache=disk: {sizes}"


class SharedTiles:
    """Tiles in one block of memory that every process maps.

    The block is a file without a name: the system frees it when the last process ends, even by a kill, and /dev/shm
    does not limit its size. On other systems than Linux a temporary file takes its place.
    """

    def __init__(self, shapes: Sequence[Size]) -> None:
        self.shapes = PackedSizes(shapes)
        self._starts = torch.tensor([0, *(3 * height * width for height, width in shapes)], dtype=torch.int64).cumsum(0)
        total = max(int(self._starts[-1]) + len(self.shapes), 1)  # after all pixels one byte for each tile: 1 if stored
        if hasattr(os, "memfd_create"):
            handle = os.memfd_create("bitfalcon-tiles")
            self._path = f"/proc/{os.getpid()}/fd/{handle}"
            weakref.finalize(self, os.close, handle)
        else:
            handle, self._path = tempfile.mkstemp(prefix="bitfalcon-tiles-")
            weakref.finalize(self, Path(self._path).unlink, missing_ok=True)
            weakref.finalize(self, os.close, handle)
        os.ftruncate(handle, total)
        self._memory = self._map(handle)

    def get(self, index: int) -> Tensor | None:
        if not self._memory[self._starts[-1] + index]:
            return None
        tile = self._memory[self._starts[index] : self._starts[index + 1]]
        return tile.view(3, *self.shapes[index]).clone()  # a caller may write into it

    def put(self, index: int, tile: Tensor) -> None:
        self._memory[self._starts[index] : self._starts[index + 1]] = tile.flatten()
        self._memory[self._starts[-1] + index] = 1

    @staticmethod
    def _map(handle: int) -> Tensor:
        return torch.frombuffer(mmap.mmap(handle, os.fstat(handle).st_size), dtype=torch.uint8)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_memory"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        handle = os.open(self._path, os.O_RDWR)
        try:
            self._memory = self._map(handle)
        finally:
            os.close(handle)


class TileFiles:
    """Tiles in one file each, named by the absolute path of the image."""

    def __init__(self, folder: Path, paths: Sequence[str], shapes: Sequence[Size]) -> None:
        self.folder = folder
        self.paths = PackedPaths([os.path.abspath(path) for path in paths])
        self.shapes = PackedSizes(shapes)
        self._last: tuple[int, os.stat_result | None] = (-1, None)  # index and state of the image before it is decoded

    def path(self, index: int) -> Path:
        """The file of a tile."""
        digest = hashlib.blake2b(os.fsencode(self.paths[index]), digest_size=16).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:]}.tile"

    def get(self, index: int) -> Tensor | None:
        height, width = self.shapes[index]
        try:
            image = os.stat(self.paths[index])
            self._last = (index, image)
            with open(self.path(index), "rb") as file:
                header = HEADER.unpack(file.read(HEADER.size))
                pixels = bytearray(file.read(3 * height * width + 1))
        except (OSError, struct.error):
            return None
        if header[:5] != (MARK, image.st_size, image.st_mtime_ns, height, width):
            return None
        if len(pixels) != 3 * height * width or zlib.crc32(pixels) != header[5]:
            return None  # incomplete: files are not flushed one by one, and the machine may have lost power
        return torch.frombuffer(pixels, dtype=torch.uint8).view(3, height, width)

    def put(self, index: int, tile: Tensor) -> None:
        path, pixels = self.path(index), tile.contiguous().numpy()
        temporary = None
        try:
            image = self._last[1] if self._last[0] == index else os.stat(self.paths[index])
            header = HEADER.pack(MARK, image.st_size, image.st_mtime_ns, *tile.shape[1:], zlib.crc32(pixels))
            path.parent.mkdir(exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent)
            with open(handle, "wb") as file:
                file.write(header)
                file.write(pixels)
            os.replace(temporary, path)
        except OSError:  # a full disk: the image will be decoded again
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)


def free_memory() -> int | None:
    """The bytes of memory that are free without swapping, at most the limit of a container; None if it is not known."""
    limits = []
    try:
        limits.append(_numbers(Path("/proc/meminfo"))["MemAvailable:"] * 1024)
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit != "max":  # the cache of files that are no longer read counts as free
            limits.append(int(limit) - int(used) + _numbers(group / "memory.stat").get("inactive_file", 0))
    except (OSError, ValueError, KeyError):
        pass
    if not limits and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        limits.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(min(limits), 0) if limits else None


def _numbers(path: Path) -> dict[str, int]:
    """Read a system file of `name number ...` lines."""
    return {words[0]: int(words[1]) for words in map(str.split, path.read_text().splitlines()) if len(words) > 1}


def _in_units(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
