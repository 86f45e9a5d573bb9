"""The work of loader processes: read, decode and resize images, or take them from a cache, send batches as one tensor.

The datasets hold packed paths and sizes only, so that processes can be started by fork, forkserver or spawn and do not
grow with the number of images. A file that
cannot be read travels as text, because an exception would arrive with the worker's traceback.
"""

from __future__ import annotations

import gc
import re
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...config.errors import UserError
from ...config.signals import Interrupts, leave_signals_to_parent, signals_held
from ...config.threads import usable_processors
from ...ops.letterbox import Fit
from ..images import UnreadableImage, letterbox, read_interleaved, resize
from .bad_images import Item, read_or_replace
from .image_cache import TileCache
from .packed_lists import PackedFits, PackedPaths, PackedSizes

Size = tuple[int, int]  # (h, w) pixels


class Order:
    """A batch sampler: the lists of indices that a DataLoader reads next. `chunks` is replaced between passes.

    item: index -> what a dataset is asked for; None: the index itself.
    """

    def __init__(self) -> None:
        self.chunks: Sequence[list[int]] = []
        self.item: Callable[[int], object] | None = None

    def __iter__(self) -> Iterator[list]:
        if self.item is None:
            return iter(self.chunks)
        return ([self.item(index) for index in chunk] for chunk in self.chunks)

    def __len__(self) -> int:
        return len(self.chunks)


class Tiles(Dataset):
    """Images whose longer side is resized to imgsz. A batch travels as one flat tensor: one shared file, one copy.

    Where an image cannot be read another takes its place.
    """

    def __init__(self, paths: list[str], sizes: list[Size], imgsz: int, cache: TileCache | None = None) -> None:
        self.paths, self.sizes = PackedPaths(paths), PackedSizes(sizes)
        self.imgsz, self.cache = imgsz, cache

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        return read_or_replace(self._read, index, len(self))

    def _read(self, index: int) -> Tensor | str:
        size = self.sizes[index]
        return _tile(self.paths[index], size, long_side(size, self.imgsz), index, self.cache)

    @staticmethod
    def collate(items: list[Item]) -> tuple[Tensor, list[Size], list[Item]]:
        """Return pixels (sum of 3 * h * w,), the (h, w) of each image, and the items with True for their images."""
        images = [item.image for item in items if item.image is not None]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        pixels = torch.cat([image.flatten() for image in images]) if images else torch.empty(0, dtype=torch.uint8)
        return pixels, sizes, without_pixels(items)


class Letterboxed(Dataset):
    """Images resized and padded as their `fits` say; a batch is (B, 3, H, W)."""

    def __init__(self, paths: list[str], fits: list[Fit], cache: TileCache | None = None) -> None:
        self.paths, self.fits, self.cache = PackedPaths(paths), PackedFits(fits), cache

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        fit = self.fits[index]
        tile = _tile(self.paths[index], fit.original, fit.resized, index, self.cache)
        if isinstance(tile, str):
            return Item(index, None, [(index, tile)])
        return Item(index, letterbox(tile, fit), [])  # the tile has its final size already

    @staticmethod
    def collate(items: list[Item]) -> tuple[Tensor, list[Item]]:
        """Return the images (B, 3, H, W) that could be read, and the items with True for their images."""
        images = [item.image for item in items if item.image is not None]
        return torch.stack(images) if images else torch.empty(0, dtype=torch.uint8), without_pixels(items)


def without_pixels(items: Sequence[Item]) -> list[Item]:
    """The items with True in the place of their images, which travel in one tensor."""
    return [item._replace(image=None if item.image is None else True) for item in items]


