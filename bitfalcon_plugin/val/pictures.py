"""What a training run and val draw: batches with their boxes, charts of labels, curves and results, and TensorBoard's scalars.

File names as in spec/interface.md 6.1. A picture that cannot be drawn is a note; training goes on.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

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
from ..plots.charts import draw_labels, draw_results
from ..plots.figure import NoMatplotlib
from ..plots.sheets import batch_sheet
from ..tasks.metrics import Metrics
from .loop import Watch
from .worst import Worst

BATCHES = 3  # drawn of each kind
LEAST = 0.25  # score of the detections that are drawn


class Pictures:
    """The pictures of a run in `folder`; every method does nothing where `plots` is false.

    names: class index -> name. note: prints a note. board: whether TensorBoard gets scalars where it is installed;
    None: as plots.
    """

    def __init__(
        self,
        folder: Path,
        names: Mapping[int, str],
        plots: bool,
        note: Callable[[str], None] = print_note,
        board: bool | None = None,
    ):
        self.folder, self.names, self.plots, self.note = Path(folder), names, plots, note
        self._board = scalars(self.folder) if (plots if board is None else board) else _silent
        self._closed, self._told = 0, False

    def labels(self, samples: Sequence[Sample]) -> None:
        """Draw labels.jpg: how many of each class, where and how large."""

        def draw() -> None:
            labels = Instances.cat([replace(sample.labels, polygons=None) for sample in samples])
            classes, boxes = labels.classes.numpy(), xywh_from_xyxy(labels.boxes).numpy()
            draw_labels(self.folder / "labels.jpg", classes, boxes, [self.names[index] for index in sorted(self.names)])

        self._try("labels.jpg", draw)

    def train_batch(self, iteration: int, batch: Batch, closed: bool = False) -> None:
        """Draw train_batch<iteration>.jpg, for the first batches of a run and, where `closed`, the first without mosaic."""
        wanted = iteration < BATCHES or (closed and self._closed < BATCHES)
        self._closed += closed
        if not (self.plots and wanted):
            return

        def draw() -> None:
            images = (batch.images[:16].float().clamp(0, 1) * 255).round().byte().cpu().numpy()
            labels = batch.labels.to("cpu")
            rows = [_label_rows(labels.only(labels.image == image)) for image in range(len(images))]
            self._write(f"train_batch{iteration}.jpg", batch_sheet(images, rows, self.names, conf=False))

        self._try(f"train_batch{iteration}.jpg", draw)

    def watch(self, samples: Sequence[Sample], fits: Sequence[Fit | None]) -> Watch | None:
        """For `validate`'s watch: draws val_batch<number>_labels.jpg and _pred.jpg of the first batches.

        fits: how each sample lies on the network input (ValLoader.fits). None where nothing is to be drawn.
        """

        def watch(number: int, images: Tensor, indices: Sequence[int], found: list[Instances]) -> None:
            if number < BATCHES:
                self._try(
                    f"val_batch{number}_pred.jpg",
                    self.val_batch,
                    number,
                    images,
                    found,
                    [samples[i] for i in indices],
                    [fits[i] for i in indices],
                )

        return watch if self.plots else None

    def val_batch(
        self, number: int, images: Tensor, found: Sequence[Instances], samples: Sequence[Sample], fits: Sequence[Fit]
    ) -> None:
        """Draw a batch of uint8 images (B, 3, H, W) twice: with its labels, and with the detections of each image."""
        pixels = images[:16].cpu().numpy()
        captions = [sample.image.name for sample in samples]
        labels = [_label_rows(sample.pixel_labels(), fit) for sample, fit in zip(samples[:16], fits[:16], strict=True)]
        self._write(
            f"val_batch{number}_labels.jpg", batch_sheet(pixels, labels, self.names, conf=False, captions=captions)
        )
        rows = [detections.only(detections.scores > LEAST).rows().tolist() for detections in found[:16]]
        self._write(f"val_batch{number}_pred.jpg", batch_sheet(pixels, rows, self.names, captions=captions))

    def scalars(self, row: Mapping[str, float], epoch: int) -> None:
        """Give an epoch's row of results.csv to TensorBoard, where it is installed."""
        self._board(row, epoch)

    def finish(self, metrics: Metrics | None) -> None:
        """Draw results.png from results.csv, and from the last metrics the curves and the confusion matrices."""
        if (self.folder / "results.csv").is_file():
            self._try("results.png", draw_results, self.folder / "results.csv", self.folder / "results.png")
        if metrics is not None:
            self._try("the curves and confusion matrices", metrics.plot, self.folder)

    def worst(self, worst: Worst) -> None:
        """Draw worst.jpg: the images with most misses and most false positives; nothing where there are none."""
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
            if not self._told:
                self.note(str(missing))
            self._told = True
        except Exception as error:  # whatever it is: nobody wants to lose a run to a picture
            self.note(f"{what} could not be drawn: {type(error).__name__}: {error}")


def _label_rows(labels: Instances, fit: Fit | None = None) -> list[list[float]]:
    """Rows x1, y1, x2, y2, score 1, class of labels; with `fit` from pixels of the original image to those of the input."""
    boxes = fit.to_canvas(labels.boxes) if fit else labels.boxes.float()
    return Instances(boxes, labels.classes, torch.ones(len(labels))).rows().tolist()


def scalars(folder: Path) -> Callable[[Mapping[str, float], int], None]:
    """A function that writes a row of named numbers of an epoch for TensorBoard, into `folder`.

    It does nothing where tensorboard is not installed or does not work. tensorboard is slow to import: that waits for
    the first row. Rows after that epoch which an interrupted run left behind are hidden.
    """
    if importlib.util.find_spec("tensorboard") is None:
        return _silent
    writers: list = []

    def write(row: Mapping[str, float], epoch: int) -> None:
        if writers == [None]:
            return
        try:
            if not writers:
                from torch.utils.tensorboard import SummaryWriter

                writers.append(SummaryWriter(str(folder), purge_step=epoch))
            for name, value in row.items():
                if "/" in name and math.isfinite(value):
                    writers[0].add_scalar(name.replace("(B)", ""), float(value), epoch)
            writers[0].flush()
        except Exception:  # an extra that nobody asked for by name
            writers[:] = [None]

    return write


def _silent(row: Mapping[str, float], epoch: int) -> None:
    pass
