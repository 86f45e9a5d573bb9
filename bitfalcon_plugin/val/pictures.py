"""The pictures of train and val: batches with boxes, charts of labels, curves and results.

File names are those of spec/interface.md 6.1. A picture that cannot be drawn is a note; the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config.files import atomic
from ..config.notes import print_note
from ..data.augmentation.augment import Batch
from ..data.dataset import Sample
from ..ops.boxes import xywh_from_xyxy
from ..ops.instances import Instances
from ..ops.letterbox import Fit
from ..ops.masks import masks_of_input
from ..ops.polygons import clip, fill_each
from ..ops.rotated import corners_of
from ..plots.charts import draw_labels, draw_results
from ..plots.figure import NoMatplotlib
from ..plots.sheets import Overlay, batch_sheet
from ..tasks.metrics import TaskMetrics
from .loop import Watch
from .mistakes import Mistakes
from .worst import Worst

BATCHES = 3  # drawn of each kind
IMAGES = 16  # drawn of a batch
MIN_SCORE = 0.25  # detections with a higher score are drawn, and every class of a whole image


class Pictures:
    """The pictures of a run in `folder`; without `plots` no method draws anything.

    names: class index -> name. note: prints a note.
    """

    def __init__(self, folder: Path, names: Mapping[int, str], plots: bool, note: Callable[[str], None] = print_note):
        self.folder, self.names, self.plots, self.note = Path(folder), names, plots, note
        self._closed, self._noted = 0, False
        self._limbs: Sequence[tuple[int, int]] = ()  # of keypoints, as the samples say

    def labels(self, samples: Sequence[Sample]) -> None:
        """Draw labels.jpg: how many of each class, where and how large."""
        self._limbs = _limbs_of(samples)

        def draw() -> None:
            labels = Instances.cat([replace(sample.labels, polygons=None, keypoints=None) for sample in samples])
            classes, boxes = labels.classes.numpy(), xywh_from_xyxy(labels.boxes).numpy()
            draw_labels(self.folder / "labels.jpg", classes, boxes, [self.names[index] for index in sorted(self.names)])

        self._try("labels.jpg", draw)

    def train_batch(self, iteration: int, batch: Batch, closed: bool = False) -> None:
        """Draw train_batch<iteration>.jpg: the first batches of a run, and with `closed` the first without mosaic."""
        is_drawn = iteration < BATCHES or (closed and self._closed < BATCHES)
        self._closed += closed
        if is_drawn and self.plots:
            self.draw_train_batch(iteration, batch)

    def draw_train_batch(self, iteration: int, batch: Batch) -> None:
        """Draw train_batch<iteration>.jpg."""
        name = f"train_batch{iteration}.jpg"

        def draw() -> None:
            images = (batch.images[:IMAGES].float().clamp(0, 1) * 255).round().byte().cpu().numpy()
            labels = batch.labels.to("cpu")
            parts = [labels.only(labels.image == image) for image in range(len(images))]
            masks = [_outlined(part, images.shape[2:]) for part in parts]
            self._write(name, batch_sheet(images, conf=False, **self._shapes(parts, masks)))

        self._try(name, draw)

    def watch(self, samples: Sequence[Sample], fits: Sequence[Fit | None]) -> Watch | None:
        """Return a function for Hooks.watch that draws the first batches, with labels and with detections.

        The files are val_batch<number>_labels.jpg and val_batch<number>_pred.jpg. fits: how each sample lies on the
        network input (ValLoader.fits). None without plots.
        """

        self._limbs = _limbs_of(samples)

        def watch(number: int, images: Tensor, indices: Sequence[int], detections: list[Instances], planes) -> None:
            if number < BATCHES:
                labels = [(samples[i], fits[i]) for i in indices[:IMAGES]]
                batch = (number, images[:IMAGES], labels, detections[:IMAGES], planes)
                self._try(f"val_batch{number}_pred.jpg", self._draw_val_batch, *batch)

        return watch if self.plots else None

    def _draw_val_batch(
        self,
        number: int,
        images: Tensor,
        labels: Sequence[tuple[Sample, Fit]],
        detections: Sequence[Instances],
        planes: Sequence[Tensor | None],
    ) -> None:
        """Draw images (B, 3, H, W) uint8 twice: with the labels of their samples, and with their detections.

        planes: the prototypes (m, h, w) of each image, or None.
        """
        pixels, captions = images.cpu().numpy(), [sample.image.name for sample, _ in labels]
        size, truths = tuple(images.shape[2:]), [sample.pixel_labels().to_canvas(fit) for sample, fit in labels]
        masks = [_outlined(truth, size) for truth in truths]
        sheet = batch_sheet(pixels, conf=False, captions=captions, **self._shapes(truths, masks))
        self._write(f"val_batch{number}_labels.jpg", sheet)
        drawn = [each if each.probabilities is not None else each.only(each.scores > MIN_SCORE) for each in detections]
        masks = [_masks(each, plane, size) for each, plane in zip(drawn, planes)]
        sheet = batch_sheet(pixels, captions=captions, **self._shapes(drawn, masks))
        self._write(f"val_batch{number}_pred.jpg", sheet)

    def _shapes(self, images: Sequence[Instances], masks: Sequence[np.ndarray | None]) -> dict[str, object]:
        """Return the arguments of batch_sheet for the objects of each image, labels or detections, and their masks."""
        return {
            "rows": [_box_rows(each) for each in images],
            "names": self.names,
            "overlays": [
                Overlay(planes, _points(each), self._limbs, _corners(each)) for each, planes in zip(images, masks)
            ],
        }

    def finish(self, metrics: TaskMetrics | None) -> None:
        """Draw results.png from results.csv, and from the last metrics the curves and the confusion matrices."""
        self.results()
        self.curves(metrics)

    def results(self) -> None:
        """Draw results.png from results.csv, where there is one."""
        if (self.folder / "results.csv").is_file():
            self._try("results.png", draw_results, self.folder / "results.csv", self.folder / "results.png")

    def curves(self, metrics: TaskMetrics | None) -> None:
        """Draw the curves and the confusion matrices of metrics."""
        if metrics is not None:
            self._try("the curves and confusion matrices", metrics.plot, self.folder)

    def worst(self, worst: Worst | Mistakes) -> None:
        """Draw worst.jpg: the images with most errors, or with the surest mistakes; nothing where there are none."""
        if worst.errors:
            self._try("worst.jpg", lambda: self._write("worst.jpg", worst.draw()))

    def _write(self, name: str, picture: Image.Image) -> None:
        with atomic(self.folder / name) as temporary:
            picture.save(temporary, quality=90)

    def _try(self, what: str, draw: Callable, *arguments: object) -> None:
        if not self.plots:
            return
        try:
            draw(*arguments)
        except NoMatplotlib as missing:
            if not self._noted:
                self.note(str(missing))
            self._noted = True
        except Exception as error:  # no error of a picture ends a run
            self.note(f"{what} could not be drawn: {type(error).__name__}: {error}")


def _box_rows(instances: Instances) -> list[list[float]]:
    """Return rows x1, y1, x2, y2, score, class in pixels of the picture; labels have the score 1."""
    scores = torch.ones(len(instances)) if instances.scores is None else instances.scores
    return Instances(instances.boxes.float(), instances.classes, scores).rows().tolist()


def _corners(instances: Instances) -> np.ndarray | None:
    """Return the corners (n, 4, 2) of oriented boxes in pixels of the picture; None where boxes are upright."""
    return None if instances.oriented is None else corners_of(instances.oriented.float()).cpu().numpy()


def _points(instances: Instances) -> np.ndarray | None:
    """Return keypoints (n, K, 2 or 3) in pixels of the picture, of labels or of detections; None without keypoints."""
    return None if instances.keypoints is None else instances.keypoints.float().cpu().numpy()


def _limbs_of(samples: Sequence[Sample]) -> Sequence[tuple[int, int]]:
    layout = samples[0].layout if samples else None
    return () if layout is None else layout.limbs


def _masks(detections: Instances, planes: Tensor | None, size: tuple[int, int]) -> np.ndarray | None:
    """Return the masks (n, H, W) uint8 of detections on a picture of `size` (H, W); None without masks.

    planes: the prototypes (m, h, w) of the picture; None where the detections have patches.
    """
    patches = detections.patches
    if planes is not None:
        patches = masks_of_input(detections.coefficients, planes, detections.boxes, size)
    return None if patches is None else patches.planes().cpu().numpy()


def _outlined(labels: Instances, size: tuple[int, int]) -> np.ndarray | None:
    """Return the masks (n, H, W) bool of labels in pixels of a picture of `size` (H, W); None without outlines."""
    if labels.polygons is None or labels.polygons.rectangles:
        return None
    return fill_each(clip(labels.polygons, size), size).numpy()
