"""What the packages of others have."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn


def is_with(package: str, extension: str) -> bool:
    """Whether a package has a compiled module beside it; also True where it is not installed."""
    return importlib.util.find_spec(package) is None or importlib.util.find_spec(extension) is not None


def flops_are_counted() -> bool:
    """Whether torch counts the operations of a layer."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        nn.Linear(3, 5, bias=False)(torch.zeros(2, 3))
    return counter.get_total_flops() == 2 * 2 * 3 * 5
