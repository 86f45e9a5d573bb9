"""Validation on images in tiles: images of one tile in batches as always, each larger one by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Sample
from ..data.images import UnreadableImage, read_image, resize_pixels
from ..data.large import LargeImage, large_image
from ..data.loading.bad_images import BadImages
from ..data.loading.loader import ValLoader
from ..data.loading.workers import changed_size
from ..models.detector import Detector
from ..ops.instances import Instances
from ..ops.letterbox import Fit, letterbox_fit
from ..ops.tiles import Tiling
from ..predict.inference import Detected, Options
from ..predict.tiled import detect_tiles
from ..tasks import Task

SHEET_SIDE = 1280  # pixels of the square on which an image in tiles is drawn


@dataclass(frozen=True)
class ImageInTiles:
    """An image that is cut into tiles: in the place of the pixels of a batch. fit: how it lies on a drawing."""

    path: Path
    fit: Fit
    options: Options

    def detect(self, model: Detector, task: Task, **changes: object) -> Detected:
        """Find the objects of the image, in its pixels. changes: fields of Options. Raises UnreadableImage."""
        pixels = self._pixels()
        if (problem := changed_size(tuple(pixels.shape[:2]), self.fit.original)) is not None:
            raise UnreadableImage(problem)
        return detect_tiles(model, pixels, replace(self.options, **changes), task, {})

    def _pixels(self) -> np.ndarray | LargeImage:
        image = large_image(self.path)
        return read_image(self.path).permute(1, 2, 0).numpy()[..., ::-1].copy() if image is None else image

    def drawn(self) -> Tensor:
        """Return the image on a square, to draw on: (1, 3, SHEET_SIDE, SHEET_SIDE) uint8 RGB."""
        pixels = self._pixels()
        pixels = pixels.reduced(2 * SHEET_SIDE) if isinstance(pixels, LargeImage) else pixels
        (top, left), (height, width) = self.fit.pad, self.fit.resized
        sheet = torch.full((1, 3, *self.fit.canvas), 114, dtype=torch.uint8)
        sheet[0, :, top : top + height, left : left + width] = resize_pixels(pixels, (height, width)).permute(2, 0, 1)
        return sheet

    def on_drawing(self, detections: Instances) -> Instances:
        """Move detections from pixels of the image to those of the drawing. Masks: as patches."""
        points, oriented = detections.keypoints, detections.xywhr
        if points is not None:
            moved = self.fit.points_to_canvas(points[..., :2].flatten(0, 1)).view_as(points[..., :2])
            points = torch.cat((moved, points[..., 2:]), -1)
        if oriented is not None:
            share = self.fit.resized[1] / self.fit.original[1]
            centres = self.fit.points_to_canvas(oriented[:, :2])
            oriented = torch.cat((centres, oriented[:, 2:4] * share, oriented[:, 4:]), 1)
        patches = None if detections.patches is None else detections.patches.on_canvas(self.fit)
        boxes = self.fit.to_canvas(detections.boxes)
        return replace(detections, boxes=boxes, keypoints=points, xywhr=oriented, patches=patches)


class TileLoader:
    """What ValLoader gives for images of one tile, and before that an ImageInTiles for each larger image.

    samples: as scanned. options: how tiles are predicted, with its tiling. make: samples -> their ValLoader. An item is
    (pixels or ImageInTiles, Fits, indices of the samples). `bad` knows the images that cannot be read.
    """

    def __init__(
        self, samples: Sequence[Sample], options: Options, tiling: Tiling, make: Callable[[Sequence[Sample]], ValLoader]
    ):
        divided = [tiling.divides(sample.size) for sample in samples]
        self._large = [index for index, is_divided in enumerate(divided) if is_divided]
        self._small = [index for index, is_divided in enumerate(divided) if not is_divided]
        self._loader = make([samples[index] for index in self._small])
        self._samples, self._options, self.device = samples, options, self._loader.device
        self.bad = BadImages("validation", [str(sample.image) for sample in samples], self._loader.bad.rule)
        self.fits: list[Fit | None] = [letterbox_fit(sample.size, (SHEET_SIDE, SHEET_SIDE)) for sample in samples]
        for index, fit in zip(self._small, self._loader.fits, strict=True):
            self.fits[index] = fit

    def __len__(self) -> int:
        return len(self._large) + len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor | ImageInTiles, list[Fit], list[int]]]:
        for index in self._large:
            fit = self.fits[index]
            yield ImageInTiles(self._samples[index].image, fit, self._options), [fit], [index]
        for images, fits, indices in self._loader if self._small else ():
            yield images, fits, [self._small[index] for index in indices]
        self.bad.reasons |= {self._small[index]: reason for index, reason in self._loader.bad.reasons.items()}
