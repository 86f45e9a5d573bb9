"""The largest batch that fits: tried on the GPU with images of noise, before a run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch

from ..config.errors import UserError
from ..data.loading.loader import USUAL_BATCH
from ..models.detector import Detector
from ..ops.instances import Instances
from ..tasks import task_of

SHARE = 0.6  # of the GPU's memory, where batch=-1 asks for what fits
TRIED = (1, 2, 4, 8, 16, 32, 64)
BOXES = 20  # ground truths an image, a crowded scene


def fitting_batch(peaks: Sequence[tuple[int, float]], limit: float) -> int:
    """The largest batch whose peak stays under `limit`, by the straight line through (batch, peak) pairs in the least squares.

    Raises UserError where not even the smallest tried one fits.
    """
    if peaks[0][1] > limit:
        raise UserError(
            f"A batch of {peaks[0][0]} takes {peaks[0][1] / 2**30:.1f} GiB, more than the {limit / 2**30:.1f} GiB allowed. "
            "Give a smaller imgsz=, a smaller scale=, or checkpointing=True."
        )
    if len(peaks) == 1:
        return peaks[0][0]
    count = len(peaks)
    mean_x, mean_y = sum(x for x, _ in peaks) / count, sum(y for _, y in peaks) / count
    slope = sum((x - mean_x) * (y - mean_y) for x, y in peaks) / sum((x - mean_x) ** 2 for x, _ in peaks)
    if slope <= 0:
        return peaks[-1][0]
    fit = int((limit - mean_y) / slope + mean_x)
    held = max(batch for batch, peak in peaks if peak <= limit)
    failed = min((batch for batch, peak in peaks if peak > limit), default=None)
    return max(min(fit, failed - 1) if failed else fit, held)


def search_batch(
    model: Detector,
    wanted: float,
    imgsz: int,
    device: torch.device,
    precision: torch.dtype | None,
    say: Callable[[str], None],
) -> int:
    """A batch size for training `model` at imgsz; wanted: -1, or the share of the GPU's memory to fill.

    Elsewhere than on CUDA it is USUAL_BATCH, with a note. Raises UserError where one image does not fit.
    """
    if device.type != "cuda":
        say(f"note: batch={wanted:g} looks for what fits a GPU's memory; using {USUAL_BATCH} on {device.type}.")
        return USUAL_BATCH
    share = SHARE if wanted < 0 else wanted
    total = torch.cuda.get_device_properties(device).total_memory
    free = total - torch.cuda.memory_reserved(device)
    peaks: list[tuple[int, float]] = []
    for batch in TRIED:
        try:
            peaks.append((batch, float(_peak(model, batch, imgsz, device, precision))))
        except torch.cuda.OutOfMemoryError:
            peaks.append((batch, float(free) + 1))
        if peaks[-1][1] > share * total:
            break
    found = fitting_batch(peaks, share * total)
    say(f"batch={wanted:g}: {found} images are estimated to fill {share:.0%} of {total / 2**30:.1f} GiB at {imgsz} px")
    return found


def _peak(model: Detector, batch: int, imgsz: int, device: torch.device, precision: torch.dtype | None) -> int:
    """Bytes that one step takes at most: weights, gradients, two moments and the EMA, and what a batch needs."""
    trial = copy.deepcopy(model).to(device, memory_format=torch.channels_last).train()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    images = torch.rand(batch, 3, imgsz, imgsz, device=device).contiguous(memory_format=torch.channels_last)
    corner = torch.rand(batch * BOXES, 2, device=device) * imgsz / 2
    labels = Instances(
        torch.cat((corner, corner + imgsz / 8), 1),
        torch.zeros(batch * BOXES, dtype=torch.int64, device=device),
        image=torch.arange(batch, device=device).repeat_interleave(BOXES),
    )
    try:
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            raw = trial(images)
        task = task_of(model)
        gains = dict.fromkeys(task.losses, 1.0)
        losses = task.loss(raw, labels, sizes=raw.sizes, strides=model.strides, gains=gains)
        sum(losses.values()).backward()
        weights = sum(parameter.numel() * parameter.element_size() for parameter in trial.parameters())
        return torch.cuda.max_memory_reserved(device) + 3 * weights
    finally:
        del trial, images
        torch.cuda.empty_cache()
