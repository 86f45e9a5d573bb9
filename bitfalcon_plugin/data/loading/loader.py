"""Batches of images and labels for training and validation.

Other processes may read the images (see `workers`); augmentation runs in the caller's process on the training device.
Every batch is a function of (seed, epoch, number of the batch, rank). So an epoch can be repeated, or entered in its
middle, without any saved state. Written from spec/interface.md (sections 5.2 Loading, 5.3, 6.6 and 6.10).
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config.settings import Settings
from ...config.threads import usable_processors
from ...ops.letterbox import Fit
from ..augmentation.augment import Batch, Recipe, augment
from ..augmentation.compose import Tile
from ..dataset import Sample
from .bad_images import BadImages
from .image_cache import open_cache
from .workers import Letterboxed, Order, Tiles, batches, long_side, read

POOL_IMAGES = 1000  # a mosaic chooses its partners from at most this many images,
POOL_BATCHES = 8  # this many batches
POOL_BYTES = 1 << 30  # and this much memory of the training device


@dataclass(frozen=True)
class Reading:
    """How one process reads its share of the samples.

    device: where batches are made. workers: the number of processes that decode; with 0 the calling process decodes.
    cache: keep decoded images, "ram" (or True) or "disk". rank, world: this is process `rank` of `world` processes.
    on_bad_image: whether an image that cannot be read is set aside ("skip") or ends the run ("stop").
    """

    device: torch.device | str = "cpu"
    workers: int = 0
    cache: bool | str = False
    rank: int = 0
    world: int = 1
    on_bad_image: str = "skip"

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} of {self.world} processes; expected 0 to {self.world - 1}")


class TrainLoader:
    """Augmented batches, shuffled anew each epoch. They depend on (seed, epoch, recipe), not on the number of workers.

    samples: as scanned. imgsz: the long side of the tiles in pixels. batch: the number of images in a batch of all
    processes together; the last batch may be smaller. rect: batches hold images of similar h / w with the least
    padding, without partners (mosaic, mixup, cutmix); the same images are always together, in batches of random order.
    multi_scale: resize each batch by up to this share (True: 0.5), to a multiple of `multiple` (the model's largest
    stride). The attribute `note` is one line about the cache, or empty; `bad` knows the images that cannot be read.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        reading: Reading = Reading(),
        *,
        imgsz: int,
        batch: int,
        seed: int,
        rect: bool = False,
        multi_scale: bool | float = 0.0,
        multiple: int = 32,
    ) -> None:
        self.samples, self.imgsz, self.batch, self.seed = samples, imgsz, batch, seed
        self.rect, self.multiple = rect, multiple
        self.multi_scale = 0.5 if multi_scale is True else float(multi_scale)
        self.rank, self.world, self.device = reading.rank, reading.world, torch.device(reading.device)
        self._order = Order()
        sizes = [sample.size for sample in samples]
        self._ratios = [height / width for height, width in sizes]
        self._has_keypoints = any(sample.labels.keypoints is not None for sample in samples)
        paths = [str(sample.image) for sample in samples]
        tile_sizes = [long_side(size, imgsz) for size in sizes]
        self.bad = BadImages("training", paths, reading.on_bad_image)
        cache, self.note = open_cache(reading.cache, paths, tile_sizes, imgsz, reading.world)
        self._loader = batches(Tiles(paths, sizes, imgsz, cache), self._order, reading.workers, self.device)
        self._latest: tuple[int, deque[Tile]] | None = None  # the last epoch and its latest tiles, for partners

    def __len__(self) -> int:
        return math.ceil(len(self.samples) / self.batch)

    def epoch(self, epoch: int, recipe: Recipe, start: int = 0) -> Iterator[tuple[Batch, list[int]]]:
        """Yield (batch on the device, indices of its samples) over one permutation of the samples.

        Mosaic and mixup partners come from the latest tiles: those of the current batch, of earlier batches and of the
        previous epoch. The tiles of the previous epoch are kept in memory where this loader has just made that epoch;
        otherwise they are read again. `start` is the number of the first batch. The batches are the same as in a whole
        epoch, because the tiles of earlier batches are read again for partners.

        Each of `world` processes makes its share of every batch: of a batch of n images rank r takes the r-th of
        `world` runs of ceil(n / world) images. If n does not divide, the batch's first images are repeated behind its
        last ones. So all processes have equally many batches of equally many images, never an empty one.

        Where an image cannot be read another takes its place, and its index is given; which one follows from its number
        (see bad_images.stand_ins). Raises UserError if none can be read or a reader process dies, and ValueError if the
        recipe has another imgsz.
        """
        if recipe.imgsz != self.imgsz:
            raise ValueError(f"recipe.imgsz is {recipe.imgsz}, this loader reads tiles of {self.imgsz}")
        recipe = recipe.rectangular() if self.rect else recipe
        if self._has_keypoints:
            layout = self.samples[0].layout
            recipe = recipe.for_keypoints(layout and layout.flip)
        chunks = self._chunks(epoch)
        shapes = [self._shape(chunk) for chunk in chunks]  # of whole batches: the same for every rank
        chunks = self._shares(chunks)
        pool, earlier = self._partners(epoch, chunks[:start], recipe)
        self._order.chunks = earlier + chunks[start:]
        for number, (pixels, sizes, items) in enumerate(read(self._loader), start=start - len(earlier)):
            indices = self.bad.indices_of(items)
            self.bad.require(items)
            tiles = self._tiles(indices, pixels, sizes)
            pool.extend(tiles)
            if number >= start:
                shape = shapes[number]
                if indices != chunks[number]:  # with rect an image in the place of another may need more room
                    shape = tuple(map(max, shape, self._shape(indices)))
                batch = augment(tiles, pool, recipe, self._generator(epoch, number), self.device, shape)
                yield self._rescaled(batch, epoch, number), indices
        self._latest = None if recipe.without_partners else (epoch, pool)

    def _partners(self, epoch: int, before: list[list[int]], recipe: Recipe) -> tuple[deque[Tile], list[list[int]]]:
        """The tiles that partners are drawn from, as far as they are in memory, and the batches to read for the rest.

        before: this rank's batches of the epoch that precede the first one to be made.
        """
        share_size = math.ceil(self.batch / self.world)
        most = min(POOL_BATCHES * share_size, POOL_IMAGES, POOL_BYTES // (3 * self.imgsz**2), len(self) * share_size)
        pool: deque[Tile] = deque(maxlen=max(most, share_size))
        latest, self._latest = self._latest, None
        if recipe.without_partners:
            return pool, []
        if latest is not None and latest[0] == epoch - 1 and not before:
            pool.extend(latest[1])
            return pool, []
        if epoch > 0:
            before = self._shares(self._chunks(epoch - 1)) + before
        first, count = len(before), 0
        while first and count < pool.maxlen:
            first -= 1
            count += len(before[first])
        return pool, before[first:]

    def _shares(self, chunks: list[list[int]]) -> list[list[int]]:
        """This rank's part of each batch."""
        return [share(chunk, self.rank, self.world) for chunk in chunks]

    def _chunks(self, epoch: int) -> list[list[int]]:
        """The samples of each batch of an epoch."""
        generator = _generator(self.seed, epoch, "order")
        if not self.rect:
            return cut(torch.randperm(len(self.samples), generator=generator).tolist(), self.batch)
        chunks = cut(sorted(range(len(self.samples)), key=self._ratios.__getitem__), self.batch)
        return [chunks[index] for index in torch.randperm(len(chunks), generator=generator).tolist()]

    def _shape(self, chunk: list[int]) -> tuple[int, int]:
        if not self.rect:
            return self.imgsz, self.imgsz
        return rect_shape([self._ratios[i] for i in chunk], self.imgsz, max(self.multiple, 32), padding=0.0)

    def _generator(self, epoch: int, number: int) -> torch.Generator:
        return _generator(self.seed, epoch, number, *([f"rank {self.rank}"] if self.rank else []))

    def _rescaled(self, batch: Batch, epoch: int, number: int) -> Batch:
        """The batch resized to a random side, as images are before inference: bilinear, without antialiasing."""
        if not self.multi_scale:
            return batch
        old = batch.images.shape[-2:]
        generator = _generator(self.seed, epoch, number, "size")
        side = _random_side(max(old), self.multi_scale, self.multiple, generator)
        if side == max(old):
            return batch
        new = tuple(math.ceil(edge * side / max(old) / self.multiple) * self.multiple for edge in old)
        images = F.interpolate(batch.images, size=new, mode="bilinear", align_corners=False)
        return replace(batch, images=images, labels=batch.labels.scaled(new[1] / old[1], new[0] / old[0]))

    def _tiles(self, chunk: list[int], pixels: Tensor, sizes: list[tuple[int, int]]) -> list[Tile]:
        """Tiles on the device from the pixels (sum of 3 * h * w,) uint8 of all images of a batch."""
        images = pixels.to(self.device, non_blocking=True).split([3 * height * width for height, width in sizes])
        tiles = []
        for index, image, (height, width) in zip(chunk, images, sizes):
            tiles.append(Tile(image.view(3, height, width), self.samples[index].labels.scaled(width, height)))
        return tiles


class ValLoader:
    """Letterboxed batches for validation: (images (B, 3, H, W) uint8, their Fits, indices of their samples).

    The long side of an image becomes imgsz. With `rect` the samples are sorted by h / w, and each batch has the
    smallest shape that its narrowest and widest image allow, with half a `multiple` of grey more; otherwise every image
    lies on a square of imgsz. multiple: the model's largest stride. Of `world` processes rank r gets the batches r,
    r + world, ...: together they get every sample once; the last ranks may have a batch less, or none. `bad` knows the
    images that cannot be read, which are left out.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        reading: Reading = Reading(),
        *,
        imgsz: int,
        batch: int,
        multiple: int,
        rect: bool = True,
    ) -> None:
        self.device = torch.device(reading.device)
        sizes = [sample.size for sample in samples]
        ratios = [height / width for height, width in sizes]
        order = sorted(range(len(sizes)), key=ratios.__getitem__) if rect else list(range(len(sizes)))
        chunks = cut(order, batch)
        self._order = Order()
        self._order.chunks = chunks[reading.rank :: reading.world]
        self.fits: list[Fit | None] = [None] * len(sizes)
        for chunk in chunks:
            shape = rect_shape([ratios[i] for i in chunk], imgsz, max(multiple, 32)) if rect else (imgsz, imgsz)
            for i in chunk:
                self.fits[i] = _centred(sizes[i], long_side(sizes[i], imgsz), shape)
        paths = [str(sample.image) for sample in samples]
        tile_sizes = [fit.resized for fit in self.fits]
        self.bad = BadImages("validation", paths, reading.on_bad_image)
        cache, self.note = open_cache(reading.cache, paths, tile_sizes, imgsz, reading.world)
        self._loader = batches(Letterboxed(paths, self.fits, cache), self._order, reading.workers, self.device)

    def __len__(self) -> int:
        return len(self._order.chunks)

    def __iter__(self) -> Iterator[tuple[Tensor, list[Fit], list[int]]]:
        """Yield the batches in a fixed order, without images that cannot be read. Raises UserError if a reader dies."""
        for images, items in read(self._loader):
            if indices := self.bad.indices_of(items):
                yield images.to(self.device, non_blocking=True), [self.fits[i] for i in indices], indices


def share(chunk: Sequence[int], rank: int, world: int) -> list[int]:
    """The images of a batch that a rank takes; if they do not divide, the first ones are repeated behind the last."""
    size = math.ceil(len(chunk) / world)
    return [chunk[index % len(chunk)] for index in range(rank * size, (rank + 1) * size)]


def rect_shape(ratios: Sequence[float], imgsz: int, multiple: int, padding: float = 0.5) -> tuple[int, int]:
    """(H, W) of a batch of images with these h / w: multiples of `multiple`, with `padding` multiples more.

    All landscape: as tall as the tallest; all portrait: as wide as the widest; mixed or square: a square.
    """
    low, high = min(ratios), max(ratios)
    height = math.ceil(min(high, 1.0) * imgsz / multiple + padding) * multiple
    width = math.ceil(min(1 / low, 1.0) * imgsz / multiple + padding) * multiple
    return height, width


def _random_side(side: int, spread: float, multiple: int, generator: torch.Generator) -> int:
    """A random multiple of `multiple` from side * (1 - spread) to side * (1 + spread); `side` if there is none."""
    low = math.ceil(side * (1 - spread) / multiple)
    low = max(low, min(2, side // multiple))  # batch norm needs more than one cell
    high = math.floor(side * (1 + spread) / multiple)
    if high < low:
        return side
    return int(torch.randint(low, high + 1, (1,), generator=generator)) * multiple


def cut(order: Sequence[int], batch: int) -> list[list[int]]:
    """The indices in batches; the last one may be smaller."""
    return [order[first : first + batch] for first in range(0, len(order), batch)]


def _centred(original: tuple[int, int], resized: tuple[int, int], canvas: tuple[int, int]) -> Fit:
    top, left = ((outer - inner) // 2 for outer, inner in zip(canvas, resized))
    return Fit(original, resized, canvas, (top, left))


def seed_of(*parts: object) -> int:
    """64 bits of BLAKE2b over the parts: seeds of neighbouring numbers are unrelated."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded with `seed_of(*parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))


USUAL_BATCH = 16  # images in a batch whose size is not given


def workers_for(device: torch.device, settings: Settings) -> int:
    """The number of loader processes. On the CPU it is 0 unless given: they would take its cores from the network."""
    if device.type == "cpu" and "workers" not in settings.given:
        return 0
    return min(settings.workers, usable_processors())
