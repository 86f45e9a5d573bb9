"""Transforms of one image that take others of the dataset in: mosaic, mixup, cutmix, copy-paste.

Places and labels are our augmentation's, with a batch of one; pixels are pasted here, because the dict holds an array.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ...data.augmentation.compose import Canvas, Pasted, Tile, lay_out, paste_mirrored
from ...data.augmentation.mixing import Guest, cut_rectangles, paste_objects
from ...data.augmentation.mosaic import lay_out_scene
from ...ops.instances import Instances as Objects
from ..utils.instance import Instances
from .transform import Labels, draws, in_pixels, instances_of, objects_of, planes_of

GREY = 114


class BaseMixTransform:
    """A transform that happens with probability p and reads other images of the dataset into labels["mix_labels"].

    A subclass gives `_mix_transform`, and `get_indexes` where it takes more than one image. pre_transform: of the other
    images. dataset: has `get_image_and_label`, `buffer` and a length.
    """

    def __init__(self, dataset: Any, pre_transform: Callable | None = None, p: float = 0.0) -> None:
        self.dataset, self.pre_transform, self.p = dataset, pre_transform, p

    def __call__(self, labels: Labels) -> Labels:
        if random.random() >= self.p:
            return labels
        indices = self.get_indexes()
        indices = [indices] if isinstance(indices, int) else indices
        others = [self.dataset.get_image_and_label(index) for index in indices]
        labels["mix_labels"] = others if self.pre_transform is None else [self.pre_transform(other) for other in others]
        labels = self._mix_transform(labels)
        labels.pop("mix_labels", None)
        return labels

    def get_indexes(self) -> int | list[int]:
        """The index of the other image, or of the other images."""
        return random.randrange(len(self.dataset))

    def _mix_transform(self, labels: Labels) -> Labels:
        raise NotImplementedError(f"{type(self).__name__} has no _mix_transform")


class Mosaic(BaseMixTransform):
    """Four images around a point on a canvas of twice imgsz. p: its probability. n: number of images, 4."""

    def __init__(self, dataset: Any, imgsz: int = 640, p: float = 1.0, n: int = 4) -> None:
        assert 0 <= p <= 1, f"p={p}; expected a probability"
        if n != 4:
            raise NotImplementedError(f"Mosaic(n={n}) is not in bitfalcon; expected n=4.")
        super().__init__(dataset, p=p)
        self.imgsz, self.border, self.n = imgsz, (-imgsz // 2, -imgsz // 2), n

    def get_indexes(self) -> list[int]:
        """The indices of three more images: from those that were read lately, where the dataset keeps them."""
        lately = list(getattr(self.dataset, "buffer", ()))
        return random.choices(lately or range(len(self.dataset)), k=self.n - 1)

    def _mix_transform(self, labels: Labels) -> Labels:
        assert labels.get("rect_shape") is None, "mosaic and rect=True exclude each other"
        parts = [labels, *labels["mix_labels"]]
        tiles = [Tile(planes_of(part["img"]), _numbered(part, index)) for index, part in enumerate(parts)]
        canvas = Canvas.around((self.imgsz, self.imgsz), mosaic=True)
        row = [0.0, *draws(2).tolist(), *((index - 0.5) / 3 for index in (1, 2, 3))]  # the partners in their order
        scene = lay_out_scene(tiles[0], tiles[1:], 1.0, row, canvas)
        sheet = np.full((*canvas.sides, labels["img"].shape[2]), GREY, np.uint8)
        for part, pasted in zip(parts, scene, strict=True):
            _paste(sheet, part["img"], pasted)
        objects = lay_out([scene], canvas)
        objects = objects.only((objects.boxes[:, 2:] > objects.boxes[:, :2]).all(dim=1))
        instances, rows = instances_of(objects)
        owner = objects.classes.numpy()
        classes = [
            part["cls"][row : row + 1] for part, row in ((parts[o], r) for o, r in zip(owner, rows, strict=True))
        ]
        new = {key: value for key, value in labels.items() if key not in ("mix_labels", "ratio_pad", "rect_shape")}
        new["cls"] = np.concatenate(classes) if classes else labels["cls"][:0]
        return {
            **new,
            "img": sheet,
            "instances": instances,
            "resized_shape": canvas.sides,
            "mosaic_border": self.border,
        }


def _numbered(labels: Labels, part: int) -> Objects:
    """The objects of one part; `classes` holds the number of the part, `scores` the row in it."""
    objects = objects_of(in_pixels(labels))
    objects.classes.fill_(part)
    return objects


def _paste(sheet: np.ndarray, image: np.ndarray, pasted: Pasted) -> None:
    tall, wide = sheet.shape[:2]
    left, top, (height, width) = pasted.left, pasted.top, image.shape[:2]
    x, y, right, bottom = max(left, 0), max(top, 0), min(left + width, wide), min(top + height, tall)
    sheet[y:bottom, x:right] = image[y - top : bottom - top, x - left : right - left]


class MixUp(BaseMixTransform):
    """The weighted mean of two images, with the labels of both; the weight is from Beta(32, 32)."""

    def _mix_transform(self, labels: Labels) -> Labels:
        other = labels["mix_labels"][0]
        weight = random.betavariate(32.0, 32.0)
        mixed = labels["img"] * np.float32(weight) + other["img"] * np.float32(1 - weight)
        labels["img"] = mixed.astype(np.uint8)
        labels["instances"] = Instances.concatenate([in_pixels(labels), in_pixels(other)])
        labels["cls"] = np.concatenate([labels["cls"], other["cls"]])
        return labels


class CutMix(BaseMixTransform):
    """A rectangle of another image where the image has no object; see data.augmentation.mixing."""

    def __init__(
        self, dataset: Any, pre_transform: Callable | None = None, p: float = 0.0, beta: float = 1.0, num_areas: int = 3
    ) -> None:
        super().__init__(dataset, pre_transform, p)
        self.beta, self.num_areas = beta, num_areas

    def _mix_transform(self, labels: Labels) -> Labels:
        other, size = labels["mix_labels"][0], labels["img"].shape[:2]
        objects = Objects.cat([objects_of(in_pixels(labels)), objects_of(in_pixels(other), scene=1)])
        guest = Guest(1, 0)
        objects, rectangles = cut_rectangles(objects, torch.tensor([0, 0]), [guest], size, [draws(9).tolist()])
        if guest not in rectangles:
            return labels
        x1, y1, x2, y2 = rectangles[guest]
        labels["img"] = labels["img"].copy()
        labels["img"][y1:y2, x1:x2] = other["img"][y1:y2, x1:x2]
        return _with_objects(labels, other, objects)


class CopyPaste(BaseMixTransform):
    """Objects with outlines once more: mode "flip" the image's own, mirrored; "mixup" those of another image.

    p: the share of the objects that hide little which are pasted.
    """

    def __init__(
        self, dataset: Any = None, pre_transform: Callable | None = None, p: float = 0.5, mode: str = "flip"
    ) -> None:
        assert mode in ("flip", "mixup"), f"mode={mode!r}; expected flip or mixup"
        super().__init__(dataset, pre_transform, p)
        self.mode = mode

    def __call__(self, labels: Labels) -> Labels:
        if not len(labels["instances"].segments) or not self.p:
            return labels
        if self.mode == "flip":
            return self._flipped(labels)
        index = self.get_indexes()
        other = self.dataset.get_image_and_label(index)
        labels["mix_labels"] = [other if self.pre_transform is None else self.pre_transform(other)]
        labels = self._mix_transform(labels)
        labels.pop("mix_labels", None)
        return labels

    def _flipped(self, labels: Labels) -> Labels:
        image, instances = labels["img"], in_pixels(labels)
        size = image.shape[:2]
        objects, masks = paste_mirrored(objects_of(instances), Canvas(size, size, (0, 0)), self.p, draws(1).tolist())
        if masks:
            mask = masks[0].numpy()
            labels["img"] = np.where(mask[..., None], image[:, ::-1], image)
            labels = _with_objects(labels, labels, objects)
        return labels

    def _mix_transform(self, labels: Labels) -> Labels:
        other, image = labels["mix_labels"][0], labels["img"]
        objects = Objects.cat([objects_of(in_pixels(labels)), objects_of(in_pixels(other), scene=1)])
        objects, masks = paste_objects(objects, [Guest(1, 0)], image.shape[:2], self.p, draws(1).tolist())
        for mask in masks.values():
            labels["img"] = np.where(mask.numpy()[..., None], other["img"], labels["img"])
        return _with_objects(labels, other, objects)


def _with_objects(labels: Labels, other: Labels, objects: Objects) -> Labels:
    """The dict with these objects: those of scene 0 have the classes of `labels`, those of scene 1 of `other`."""
    scenes = objects.image.numpy()
    instances, rows = instances_of(objects)
    pairs = zip(scenes.tolist(), rows.tolist(), strict=True)
    classes = [(other if scene else labels)["cls"][row : row + 1] for scene, row in pairs]
    labels["cls"] = np.concatenate(classes) if classes else labels["cls"][:0]
    labels["instances"] = instances
    return labels
