"""The confusion matrix: how often each class was predicted for each true class.

Written from spec/interface.md section 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..config.printable import say
from ..config.tabular import Tabular
from ..ops.boxes import pair_greedily
from ..ops.instances import Instances
from ..ops.rotated_overlap import overlap_of

MATRIX_IOU, MATRIX_CONF = 0.45, 0.25


@dataclass(frozen=True, eq=False)
class ConfusionMatrix(Tabular):
    """How often each class was predicted for each true class.

    matrix (nc + 1, nc + 1) int64: a row for each predicted class, a column for each true class. The last row counts the
    labels without a prediction, the last column the predictions without a label; that of a classifier, (nc, nc), has
    neither. names: class index -> name. conf:
    predictions with a higher score count. iou: the smallest overlap of a pair.
    """

    matrix: np.ndarray
    names: Mapping[int, str]
    conf: float = MATRIX_CONF
    iou: float = MATRIX_IOU

    def normalized(self) -> np.ndarray:
        """Return the matrix with each column over its sum: what became of a class's labels; 0 in an empty column."""
        return self.matrix / np.maximum(self.matrix.sum(0, keepdims=True), 1)

    def tp_fp(self) -> tuple[np.ndarray, np.ndarray]:
        """Return for each class (nc,) how many predictions have a label of their class, and how many have not."""
        true = self.matrix.diagonal()[: len(self.names)]
        return true, self.matrix[: len(self.names)].sum(1) - true

    def print(self) -> None:
        """Print the rows of the matrix."""
        for row in self.matrix.tolist():
            say(*row)

    def columns(self, flat: bool = False) -> Sequence[str]:
        return "predicted", *self._labels()

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, object]]:
        """Return a dict for each predicted class: its name as 'predicted', and a number for each true class."""
        table = self.normalized().round(decimals) if normalize else self.matrix
        labels = self._labels()
        rows = zip(labels, table.tolist(), strict=True)
        return [{"predicted": name, **dict(zip(labels, row, strict=True))} for name, row in rows]

    def _labels(self) -> list[str]:
        labels = [*(self.names[index] for index in sorted(self.names)), "background"]
        return labels[: len(self.matrix)]

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
    pair overlaps by `iou` or more; oriented boxes are compared by ProbIoU. The pair of an image that overlaps most is
    taken first, then the next one that shares no partner with it; among equal ones the higher score, then the earlier
    detection and label.
    """
    background = len(names)
    matrix = np.zeros((background + 1, background + 1), np.int64)
    for truth, predicted in zip(labels, by_image(detections, len(labels), conf), strict=True):
        overlap = overlap_of(predicted, truth)  # (n, m)
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
