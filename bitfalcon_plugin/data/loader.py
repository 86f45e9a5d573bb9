"""Batches for training and validation.

Workers only read, decode and resize: what they hold is plain paths and sizes (safe to start by fork, forkserver or
spawn) and what they send is one tensor a batch. Augmentation runs in the caller's process on the training device.
Written from spec/interface.md (sections 5.2 Loading, 5.3 and 6.6).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..boxes import Fit, xyxy_from_xywh
from ..errors import raise_problems
from .augment import Batch, Recipe, Tile, augment
from .images import UnreadableImage, place, read_image, resize

if TYPE_CHECKING:
    from .dataset import Sample

POOL_IMAGES = 1000  # partners that a mosaic chooses from: at most this many,
POOL_BATCHES = 8  # this many batches
POOL_BYTES = 1 << 30  # and this much memory of the training device


class TrainLoader:
    """Augmented batches, shuffled anew each epoch; the same for equal (seed, epoch, recipe), whatever `workers` is.

    samples: as scanned; imgsz: long side of the tiles, pixels; batch: images a batch (the last may be smaller);
    workers: processes that decode, 0 for none; device: where batches are made.
    """

    def __init__(
        self, samples: Sequence[Sample], *, imgsz: int, batch: int, workers: int, seed: int, device: torch.device | str
    ) -> None:
        self.samples, self.imgsz, self.batch, self.seed = samples, imgsz, batch, seed
        self.device = torch.device(device)
        self._order = _Order()
        files = _Tiles([str(sample.image) for sample in samples], [sample.size for sample in samples], imgsz)
        self._loader = _workers(files, self._order, workers, self.device)

    def __len__(self) -> int:
        return math.ceil(len(self.samples) / self.batch)

    def epoch(self, epoch: int, recipe: Recipe) -> Iterator[tuple[Batch, list[int]]]:
        """Yield (batch on the device, indices of its samples) over one permutation of the samples.

        Mosaic and mixup partners come from the latest tiles of this epoch, the batch at hand among them: no image is
        decoded twice, and an epoch can be repeated alone. Raises UserError when a file cannot be read any more, and
        ValueError when the recipe is for another imgsz.
        """
        if recipe.imgsz != self.imgsz:
            raise ValueError(f"recipe.imgsz is {recipe.imgsz}, this loader reads tiles of {self.imgsz}")
        order = torch.randperm(len(self.samples), generator=_generator(self.seed, epoch, "order")).tolist()
        self._order.chunks = [order[first : first + self.batch] for first in range(0, len(order), self.batch)]
        room = min(POOL_BATCHES * self.batch, POOL_IMAGES, POOL_BYTES // (3 * self.imgsz**2))
        pool: deque[Tile] = deque(maxlen=max(room, self.batch))
        for number, (chunk, read) in enumerate(zip(self._order.chunks, self._loader)):
            tiles = self._tiles(chunk, *read)
            pool.extend(tiles)
            yield augment(tiles, pool, recipe, _generator(self.seed, epoch, number), self.device), chunk

    def _tiles(self, chunk: list[int], pixels: Tensor, sizes: list[tuple[int, int]], problems: list[str]) -> list[Tile]:
        raise_problems("The training images changed during the run:", problems)
        pixels = pixels.to(self.device, non_blocking=True)  # (sum of 3 * h * w,)
        images = pixels.split([3 * height * width for height, width in sizes])
        return [self._tile(index, image, size) for index, image, size in zip(chunk, images, sizes)]

    def _tile(self, index: int, image: Tensor, size: tuple[int, int]) -> Tile:
        height, width = size
        sample = self.samples[index]
        boxes = xyxy_from_xywh(sample.boxes) * torch.tensor([width, height, width, height])
        return Tile(image.view(3, height, width), boxes, sample.classes)


class ValLoader:
    """Letterboxed batches for validation: (images (B, 3, H, W) uint8, their Fits, indices of their samples).

    The long side becomes imgsz, up or down. With `rect` the samples are sorted by h / w and each batch has the
    smallest shape that its narrowest and widest image allow, with half a stride of grey more; otherwise every image
    lies on a square of imgsz. `stride` is the model's largest. `device` is where the images go.
    """

    def __init__(
        self, samples: Sequence[Sample], *, imgsz: int, batch: int, stride: int, workers: int, rect: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        sizes = [sample.size for sample in samples]
        order = sorted(range(len(sizes)), key=lambda i: sizes[i][0] / sizes[i][1]) if rect else range(len(sizes))
        self._order = _Order()
        self._order.chunks = [list(order[first : first + batch]) for first in range(0, len(sizes), batch)]
        self.fits: list[Fit | None] = [None] * len(sizes)
        for chunk in self._order.chunks:
            shape = (imgsz, imgsz)
            if rect:
                shape = rect_shape([sizes[i][0] / sizes[i][1] for i in chunk], imgsz, max(stride, 32))
            for i in chunk:
                self.fits[i] = _centred(sizes[i], long_side(sizes[i], imgsz), shape)
        files = _Placed([str(sample.image) for sample in samples], self.fits)
        self._loader = _workers(files, self._order, workers, self.device)

    def __len__(self) -> int:
        return len(self._order.chunks)

    def __iter__(self) -> Iterator[tuple[Tensor, list[Fit], list[int]]]:
        """One pass in a fixed order. Raises UserError when a file cannot be read any more."""
        for chunk, (images, problems) in zip(self._order.chunks, self._loader):
            raise_problems("The validation images changed during the run:", problems)
            yield images.to(self.device, non_blocking=True), [self.fits[i] for i in chunk], list(chunk)


def long_side(size: tuple[int, int], imgsz: int) -> tuple[int, int]:
    """(h, w) scaled so that the longer side is `imgsz`, the other rounded up in whole numbers: no float decides it."""
    longest = max(size)
    return -(-size[0] * imgsz // longest), -(-size[1] * imgsz // longest)


def rect_shape(ratios: Sequence[float], imgsz: int, stride: int) -> tuple[int, int]:
    """(H, W) of a batch of images with these h / w: multiples of `stride`, with half a stride of padding.

    All landscape: as tall as the tallest; all portrait: as wide as the widest; mixed or square: a square.
    """
    low, high = min(ratios), max(ratios)
    tall, wide = (high, 1.0) if high < 1 else (1.0, 1 / low) if low > 1 else (1.0, 1.0)
    return math.ceil(tall * imgsz / stride + 0.5) * stride, math.ceil(wide * imgsz / stride + 0.5) * stride


def _centred(original: tuple[int, int], resized: tuple[int, int], canvas: tuple[int, int]) -> Fit:
    top, left = ((outer - inner) // 2 for outer, inner in zip(canvas, resized))
    return Fit(original, resized, canvas, (top, left))


def _generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded with 64 bits of BLAKE2b over the parts, so that neighbouring numbers share nothing."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def _workers(files: _Tiles | _Placed, order: _Order, workers: int, device: torch.device) -> DataLoader:
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


class _Order:
    """The batches of indices that a DataLoader reads next; the list is replaced between passes."""

    def __init__(self) -> None:
        self.chunks: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.chunks)

    def __len__(self) -> int:
        return len(self.chunks)


def _read(path: str, size: tuple[int, int]) -> Tensor | str:
    """The image (3, h, w), or what is wrong with it: an exception would arrive with the worker's traceback as text."""
    try:
        image = read_image(path)
    except UnreadableImage as error:
        return f"{path}: {error}. Restore the file, or start again to have it set aside."
    if tuple(image.shape[1:]) != tuple(size):
        return f"{path}: {tuple(image.shape[1:])} pixels (h, w), was {tuple(size)} when scanned. Start again."
    return image


