"""The largest batch that fits: tried on the GPU with images of noise, before a run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from statistics import linear_regression, mean
from types import MappingProxyType

import torch

from ..config.errors import UserError
from ..config.notes import print_note
from ..config.printable import say
from ..data.loading.loader import USUAL_BATCH
from ..models.detector import Detector
from ..ops.instances import Instances
from ..ops.polygons import Polygons
from ..tasks import task_of

FRACTION = 0.6  # of the GPU's memory, filled with batch=-1
TRIAL_BATCHES = (1, 2, 4, 8, 16, 32, 64)
OBJECTS = 20  # labels an image, a crowded scene


def fitting_batch(peaks: Sequence[tuple[int, float]], limit: float) -> int:
    """The largest batch whose peak stays under `limit`, by a line fitted to the tried ones (least squares).

    peaks: (batch, bytes) of the tried batches, in rising order. limit: bytes. Raises UserError where the first does
    not fit.
    """
    if peaks[0][1] > limit:
        raise UserError(
            f"A batch of {peaks[0][0]} takes {peaks[0][1] / 2**30:.1f} GiB, more than the {limit / 2**30:.1f} GiB "
            "allowed. Give a smaller imgsz=, a smaller scale=, or checkpointing=True."
        )
    if len(peaks) == 1:
        return peaks[0][0]
    batches, sizes = zip(*peaks)
    mean_x, mean_y, slope = mean(batches), mean(sizes), linear_regression(batches, sizes).slope
    if slope <= 0:
        return peaks[-1][0]
    estimate = int((limit - mean_y) / slope + mean_x)
    too_large = [batch for batch, peak in peaks if peak > limit]
    if too_large:
        estimate = min(estimate, too_large[0] - 1)
    return max(estimate, max(batch for batch, peak in peaks if peak <= limit))


def search_batch(
    model: Detector,
    batch: float,
    imgsz: int,
    device: torch.device,
    precision: torch.dtype | None,
    loss_options: Mapping[str, object] = MappingProxyType({}),
) -> int:
    """Find a batch size for training `model` at imgsz; batch: -1, or the fraction of the GPU's memory to fill.

    loss_options: further arguments of the task's loss. On other devices than CUDA it is USUAL_BATCH, with a note.
    Raises UserError where one image does not fit.
    """
    if device.type != "cuda":
        print_note(f"batch={batch:g} looks for what fits a GPU's memory; using {USUAL_BATCH} on {device.type}.")
        return USUAL_BATCH
    fraction = FRACTION if batch < 0 else batch
    total = torch.cuda.get_device_properties(device).total_memory
    free = total - torch.cuda.memory_reserved(device)
    peaks: list[tuple[int, float]] = []
    for tried in TRIAL_BATCHES:
        try:
            peaks.append((tried, float(_peak(model, tried, imgsz, device, precision, loss_options))))
        except torch.cuda.OutOfMemoryError:
            peaks.append((tried, float(free) + 1))
        if peaks[-1][1] > fraction * total:
            break
    images = fitting_batch(peaks, fraction * total)
    gib = total / 2**30
    say(f"batch={batch:g}: {images} images are estimated to fill {fraction:.0%} of {gib:.1f} GiB at {imgsz} px")
    return images


def _peak(
    model: Detector,
    batch: int,
    imgsz: int,
    device: torch.device,
    precision: torch.dtype | None,
    loss_options: Mapping[str, object],
) -> int:
    """Bytes that one step takes: what a batch needs, weights, gradients, two moments of the optimizer and the EMA."""
    trial = copy.deepcopy(model).to(device, memory_format=torch.channels_last).train()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    images = torch.rand(batch, 3, imgsz, imgsz, device=device).contiguous(memory_format=torch.channels_last)
    task = task_of(model)
    labels = _labels(batch, OBJECTS if task.objects else 1, imgsz, model).to(device)
    try:
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            raw = trial(images)
        gains = dict.fromkeys(task.losses, 1.0)
        losses = task.loss(raw, labels, sizes=raw.sizes, strides=model.strides, gains=gains, **loss_options)
        sum(losses.values()).backward()
        weights = sum(parameter.numel() * parameter.element_size() for parameter in trial.parameters())
        return torch.cuda.max_memory_reserved(device) + 3 * weights
    finally:
        del trial, images
        torch.cuda.empty_cache()


def _labels(batch: int, objects: int, imgsz: int, model: Detector) -> Instances:
    """Square labels at random places, so many in each image, an eighth of the side large, for any task.

    They have their outlines, which are the rectangles of oriented boxes, and all keypoints of the model in the middle.
    """
    corner = torch.rand(batch * objects, 2) * imgsz / 2
    boxes = torch.cat((corner, corner + imgsz / 8), 1)
    outlines, counts = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 2), torch.full((len(boxes),), 4)
    middle = torch.cat((corner + imgsz / 16, torch.ones(len(boxes), 1)), 1)  # x, y, labelled
    return Instances(
        boxes,
        torch.zeros(len(boxes), dtype=torch.int64),
        image=torch.arange(batch).repeat_interleave(objects),
        polygons=Polygons(outlines, counts, rectangles=task_of(model).oriented),
        keypoints=middle[:, None].repeat(1, model.keypoints.count, 1) if model.keypoints else None,
    )
