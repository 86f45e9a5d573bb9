"""What a validation of a classifier measured. Written from spec/segment-classify.md 2.7 and 2.9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .confusion import ConfusionMatrix
from .metrics import CLASS_COLUMNS, TaskMetrics

FIRST = 5  # classes among which the true one is looked for, besides the first
ROWS_AT_ONCE = 4096  # images that are ranked together


@dataclass(eq=False)
class ClassMetrics(TaskMetrics):
    """The numbers of a classifier on one split.

    counts, first, among_five (nc,): for each class the number of its images, and of those for which the true class is
    the most probable one, and among the five most probable ones. The confusion matrix (nc, nc) has a row for each
    predicted class and a column for each true class.
    """

    counts: np.ndarray
    first: np.ndarray
    among_five: np.ndarray

    @property
    def top1(self) -> float:
        """The share of all images for which the true class is the most probable one."""
        return float(self.first.sum() / max(self.images, 1))

    @property
    def top5(self) -> float:
        """The share of all images for which the true class is among the five most probable ones."""
        return float(self.among_five.sum() / max(self.images, 1))

    @property
    def class_top1(self) -> np.ndarray:
        """top1 of each class (nc,); 0 where it has no images."""
        return self.first / np.maximum(self.counts, 1)

    @property
    def class_top5(self) -> np.ndarray:
        """top5 of each class (nc,); 0 where it has no images."""
        return self.among_five / np.maximum(self.counts, 1)

    @property
    def images(self) -> int:
        """The number of images."""
        return int(self.counts.sum())

    @property
    def fitness(self) -> float:
        """The mean of top1 and top5: the best weights are those with the highest fitness."""
        return (self.top1 + self.top5) / 2

    @property
    def keys(self) -> list[str]:
        """The column names of results.csv that `mean_results` belongs to."""
        return list(CLASS_COLUMNS)

    @property
    def headline(self) -> dict[str, float]:
        """top1 and top5."""
        return {"top-1": self.top1, "top-5": self.top5}

    @property
    def curves(self) -> list[str]:
        """The names of `curves_results`: a classifier has no curves."""
        return []

    @property
    def curves_results(self) -> list[list[object]]:
        """No curves."""
        return []

    def mean_results(self) -> list[float]:
        """Return top1 and top5."""
        return [self.top1, self.top5]

    def class_result(self, i: int) -> tuple[float, float]:
        """Return top1 and top5 of the images of class i."""
        return float(self.class_top1[i]), float(self.class_top5[i])

    def columns(self, flat: bool = False) -> Sequence[str]:
        return "top1_acc", "top5_acc"

    def summary(self, normalize: bool = True, decimals: int = 5) -> list[dict[str, float]]:
        """Return one record: top1_acc and top5_acc, rounded. normalize: without effect."""
        return [{"top1_acc": round(self.top1, decimals), "top5_acc": round(self.top5, decimals)}]

    def per_class(self, decimals: int = 5) -> list[dict[str, object]]:
        """Return a record {class, images, top1_acc, top5_acc} for each class that has images."""
        keys = ("class", "images", *self.columns())
        shares = self.class_top1.round(decimals).tolist(), self.class_top5.round(decimals).tolist()
        rows = zip((self.names[index] for index in sorted(self.names)), self.counts.tolist(), *shares, strict=True)
        return [dict(zip(keys, row, strict=True)) for row in rows if row[1]]

    def line(self) -> str:
        """Return the line that training prints after an epoch."""
        return f"top-1 {self.top1:.4f}  top-5 {self.top5:.4f}"

    def plot(self, save_dir: str | Path | None = None) -> list[Path]:
        """Draw both confusion matrices; see TaskMetrics.plot. Raises UserError without matplotlib."""
        return self._matrices(self._folder(save_dir))

    def table(self, verbose: bool = True) -> str:
        """Return the table people read: a line for all classes, and with verbose a line for each class."""
        lines = [f"{'classes':>22}{'top1_acc':>11}{'top5_acc':>11}{'images':>9}"]
        rows = [{"class": "all", "images": self.images, "top1_acc": self.top1, "top5_acc": self.top5}]
        for row in [*rows, *(self.per_class(decimals=16) if verbose else ())]:
            numbers = "".join(f"{row[key]:>11.3g}" for key in self.columns())
            lines.append(f"{str(row['class'])[:21]:>22}{numbers}{row['images']:>9}")
        return "\n".join(lines)


def class_metrics(probabilities: Tensor, truth: Tensor, names: Mapping[int, str]) -> ClassMetrics:
    """Return the numbers of probabilities (n, nc) against the true classes (n,). names: class index -> name.

    Of equal probabilities the lower class comes first. Values that are not finite are never right.
    """
    nc = len(names)
    finite = probabilities.isfinite().all(1)
    parts = zip(probabilities.split(ROWS_AT_ONCE), truth.split(ROWS_AT_ONCE))
    rank = torch.cat([_ranks(*part) for part in parts] or [truth]).masked_fill(~finite, FIRST)
    matrix = np.zeros((nc, nc), np.int64)
    np.add.at(matrix, (probabilities[finite].argmax(1).numpy(), truth[finite].numpy()), 1)
    return ClassMetrics(
        counts=_per_class(truth, nc),
        first=_per_class(truth[rank < 1], nc),
        among_five=_per_class(truth[rank < FIRST], nc),
        confusion_matrix=ConfusionMatrix(matrix, dict(names), conf=0.0),
        names=dict(names),
    )


def _per_class(classes: Tensor, nc: int) -> np.ndarray:
    return torch.bincount(classes, minlength=nc).numpy()


def _ranks(probabilities: Tensor, truth: Tensor) -> Tensor:
    """Return the place of the true class (n,) among the sorted probabilities (n, nc), from 0."""
    own = probabilities.gather(1, truth[:, None])
    earlier = torch.arange(probabilities.shape[1]) < truth[:, None]
    return ((probabilities > own) | (probabilities == own) & earlier).sum(1)