class _Tiles(Dataset):
    """Images with their long side at imgsz; a batch travels as one flat tensor, so as one shared file and one copy."""

    def __init__(self, paths: list[str], sizes: list[tuple[int, int]], imgsz: int) -> None:
        self.paths, self.sizes, self.imgsz = paths, sizes, imgsz

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        image = _read(self.paths[index], self.sizes[index])
        return image if isinstance(image, str) else resize(image, long_side(self.sizes[index], self.imgsz))

    @staticmethod
    def collate(items: list[Tensor | str]) -> tuple[Tensor, list[tuple[int, int]], list[str]]:
        """Pixels (sum of 3 * h * w,), the (h, w) of each image, and problems; without pixels if there are problems."""
        if problems := [item for item in items if isinstance(item, str)]:
            return torch.empty(0, dtype=torch.uint8), [], problems
        sizes = [(item.shape[1], item.shape[2]) for item in items]
        return torch.cat([item.flatten() for item in items]), sizes, []


class _Placed(Dataset):
    """Images on their canvases; a batch is (B, 3, H, W)."""

    def __init__(self, paths: list[str], fits: list[Fit]) -> None:
        self.paths, self.fits = paths, fits

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        fit = self.fits[index]
        image = _read(self.paths[index], fit.original)
        return image if isinstance(image, str) else place(image, fit)

    @staticmethod
    def collate(items: list[Tensor | str]) -> tuple[Tensor, list[str]]:
        """Images (B, 3, H, W) and problems; without images if there are problems."""
        problems = [item for item in items if isinstance(item, str)]
        return (torch.empty(0, dtype=torch.uint8) if problems else torch.stack(items)), problems
