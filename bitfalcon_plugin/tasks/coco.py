"""COCO's numbers by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.dataset import Sample
from ..ops.instances import Instances
from .curves import MATRIX_CONF, confusion_matrix, gather_curves
from .metrics import STATS, BoxMetrics, ClassRow, Metrics


def coco_rows(detections: Instances) -> np.ndarray:
    """Detections as pycocotools takes them: (n, 7) float64 image, x, y, width, height, score, class."""
    boxes = detections.boxes
    columns = (detections.image[:, None], boxes[:, :2], boxes[:, 2:] - boxes[:, :2], detections.scores[:, None])
    return torch.cat([column.double() for column in (*columns, detections.classes[:, None])], dim=1).cpu().numpy()


def coco_metrics(
    samples: Sequence[Sample], detections: Instances, names: Mapping[int, str], *, conf: float = MATRIX_CONF
) -> Metrics:
    """Compute Metrics from detections in pixels of the original images; `image` is the index of the sample.

    names: class index -> name. conf: the confusion matrix counts detections above it.
    """
    truth = _coco_truth(samples, names)
    labels = truth.dataset["annotations"]
    with contextlib.redirect_stdout(io.StringIO()):
        results = truth.loadRes(coco_rows(detections)) if len(detections) else COCO()
        if not len(detections):
            results.dataset = {**truth.dataset, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = {
        name: float(value) if value >= 0 else float("nan") for name, value in zip(STATS, evaluation.stats, strict=True)
    }
    lines, precision, recall = gather_curves(_matches(evaluation, sorted(names)))
    all_ap = (
        evaluation.eval["precision"][:, :, :, 0, -1].mean(1).T[lines.classes]
    )  # (IoU, recall, class) -> (class, IoU)
    pictures: dict[int, set[int]] = {}
    counts = Counter(label["category_id"] for label in labels)
    for label in labels:
        pictures.setdefault(label["category_id"], set()).add(label["image_id"])
    rows = tuple(
        ClassRow(
            names[index],
            len(pictures[index]),
            counts[index],
            precision[row],
            recall[row],
            float(all_ap[row, 0]),
            float(all_ap[row].mean()),
        )
        for row, index in enumerate(lines.classes.tolist())
    )
    mean = [float(np.mean(values)) if values else 0.0 for values in (precision, recall)]
    return Metrics(
        stats=stats,
        classes=rows,
        images=len(samples),
        instances=len(labels),
        precision=mean[0],
        recall=mean[1],
        box=BoxMetrics(np.array(precision), np.array(recall), all_ap, lines.classes, len(names)),
        lines=lines,
        confusion_matrix=confusion_matrix([s.pixel_labels() for s in samples], detections, names, conf=conf),
        names=dict(names),
    )


def _coco_truth(samples: Sequence[Sample], names: Mapping[int, str]) -> COCO:
    annotations = []
    for image, sample in enumerate(samples):
        labels = sample.pixel_labels()
        for (x1, y1, x2, y2), cls in zip(labels.boxes.double().tolist(), labels.classes.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": cls,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": s.size[0], "width": s.size[1]} for i, s in enumerate(samples)],
        "categories": [{"id": i, "name": name} for i, name in sorted(names.items())],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def _matches(evaluation: COCOeval, classes: Sequence[int]) -> dict[int, tuple[np.ndarray, np.ndarray, int]]:
    # Class with labels -> scores and hits of its detections at IoU 0.50, and the number of its labels.
    images, areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    found = {}
    for row, index in enumerate(classes):
        start = row * areas * images  # evalImgs runs over class, area (first: all), image
        items = [item for item in evaluation.evalImgs[start : start + images] if item is not None]
        if truths := sum(len(item["gtIgnore"]) for item in items):
            counted = ~np.concatenate([item["dtIgnore"][0] for item in items]).astype(
                bool
            )  # not: boxes of impossible size
            found[index] = (
                np.concatenate([item["dtScores"] for item in items])[counted],
                np.concatenate([item["dtMatches"][0] > 0 for item in items])[counted],
                truths,
            )
    return found
