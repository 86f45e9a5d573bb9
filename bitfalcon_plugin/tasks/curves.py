"""Precision, recall and F1 over the confidence, precision over recall, and the confusion matrix: numbers, no drawing.

Written from spec/interface.md section 7. The area under precision over recall is pycocotools' business (`validate`); the
envelope that is drawn here is the one it samples at 101 recalls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..ops.boxes import box_iou, pair_greedily
from ..ops.instances import Instances

POINTS = 1000  # of every curve
MATRIX_IOU, MATRIX_CONF = 0.45, 0.25


@dataclass(frozen=True, eq=False)
class Curves:
    """Curves of the classes that have labels, a row each, on POINTS abscissas in [0, 1]; values in [0, 1], float32.

    classes (c,): their indices. precision, recall (c, POINTS): over the confidence. envelope (c, POINTS): the best precision
    at this recall or a higher one, at IoU 0.50. best: position of the confidence with the best smoothed mean F1.
    """

    classes: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    envelope: np.ndarray
    best: int

    @property
    def grid(self) -> np.ndarray:
        """(POINTS,) the confidences, and the recalls of the envelope."""
        return np.linspace(0, 1, POINTS)

    @property
    def f1(self) -> np.ndarray:
        """(c, POINTS) harmonic mean of precision and recall."""
        return _f1(self.precision, self.recall)


def _f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return 2 * precision * recall / (precision + recall + 1e-16)


def class_curves(scores: np.ndarray, hits: np.ndarray, truths: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall over the confidence and the envelope over the recall, of one class, (POINTS,) each.

    scores (n,): of its detections; hits (n,): whether each found a label; truths: how many labels there are, at least one.
    """
    grid = np.linspace(0, 1, POINTS)
    if not len(scores):
        return np.zeros(POINTS), np.zeros(POINTS), np.zeros(POINTS)
    order = np.argsort(-scores, kind="mergesort")
    falling, true = scores[order], np.cumsum(hits[order])
    precision, recall = true / np.arange(1, len(true) + 1), true / truths
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, grid, side="left")  # the first detection that reaches this recall
    return (
        np.interp(-grid, -falling, precision, left=1),
        np.interp(-grid, -falling, recall, left=0),
        np.append(envelope, 0.0)[place],
    )


def gather_curves(found: Mapping[int, tuple[np.ndarray, np.ndarray, int]]) -> tuple[Curves, list[float], list[float]]:
    """Curves of the classes in `found` (index -> scores, hits, truths as in `class_curves`), in the order of the indices,
    and the precision and recall of each at the common confidence where the mean F1, smoothed over a tenth of them, is best.
    """
    rows = np.zeros((3, len(found), POINTS))
    for row, index in enumerate(sorted(found)):
        rows[:, row] = class_curves(*found[index])
    precision, recall, envelope = rows
    best = 0
    if len(found):
        width = POINTS // 20 + 1  # half of a tenth of the grid on both sides
        f1 = np.pad(_f1(precision, recall).mean(0), width, mode="edge")
        best = int(np.convolve(f1, np.ones(2 * width + 1) / (2 * width + 1), "valid").argmax())
    curves = Curves(np.array(sorted(found), dtype=np.int64), *(part.astype(np.float32) for part in rows), best)
    return curves, precision[:, best].tolist(), recall[:, best].tolist()


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """matrix (nc + 1, nc + 1) int64: how often a row's class was predicted where a column's class is true; the last row
    holds the labels that nothing was predicted for, the last column the predictions where no label is.

    names: class index -> name. conf: predictions with a higher score count. iou: the least overlap of a pair.
    """

    matrix: np.ndarray
    names: Mapping[int, str]
    conf: float = MATRIX_CONF
    iou: float = MATRIX_IOU

    def normalized(self) -> np.ndarray:
        """(nc + 1, nc + 1) shares of each column's sum: what became of the labels of a class; 0 in an empty column."""
        return self.matrix / np.maximum(self.matrix.sum(0, keepdims=True), 1)

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, object]]:
        """A dict for each predicted class: its name as 'predicted', then a number for each true class; 'background' last."""
        names = [*(self.names[index] for index in sorted(self.names)), "background"]
        table = self.normalized().round(decimals) if normalize else self.matrix
        return [
            {"predicted": name, **dict(zip(names, row, strict=True))}
            for name, row in zip(names, table.tolist(), strict=True)
        ]

    def plot(
        self, normalize: bool = True, save_dir: str | Path = ".", names: Sequence[str] | Mapping[int, str] = ()
    ) -> Path:
        """Draw it into save_dir as confusion_matrix_normalized.png, or as confusion_matrix.png; returns the path.

        names: of the classes, if others than the matrix knows.
        Raises UserError without matplotlib.
        """
        from ..plots.charts import draw_confusion

        given = dict(names if isinstance(names, Mapping) else enumerate(names))
        named = {index: given.get(index, self.names[index]) for index in sorted(self.names)}
        target = Path(save_dir) / f"confusion_matrix{'_normalized' if normalize else ''}.png"
        return draw_confusion(target, self.normalized() if normalize else self.matrix, list(named.values()))


def confusion_matrix(
    labels: Sequence[Instances],
    detections: Instances,
    names: Mapping[int, str],
    *,
    conf: float = MATRIX_CONF,
    iou: float = MATRIX_IOU,
) -> ConfusionMatrix:
    """Pair what was predicted with what is there, whatever the classes say, and count the pairs.

    labels: of each image; detections: of all images, `image` is the index in `labels`; both in one unit. Of all pairs of an image that overlap by `iou` or more the one that overlaps most is taken, then the
    next that shares no partner with it; among equal ones the higher score, then the earlier detection and label.
    """
    nc = len(names)
    matrix = np.zeros((nc + 1, nc + 1), np.int64)
    for truth, found in zip(labels, by_image(detections, len(labels), conf), strict=True):
        classes, found_classes = truth.classes.numpy(), found.classes.numpy()
        predicted, true = np.full(len(found), nc), np.full(len(truth), nc)  # the partner's class, background at first
        overlap = box_iou(found.boxes.double(), truth.boxes.double())  # (n, m)
        detection, label = pair_greedily(overlap, iou).numpy().T
        predicted[detection], true[label] = classes[label], found_classes[detection]
        np.add.at(matrix, (found_classes, predicted), 1)
        missed = classes[true == nc]
        np.add.at(matrix, (np.full(len(missed), nc), missed), 1)
    return ConfusionMatrix(matrix, dict(names), conf, iou)


def by_image(detections: Instances, images: int, conf: float) -> list[Instances]:
    """The detections of each image with a score above `conf`, by falling score; of equal ones the earlier first."""
    detections = detections.only(detections.scores.double() > conf)
    detections = detections.only(detections.scores.argsort(descending=True, stable=True))
    detections = detections.only(detections.image.argsort(stable=True))
    counts = torch.bincount(detections.image, minlength=images).tolist()
    return [detections.only(rows) for rows in torch.arange(len(detections)).split(counts)]
