"""Validation: COCO average precision on original-image coordinates, by pycocotools.

Letterboxed rectangular batches, multi-label suppression, boxes back to original pixels (spec/interface.md section 7 with
the choices of spec/families.md section 3). Precision and recall are those at the confidence with the best mean F1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.dataset import Sample
from ..data.loading.loader import ValLoader
from ..models.detector import Detector
from ..models.inference.compiling import warm
from ..ops.instances import Instances
from ..ops.letterbox import Fit
from ..ops.nms import Suppression
from ..tasks import DETECT, Task
from ..tasks.detect import predict_decoded
from ..tasks.metrics import Metrics

Watch = Callable[[int, Tensor, Sequence[int], list[Instances]], None]
DEFAULT_CONF = 0.001
MATRIX_CONF = 0.25  # what the confusion matrix counts where conf is the default
STAGES = ("preprocess", "inference", "loss", "postprocess")


class Validation(NamedTuple):
    """The result of a validation: the metrics, and all detections in pixels of the original images.

    The `image` of a detection is the index of its sample.
    """

    metrics: Metrics
    detections: Instances


@dataclass(frozen=True)
class Hooks:
    """What a validation calls on its way.

    progress: wraps the iterable of batches (tqdm-like). notify: gets the name of each event (interface.md section 10).
    watch: gets for each batch its number, the images (B, 3, H, W) uint8 on the device, the indices of their samples, and the
    detections of each image in pixels of the input.
    gather: where `loader` reads a share of the samples and other processes the rest, gets this process's list of parts and
    returns all processes' lists joined: all processes get the same Metrics, bit for bit.
    """

    progress: Callable = iter
    notify: Callable[[str], None] = lambda event: None
    watch: Watch | None = None
    gather: Callable[[list], list] = list


class _Part(NamedTuple):
    """What one batch gave: indices of its samples, detections in original pixels, losses and seconds of each stage."""

    indices: list[int]
    detections: Instances
    losses: np.ndarray
    seconds: np.ndarray


@torch.inference_mode()
def validate(
    model: Detector,
    samples: Sequence[Sample],
    loader: ValLoader,
    rule: Suppression = Suppression(conf=DEFAULT_CONF, multi_label=True),  # noqa: B008  frozen
    *,
    task: Task = DETECT,
    gains: Mapping[str, float] | None = None,
    autocast: torch.dtype | None = None,
    augment: bool = False,
    single: bool = False,
    hooks: Hooks = Hooks(),  # noqa: B008  frozen
) -> Validation:
    """Measure `model` (left in eval mode) on the samples that `loader` reads.

    rule: which candidates are detections. The confusion matrix counts detections above 0.25, or above `rule.conf` where that
    is not the default. gains: also compute the losses, with these weights. autocast: half-precision type. augment: merge the
    detections on copies of each image. single: the samples have one class, "item", whatever the model's classes are: every
    detection counts as that class, and no losses are computed.
    """
    model.eval()
    weight = next(model.parameters())
    notify = partial(_outside_inference, hooks.notify)
    names = {0: "item"} if single else model.names
    if single:
        rule, gains = replace(rule, multi_label=False, agnostic=True), None
    parts: list[_Part] = []
    clock = _Clock(weight.device)
    notify("on_val_start")
    for number, (pixels, fits, indices) in enumerate(hooks.progress(loader)):
        notify("on_val_batch_start")
        images = pixels.to(weight.dtype) / 255
        clock.lap("preprocess")
        if warm(model, images):  # the time of compiling is not counted
            clock.last = time.perf_counter()
        with torch.autocast(weight.device.type, dtype=autocast, enabled=autocast is not None):
            raw = model(images)
            merged = predict_decoded(model, images, augment=True) if augment else None
        clock.lap("inference")
        losses = np.zeros(len(task.losses))
        if gains is not None:
            labels = _targets(samples, fits, indices).to(weight.device)
            values = task.loss(raw, labels, sizes=raw.sizes, strides=model.strides, gains=gains)
            losses = torch.stack([*values.values()]).double().cpu().numpy()
        clock.lap("loss")
        detections = task.decode(model.decode(raw) if merged is None else merged, rule)
        if single:
            detections = [replace(found, classes=torch.zeros_like(found.classes)) for found in detections]
        original = Instances.cat([_original(*row) for row in zip(detections, fits, indices, strict=True)])
        clock.lap("postprocess")
        parts.append(_Part(list(indices), original, losses, clock.taken()))
        if hooks.watch is not None:
            hooks.watch(number, pixels, indices, detections)
        notify("on_val_batch_end")
        clock.restart()
    validation = _join(hooks.gather(parts), samples, names, rule.conf, task, with_losses=gains is not None)
    notify("on_val_end")
    return validation


def _original(detections: Instances, fit: Fit, index: int) -> Instances:
    """Detections of one image in pixels of the network input -> in pixels of the original image, on the CPU."""
    image = torch.full_like(detections.classes, index)
    return replace(detections, boxes=fit.to_original(detections.boxes), image=image).to("cpu")


def _join(
    parts: list[_Part], samples: Sequence[Sample], names: Mapping[int, str], conf: float, task: Task, with_losses: bool
) -> Validation:
    # In the order of the samples' indices, so that sums do not depend on which process did which batch.
    parts = sorted(parts, key=lambda part: part.indices)
    no_detections = replace(Instances.empty(), scores=torch.zeros(0), image=torch.zeros(0, dtype=torch.int64))
    detections = Instances.cat([part.detections for part in parts]) if parts else no_detections
    seconds = np.sum([part.seconds for part in parts], axis=0) if parts else np.zeros(len(STAGES))
    speed = dict(zip(STAGES, (seconds * 1e3 / max(len(samples), 1)).tolist(), strict=True))
    losses = None
    if with_losses:
        means = np.mean([part.losses for part in parts], axis=0) if parts else np.zeros(len(task.losses))
        losses = dict(zip(task.losses, means.tolist(), strict=True))
    metrics = task.evaluate(samples, detections, names, conf=MATRIX_CONF if conf == DEFAULT_CONF else conf)
    return Validation(replace(metrics, losses=losses, speed=speed, conf=conf), detections)


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


def _targets(samples: Sequence[Sample], fits: Sequence[Fit], indices: Sequence[int]) -> Instances:
    """The labels of a batch in pixels of the network input; `image` is the index in the batch."""
    labels = []
    for image, (index, fit) in enumerate(zip(indices, fits, strict=True)):
        truth = samples[index].pixel_labels()
        labels.append(Instances(fit.to_canvas(truth.boxes), truth.classes, image=torch.full_like(truth.classes, image)))
    return Instances.cat(labels)


def progress(label: str, shown: bool = True) -> Callable:
    """A tqdm bar that is there on a terminal only and leaves nothing behind."""
    return partial(
        tqdm, desc=f"{label:>9}", leave=False, disable=not (shown and sys.stderr.isatty()), dynamic_ncols=True
    )