def long_side(size: Size, imgsz: int) -> Size:
    """Scale (h, w) so that the longer side is `imgsz`; round the other one up, without any float."""
    longest = max(size)
    return -(-size[0] * imgsz // longest), -(-size[1] * imgsz // longest)


def batches(images: Dataset, order: Order, workers: int, device: torch.device) -> DataLoader:
    """A loader that reads the batches of `order`, pass after pass, in `workers` processes (0: in this process)."""
    workers = min(workers, len(images), usable_processors())
    return DataLoader(
        images,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=images.collate,
        persistent_workers=workers > 0,
        worker_init_fn=begin_reader,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # so that torch's global generator is not advanced
    )


def start_readers(start: Callable[[], Iterator]) -> Iterator:
    """Return `start()`, an iterator over a loader whose processes begin with `begin_reader`.

    A signal that comes meanwhile acts when the iterator is whole: torch cannot end one that is made by half.
    """
    with Interrupts() as interrupts, signals_held():
        iterator = start()
    if interrupts.received is not None:
        signal.raise_signal(interrupts.received)
    return iterator


def begin_reader(number: int) -> None:
    """Begin reader `number`: signals that go to the whole group are for its parent.

    What the parent left in memory is no longer searched for garbage, because the search would write into it, and so
    copy it.
    """
    gc.freeze()
    leave_signals_to_parent()


def read(loader: DataLoader) -> Iterator[tuple]:
    """Yield the batches of one pass over a loader. Raises UserError when a reader process died."""
    batches_of_pass = start_readers(loader.__iter__)
    if loader.num_workers and not hasattr(loader, "held"):
        loader.held = weakref.finalize(loader, _let_go, batches_of_pass)
    while True:
        try:
            batch = next(batches_of_pass)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            message = worker_death(error)
            # A reader that dies while it hands over a batch shows first as a broken connection.
            broken = isinstance(error, (ConnectionError, FileNotFoundError, EOFError))
            if message is None and broken and _reader_ended(batches_of_pass):
                message = _death_message("", "")
            if message is None:
                raise
            raise UserError(message) from error
        yield batch


def _let_go(batches_of_pass: Iterator) -> None:
    """Do nothing; called when a loader is gone, with the last reference to its iterator.

    Without this reference Python's search for garbage may end the queues of a loader in a circle of references before
    its iterator. The readers then never hear that they are to end, and torch waits 5 seconds for each.
    """


def worker_death(error: BaseException) -> str | None:
    """Explain the death of a reader process and its repair in one line; None if `error` is another error.

    torch notices a dead reader while it waits for a batch, and by a signal: then the error is raised wherever the main
    process is at that moment. So a training loop calls this function too.
    """
    if not isinstance(error, RuntimeError):
        return None
    process = re.search(r"DataLoader worker \(pid(?:\(s\))? (\d+)", str(error))  # torch has no class of error for it
    if process is None:
        return None
    cause = re.search(r"killed by signal: ([\w ]+)", str(error))
    return _death_message(f" ({process[1]})", cause[1].strip() if cause else "")


def _reader_ended(batches_of_pass: object) -> bool:
    """Whether a reader of this pass has ended or ends within a second."""
    workers = getattr(batches_of_pass, "_workers", [])
    for worker in workers:
        worker.join(1 / len(workers))
    return not all(worker.is_alive() for worker in workers)


_DEATHS = {  # signal -> its most likely reason
    "": "it ended without a word; most often memory or shared memory (/dev/shm) ran out",
    "Killed": "Killed; most likely the system ran out of memory",
    "Bus error": "Bus error; most likely shared memory (/dev/shm) is full",
}


def _death_message(process: str, signal: str) -> str:
    return (
        f"A process that reads images{process} died: {_DEATHS.get(signal, signal)}. "
        "Give fewer workers= (0 reads in the training process), or cache=False where cache=ram takes the memory; "
        "then go on with resume=True."
    )


def _tile(path: str, size: Size, resized: Size, index: int, cache: TileCache | None) -> Tensor | str:
    """The image, of `size` (h, w) when it was scanned, in the size `resized`; or why it cannot be read."""
    if cache is not None and (cached := cache.get(index)) is not None:
        return cached
    try:
        image = read_interleaved(path)
    except UnreadableImage as error:
        return str(error)
    if (problem := changed_size(tuple(image.shape[1:]), size)) is not None:
        return problem
    tile = resize(image, resized).contiguous()
    if cache is not None:
        cache.put(index, tile)
    return tile


def changed_size(now: Size, scanned: Size) -> str | None:
    """What is wrong where an image has another size (h, w) than when it was scanned, else None."""
    return None if now == tuple(scanned) else f"{now} pixels (h, w), was {tuple(scanned)} when scanned"
