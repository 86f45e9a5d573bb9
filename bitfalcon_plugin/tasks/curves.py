"""Precision, recall and F1 over the confidence, and precision over the recall, as numbers.

Written from spec/interface.md section 7. pycocotools measures the area under precision over recall; the envelope here
is the curve that pycocotools samples at 101 recalls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

POINTS = 1000  # of every curve


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
