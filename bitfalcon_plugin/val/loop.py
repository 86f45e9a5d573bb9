"""Validation: COCO average precision on original-image coordinates, by pycocotools.

Batches are letterboxed, suppression is multi-label, and boxes are moved back to original pixels (spec/interface.md
section 7 with the choices of spec/families.md section 3). Precision and recall are taken at the confidence with the
best mean F1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.dataset import Sample
from ..data.images import UnreadableImage
from ..data.loading.bad_images import BadImages
from ..data.loading.loader import ValLoader
from ..models.detector import Detector, rows_named
from ..models.inference.compiling import warm
from ..ops.instances import Instances
from ..ops.letterbox import Fit
from ..ops.nms import Suppression
from ..tasks import DETECT, Task
from ..tasks.confusion import MATRIX_CONF
from ..tasks.detect import Decoded, predict_decoded
from ..tasks.letterbox_ap import letterbox_metrics, match_by_score
from ..tasks.metrics import TaskMetrics
from .tiled import ImageInTiles, TileLoader

Watch = Callable[[int, Tensor, Sequence[int], list[Instances], Sequence["Tensor | None"]], None]
STAGES = ("preprocess", "inference", "loss", "postprocess")


@dataclass(frozen=True)
class ValOptions:
    """How a network is validated.

    rule: which candidates are detections. The confusion matrix counts detections above 0.25, or above `rule.conf` where
    rule.conf is not the default. gains: weights of the losses; None computes no losses. autocast: half-precision type.
    augment: merge the detections on copies of each image. single: the samples have one class, "item"; every detection
    counts as that class whatever the model's classes are, and no losses are computed. letterbox_ap:
    compute Metrics.letterbox too. loss_options: further arguments of the task's loss.
    """

    rule: Suppression = Suppression(conf=DETECT.conf, multi_label=True)
    gains: Mapping[str, float] | None = None
    autocast: torch.dtype | None = None
    augment: bool = False
    single: bool = False
    letterbox_ap: bool = False
    loss_options: Mapping[str, object] = field(default_factory=dict)

    def resolved(self) -> ValOptions:
        """Return options that agree with each other: `single` suppresses across classes and computes no losses."""
        if not self.single:
            return self
        return replace(self, rule=replace(self.rule, multi_label=False, agnostic=True), gains=None)


@dataclass(frozen=True)
class Hooks:
    """Functions that a validation calls.

    progress: wraps the iterable of batches, like tqdm. notify: gets the name of each event (interface.md section 10).
    watch: gets the number of each batch, the images (B, 3, H, W) uint8 on the device, the indices of the samples, the
    detections of each image in pixels of the input, and the prototypes of each image or None. watched: how many batches
    are watched of images in tiles, which are read again for it. gather: where other
    processes validate other samples, gets this process's list of parts and returns the lists of all processes joined;
    all then get the same Metrics, bit for bit.
    """

    progress: Callable = iter
    notify: Callable[[str], None] = lambda event: None
    watch: Watch | None = None
    watched: int = 0
    gather: Callable[[list], list] = list


class Validation(NamedTuple):
    """The result of a validation: the metrics, and all detections in pixels of the original images.

    samples: those whose images could be read. The `image` of a detection is the index of its sample among these.
    """

    metrics: TaskMetrics
    detections: Instances
    samples: Sequence[Sample]


class _Part(NamedTuple):
    """The result of one batch: indices of its samples, detections in original pixels, losses, seconds of each stage.

    hits: for each detection at which IoUs it finds a label (tasks.letterbox_ap), where that is computed.
    """

    indices: list[int]
    detections: Instances
    losses: np.ndarray
    seconds: np.ndarray
    hits: Tensor | None


@torch.inference_mode()
def validate(
    model: Detector,
    samples: Sequence[Sample],
    loader: ValLoader | TileLoader,
    options: ValOptions = ValOptions(),
    *,
    task: Task = DETECT,
    hooks: Hooks = Hooks(),
) -> Validation:
    """Validate `model` on the samples that `loader` reads, and leave it in eval mode.

    Images that cannot be read are left out, and their number is printed. Raises UserError where none can be read.
    """
    model.eval()
    options = options.resolved()
    notify = partial(_outside_inference, hooks.notify)
    parts: list[_Part] = []
    clock = _Clock(next(model.parameters()).device)
    notify("on_val_start")
    for number, batch in enumerate(hooks.progress(loader)):
        notify("on_val_batch_start")
        images, _, indices = batch
        if isinstance(images, ImageInTiles):
            try:
                found, part = _validate_tiles(model, images, indices[0], options, task)
                is_drawn = hooks.watch is not None and number < hooks.watched
                detections, planes = ([images.on_drawing(found)], [None]) if is_drawn else ([], [])
                images = images.drawn() if is_drawn else None
            except UnreadableImage as error:
                loader.bad.add([(indices[0], str(error))])
                notify("on_val_batch_end")
                continue
        else:
            detections, planes, part = _validate_batch(model, samples, batch, options, task, clock)
        parts.append(part)
        if hooks.watch is not None and images is not None:
            hooks.watch(number, images, indices, detections, planes)
        notify("on_val_batch_end")
        clock.restart()
    names = {0: "item"} if options.single else model.names
    samples, parts = _readable(samples, hooks.gather(parts), getattr(loader, "bad", None), hooks)
    validation = _join(parts, samples, names, options, task)
    notify("on_val_end")
    return validation


def _readable(
    samples: Sequence[Sample], parts: list[_Part], bad: BadImages | None, hooks: Hooks
) -> tuple[Sequence[Sample], list[_Part]]:
    """Leave out the samples whose images could not be read: the parts then have the indices of the others.

    bad: None where the loader is a caller's own.
    """
    if bad is None:
        return samples, parts
    bad.join(hooks.gather)
    bad.report()
    bad.require_some()
    if not bad.reasons:
        return samples, parts
    usable = [index for index in range(len(samples)) if index not in bad.reasons]
    places = torch.full((len(samples),), -1)
    places[usable] = torch.arange(len(usable))
    moved = [
        part._replace(
            indices=places[part.indices].tolist(),
            detections=replace(part.detections, image=places[part.detections.image]),
        )
        for part in parts
    ]
    return [samples[index] for index in usable], moved


def _validate_batch(
    model: Detector, samples: Sequence[Sample], batch: tuple, options: ValOptions, task: Task, clock: _Clock
) -> tuple[list[Instances], Sequence[Tensor | None], _Part]:
    """Return the detections and prototypes of each image in pixels of the input, and what is kept of the batch."""
    pixels, fits, indices = batch
    weight = next(model.parameters())
    images = pixels.to(weight.dtype) / 255
    clock.lap("preprocess")
    if warm(model, images):  # the time of compiling is not counted
        clock.last = time.perf_counter()
    is_autocast = options.autocast is not None
    with rows_named(), torch.autocast(weight.device.type, dtype=options.autocast, enabled=is_autocast):
        raw = model(images)
        augmented = predict_decoded(model, images, augment=True) if options.augment else None
    clock.lap("inference")
    losses = np.zeros(len(task.losses))
    if options.gains is not None:
        labels = _targets(samples, fits, indices).to(weight.device)
        factors = {"gains": options.gains, **options.loss_options}
        values = task.loss(raw, labels, sizes=raw.sizes, strides=model.strides, **factors)
        losses = torch.stack([*values.values()]).double().cpu().numpy()
    clock.lap("loss")
    decoded = Decoded.of(model, raw, tuple(images.shape[2:])) if augmented is None else augmented
    detections = task.decode(decoded, options.rule)
    if options.single:
        detections = [replace(each, classes=torch.zeros_like(each.classes)) for each in detections]
    planes = [None] * len(fits) if decoded.prototypes is None else decoded.prototypes
    placed = [_placed(task, *each) for each in zip(detections, fits, planes, indices, strict=True)]
    original = Instances.cat([each.to("cpu") for each, _ in placed])
    detections = [each.only(visible) for each, (_, visible) in zip(detections, placed, strict=True)]
    clock.lap("postprocess")
    seconds = clock.seconds()
    hits = None
    if options.letterbox_ap:
        labels = _labels_on_canvas(samples, fits, indices)
        hits = torch.cat([match_by_score(*each) for each in zip(detections, labels, strict=True)])
    return detections, planes, _Part(list(indices), original, losses, seconds, hits)


def _validate_tiles(
    model: Detector, image: ImageInTiles, index: int, options: ValOptions, task: Task
) -> tuple[Instances, _Part]:
    """Return the detections of an image in tiles, in pixels of the image, and what is kept of them."""
    changes = {"rule": options.rule, "augment": options.augment, "autocast": options.autocast}
    found = image.detect(model, task, **changes)
    (placed,) = found.detections
    if options.single:
        placed = replace(placed, classes=torch.zeros_like(placed.classes))
    placed = placed.to("cpu")
    encoded = _encoded(placed, index)
    seconds = {"preprocess": found.preprocess, "inference": found.inference, "postprocess": found.postprocess}
    seconds = np.array([seconds.get(stage, 0.0) for stage in STAGES])
    return placed, _Part([index], encoded, np.zeros(len(task.losses)), seconds, None)


def _encoded(detections: Instances, index: int) -> Instances:
    """Return the detections of sample `index` with their masks encoded."""
    if detections.patches is not None:
        detections = replace(detections, patches=None, encoded_masks=detections.patches.encode())
    return replace(detections, image=torch.full_like(detections.classes, index))


def _placed(
    task: Task, detections: Instances, fit: Fit, prototypes: Tensor | None, index: int
) -> tuple[Instances, Tensor]:
    """Move detections from pixels of the network input to pixels of the original image.

    Masks get the size of the original image and are encoded. Also return which detections are visible: the others are
    left out.
    """
    placed = task.place(detections, fit, prototypes, True)
    visible = placed.visible
    return _encoded(placed.only(visible), index), visible


def _join(
    parts: list[_Part], samples: Sequence[Sample], names: Mapping[int, str], options: ValOptions, task: Task
) -> Validation:
    """Evaluate all parts in the order of their samples: no sum depends on which process computed which batch."""
    parts = sorted(parts, key=lambda part: part.indices)
    no_detections = replace(Instances.empty(), scores=torch.zeros(0), image=torch.zeros(0, dtype=torch.int64))
    detections = Instances.cat([part.detections for part in parts]) if parts else no_detections
    milliseconds = sum((part.seconds for part in parts), np.zeros(len(STAGES))) * 1e3 / max(len(samples), 1)
    losses = None
    if options.gains is not None:
        images = None if task.times_images else [len(part.indices) for part in parts]  # a mean over images stays one
        losses = [part.losses for part in parts]
        means = np.average(losses, axis=0, weights=images) if parts else np.zeros(len(task.losses))
        losses = dict(zip(task.losses, means.tolist(), strict=True))
    conf = options.rule.conf
    metrics = task.evaluate(samples, detections, names, conf=MATRIX_CONF if conf == task.conf else conf)
    if options.letterbox_ap and parts:
        hits = torch.cat([part.hits for part in parts])
        metrics = replace(metrics, letterbox=letterbox_metrics(metrics, detections, hits))
    speed = dict(zip(STAGES, milliseconds.tolist(), strict=True))
    return Validation(replace(metrics, losses=losses, speed=speed, conf=conf), detections, samples)


def _outside_inference(notify: Callable[[str], None], event: str) -> None:
    with torch.inference_mode(False):  # tensors that a callback makes can be trained on
        notify(event)


class _Clock:
    """The seconds of each stage of one batch, from `restart` on. On a GPU a lap waits for the work that it measures."""

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

    def seconds(self) -> np.ndarray:
        return np.array([self.spent[stage] for stage in STAGES])


def _targets(samples: Sequence[Sample], fits: Sequence[Fit], indices: Sequence[int]) -> Instances:
    """Return the labels of a batch in pixels of the network input; `image` is the index in the batch."""
    return Instances.cat(_labels_on_canvas(samples, fits, indices))


def _labels_on_canvas(samples: Sequence[Sample], fits: Sequence[Fit], indices: Sequence[int]) -> list[Instances]:
    """Return the labels of each image of a batch in pixels of the network input; `image` is the index in the batch."""
    labels = []
    for image, (index, fit) in enumerate(zip(indices, fits, strict=True)):
        truth = samples[index].pixel_labels()
        labels.append(replace(truth.to_canvas(fit), image=torch.full_like(truth.classes, image)))
    return labels


def progress(label: str, shown: bool = True) -> Callable:
    """Return a function that wraps batches in a tqdm bar, which shows on a terminal only and leaves nothing behind."""
    hidden = not (shown and sys.stderr.isatty())
    return partial(tqdm, desc=f"{label:>9}", leave=False, disable=hidden, dynamic_ncols=True)
