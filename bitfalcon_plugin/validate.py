"""Validation: COCO average precision on original-image coordinates, by pycocotools.

Letterboxed rectangular batches, multi-label suppression, boxes back to original pixels (spec/interface.md section 7 with
the choices of spec/families.md section 3). Precision and recall are those at the confidence with the best mean F1.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from .boxes import Fit, non_max_suppression, xyxy_from_xywh
from .data.dataset import Sample
from .data.loader import ValLoader
from .model import Detector
from .training.assign import Targets
from .training.loss import Gains, detection_loss

STATS = ("AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge", "AR1", "AR10", "AR100", "ARsmall", "ARmedium", "ARlarge")


@dataclass(frozen=True)
class ClassRow:
    """One line of the per-class table: images with the class, its labels, and its numbers in [0, 1]."""

    name: str
    images: int
    instances: int
    precision: float
    recall: float
    ap50: float
    ap: float


@dataclass(frozen=True)
class Metrics:
    """COCO numbers of one split, in [0, 1] (nan where there is nothing to measure, as for sizes without labels)."""

    stats: dict[str, float]
    classes: tuple[ClassRow, ...]
    images: int
    instances: int
    precision: float
    recall: float
    losses: tuple[float, float, float] | None = None  # box, cls, dfl
    speed: dict[str, float] = field(default_factory=dict)  # milliseconds an image

    @property
    def fitness(self) -> float:
        """0.1 AP50 + 0.9 AP, by which the best weights are chosen."""
        return 0.1 * self.ap50 + 0.9 * self.ap

    @property
    def ap(self) -> float:
        """Mean AP over IoU 0.50 to 0.95; 0 where nothing could be measured."""
        return float(np.nan_to_num(self.stats["AP"]))

    @property
    def ap50(self) -> float:
        """AP at IoU 0.50; 0 where nothing could be measured."""
        return float(np.nan_to_num(self.stats["AP50"]))

    @property
    def results_dict(self) -> dict[str, float]:
        """The numbers under the column names of results.csv, and fitness."""
        return {"metrics/precision(B)": self.precision, "metrics/recall(B)": self.recall, "metrics/mAP50(B)": self.ap50,
                "metrics/mAP50-95(B)": self.ap, "fitness": self.fitness}

    def table(self, verbose: bool = True) -> str:
        """The table people read: all classes, then one row a class, then the COCO numbers by size."""
        head = f"{'Class':>22}{'Images':>9}{'Instances':>11}{'P':>9}{'R':>9}{'AP50':>9}{'AP50-95':>9}"
        everything = ClassRow("all", self.images, self.instances, self.precision, self.recall, self.ap50, self.ap)
        rows = [everything, *(self.classes if verbose and len(self.classes) > 1 else ())]
        lines = [head, *(f"{r.name[:21]:>22}{r.images:>9}{r.instances:>11}{r.precision:>9.3f}{r.recall:>9.3f}"
                         f"{r.ap50:>9.3f}{r.ap:>9.3f}" for r in rows)]
        lines.append("COCO (pycocotools): " + "  ".join(f"{name} {self.stats[name]:.3f}" for name in STATS[:6]))
        return "\n".join(lines)


@torch.inference_mode()
def validate(model: Detector, samples: Sequence[Sample], loader: ValLoader, *, conf: float = 0.001, iou: float = 0.7,
             max_det: int = 300, agnostic: bool = False, gains: Gains | None = None, autocast: torch.dtype | None = None,
             progress: Callable | None = None) -> Metrics:
    """Measure `model` (left in eval mode) on the samples that `loader` reads. gains: also compute the losses, with these weights.

    conf, iou, max_det, agnostic: as in boxes.non_max_suppression. autocast: half-precision type on CUDA.
    progress: wraps the iterable of batches (tqdm-like).
    """
    model.eval()
    weight = next(model.parameters())
    detections: list[np.ndarray] = []
    losses, spent, batches = torch.zeros(3), dict.fromkeys(("preprocess", "inference", "loss", "postprocess"), 0.0), 0
    clock = _Clock(spent, weight.device)
    for images, fits, indices in progress(loader) if progress else loader:
        images = images.to(weight.dtype) / 255
        clock.lap("preprocess")
        with torch.autocast(weight.device.type, dtype=autocast, enabled=autocast is not None):
            raw = model(images)
        clock.lap("inference")
        if gains is not None:
            parts = detection_loss(raw, raw.sizes, model.strides, _targets(samples, fits, indices, weight.device), gains=gains)
            losses += torch.stack((parts.box, parts.cls, parts.dfl)).cpu()
        batches += 1
        clock.lap("loss")
        found = non_max_suppression(model.decode(raw), conf=conf, iou=iou, max_det=max_det, multi_label=True, agnostic=agnostic)
        detections += [_rows(index, fit, rows) for index, fit, rows in zip(indices, fits, found, strict=True)]
        clock.lap("postprocess")
    metrics = coco_metrics(samples, np.concatenate(detections) if detections else np.zeros((0, 7)), model.names)
    speed = {stage: seconds * 1e3 / max(len(samples), 1) for stage, seconds in spent.items()}
    mean = tuple((losses / max(batches, 1)).tolist()) if gains is not None else None
    return Metrics(**metrics, losses=mean, speed=speed)


class _Clock:
    # Seconds between laps, added up by stage; on a GPU a lap waits for the work it measures.
    def __init__(self, spent: dict[str, float], device: torch.device):
        self.spent, self.device, self.last = spent, device, time.perf_counter()

    def lap(self, stage: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.spent[stage] += now - self.last
        self.last = now


def pixel_boxes(sample: Sample) -> Tensor:
    """(n, 4) xyxy in pixels of the original image."""
    height, width = sample.size
    return xyxy_from_xywh(sample.boxes) * torch.tensor([width, height, width, height], dtype=torch.float32)


def _targets(samples: Sequence[Sample], fits: Sequence[Fit], indices: Sequence[int], device: torch.device) -> Targets:
    boxes = [fit.to_canvas(pixel_boxes(samples[i])) for i, fit in zip(indices, fits, strict=True)]
    counts = torch.tensor([len(b) for b in boxes])
    classes = torch.cat([samples[i].classes for i in indices])
    owner = torch.repeat_interleave(torch.arange(len(boxes)), counts)
    return Targets(torch.cat(boxes).to(device), classes.to(device), owner.to(device))


def _rows(image: int, fit: Fit, found: Tensor) -> np.ndarray:
    # (n, 6) on the canvas -> (n, 7) image, x, y, w, h in original pixels, score, class
    boxes = fit.to_original(found[:, :4])
    rows = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2], found[:, 4:]), 1).cpu().double().numpy()
    return np.concatenate((np.full((len(rows), 1), float(image)), rows), 1)


def coco_metrics(samples: Sequence[Sample], detections: np.ndarray, names: Mapping[int, str]) -> dict[str, object]:
    """The fields of Metrics from detections (n, 7): image index, x, y, w, h in original pixels, score, class."""
    truth = _coco_truth(samples, names)
    labels = truth.dataset["annotations"]
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(detections) if len(detections) else COCO()
        if not len(detections):
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = {name: float(value) if value >= 0 else float("nan") for name, value in zip(STATS, evaluation.stats, strict=True)}
    precision, recall = _best_f1(evaluation, len(names))
    by_class = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class)
    rows = []
    for index, name in sorted(names.items()):
        own = [label for label in labels if label["category_id"] == index]
        if own:
            ap = by_class[:, :, index]
            rows.append(ClassRow(name, len({label["image_id"] for label in own}), len(own), precision[index], recall[index],
                                 float(ap[0].mean()), float(ap.mean())))
    mean = [float(np.mean([getattr(row, key) for row in rows])) if rows else 0.0 for key in ("precision", "recall")]
    return {"stats": stats, "classes": tuple(rows), "images": len(samples), "instances": len(labels), "precision": mean[0],
            "recall": mean[1]}


def _coco_truth(samples: Sequence[Sample], names: Mapping[int, str]) -> COCO:
    annotations = []
    for image, sample in enumerate(samples):
        for (x1, y1, x2, y2), cls in zip(pixel_boxes(sample).double().tolist(), sample.classes.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": cls, "bbox": box,
                                "area": box[2] * box[3], "iscrowd": 0})
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": s.size[0], "width": s.size[1]} for i, s in enumerate(samples)],
        "categories": [{"id": i, "name": name} for i, name in sorted(names.items())],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def _best_f1(evaluation: COCOeval, nc: int) -> tuple[list[float], list[float]]:
    """Precision and recall of each class at the confidence with the best mean F1 (IoU 0.50; classes with labels count).

    The curves stand on 1000 confidences; their mean is smoothed over a tenth of them before the best is taken.
    """
    grid = np.linspace(0, 1, 1000)
    images = len(evaluation.params.imgIds)
    areas = len(evaluation.params.areaRng)
    p, r, counted = np.zeros((nc, 1000)), np.zeros((nc, 1000)), np.zeros(nc, bool)
    for index in range(nc):
        start = index * areas * images  # evalImgs runs over class, area (first: all), image
        found = [item for item in evaluation.evalImgs[start:start + images] if item is not None]
        truths = sum(int((item["gtIgnore"] == 0).sum()) for item in found)
        counted[index] = truths > 0
        scores = np.concatenate([item["dtScores"] for item in found]) if found else np.zeros(0)
        if not truths or not len(scores):
            continue
        hits = np.concatenate([item["dtMatches"][0] > 0 for item in found])
        order = np.argsort(-scores, kind="mergesort")
        true = np.cumsum(hits[order])
        r[index] = np.interp(-grid, -scores[order], true / truths, left=0)
        p[index] = np.interp(-grid, -scores[order], true / np.arange(1, len(true) + 1), left=1)
    if not counted.any():
        return [0.0] * nc, [0.0] * nc
    f1 = (2 * p * r / (p + r + 1e-16))[counted].mean(0)
    width = 51  # half of a tenth of the grid on both sides
    smooth = np.convolve(np.pad(f1, width, mode="edge"), np.ones(2 * width + 1) / (2 * width + 1), "valid")
    best = int(smooth.argmax())
    return p[:, best].tolist(), r[:, best].tolist()
