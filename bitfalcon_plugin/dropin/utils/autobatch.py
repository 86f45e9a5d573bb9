"""The largest batch that fits a GPU, over the house's own search."""

from __future__ import annotations

from typing import Any

import torch

from ...models.detector import Detector
from ...train.batch_size import FRACTION, search_batch
from . import LOGGER


def check_train_batch_size(
    model: torch.nn.Module, imgsz: int = 640, amp: bool = True, batch: float = -1, max_num_obj: int = 1
) -> int:
    """Return the batch that trains within a share of the GPU's memory: `batch` where it is between 0 and 1."""
    return autobatch(model, imgsz, batch if 0 < batch < 1 else FRACTION)


def autobatch(
    model: torch.nn.Module, imgsz: int = 640, fraction: float = FRACTION, batch_size: int = 16, max_num_obj: int = 1
) -> int:
    """Return the batch of images that fills a share of the GPU's memory in training; batch_size on other devices."""
    device = next(model.parameters()).device
    network: Any = model
    if device.type != "cuda" or not isinstance(network, Detector):
        LOGGER.warning("A batch that fits is looked for on GPUs, for detectors; using %s.", batch_size)
        return batch_size
    return search_batch(network, fraction, imgsz, device, torch.float16)
