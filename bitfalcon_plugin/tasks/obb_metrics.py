"""The numbers of a validation of oriented boxes: COCO's AP by ProbIoU, and by the IoU of the rectangles beside it.

pycocotools matches and sums up; only the overlaps of boxes are computed here. Written from spec/pose-obb.md 2.10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from pycocotools.coco import COCO
from torch import Tensor

from ..data.dataset import Sample
from ..ops.instances import Instances
from ..ops.rotated_overlap import probiou_matrix, rotated_iou
from .coco import LIMITS, SizedEvaluation, coco_results, coco_truth, counts_of, numbers_of
from .confusion import MATRIX_CONF
from .metrics import BoxMetrics, Metrics


@dataclass(eq=False)
class ObbMetrics(Metrics):
    """Metrics of oriented boxes, in which ProbIoU is the overlap everywhere.

    polygon, polygon_stats: `box` and `stats` with the IoU of the rectangles as the overlap, which is smaller. So AP50
    by ProbIoU asks for less than an AP50 of DOTA.
    """

    polygon: BoxMetrics | None = None
    polygon_stats: Mapping[str, float] | None = None

    overlap: ClassVar[str] = "ProbIoU"

    def table(self, verbose: bool = True) -> str:
        """Return the table people read, with a line of the numbers by the IoU of the rectangles."""
        numbers = "  ".join(f"{name} {self.polygon_stats[name]:.3f}" for name in ("AP", "AP50", "AP75"))
        return f"{super().table(verbose)}\nBy the IoU of the rectangles, as papers on DOTA compare: {numbers}"


def oriented_metrics(
    samples: Sequence[Sample], detections: Instances, names: Mapping[int, str], *, conf: float = MATRIX_CONF
) -> ObbMetrics:
    """Compute ObbMetrics from oriented detections in pixels of the original images; otherwise as coco.coco_metrics."""
    labels = [sample.pixel_labels() for sample in samples]
    truth = coco_truth(samples, labels, names)
    results = coco_results(truth, detections)
    _add_rectangles(truth, [part.oriented for part in labels])
    _add_rectangles(results, [detections.oriented])
    by_probiou = numbers_of(RotatedEvaluation(truth, results, probiou_matrix), names)
    by_polygon = numbers_of(RotatedEvaluation(truth, results, rotated_iou), names)
    counts = counts_of(labels, detections, names, by_probiou.lines, conf)
    return ObbMetrics(**vars(by_probiou), **counts, polygon=by_polygon.box, polygon_stats=by_polygon.stats)


class RotatedEvaluation(SizedEvaluation):
    """COCO's evaluation with another overlap: (detections (n, 5), labels (m, 5)), both xywhr in float64 -> (n, m)."""

    def __init__(self, truth: COCO, results: COCO, overlap: Callable[[Tensor, Tensor], Tensor]):
        super().__init__(truth, results, "bbox")
        self.params.maxDets = list(LIMITS)
        self.overlap = overlap

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list:
        """Return the overlaps (n, m) of a class and image, detections by falling score."""
        labels, detections = self._gts[imgId, catId], self._dts[imgId, catId]
        order = np.argsort([-each["score"] for each in detections], kind="mergesort")
        found, true = ([each["xywhr"] for each in part] for part in ([detections[i] for i in order], labels))
        found, true = (torch.tensor(part, dtype=torch.float64).view(-1, 5) for part in (found, true))
        return self.overlap(found, true).numpy() if len(found) and len(true) else []


def _add_rectangles(objects: COCO, parts: Sequence[Tensor | None]) -> None:
    """Give the annotations their oriented boxes, and the areas of these."""
    rows = [row for part in parts if part is not None for row in part.double().tolist()]
    for annotation, row in zip(objects.dataset["annotations"], rows, strict=True):
        annotation.update(xywhr=row, area=row[2] * row[3])
