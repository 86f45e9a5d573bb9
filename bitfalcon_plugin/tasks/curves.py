"""Precision, recall and F1 over the confidence, precision over the recall, and the confusion matrix, as numbers.

Written from spec/interface.md section 7. pycocotools measures the area under precision over recall; the envelope here
is the curve that pycocotools samples at 101 recalls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..config.tabular import Tabular
from ..ops.boxes import box_iou, pair_greedily
from ..ops.instances import Instances

POINTS = 1000  # of every curve
MATRIX_IOU, MATRIX_CONF = 0.45, 0.25


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class: scores (n,) in [0, 1], and hits (n,) bool, whether each found a label.

    truths: number of labels of the class, at least 1.
    """

    scores: np.ndarray
    hits: np.ndarray
    truths: int


@dataclass(frozen=True, eq=False)
class Curves:
    """Curves of the c classes that have labels, a row each, at POINTS abscissas in [0, 1]; values in [0, 1], float32.

    classes (c,): indices of the classes. precision, recall (c, POINTS): over the confidence. envelope (c, POINTS): the
    best precision at this recall or a higher one, at IoU 0.50. best: position of the confidence where the mean F1 of
    the classes, smoothed over a tenth of the grid, is best.
    """

    classes: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    envelope: np.ndarray
    best: int

    @property
    def grid(self) -> np.ndarray:
        """The abscissas (POINTS,): confidences, or recalls of the envelope."""
        return np.linspace(0, 1, POINTS)

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall (c, POINTS)."""
        return harmonic_mean(self.precision, self.recall)


def harmonic_mean(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Return F1 in the shape of the inputs; 0 where precision and recall are 0."""
    return 2 * precision * recall / (precision + recall + 1e-16)


def class_curves(matches: ClassMatches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision and recall over the confidence, and the envelope over the recall, (POINTS,) float64 each."""
    grid = np.linspace(0, 1, POINTS)
    if not len(matches.scores):
        return np.zeros(POINTS), np.zeros(POINTS), np.zeros(POINTS)
    order = np.argsort(-matches.scores, kind="mergesort")
    scores, hits = matches.scores[order], np.cumsum(matches.hits[order])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / matches.truths
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(recall, grid, side="left")  # the first detection that reaches this recall
    return (
        np.interp(-grid, -scores, precision, left=1),
        np.interp(-grid, -scores, recall, left=0),
        np.append(envelope, 0.0)[first],
    )


def gather_curves(matches: Mapping[int, ClassMatches]) -> tuple[Curves, np.ndarray, np.ndarray]:
    """Return the Curves of the classes in `matches`, by rising index; and precision and recall (c,) at `best`."""
    classes = sorted(matches)
    values = np.zeros((3, len(classes), POINTS))
    for row, index in enumerate(classes):
        values[:, row] = class_curves(matches[index])
    precision, recall, _ = values
    best = 0
    if classes:
        margin = POINTS // 20 + 1  # half of a tenth of the grid, on both sides
        f1 = np.pad(harmonic_mean(precision, recall).mean(0), margin, mode="edge")
        best = int(np.convolve(f1, np.ones(2 * margin + 1) / (2 * margin + 1), "valid").argmax())
    curves = Curves(np.array(classes, dtype=np.int64), *values.astype(np.float32), best)
    return curves, precision[:, best].copy(), recall[:, best].copy()


@dataclass(frozen=True, eq=False)
class ConfusionMatrix(Tabular):
    """How often each class was predicted for each true class.

    matrix (nc + 1, nc + 1) int64: a row for each predicted class, a column for each true class. The last row counts the
    labels without a prediction, the last column the predictions without a label. names: class index -> name. conf:
    predictions with a higher score count. iou: the smallest overlap of a pair.
    """

    matrix: np.ndarray
    names: Mapping[int, str]
    conf: float = MATRIX_CONF
    iou: float = MATRIX_IOU

    def normalized(self) -> np.ndarray:
        """Return the matrix with each column over its sum: what became of a class's labels; 0 in an empty column."""
        return self.matrix / np.maximum(self.matrix.sum(0, keepdims=True), 1)

    def columns(self, flat: bool = False) -> Sequence[str]:
        return "predicted", *self._labels()

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, object]]:
        """Return a dict for each predicted class: its name as 'predicted', and a number for each true class."""
        table = self.normalized().round(decimals) if normalize else self.matrix
        labels = self._labels()
        rows = zip(labels, table.tolist(), strict=True)
        return [{"predicted": name, **dict(zip(labels, row, strict=True))} for name, row in rows]

    def _labels(self) -> list[str]:
        return [*(self.names[index] for index in sorted(self.names)), "background"]

    def plot(
        self, normalize: bool = True, save_dir: str | Path = ".", names: Sequence[str] | Mapping[int, str] = ()
    ) -> Path:
        """Draw confusion_matrix_normalized.png or confusion_matrix.png into save_dir; returns the path.

        names: names of the classes to show instead of the matrix's own. Raises UserError without matplotlib.
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
    """Pair predictions with labels, whatever the classes say, and count the pairs.

    labels: of each image. detections: of all images; `image` is the index in `labels`. Both are in the same unit. A
    pair overlaps by `iou` or more. The pair of an image that overlaps most is taken first, then the next one that
    shares no partner with it; among equal ones the higher score, then the earlier detection and label.
    """
    background = len(names)
    matrix = np.zeros((background + 1, background + 1), np.int64)
    for truth, predicted in zip(labels, by_image(detections, len(labels), conf), strict=True):
        overlap = box_iou(predicted.boxes.double(), truth.boxes.double())  # (n, m)
        detection, label = pair_greedily(overlap, iou).numpy().T
        true_classes, classes = truth.classes.numpy(), predicted.classes.numpy()
        true_partners = np.full(len(classes), background)  # the true class of each detection's partner
        true_partners[detection] = true_classes[label]
        np.add.at(matrix, (classes, true_partners), 1)
        missed = np.delete(true_classes, label)
        np.add.at(matrix, (background, missed), 1)
    return ConfusionMatrix(matrix, dict(names), conf, iou)


def by_image(detections: Instances, images: int, conf: float) -> list[Instances]:
    """Return each image's detections with a score above `conf`, by falling score; of equal ones the earlier first."""
    detections = detections.only(detections.scores.double() > conf)
    detections = detections.only(detections.scores.argsort(descending=True, stable=True))
    detections = detections.only(detections.image.argsort(stable=True))
    counts = torch.bincount(detections.image, minlength=images).tolist()
    return [detections.only(rows) for rows in torch.arange(len(detections)).split(counts)]
