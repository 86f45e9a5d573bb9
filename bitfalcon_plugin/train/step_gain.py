"""How much faster a training step is in bfloat16 than in float32 on the CPU, measured on the network itself."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import torch

from ..models.detector import Detector
from ..ops.letterbox import legal_size

ROUNDS = 4  # steps of each type, in turns, behind one that is not counted
MAX_IMAGES = 4  # of a step that is measured


def step_gain(model: Detector, imgsz: int | Sequence[int], batch: int) -> float:
    """Return the time of forward and backward in float32 over that under autocast to bfloat16.

    imgsz: side of the images in pixels, or (H, W); rounded up to what the model takes. batch: images of a step, of
    which at most MAX_IMAGES are computed. The model and torch's random numbers stay as they are.
    """
    shape = min(batch, MAX_IMAGES), 3, *legal_size(imgsz, model.multiple)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with torch.random.fork_rng(devices=[]):
        trial = copy.deepcopy(model).train()
        for _ in range(ROUNDS + 1):
            for is_half, times in seconds.items():
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
                    raw = trial(images)
                sum(output.float().mean() for output in raw.values()).backward()
                times.append(time.perf_counter() - start)
                trial.zero_grad()
    full, half = (min(times[1:]) for times in seconds.values())  # other programs only make a step longer
    return full / half
