"""COCO's numbers by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from ..data.dataset import Sample
from ..data.ground_truth import GroundTruth
from ..ops.boxes import box_iou
from ..ops.instances import Instances
from .coco_rows import FileIds, coco_rows, file_ids
from .confusion import MATRIX_CONF, confusion_matrix
from .curves import ClassMatches, Curves, gather_curves
from .mask_metrics import SegmentMetrics
from .metrics import IOU_50, IOU_75, STATS, BoxMetrics, ClassCounts, Metrics
from .quick_coco import evaluate_quickly

BEYOND_SIZES = 1e12  # px, an area that lies in none of COCO's ranges; these end at 1e10
LIMITS = (1, 10, 100, 1 << 20)  # detections of a class and image that count; AP takes all of them


def coco_metrics(
    samples: Sequence[Sample], detections: Instances, names: Mapping[int, str], *, conf: float = MATRIX_CONF
) -> Metrics:
    """Compute Metrics from detections in pixels of the original images; `image` is the index of the sample.

    names: class index -> name. conf: the confusion matrix counts detections with a higher score.
    """
    labels = [sample.pixel_labels() for sample in samples]
    truth = coco_truth(samples, labels, names)
    numbers = numbers_of(COCOeval(truth, coco_results(truth, detections), "bbox"), names)
    return Metrics(**vars(numbers), **counts_of(labels, detections, names, numbers.lines, conf))


def coco_mask_metrics(
    samples: Sequence[Sample], detections: Instances, names: Mapping[int, str], *, conf: float = MATRIX_CONF
) -> SegmentMetrics:
    """Compute SegmentMetrics from detections with encoded masks; otherwise as `coco_metrics`.

    Masks are compared with the polygons of the labels, or with the segmentations of an annotation file. The area of a
    label, by which COCO tells small from large, is that of its polygon, or the area in the file. A label that is only a
    box counts for the boxes; for the masks it is what COCO calls a crowd: a mask that lies in it is neither right nor
    wrong.
    """
    labels = [sample.pixel_labels() for sample in samples]
    truth = coco_truth(samples, labels, names)
    outlined = []
    for annotation, (code, has_area, is_outlined) in zip(
        truth.dataset["annotations"], _true_masks(samples, labels), strict=True
    ):
        annotation["segmentation"] = code
        annotation["area"] = annotation["area"] if has_area else float(mask.area(code))
        outlined.append(is_outlined)
    results = coco_results(truth, detections)
    boxes = numbers_of(COCOeval(truth, results, "bbox"), names)
    for annotation, is_outlined in zip(truth.dataset["annotations"], outlined, strict=True):
        annotation["iscrowd"] = int(annotation["iscrowd"] or not is_outlined)
    masks = numbers_of(COCOeval(truth, results, "segm"), names)
    counts = counts_of(labels, detections, names, boxes.lines, conf)
    return SegmentMetrics(**vars(boxes), **counts, seg=masks.box, mask_stats=masks.stats, mask_lines=masks.lines)


def _true_masks(
    samples: Sequence[Sample], labels: Sequence[Instances]
) -> Iterator[tuple[dict[str, object], bool, bool]]:
    """Yield the encoded mask of each object, whether a file gives its area, and whether it has an outline."""
    for sample, part in zip(samples, labels, strict=True):
        if sample.truth is None:
            codes = encoded_labels(part, sample.size)
            yield from zip(codes, [False] * len(codes), part.has_polygon.tolist(), strict=True)
            continue
        for code, (x, y, width, height) in zip(sample.truth.masks, sample.truth.boxes.tolist(), strict=True):
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            yield (mask.frPyObjects([corners], *sample.size)[0], True, False) if code is None else (code, True, True)


def encoded_labels(labels: Instances, size: tuple[int, int]) -> list[dict[str, object]]:
    """Return the mask of each label in pixels of an image of `size` (h, w), as pycocotools encodes its polygon.

    The mask of a label without a polygon is its box.
    """
    rings = [torch.zeros(0, 2)] * len(labels) if labels.polygons is None else labels.polygons.split()
    codes = []
    for (x1, y1, x2, y2), ring in zip(labels.boxes.tolist(), rings, strict=True):
        points = ring.flatten().tolist() or [x1, y1, x2, y1, x2, y2, x1, y2]
        codes += mask.frPyObjects([points], *size)
    return codes


def mask_iou(detections: Instances, labels: Instances, size: tuple[int, int]) -> Tensor:
    """Return the IoU (n, m) of the encoded masks of detections and the polygons of labels; size: (h, w) of the image.

    The IoU with a label without a polygon is that of the boxes.
    """
    overlap = box_iou(detections.boxes.double(), labels.boxes.double())
    outlined = labels.only(labels.has_polygon)
    if len(detections) and len(outlined):
        codes = encoded_labels(outlined, size)
        shared = mask.iou(list(detections.encoded_masks.codes), codes, [0] * len(codes))
        overlap[:, labels.has_polygon] = torch.from_numpy(shared)
    return overlap


class SizedEvaluation(COCOeval):
    """COCO's evaluation with the numbers of metrics.STATS for any kind of overlap, and LIMITS as limits."""

    def summarize(self) -> None:
        """Compute `stats` in the order of metrics.STATS; -1 where there is nothing to measure."""
        precision, recall = self.eval["precision"], self.eval["recall"]  # (IoU, recall, class, area, limit)

        def mean(values: np.ndarray) -> float:
            measured = values[values > -1]
            return float(measured.mean()) if measured.size else -1.0

        whole, last = precision[..., 0, -1], range(1, precision.shape[3])
        numbers = [whole, whole[IOU_50], whole[IOU_75], *(precision[..., area, -1] for area in last)]
        numbers += [recall[..., 0, limit] for limit in range(3)] + [recall[..., area, -1] for area in last]
        self.stats = np.array([mean(values) for values in numbers])


