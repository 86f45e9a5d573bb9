"""COCO's numbers by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.dataset import Sample
from ..ops.instances import Instances
from .coco_rows import coco_rows
from .confusion import MATRIX_CONF, confusion_matrix
from .curves import ClassMatches, gather_curves
from .metrics import STATS, BoxMetrics, ClassCounts, Metrics


def coco_metrics(
    samples: Sequence[Sample],
    detections: Instances,
    names: Mapping[int, str],
    *,
    conf: float = MATRIX_CONF,
    kind: str = "bbox",
    polygons: bool = False,
) -> Metrics:
    """Compute Metrics from detections in pixels of the original images; `image` is the index of the sample.

    names: class index -> name. conf: the confusion matrix counts detections with a higher score. kind: bbox, or segm
    for the encoded masks of the detections, against the polygons of the labels. polygons: the area of a label, by which
    COCO tells small from large, is that of its polygon, and not of its box.
    """
    labels = [sample.pixel_labels() for sample in samples]
    truth = _coco_truth(samples, labels, names)
    if polygons or kind == "segm":
        _add_polygons(truth, samples, labels)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, _coco_results(truth, detections, kind), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = evaluation.stats.astype(float)  # -1 where there is nothing to measure
    lines, precision, recall = gather_curves(_matches(evaluation, sorted(names)))
    precision_at = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class)
    all_ap = precision_at.mean(1).T[lines.classes]  # (c, IoU)
    instances = Counter(index for truths in labels for index in truths.classes.tolist())
    images = Counter(index for truths in labels for index in set(truths.classes.tolist()))
    return Metrics(
        stats=dict(zip(STATS, np.where(stats >= 0, stats, np.nan).tolist(), strict=True)),
        classes=tuple(ClassCounts(names[i], images[i], instances[i]) for i in lines.classes.tolist()),
        images=len(samples),
        instances=instances.total(),
        box=BoxMetrics(precision, recall, all_ap, lines.classes, len(names)),
        lines=lines,
        confusion_matrix=confusion_matrix(labels, detections, names, conf=conf),
        names=dict(names),
    )


def _coco_truth(samples: Sequence[Sample], labels: Sequence[Instances], names: Mapping[int, str]) -> COCO:
    """The labels, in pixels of the original images, as an object of pycocotools."""
    annotations = []
    for image, truths in enumerate(labels):
        for (x1, y1, x2, y2), category in zip(truths.boxes.double().tolist(), truths.classes.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": category, "iscrowd": 0}
            annotations.append({**annotation, "bbox": box, "area": box[2] * box[3]})
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": s.size[0], "width": s.size[1]} for i, s in enumerate(samples)],
        "categories": [{"id": i, "name": name} for i, name in sorted(names.items())],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def _add_polygons(truth: COCO, samples: Sequence[Sample], labels: Sequence[Instances]) -> None:
    """Give the annotations of `truth` the polygons of the labels as masks; a label without one gets its box."""
    annotations = iter(truth.dataset["annotations"])
    for sample, instances in zip(samples, labels):
        rings = [torch.zeros(0, 2)] * len(instances) if instances.polygons is None else instances.polygons.split()
        for (x1, y1, x2, y2), ring in zip(instances.boxes.tolist(), rings):
            points = ring.flatten().tolist() or [x1, y1, x2, y1, x2, y2, x1, y2]
            code = mask.merge(mask.frPyObjects([points], *sample.size))
            next(annotations).update(segmentation=code, area=float(mask.area(code)))


def _coco_results(truth: COCO, detections: Instances, kind: str) -> COCO:
    if len(detections) and kind == "segm":
        # With the box beside the mask, as in predictions.json: pycocotools then takes the box's area for the size.
        return truth.loadRes(
            [
                {"image_id": int(image), "category_id": int(cls), "score": score, "bbox": box, "segmentation": code}
                for (image, *box, score, cls), code in zip(
                    coco_rows(detections).tolist(), detections.encoded_masks.codes, strict=True
                )
            ]
        )
    if len(detections):
        return truth.loadRes(coco_rows(detections))
    results = COCO()  # loadRes takes no empty list
    results.dataset = {**truth.dataset, "annotations": []}
    results.createIndex()
    return results


def _matches(evaluation: COCOeval, classes: Sequence[int]) -> dict[int, ClassMatches]:
    """The matches at IoU 0.50 of each class that has labels."""
    images, areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    matches = {}
    for row, index in enumerate(classes):
        start = row * areas * images  # evalImgs runs over class, area (first: all), image
        items = [item for item in evaluation.evalImgs[start : start + images] if item is not None]
        truths = sum(len(item["gtIgnore"]) for item in items)
        if truths:
            ignored = np.concatenate([item["dtIgnore"][0] for item in items]).astype(bool)  # boxes of impossible size
            scores = np.concatenate([item["dtScores"] for item in items])
            hits = np.concatenate([item["dtMatches"][0] > 0 for item in items])
            matches[index] = ClassMatches(scores[~ignored], hits[~ignored], truths)
    return matches
