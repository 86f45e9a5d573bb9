"""Validation: COCO average precision on original-image coordinates, by pycocotools.

Letterboxed rectangular batches, multi-label suppression, boxes back to original pixels (spec/interface.md section 7 with
the choices of spec/families.md section 3). Precision and recall are those at the confidence with the best mean F1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.dataset import Sample, pixel_boxes
from ..data.loading.loader import ValLoader
from ..models.detector import Detector
from ..models.inference.compiling import warm
from ..ops.letterbox import Fit
from ..ops.nms import non_max_suppression
from ..tasks.assign import Targets
from ..tasks.coco import _rows, coco_metrics
from ..tasks.curves import MATRIX_CONF
from ..tasks.detect import Gains, detection_loss
from ..tasks.metrics import Metrics

Watch = Callable[[int, Tensor, Sequence[int], list[Tensor]], None]
DEFAULT_CONF = 0.001
STAGES = ("preprocess", "inference", "loss", "postprocess")


@torch.inference_mode()
def validate(
    model: Detector,
    samples: Sequence[Sample],
    loader: ValLoader,
    *,
    conf: float = DEFAULT_CONF,
    iou: float = 0.7,
    max_det: int = 300,
    agnostic: bool = False,
    gains: Gains | None = None,
    autocast: torch.dtype | None = None,
    progress: Callable | None = None,
    notify: Callable[[str], None] | None = None,
    watch: Watch | None = None,
    gather: Callable[[list], list] | None = None,
    save_dir: Path | None = None,
    classes: Sequence[int] | None = None,
    single: bool = False,
    keep: Callable[[np.ndarray], None] | None = None,
    looks: Callable[[Detector, Tensor], Tensor] | None = None,
) -> Metrics:
    """Measure `model` (left in eval mode) on the samples that `loader` reads.

    conf, iou, max_det, agnostic: as in boxes.non_max_suppression. The confusion matrix counts detections above 0.25, or above
    `conf` where that is not the default. gains: also compute the losses, with these weights. autocast: half-precision type
    on CUDA. progress: wraps the iterable of batches (tqdm-like). notify: called with the name of each event (interface.md
    section 10).
    watch: called for each batch with its number, the images (B, 3, H, W) uint8 on the device, the indices of their samples
    and the detections of each, (n, 6) x1, y1, x2, y2 (pixels of the input), score, class.
    gather: where `loader` reads a share of the samples and other processes the rest, gets this process's list of tuples of
    arrays and returns all processes' lists joined: all get the same Metrics then, bit for bit.
    classes: of what is found only these classes count. single: the samples know one class, "item", whatever the model knows:
    all that is found is of it, and no losses are computed. keep: called once with all detections, as `coco_metrics` takes them.
    looks: gives decoded predictions of model and images in the place of Detector.decode; for test-time augmentation.
    """
    model.eval()
    tell = partial(_outside_inference, notify) if notify else lambda event: None
    weight = next(model.parameters())
    parts: list[tuple[np.ndarray, ...]] = []  # of each batch: indices, detections, losses, seconds
    clock = _Clock(weight.device)
    tell("on_val_start")
    for number, (pixels, fits, indices) in enumerate(progress(loader) if progress else loader):
        tell("on_val_batch_start")
        images = pixels.to(weight.dtype) / 255
        clock.lap("preprocess")
        if warm(model, images):  # compiling is told apart
            clock.last = time.perf_counter()
        with torch.autocast(weight.device.type, dtype=autocast, enabled=autocast is not None):
            raw = model(images)
            more = looks(model, images) if looks else None
        clock.lap("inference")
        losses = np.zeros(3)
        if gains is not None and not single:
            loss = detection_loss(
                raw, raw.sizes, model.strides, _targets(samples, fits, indices, weight.device), gains=gains
            )
            losses = torch.stack((loss.box, loss.cls, loss.dfl)).double().cpu().numpy()
        clock.lap("loss")
        found = non_max_suppression(
            model.decode(raw) if more is None else more,
            conf=conf,
            iou=iou,
            max_det=max_det,
            multi_label=not single,
            agnostic=agnostic or single,
            classes=classes,
        )
        for boxes in found if single else ():
            boxes[:, 5] = 0
        rows = [_rows(index, fit, boxes) for index, fit, boxes in zip(indices, fits, found, strict=True)]
        clock.lap("postprocess")
        parts.append((np.array(indices), np.concatenate(rows), losses, clock.taken()))
        if watch is not None:
            watch(number, pixels, indices, found)
        tell("on_val_batch_end")
        clock.restart()
    metrics, detections = _join(
        gather(parts) if gather else parts, samples, {0: "item"} if single else model.names, conf
    )
    metrics = replace(metrics, losses=metrics.losses if gains is not None and not single else None, save_dir=save_dir)
    if keep is not None:
        keep(detections)
    tell("on_val_end")
    return metrics


def _join(
    parts: list[tuple[np.ndarray, ...]], samples: Sequence[Sample], names: Mapping[int, str], conf: float
) -> tuple[Metrics, np.ndarray]:
    # In the order of the samples' indices, so that sums do not depend on who did which batch.
    parts = sorted(parts, key=lambda part: part[0].tolist())
    detections = np.concatenate([part[1] for part in parts]) if parts else np.zeros((0, 7))
    losses = np.mean([part[2] for part in parts], axis=0) if parts else np.zeros(3)
    seconds = np.sum([part[3] for part in parts], axis=0) if parts else np.zeros(len(STAGES))
    speed = dict(zip(STAGES, (seconds * 1e3 / max(len(samples), 1)).tolist(), strict=True))
    numbers = coco_metrics(samples, detections, names, conf=MATRIX_CONF if conf == DEFAULT_CONF else conf)
    return Metrics(**numbers, losses=tuple(losses.tolist()), speed=speed, conf=conf), detections


def _outside_inference(notify: Callable[[str], None], event: str) -> None:
    with torch.inference_mode(False):  # what a callback makes can be trained on
        notify(event)


class _Clock:
    # Seconds of each stage of one batch; on a GPU a lap waits for the work it measures. What runs between `taken` and
    # `restart` counts for none.
    def __init__(self, device: torch.device):
        self.device = device
        self.restart()

    def restart(self) -> None:
        self.spent, self.last = dict.fromkeys(STAGES, 0.0), time.perf_counter()

    def lap(self, stage: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.spent[stage] += now - self.last
        self.last = now

    def taken(self) -> np.ndarray:
        return np.array([self.spent[stage] for stage in STAGES])


def _targets(samples: Sequence[Sample], fits: Sequence[Fit], indices: Sequence[int], device: torch.device) -> Targets:
    boxes = [fit.to_canvas(pixel_boxes(samples[i])) for i, fit in zip(indices, fits, strict=True)]
    counts = torch.tensor([len(b) for b in boxes])
    classes = torch.cat([samples[i].classes for i in indices])
    owner = torch.repeat_interleave(torch.arange(len(boxes)), counts)
    return Targets(torch.cat(boxes).to(device), classes.to(device), owner.to(device))


def progress(label: str, shown: bool = True) -> Callable:
    """A tqdm bar that is there on a terminal only and leaves nothing behind."""
    return partial(
        tqdm, desc=f"{label:>9}", leave=False, disable=not (shown and sys.stderr.isatty()), dynamic_ncols=True
    )