@dataclass(frozen=True)
class Numbers:
    """The numbers of boxes, masks or keypoints; see Metrics."""

    stats: dict[str, float]
    box: BoxMetrics
    lines: Curves


def numbers_of(evaluation: COCOeval, names: Mapping[int, str], stats: Sequence[str] = STATS) -> Numbers:
    """Run an evaluation, and return its numbers. AP is that of all areas, at the last number of detections.

    stats: the names of the numbers that the evaluation sums up, in its order. Those of STATS that it has not are nan.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        if not evaluate_quickly(evaluation):
            evaluation.evaluate()
            evaluation.accumulate()
        evaluation.summarize()
    values = evaluation.stats.astype(float)  # -1 where there is nothing to measure
    classes = [evaluation.cocoGt.cats[category]["index"] for category in evaluation.params.catIds]
    lines, precision, recall = gather_curves(_matches(evaluation, classes))
    precision_at = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class)
    rows = [classes.index(index) for index in lines.classes.tolist()]
    all_ap = precision_at.mean(1).T[rows]  # (c, IoU)
    measured = dict(zip(stats, np.where(values >= 0, values, np.nan).tolist(), strict=True))
    numbers = {**dict.fromkeys(STATS, np.nan), **measured}
    return Numbers(numbers, BoxMetrics(precision, recall, all_ap, lines.classes, len(names)), lines)


def counts_of(
    labels: Sequence[Instances], detections: Instances, names: Mapping[int, str], lines: Curves, conf: float
) -> dict[str, object]:
    """What Metrics counts: images, labels, classes, and the confusion matrix of the boxes."""
    instances = Counter(index for truths in labels for index in truths.classes.tolist())
    images = Counter(index for truths in labels for index in set(truths.classes.tolist()))
    return {
        "classes": tuple(ClassCounts(names[i], images[i], instances[i]) for i in lines.classes.tolist()),
        "images": len(labels),
        "instances": instances.total(),
        "confusion_matrix": confusion_matrix(labels, detections, names, conf=conf),
        "names": dict(names),
    }


def coco_truth(samples: Sequence[Sample], labels: Sequence[Instances], names: Mapping[int, str]) -> COCO:
    """The labels, in pixels of the original images, as an object of pycocotools.

    Of an annotation file its own values are taken, with its ids. Images come in the order of the samples, and each
    category has the "index" of its class.
    """
    ids = file_ids(samples, names) or FileIds(list(range(len(samples))), {index: index for index in names})
    annotations: list[dict[str, object]] = []
    for image, sample, truths in zip(ids.images, samples, labels, strict=True):
        rows = _rows_of_labels(truths) if sample.truth is None else _rows_of_file(sample.truth)
        for category, number, row in rows:
            numbers = {"id": len(annotations) + 1 if number < 0 else number, "image_id": image}
            annotations.append({**numbers, "category_id": ids.categories[category], **row})
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": s.size[0], "width": s.size[1]} for i, s in zip(ids.images, samples)],
        "categories": [{"id": ids.categories[i], "name": name, "index": i} for i, name in sorted(names.items())],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def _rows_of_labels(labels: Instances) -> Iterator[tuple[int, int, dict[str, object]]]:
    """Yield the class of each label, -1 in place of an id, and the box, area and iscrowd of an annotation."""
    for (x1, y1, x2, y2), category in zip(labels.boxes.double().tolist(), labels.classes.tolist(), strict=True):
        box = [x1, y1, x2 - x1, y2 - y1]
        yield category, -1, {"iscrowd": 0, "bbox": box, "area": box[2] * box[3]}


def _rows_of_file(truth: GroundTruth) -> Iterator[tuple[int, int, dict[str, object]]]:
    """Yield the class of each annotation of a file, its id or -1, and its box, area and iscrowd.

    An object that counts neither as found nor as missed has an area beyond all sizes: COCO's evaluation ignores it.
    """
    names = ("classes", "annotations", "boxes", "areas", "crowd", "difficult")
    for category, number, box, area, crowd, difficult in zip(*(getattr(truth, name).tolist() for name in names)):
        yield category, number, {"iscrowd": int(crowd), "bbox": box, "area": BEYOND_SIZES if difficult else area}


def coco_results(truth: COCO, detections: Instances) -> COCO:
    """The detections as an object of pycocotools, with their masks where they have some.

    A detection with a mask has its box too, as in predictions.json: pycocotools then takes the box's area for the size.
    """
    rows = coco_rows(detections)
    images = [each["id"] for each in truth.dataset["images"]]
    categories = {each["index"]: each["id"] for each in truth.dataset["categories"]}
    codes = None if detections.encoded_masks is None else detections.encoded_masks.codes
    records = [
        {"image_id": images[int(image)], "category_id": categories[int(cls)], "score": score, "bbox": box}
        for image, *box, score, cls in rows.tolist()
    ]
    if codes is not None:
        for record, code in zip(records, codes, strict=True):
            record["segmentation"] = code
    with contextlib.redirect_stdout(io.StringIO()):
        if records:
            return truth.loadRes(records)
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
        truths = sum(int((item["gtIgnore"] == 0).sum()) for item in items)
        if truths:
            ignored = np.concatenate([item["dtIgnore"][0] for item in items]).astype(bool)  # boxes of impossible size
            scores = np.concatenate([item["dtScores"] for item in items])
            hits = np.concatenate([item["dtMatches"][0] > 0 for item in items])
            matches[index] = ClassMatches(scores[~ignored], hits[~ignored], truths)
    return matches
