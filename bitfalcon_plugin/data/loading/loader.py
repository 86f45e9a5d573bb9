"""Batches for training and validation.

What reads images may be other processes (see `reading`); augmentation runs in the caller's process on the training device.
Every batch is a function of (seed, epoch, its number, rank), so that an epoch can be repeated, or entered in its middle,
without anything having been saved. Written from spec/interface.md (sections 5.2 Loading, 5.3, 6.6 and 6.10).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config.errors import raise_problems
from ...config.settings import Settings
from ...ops.letterbox import Fit
from ..augmentation.augment import Batch, Recipe, augment
from ..augmentation.compose import Tile
from .image_cache import open_cache
from .workers import Letterboxed, Order, Tiles, batches, long_side, read

if TYPE_CHECKING:
    from ..dataset import Sample


POOL_IMAGES = 1000  # partners that a mosaic chooses from: at most this many,
POOL_BATCHES = 8  # this many batches
POOL_BYTES = 1 << 30  # and this much memory of the training device


class TrainLoader:
    """Augmented batches, shuffled anew each epoch; the same for equal (seed, epoch, recipe), whatever `workers` is.

    samples: as scanned; imgsz: long side of the tiles, pixels; batch: images a batch of all processes together (the
    last may be smaller); workers: processes that decode, 0 for none; device: where batches are made.
    cache: keep decoded images, "ram" (or True) or "disk"; `note` says what came of it, one line or empty.
    rect: batches of images with like h / w, padded least; no partners (mosaic, mixup, cutmix), and always the same images
    together, in an order that is drawn anew each epoch. multi_scale: each batch is resized by up to this share (True: 0.5), to
    a multiple of `multiple` (the model's largest stride). rank, world: of data-parallel training, see `epoch`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        imgsz: int,
        batch: int,
        workers: int,
        seed: int,
        device: torch.device | str,
        cache: bool | str = False,
        rect: bool = False,
        multi_scale: bool | float = 0.0,
        multiple: int = 32,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.samples, self.imgsz, self.batch, self.seed = samples, imgsz, batch, seed
        self.rect, self.multiple = rect, multiple
        self.multi_scale = 0.5 if multi_scale is True else float(multi_scale)
        self.rank, self.world = _place_in(rank, world)
        self.device = torch.device(device)
        self._order = Order()
        sizes = [sample.size for sample in samples]
        self._ratios = [height / width for height, width in sizes]
        paths = [str(sample.image) for sample in samples]
        store, self.note = open_cache(cache, paths, [long_side(size, imgsz) for size in sizes], imgsz, world)
        self._loader = batches(Tiles(paths, sizes, imgsz, store), self._order, workers, self.device)

    def __len__(self) -> int:
        return math.ceil(len(self.samples) / self.batch)

    def epoch(self, epoch: int, recipe: Recipe, start: int = 0) -> Iterator[tuple[Batch, list[int]]]:
        """Yield (batch on the device, indices of its samples) over one permutation of the samples.

        Mosaic and mixup partners come from the latest tiles of this epoch, the batch at hand among them: no image is
        decoded twice, and an epoch can be repeated alone. `start` is the number of the first batch: it and those after
        it are what they are in a whole pass (the tiles of earlier batches that partners come from are read again).

        Of `world` processes each makes its share of every batch: of a batch of n images rank r takes the r-th of
        `world` runs of ceil(n / world) images; where n does not divide, the batch's first images stand behind its last
        ones once more. So all have equally many batches of equally many images, never an empty one.

        Raises UserError when a file cannot be read any more or a reader dies, and ValueError when the recipe is for another
        imgsz.
        """
        if recipe.imgsz != self.imgsz:
            raise ValueError(f"recipe.imgsz is {recipe.imgsz}, this loader reads tiles of {self.imgsz}")
        recipe = recipe.rectangular() if self.rect else recipe
        chunks = self._chunks(epoch)
        shapes = [self._shape(chunk) for chunk in chunks]  # of whole batches: the same for every rank
        chunks = [share(chunk, self.rank, self.world) for chunk in chunks]
        part = math.ceil(self.batch / self.world)
        room = max(min(POOL_BATCHES * part, POOL_IMAGES, POOL_BYTES // (3 * self.imgsz**2)), part)
        pool: deque[Tile] = deque(maxlen=room)
        first = start if recipe.alone else max(0, start - math.ceil(room / part))
        self._order.chunks = chunks[first:]
        for number, found in enumerate(read(self._loader), start=first):
            tiles = self._tiles(chunks[number], *found)
            pool.extend(tiles)
            if number >= start:
                batch = augment(tiles, pool, recipe, self._generator(epoch, number), self.device, shapes[number])
                yield self._rescaled(batch, epoch, number), chunks[number]

    def _chunks(self, epoch: int) -> list[list[int]]:
        """The samples of each batch of an epoch."""
        generator = _generator(self.seed, epoch, "order")
        if not self.rect:
            return _cut(torch.randperm(len(self.samples), generator=generator).tolist(), self.batch)
        chunks = _cut(sorted(range(len(self.samples)), key=self._ratios.__getitem__), self.batch)
        return [chunks[index] for index in torch.randperm(len(chunks), generator=generator).tolist()]

    def _shape(self, chunk: list[int]) -> tuple[int, int]:
        if not self.rect:
            return self.imgsz, self.imgsz
        return rect_shape([self._ratios[i] for i in chunk], self.imgsz, max(self.multiple, 32), padding=0.0)

    def _generator(self, epoch: int, number: int) -> torch.Generator:
        return _generator(self.seed, epoch, number, *([f"rank {self.rank}"] if self.rank else []))

    def _rescaled(self, batch: Batch, epoch: int, number: int) -> Batch:
        """The batch at a drawn size. Resized as images are before inference: bilinear, without antialiasing."""
        if not self.multi_scale:
            return batch
        old = batch.images.shape[-2:]
        side = _drawn_side(max(old), self.multi_scale, self.multiple, _generator(self.seed, epoch, number, "size"))
        if side == max(old):
            return batch
        new = tuple(math.ceil(edge * side / max(old) / self.multiple) * self.multiple for edge in old)
        images = F.interpolate(batch.images, size=new, mode="bilinear", align_corners=False)
        return replace(batch, images=images, labels=batch.labels.scaled(new[1] / old[1], new[0] / old[0]))

    def _tiles(self, chunk: list[int], pixels: Tensor, sizes: list[tuple[int, int]], problems: list[str]) -> list[Tile]:
        raise_problems("The training images changed during the run:", problems)
        pixels = pixels.to(self.device, non_blocking=True)  # (sum of 3 * h * w,)
        images = pixels.split([3 * height * width for height, width in sizes])
        return [self._tile(index, image, size) for index, image, size in zip(chunk, images, sizes)]

    def _tile(self, index: int, image: Tensor, size: tuple[int, int]) -> Tile:
        height, width = size
        return Tile(image.view(3, height, width), self.samples[index].labels.scaled(width, height))


class ValLoader:
    """Letterboxed batches for validation: (images (B, 3, H, W) uint8, their Fits, indices of their samples).

    The long side becomes imgsz, up or down. With `rect` the samples are sorted by h / w and each batch has the
    smallest shape that its narrowest and widest image allow, with half a stride of grey more; otherwise every image
    lies on a square of imgsz. `stride` is the model's largest. `device` is where the images go. `cache` is as for
    training. Of `world` processes rank r gets the batches r, r + world, ...: every sample once, over all of them, with its
    own index; the last ranks may have a batch less, or none.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        imgsz: int,
        batch: int,
        stride: int,
        workers: int,
        rect: bool = True,
        device: torch.device | str = "cpu",
        cache: bool | str = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.device = torch.device(device)
        rank, world = _place_in(rank, world)
        sizes = [sample.size for sample in samples]
        order = sorted(range(len(sizes)), key=lambda i: sizes[i][0] / sizes[i][1]) if rect else list(range(len(sizes)))
        chunks = _cut(order, batch)
        self._order = Order()
        self._order.chunks = chunks[rank::world]
        self.fits: list[Fit | None] = [None] * len(sizes)
        for chunk in chunks:
            shape = (imgsz, imgsz)
            if rect:
                shape = rect_shape([sizes[i][0] / sizes[i][1] for i in chunk], imgsz, max(stride, 32))
            for i in chunk:
                self.fits[i] = _centred(sizes[i], long_side(sizes[i], imgsz), shape)
        paths = [str(sample.image) for sample in samples]
        store, self.note = open_cache(cache, paths, [fit.resized for fit in self.fits], imgsz, world)
        self._loader = batches(Letterboxed(paths, self.fits, store), self._order, workers, self.device)

    def __len__(self) -> int:
        return len(self._order.chunks)

    def __iter__(self) -> Iterator[tuple[Tensor, list[Fit], list[int]]]:
        """One pass in a fixed order. Raises UserError when a file cannot be read any more or a reader dies."""
        for chunk, (images, problems) in zip(self._order.chunks, read(self._loader)):
            raise_problems("The validation images changed during the run:", problems)
            yield images.to(self.device, non_blocking=True), [self.fits[i] for i in chunk], list(chunk)


def share(chunk: Sequence[int], rank: int, world: int) -> list[int]:
    """The images of a batch that this rank takes; where they do not divide, the first ones stand behind the last again."""
    part = math.ceil(len(chunk) / world)
    return [chunk[index % len(chunk)] for index in range(rank * part, (rank + 1) * part)]


def rect_shape(ratios: Sequence[float], imgsz: int, stride: int, padding: float = 0.5) -> tuple[int, int]:
    """(H, W) of a batch of images with these h / w: multiples of `stride`, with `padding` strides more.

    All landscape: as tall as the tallest; all portrait: as wide as the widest; mixed or square: a square.
    """
    low, high = min(ratios), max(ratios)
    tall, wide = (high, 1.0) if high < 1 else (1.0, 1 / low) if low > 1 else (1.0, 1.0)
    return math.ceil(tall * imgsz / stride + padding) * stride, math.ceil(wide * imgsz / stride + padding) * stride


def _drawn_side(side: int, spread: float, multiple: int, generator: torch.Generator) -> int:
    """A multiple of `multiple` within `spread` of `side` to either side, each as likely; `side` where there is none."""
    low = max(
        math.ceil(side * (1 - spread) / multiple), min(2, side // multiple)
    )  # a map of one cell has nothing to normalise over
    high = math.floor(side * (1 + spread) / multiple)
    if high < low:
        return side
    return int(torch.randint(low, high + 1, (1,), generator=generator)) * multiple


def _cut(order: list[int], batch: int) -> list[list[int]]:
    return [order[first : first + batch] for first in range(0, len(order), batch)]


def _place_in(rank: int, world: int) -> tuple[int, int]:
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world} processes; expected 0 to {world - 1}")
    return rank, world


def _centred(original: tuple[int, int], resized: tuple[int, int], canvas: tuple[int, int]) -> Fit:
    top, left = ((outer - inner) // 2 for outer, inner in zip(canvas, resized))
    return Fit(original, resized, canvas, (top, left))


def _generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded with 64 bits of BLAKE2b over the parts, so that neighbouring numbers share nothing."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


USUAL_BATCH = 16  # images, where nothing is searched


def workers_for(device: torch.device, settings: Settings) -> int:
    """Loader processes: none on the CPU (they would take its cores from the network) unless asked for."""
    if device.type == "cpu" and "workers" not in settings.given:
        return 0
    return min(settings.workers, os.cpu_count() or 1)
