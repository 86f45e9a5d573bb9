"""Batches of whole images and their classes for training and validation (spec/segment-classify.md 2.5).

Workers decode, resize and augment with Pillow and torchvision, and send bytes. What becomes of an image follows from
(seed, epoch, index of the sample) alone, so that the number of workers and of processes changes no batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ...ops.instances import Instances
from ...ops.letterbox import Fit
from ..augmentation.augment import Batch
from ..augmentation.crop_recipe import CropRecipe, augment_picture, eraser_of, steps_of
from ..cropping import input_fit, input_pixels
from ..dataset import Sample
from ..images import UnreadableImage, read_picture
from .bad_images import BadImages, Item, read_or_replace
from .image_cache import TileCache, open_cache
from .loader import Reading, cut, seed_of, share
from .packed_lists import PackedFits, PackedPaths, PackedSizes
from .workers import Letterboxed, Order, Size, batches, changed_size, read, without_pixels


class Drawn(NamedTuple):
    """One image to read: the index of its sample, the recipe of the epoch and the seed of its draws."""

    index: int
    recipe: CropRecipe
    seed: int


class Augmented(Dataset):
    """Images augmented as a `Drawn` says, (3, s, s) uint8. cache: of the decoded images in their own size.

    A batch is (B, 3, s, s), its channels last in memory, as images are decoded and as the network takes them. Where an
    image cannot be read another takes its place.
    """

    @staticmethod
    def collate(items: list[Item]) -> tuple[Tensor, list[Item]]:
        """Return the images, and the items with True for their images."""
        images = [item.image.permute(1, 2, 0) for item in items if item.image is not None]
        pixels = torch.stack(images).permute(0, 3, 1, 2) if images else torch.empty(0, dtype=torch.uint8)
        return pixels, without_pixels(items)

    def __init__(self, paths: list[str], sizes: list[Size], cache: TileCache | None = None) -> None:
        self.paths, self.sizes, self.cache = PackedPaths(paths), PackedSizes(sizes), cache

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, drawn: Drawn) -> Item:
        item = read_or_replace(self._picture, drawn.index, len(self))
        if item.image is None:
            return item
        return item._replace(image=augment_picture(item.image, drawn.recipe, drawn.seed))

    def _picture(self, index: int) -> Image.Image | str:
        if self.cache is not None and (planes := self.cache.get(index)) is not None:
            return Image.merge("RGB", [Image.fromarray(plane) for plane in planes.numpy()])
        picture = _read(self.paths[index], self.sizes[index])
        if self.cache is not None and not isinstance(picture, str):
            self.cache.put(index, torch.from_numpy(np.array(picture)).permute(2, 0, 1))
        return picture


class Cropped(Dataset):
    """Images as validation sees them, (3, H, W) uint8, by their `fits`. cache: of these."""

    collate = staticmethod(Letterboxed.collate)

    def __init__(self, paths: list[str], fits: list[Fit], cache: TileCache | None = None) -> None:
        self.paths, self.fits, self.cache = PackedPaths(paths), PackedFits(fits), cache

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        if self.cache is not None and (pixels := self.cache.get(index)) is not None:
            return Item(index, pixels, [])
        fit = self.fits[index]
        picture = _read(self.paths[index], fit.original)
        if isinstance(picture, str):
            return Item(index, None, [(index, picture)])
        pixels = input_pixels(picture, fit)
        if self.cache is not None:
            self.cache.put(index, pixels)
        return Item(index, pixels, [])


def _read(path: str, size: Size) -> Image.Image | str:
    """The picture, of `size` (h, w) when it was scanned; or why it cannot be read."""
    try:
        picture = read_picture(path)
    except UnreadableImage as error:
        return str(error)
    return changed_size(picture.size[::-1], size) or picture


class CropTrainLoader:
    """Augmented batches, shuffled anew each epoch: a function of (seed, epoch, recipe).

    samples: as scanned, one label each. imgsz: side of the images in pixels. batch: the number of images in a batch of
    all processes together; the last batch may be smaller. The attribute `note` is one line about the cache, or empty;
    `bad` knows the images that cannot be read.
    """

    def __init__(
        self, samples: Sequence[Sample], reading: Reading = Reading(), *, imgsz: int, batch: int, seed: int
    ) -> None:
        self.samples, self.imgsz, self.batch, self.seed = samples, imgsz, batch, seed
        self.rank, self.world, self.device = reading.rank, reading.world, torch.device(reading.device)
        self._classes = torch.cat([sample.labels.classes for sample in samples])
        self._order = Order()
        paths, sizes = [str(sample.image) for sample in samples], [sample.size for sample in samples]
        self.bad = BadImages("training", paths, reading.on_bad_image)
        cache, self.note = open_cache(reading.cache, paths, sizes, "whole", reading.world)
        self._loader = batches(Augmented(paths, sizes, cache), self._order, reading.workers, self.device)

    def __len__(self) -> int:
        return math.ceil(len(self.samples) / self.batch)

    def epoch(self, epoch: int, recipe: CropRecipe, start: int = 0) -> Iterator[tuple[Batch, list[int]]]:
        """Yield (batch on the device, indices of its samples) over one permutation of the samples.

        `start` is the number of the first batch. The processes share each batch as those of TrainLoader do. The box of
        a label is the whole image. Where an image cannot be read another takes its place, and its index is given.
        Raises UserError if none can be read or a reader process dies, and ValueError if the recipe has another imgsz.
        """
        if recipe.imgsz != self.imgsz:
            raise ValueError(f"recipe.imgsz is {recipe.imgsz}, this loader makes images of {self.imgsz}")
        steps_of(recipe), eraser_of(recipe)  # torchvision is imported once, before reader processes are forked
        generator = torch.Generator().manual_seed(seed_of(self.seed, epoch, "order"))
        order = torch.randperm(len(self.samples), generator=generator).tolist()
        chunks = [share(chunk, self.rank, self.world) for chunk in cut(order, self.batch)[start:]]
        self._order.chunks = chunks
        seed = self.seed  # the function that is kept knows nothing of its loader, which ends by itself
        self._order.item = lambda index: Drawn(index, recipe, seed_of(seed, epoch, "image", index))
        for pixels, items in read(self._loader):
            indices = self.bad.indices_of(items)
            self.bad.require(items)
            images = pixels.to(self.device, non_blocking=True).float() / 255
            yield Batch(images, self._labels(indices)), indices

    def _labels(self, chunk: Sequence[int]) -> Instances:
        boxes = torch.tensor([[0.0, 0.0, self.imgsz, self.imgsz]]).repeat(len(chunk), 1)
        return Instances(boxes, self._classes[chunk], image=torch.arange(len(chunk))).to(self.device)


class CropValLoader:
    """Batches for validation: (images (B, 3, s, s) uint8, their Fits, indices of their samples).

    imgsz and letterbox: as in cropping.input_fit. The classes take turns, so that each batch shows several. Of `world`
    processes rank r gets the batches r, r + world, ...: together they get every sample once.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        reading: Reading = Reading(),
        *,
        imgsz: int | tuple[int, int],
        batch: int,
        letterbox: bool = False,
    ) -> None:
        self.device = torch.device(reading.device)
        self._order = Order()
        self._order.chunks = cut(_in_turns(samples), batch)[reading.rank :: reading.world]
        self.fits = [input_fit(sample.size, imgsz, letterbox=letterbox) for sample in samples]
        paths = [str(sample.image) for sample in samples]
        self.bad = BadImages("validation", paths, reading.on_bad_image)
        kind = f"{'letterbox' if letterbox else 'crop'}-{imgsz}".replace(" ", "")
        cache, self.note = open_cache(reading.cache, paths, [fit.canvas for fit in self.fits], kind, reading.world)
        self._loader = batches(Cropped(paths, self.fits, cache), self._order, reading.workers, self.device)

    def __len__(self) -> int:
        return len(self._order.chunks)

    def __iter__(self) -> Iterator[tuple[Tensor, list[Fit], list[int]]]:
        """Yield the batches in a fixed order, without images that cannot be read. Raises UserError if a reader dies."""
        for images, items in read(self._loader):
            if indices := self.bad.indices_of(items):
                yield images.to(self.device, non_blocking=True), [self.fits[i] for i in indices], indices


def _in_turns(samples: Sequence[Sample]) -> list[int]:
    """The indices of the samples: the first of each class, then the second of each, ..."""
    counts: dict[int, int] = {}
    places = []
    for index, sample in enumerate(samples):
        label = int(sample.labels.classes)
        counts[label] = counts.get(label, 0) + 1
        places.append((counts[label], label, index))
    return [index for _, _, index in sorted(places)]
