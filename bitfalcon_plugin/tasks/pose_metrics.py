"""The numbers of a validation of poses: those of the boxes, and the same numbers of the keypoints beside them.

pycocotools matches and sums up; the sigmas and the areas are those of the dataset. Written from spec/pose-obb.md 1.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.dataset import Sample
from ..ops.instances import Instances
from .coco import LIMITS, SizedEvaluation, coco_results, coco_truth, counts_of, numbers_of
from .confusion import MATRIX_CONF, by_image
from .curves import Curves
from .letterbox_ap import average_precision, match_by_score
from .metrics import BoxMetrics
from .oks import BOX_SHARE, similarity_of
from .part_metrics import PartMetrics

# What COCO sums up of keypoints, for which it has no small objects.
POINT_STATS = ("AP", "AP50", "AP75", "APmedium", "APlarge", "AR", "AR50", "AR75", "ARmedium", "ARlarge")


@dataclass(eq=False)
class PoseMetrics(PartMetrics):
    """Metrics of the boxes, and of the keypoints: pose, pose_stats and pose_lines are what box, stats and lines are.

    OKS takes the place of IoU, by pycocotools with the `sigmas` (K,). Labels without a labelled keypoint are ignored:
    a detection on them is neither right nor wrong. every_label: `pose` with AP in which such labels count as misses,
    as other programs have it; None where there are none. unlabelled: their number.
    """

    pose: BoxMetrics | None = None
    pose_stats: Mapping[str, float] | None = None
    pose_lines: Curves | None = None
    sigmas: Sequence[float] = ()
    every_label: BoxMetrics | None = None
    unlabelled: int = 0

    letter: ClassVar[str] = "P"
    prefix: ClassVar[str] = "Pose"
    title: ClassVar[str] = "Keypoints"
    compared: ClassVar[str] = "keypoints (pycocotools, by OKS)"

    @property
    def part(self) -> BoxMetrics:
        return self.pose

    @property
    def part_stats(self) -> Mapping[str, float]:
        return self.pose_stats

    @property
    def part_lines(self) -> Curves:
        return self.pose_lines

    def table(self, verbose: bool = True) -> str:
        """Return the table people read, with the sigmas, and a line where labels without keypoints are left out."""
        values = sorted(set(self.sigmas))
        sigmas = f"{values[0]:.3g}" if len(values) == 1 else f"{values[0]:.3g} to {values[-1]:.3g}"
        lines = [super().table(verbose), f"sigma of the keypoints in OKS: {sigmas}"]
        if self.every_label is not None:
            numbers = f"AP {self.every_label.map:.3f}  AP50 {self.every_label.map50:.3f}"
            left_out = f"{self.unlabelled} labels have no labelled keypoint and are ignored"
            lines.append(f"{left_out}; with these as misses (not COCO's): {numbers}")
        return "\n".join(lines)


def pose_metrics(
    samples: Sequence[Sample],
    detections: Instances,
    names: Mapping[int, str],
    sigmas: Sequence[float],
    *,
    conf: float = MATRIX_CONF,
) -> PoseMetrics:
    """Compute PoseMetrics from detections with keypoints (n, K, 2 or 3); otherwise as coco.coco_metrics."""
    labels = [sample.pixel_labels() for sample in samples]
    truth = coco_truth(samples, labels, names)
    results = coco_results(truth, detections)
    boxes = numbers_of(COCOeval(truth, results, "bbox"), names)
    _add_keypoints(truth, results, samples, labels, detections)
    if samples[0].truth is None:
        points = numbers_of(KeypointEvaluation(truth, results, sigmas), names)
    else:  # COCO's own limits and sizes, so that the numbers are those of the annotation file
        evaluation = COCOeval(truth, results, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        points = numbers_of(evaluation, names, POINT_STATS)
    counts = counts_of(labels, detections, names, boxes.lines, conf)
    annotations = truth.dataset["annotations"]
    unlabelled = sum(each["num_keypoints"] == 0 and not each["iscrowd"] for each in annotations)
    every = _with_every_label(boxes.box, labels, detections, sigmas) if unlabelled else None
    parts = {"pose": points.box, "pose_stats": points.stats, "pose_lines": points.lines}
    return PoseMetrics(**vars(boxes), **counts, **parts, sigmas=tuple(sigmas), every_label=every, unlabelled=unlabelled)


class KeypointEvaluation(SizedEvaluation):
    """COCO's evaluation of keypoints with the sigmas (K,) of a dataset, of all detections and of all sizes."""

    def __init__(self, truth: COCO, results: COCO, sigmas: Sequence[float]):
        sizes = COCOeval(iouType="bbox").params
        super().__init__(truth, results, "keypoints")
        self.params.maxDets, self.params.kpt_oks_sigmas = list(LIMITS), np.array(sigmas)
        self.params.areaRng, self.params.areaRngLbl = sizes.areaRng, sizes.areaRngLbl


def _add_keypoints(
    truth: COCO, results: COCO, samples: Sequence[Sample], labels: Sequence[Instances], detections: Instances
) -> None:
    """Give the annotations their keypoints, flat x, y, visibility, and those of the labels the area that OKS takes.

    The area is that of the annotation file, where there is one.
    """
    annotations = iter(truth.dataset["annotations"])
    for sample, part in zip(samples, labels, strict=True):
        if sample.truth is not None:
            for points, labelled in zip(sample.truth.keypoints, sample.truth.labelled.tolist(), strict=True):
                next(annotations).update(keypoints=points.flatten(), num_keypoints=labelled)
        elif part.keypoints is not None:
            for points in part.keypoints.double().numpy():
                annotation = next(annotations)
                width, height = annotation["bbox"][2:]
                labelled = int((points[:, 2] != 0).sum())
                area = BOX_SHARE * width * height
                annotation.update(keypoints=points.flatten(), num_keypoints=labelled, area=area)
    found = detections.keypoints
    if found is not None:
        flat = torch.cat([found[..., :2], torch.ones_like(found[..., :1])], -1).flatten(1).double().cpu().numpy()
        for annotation, points in zip(results.dataset["annotations"], flat, strict=True):
            annotation["keypoints"] = points


def _with_every_label(
    boxes: BoxMetrics, labels: Sequence[Instances], detections: Instances, sigmas: Sequence[float]
) -> BoxMetrics:
    """Return `boxes` with the AP of keypoints in which labels without a labelled keypoint count as misses."""
    per_image = by_image(detections, len(labels), conf=-1.0)
    pairs = zip(per_image, labels, strict=True)
    hits = [match_by_score(found, true, similarity_of(found, true, sigmas)) for found, true in pairs]
    scores, classes = (torch.cat([getattr(part, name) for part in per_image]) for name in ("scores", "classes"))
    hits, scores, classes = torch.cat(hits).numpy(), scores.numpy(), classes.numpy()
    true_classes = torch.cat([part.classes for part in labels]).numpy()
    all_ap = np.zeros_like(boxes.all_ap)
    for row, index in enumerate(boxes.ap_class_index):
        of_class = classes == index
        all_ap[row] = average_precision(scores[of_class], hits[of_class], int((true_classes == index).sum()))
    return replace(boxes, all_ap=all_ap)
