"""Decoded and resized images kept between epochs: in memory that all loader processes share, or in files.

The kept bytes are those that decoding and resizing give, so that batches are the same with a cache and without. Files lie
in the user's cache folder, never inside a dataset, and hold raw bytes behind a header of numbers: nothing in them is ever
interpreted. A tile whose image file has another size or time of change than when it was kept is read anew.
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
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ...config.files import cache_dir

MARGIN = 1.5  # free memory must be this many times what a cache takes: everything else grows as well
HEADER = struct.Struct("<8sqqiiI")  # mark, size and mtime (ns) of the image file, h, w, CRC-32 of the pixels
MARK = b"bftile01"


class TileCache(Protocol):
    """Tiles (3, h, w) uint8 by the index of their image. Works in every loader process, however it was started."""

    def get(self, index: int) -> Tensor | None:
        """The tile, or None where it is not kept (any more)."""

    def put(self, index: int, tile: Tensor) -> None:
        """Keep a tile; where that fails, it is not kept."""


class Opened(NamedTuple):
    """A cache, or None and why not; `note` is one line for the user, empty where no cache was asked for."""

    cache: TileCache | None
    note: str


def open_cache(
    kind: bool | str, paths: Sequence[str], shapes: Sequence[tuple[int, int]], imgsz: int, copies: int = 1
) -> Opened:
    """A cache for the tiles of these images with these (h, w); `kind` is False, "ram" (or True) or "disk".

    `copies` is how many processes of a run open one each on this machine: memory is asked for that many. Where there is no
    room the images are read as without a cache, and the note says so.
    """
    if not kind:
        return Opened(None, "")
    needed = sum(3 * height * width for height, width in shapes)
    return _on_disk(paths, shapes, imgsz, needed) if kind == "disk" else _in_memory(shapes, needed, copies)


def _in_memory(shapes: Sequence[tuple[int, int]], needed: int, copies: int) -> Opened:
    free = free_memory()
    if free is not None and needed * copies * MARGIN > free:
        return Opened(
            None,
            f"cache=ram is off: {len(shapes)} images need {_words(needed * copies)}, times {MARGIN} for "
            f"everything else, and {_words(free)} are free; cache=disk keeps them in files.",
        )
    try:
        cache = SharedTiles(shapes)
    except OSError as error:
        return Opened(None, f"cache=ram is off: {_words(needed)} of shared memory cannot be had ({error.strerror}).")
    return Opened(cache, f"cache=ram: up to {_words(needed)} for {len(shapes)} images, filled as they are first read.")


def _on_disk(paths: Sequence[str], shapes: Sequence[tuple[int, int]], imgsz: int, needed: int) -> Opened:
    folder = cache_dir() / "tiles" / str(imgsz)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Opened(
            None, f"cache=disk is off: '{folder}' cannot be written ({error.strerror}); $BITFALCON_CACHE names another."
        )
    cache = TileFiles(folder, paths, shapes)
    there = sum(cache.path(index).exists() for index in range(len(paths)))
    missing = needed * (len(paths) - there) // max(len(paths), 1)
    if missing > (free := shutil.disk_usage(folder).free):
        return Opened(None, f"cache=disk is off: {_words(missing)} are needed in '{folder}', {_words(free)} are free.")
    return Opened(
        cache, f"cache=disk: {there} of {len(paths)} images are in '{folder}', {_words(missing)} will be written."
    )


class SharedTiles:
    """Tiles in one stretch of memory that every process maps: an unnamed file, which goes when the last of them ends, even
    by a kill, and which is not bound to the size of /dev/shm. Elsewhere than on Linux a temporary file takes its place."""

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        self.shapes = list(shapes)
        self._starts = [0]
        for height, width in self.shapes:
            self._starts.append(self._starts[-1] + 3 * height * width)
        total = max(
            self._starts[-1] + len(self.shapes), 1
        )  # behind the pixels a byte for each tile: whether it is there
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
        return tile.view(3, *self.shapes[index]).clone()  # nobody may write into the kept one

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
    """Each tile in a file of its own, named by the absolute path of its image."""

    def __init__(self, folder: Path, paths: Sequence[str], shapes: Sequence[tuple[int, int]]) -> None:
        self.folder, self.paths, self.shapes = folder, [os.path.abspath(path) for path in paths], list(shapes)
        self._looked: tuple[int, os.stat_result | None] = (-1, None)  # at the image, before it was decoded

    def path(self, index: int) -> Path:
        """Where the tile of this image lies."""
        digest = hashlib.blake2b(os.fsencode(self.paths[index]), digest_size=16).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:]}.tile"

    def get(self, index: int) -> Tensor | None:
        height, width = self.shapes[index]
        try:
            found = os.stat(self.paths[index])
            self._looked = (index, found)
            with open(self.path(index), "rb") as file:
                header = HEADER.unpack(file.read(HEADER.size))
                pixels = bytearray(file.read(3 * height * width + 1))
        except (OSError, struct.error):
            return None
        if header[:5] != (MARK, found.st_size, found.st_mtime_ns, height, width):
            return None
        if len(pixels) != 3 * height * width or zlib.crc32(pixels) != header[5]:
            return None  # cut off, or the machine lost power: files are not flushed one by one
        return torch.frombuffer(pixels, dtype=torch.uint8).view(3, height, width)

    def put(self, index: int, tile: Tensor) -> None:
        path, pixels = self.path(index), tile.contiguous().numpy()
        temporary = None
        try:
            found = self._looked[1] if self._looked[0] == index else os.stat(self.paths[index])
            path.parent.mkdir(exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent)
            with open(handle, "wb") as file:
                file.write(HEADER.pack(MARK, found.st_size, found.st_mtime_ns, *tile.shape[1:], zlib.crc32(pixels)))
                file.write(pixels)
            os.replace(temporary, path)
        except OSError:  # a full disk: the image is decoded the next time
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)


def free_memory() -> int | None:
    """Bytes that can be taken without swapping, the limit of a container heeded; None where the system does not tell."""
    found = []
    try:
        found.append(_table(Path("/proc/meminfo"))["MemAvailable:"] * 1024)
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit != "max":  # of what is used, files that nobody reads any more are given up first
            found.append(int(limit) - int(used) + _table(group / "memory.stat").get("inactive_file", 0))
    except (OSError, ValueError, KeyError):
        pass
    if not found and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(min(found), 0) if found else None


def _table(path: Path) -> dict[str, int]:
    """A system file of `name number ...` lines."""
    return {words[0]: int(words[1]) for words in map(str.split, path.read_text().splitlines()) if len(words) > 1}


def _words(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
