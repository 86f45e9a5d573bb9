"""The dataset that scripts subclass: images by number, resized and cached. Facts: spec/dropin-helpers.md section 8."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ...config.errors import MissingFileError
from ...data.dataset import list_images
from ...data.formats.dataset_yaml import DataSpec
from ...data.images import UnreadableImage, read_image
from ...data.loading.image_cache import free_memory
from ...data.loading.loader import rect_shape
from ...data.loading.workers import long_side
from ...ops.resize import resize_bilinear
from ..utils import DEFAULT_CFG, LOGGER
from .transform import Labels

SPARE_MEMORY = 2.0  # free memory must be this many times the size of the images that cache="ram" keeps


class BaseDataset(Dataset):
    """Images with labels; a subclass gives `get_labels` and `build_transforms`.

    img_path: a folder, a list in a .txt, an image, or several of these. imgsz: the longer side of loaded images.
    cache: False, "ram" or "disk". rect: batches of images of one shape, which `stride` and `pad` round up. classes:
    labels of these classes only. fraction: of the images.

    im_files, label_files, labels, ni; ims, im_hw0, im_hw: the images in memory and their sizes before and after the
    resize; npy_files: those of cache="disk"; buffer: indices of images that were read lately; batch_shapes, batch: with
    rect, the shape of each batch and the batch of each image; transforms.
    """

    def __init__(
        self,
        img_path: str | Sequence[str],
        imgsz: int = 640,
        cache: bool | str = False,
        augment: bool = True,
        hyp: Any = DEFAULT_CFG,
        prefix: str = "",
        rect: bool = False,
        batch_size: int = 16,
        stride: int = 32,
        pad: float = 0.5,
        single_cls: bool = False,
        classes: Sequence[int] | None = None,
        fraction: float = 1.0,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.img_path, self.imgsz, self.augment, self.single_cls = img_path, imgsz, augment, single_cls
        self.prefix, self.fraction, self.channels = prefix, fraction, channels
        self.rect, self.batch_size, self.stride, self.pad = rect, batch_size, stride, pad
        self.im_files = self.get_img_files(img_path)
        self.labels = self.get_labels()
        self.update_labels(include_class=classes)
        self.ni = len(self.labels)
        if rect:
            self.set_rectangle()
        self.buffer: list[int] = []
        self.max_buffer_length = min(self.ni, batch_size * 8, 1000) if augment else 0
        self.ims: list[np.ndarray | None] = [None] * self.ni
        self.im_hw0: list[tuple[int, int] | None] = [None] * self.ni
        self.im_hw: list[tuple[int, int] | None] = [None] * self.ni
        self.npy_files = [Path(file).with_suffix(".npy") for file in self.im_files]
        self.cache = "ram" if cache is True else str(cache).lower() if cache else None
        if self.cache == "ram" and not self.check_cache_ram():
            self.cache = None
        if self.cache:
            self.cache_images()
        self.transforms = self.build_transforms(hyp=copy.copy(hyp))

    def get_img_files(self, img_path: str | Sequence[str]) -> list[str]:
        """The sorted paths of the images. Raises FileNotFoundError where there are none."""
        entries = [img_path] if isinstance(img_path, (str, Path)) else list(img_path)
        root = Path(str((getattr(self, "data", None) or {}).get("path") or ".")).absolute()
        spec = DataSpec(Path("images"), root, {}, {"all": tuple(map(str, entries))}, allow_outside=True)
        listing = list_images(spec, "all")
        problems = [f"'{path}' does not exist" for path in listing.absent] + listing.problems
        if problems or not listing.paths:
            raise MissingFileError(f"{self.prefix}{'; '.join(problems) or f'no images in {img_path}'}.")
        files = [str(path) for path in listing.paths]
        return files[: max(round(len(files) * self.fraction), 1)] if self.fraction < 1 else files

    def get_labels(self) -> list[Labels]:
        """The labels of each image: im_file, shape, cls (n, 1), bboxes (n, 4), segments, keypoints, ..."""
        raise NotImplementedError(f"{type(self).__name__} has no get_labels")

    def build_transforms(self, hyp: Any = None) -> Callable:
        """The transforms that `dataset[i]` applies."""
        raise NotImplementedError(f"{type(self).__name__} has no build_transforms")

    def update_labels(self, include_class: Sequence[int] | None) -> None:
        """Keep the labels of these classes only (None: all); with single_cls every label becomes class 0."""
        for label in self.labels:
            if include_class is not None:
                keep = np.isin(label["cls"][:, 0], np.asarray(include_class))
                label["cls"], label["bboxes"] = label["cls"][keep], label["bboxes"][keep]
                if label["segments"]:
                    label["segments"] = [ring for ring, kept in zip(label["segments"], keep, strict=True) if kept]
                if label["keypoints"] is not None:
                    label["keypoints"] = label["keypoints"][keep]
            if self.single_cls:
                label["cls"][:, 0] = 0

    def load_image(self, i: int, rect_mode: bool = True) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """Return image i as (h, w, 3) BGR uint8 with imgsz as its longer side, its size in the file, and its size.

        rect_mode False: stretched to imgsz x imgsz.
        """
        if self.ims[i] is not None:
            return self.ims[i], self.im_hw0[i], self.im_hw[i]
        image = self._read(i)
        before = image.shape[:2]
        size = long_side(before, self.imgsz) if rect_mode else (self.imgsz, self.imgsz)
        image = image if before == size else resize_bilinear(image, size)
        if self.augment:
            self._remember(i, image, before)
        return image, before, image.shape[:2]

    def _read(self, i: int) -> np.ndarray:
        """Image i as in its file, (h, w, 3) BGR, or as it lies in its .npy, where that is not older."""
        file, saved = Path(self.im_files[i]), self.npy_files[i]
        if saved.is_file() and (not file.is_file() or saved.stat().st_mtime >= file.stat().st_mtime):
            try:
                return np.load(saved)  # never unpickles: an array of objects is a ValueError
            except ValueError:
                LOGGER.warning(f"{self.prefix}{saved} is no image of cache='disk'; {file} is read.")
        try:
            planes = read_image(file)
        except UnreadableImage as error:
            raise FileNotFoundError(f"{file}: {error}") from error
        return torch.stack(planes.unbind(0)[::-1], -1).numpy()

    def _remember(self, i: int, image: np.ndarray, before: tuple[int, int]) -> None:
        """Keep an image for mosaics, and forget the oldest one."""
        self.ims[i], self.im_hw0[i], self.im_hw[i] = image, before, image.shape[:2]
        self.buffer.append(i)
        if 1 < len(self.buffer) >= self.max_buffer_length:
            oldest = self.buffer.pop(0)
            if self.cache != "ram" and oldest not in self.buffer:
                self.ims[oldest] = self.im_hw0[oldest] = self.im_hw[oldest] = None

    def cache_images(self) -> None:
        """Read all images into memory, or write those that are missing beside the images as .npy."""
        for i in range(self.ni):
            if self.cache == "disk":
                self.cache_images_to_disk(i)
            elif self.ims[i] is None:
                augment, self.augment = self.augment, False  # an image of the cache is not one of the buffer
                self.ims[i], self.im_hw0[i], self.im_hw[i] = self.load_image(i)
                self.augment = augment

    def cache_images_to_disk(self, i: int) -> None:
        """Write image i as .npy beside it, where there is none."""
        if not self.npy_files[i].exists():
            np.save(self.npy_files[i], self._read(i))

    def check_cache_ram(self, safety_margin: float = SPARE_MEMORY - 1) -> bool:
        """Whether memory holds all images; from the size of thirty of them. Says so where it does not."""
        chosen = random.sample(range(self.ni), min(self.ni, 30))
        sizes = [math.prod(long_side(self._read(i).shape[:2], self.imgsz)) * 3 for i in chosen]
        needed = sum(sizes) / max(len(sizes), 1) * self.ni * (1 + safety_margin)
        free = free_memory()
        if free is None or needed <= free:
            return True
        LOGGER.warning(
            f"{self.prefix}cache='ram' is off: {needed / 2**30:.1f} GiB are needed, {free / 2**30:.1f} are free."
        )
        return False

    def set_rectangle(self) -> None:
        """Sort the images by shape, and give each batch the smallest shape that holds its images."""
        ratios = np.array([label["shape"][0] / label["shape"][1] for label in self.labels])
        order = ratios.argsort(kind="stable")
        self.im_files = [self.im_files[i] for i in order]
        self.labels = [self.labels[i] for i in order]
        for label in self.labels:
            label.pop("shape")
        self.batch = np.arange(self.ni) // self.batch_size
        chunks = np.split(ratios[order], range(self.batch_size, self.ni, self.batch_size))
        shapes = [rect_shape(chunk.tolist(), self.imgsz, self.stride, self.pad) for chunk in chunks]
        self.batch_shapes = np.array(shapes, dtype=int)

    def __getitem__(self, index: int) -> Any:
        return self.transforms(self.get_image_and_label(index))

    def get_image_and_label(self, index: int) -> Labels:
        """Return the dict of an image: im_file, cls, img, ori_shape, resized_shape, ratio_pad, instances."""
        label = copy.deepcopy(self.labels[index])
        label.pop("shape", None)
        label["img"], label["ori_shape"], label["resized_shape"] = self.load_image(index)
        pairs = zip(label["resized_shape"], label["ori_shape"], strict=True)
        label["ratio_pad"] = tuple(new / old for new, old in pairs)
        if self.rect:
            label["rect_shape"] = self.batch_shapes[self.batch[index]]
        return self.update_labels_info(label)

    def update_labels_info(self, label: Labels) -> Labels:
        """Complete the dict of an image before the transforms."""
        return label

    def __len__(self) -> int:
        return len(self.labels)
