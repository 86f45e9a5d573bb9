"""What loader processes do: read, decode and resize images, or take them from a cache, and send a batch as one tensor.

They hold plain paths and sizes only, so that they can be started by fork, forkserver or spawn, and tell a file that
cannot be read as text: an exception would arrive with the worker's traceback.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...config.errors import UserError
from ...ops.letterbox import Fit
from ..images import UnreadableImage, place, read_image, resize
from .image_cache import TileCache


class Order:
    """The batches of indices that a DataLoader reads next; the list is replaced between passes."""

    def __init__(self) -> None:
        self.chunks: Sequence[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.chunks)

    def __len__(self) -> int:
        return len(self.chunks)


class Tiles(Dataset):
    """Images with their long side at imgsz; a batch travels as one flat tensor, so as one shared file and one copy."""

    def __init__(
        self, paths: list[str], sizes: list[tuple[int, int]], imgsz: int, cache: TileCache | None = None
    ) -> None:
        self.paths, self.sizes, self.imgsz, self.cache = paths, sizes, imgsz, cache

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        return _tile(self.paths[index], self.sizes[index], long_side(self.sizes[index], self.imgsz), index, self.cache)

    @staticmethod
    def collate(items: list[Tensor | str]) -> tuple[Tensor, list[tuple[int, int]], list[str]]:
        """Pixels (sum of 3 * h * w,), the (h, w) of each image, and problems; without pixels if there are problems."""
        if problems := [item for item in items if isinstance(item, str)]:
            return torch.empty(0, dtype=torch.uint8), [], problems
        sizes = [(item.shape[1], item.shape[2]) for item in items]
        return torch.cat([item.flatten() for item in items]), sizes, []


class Placed(Dataset):
    """Images on their canvases; a batch is (B, 3, H, W)."""

    def __init__(self, paths: list[str], fits: list[Fit], cache: TileCache | None = None) -> None:
        self.paths, self.fits, self.cache = paths, fits, cache

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        fit = self.fits[index]
        tile = _tile(self.paths[index], fit.original, fit.resized, index, self.cache)
        return tile if isinstance(tile, str) else place(tile, fit)  # which finds it resized already

    @staticmethod
    def collate(items: list[Tensor | str]) -> tuple[Tensor, list[str]]:
        """Images (B, 3, H, W) and problems; without images if there are problems."""
        problems = [item for item in items if isinstance(item, str)]
        return (torch.empty(0, dtype=torch.uint8) if problems else torch.stack(items)), problems


def long_side(size: tuple[int, int], imgsz: int) -> tuple[int, int]:
    """(h, w) scaled so that the longer side is `imgsz`, the other rounded up in whole numbers: no float decides it."""
    longest = max(size)
    return -(-size[0] * imgsz // longest), -(-size[1] * imgsz // longest)


def batches(files: Tiles | Placed, order: Order, workers: int, device: torch.device) -> DataLoader:
    """What reads the batches of `order`, pass after pass, in so many processes (0: in this one)."""
    workers = min(workers, len(files), os.cpu_count() or 1)
    return DataLoader(
        files,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=files.collate,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # its own: the global one stays where the caller left it
    )


def read(loader: DataLoader) -> Iterator[tuple]:
    """One pass over a loader. Raises UserError when one of its processes died."""
    passing = iter(loader)
    while True:
        try:
            found = next(passing)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            told = worker_death(error)
            # A reader that dies while it hands over a batch is noticed as a broken connection first.
            if told is None and isinstance(error, (ConnectionError, FileNotFoundError, EOFError)) and _lost(passing):
                told = _told("", "")
            if told is None:
                raise
            raise UserError(told) from error
        yield found


def worker_death(error: BaseException) -> str | None:
    """What happened to an image reader and what to do about it, in one line; None where `error` tells of something else.

    torch notices a dead reader while it waits for it, and by a signal: then the error comes up wherever the main
    process is at that moment, so that a training loop asks this too.
    """
    found = (
        re.search(r"DataLoader worker \(pid(?:\(s\))? (\d+)", str(error)) if isinstance(error, RuntimeError) else None
    )
    if found is None:
        return None
    signal = re.search(r"killed by signal: ([\w ]+)", str(error))
    return _told(f" ({found[1]})", signal[1].strip() if signal else "")


def _lost(passing: object) -> bool:
    """Whether a reader of this pass has ended, or does within a second."""
    workers = getattr(passing, "_workers", [])
    for worker in workers:
        worker.join(1 / len(workers))
    return not all(worker.is_alive() for worker in workers)


def _told(who: str, signal: str) -> str:
    reasons = {"": "it ended without a word; most often memory or shared memory (/dev/shm) ran out",
               "Killed": "Killed; most likely the system ran out of memory",
               "Bus error": "Bus error; most likely shared memory (/dev/shm) is full"}  # fmt: skip
    return (
        f"A process that reads images{who} died: {reasons.get(signal, signal)}. Give fewer workers= (0 reads in the "
        "training process), or cache=False where cache=ram takes the memory; then go on with resume=True."
    )


def _tile(
    path: str, size: tuple[int, int], shape: tuple[int, int], index: int, cache: TileCache | None
) -> Tensor | str:
    """The image resized to `shape`, or what is wrong with it."""
    if cache is not None and (kept := cache.get(index)) is not None:
        return kept
    try:
        image = read_image(path)
    except UnreadableImage as error:
        return f"{path}: {error}. Restore the file, or start again to have it set aside."
    if tuple(image.shape[1:]) != tuple(size):
        return f"{path}: {tuple(image.shape[1:])} pixels (h, w), was {tuple(size)} when scanned. Start again."
    tile = resize(image, shape)
    if cache is not None:
        cache.put(index, tile)
    return tile
