"""What the packages of others have."""

from __future__ import annotations

import importlib.util
import io
import os

import torch
from PIL import Image
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


def pieces_are_listed() -> bool:
    """Whether Pillow lists its formats, and the pieces of a file, as data/large.py reads them."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2)).save(file, "BMP")
    factory, accept = Image.OPEN["BMP"]
    file.seek(0)
    piece = ["raw", (0, 0, 3, 2), 54, ("BGR", 12, -1)]
    return accept(file.getvalue()[:16]) and list(factory(file, "").tile[0]) == piece


def full_disk_is_the_cause() -> bool:
    """Whether torch.save tells the error of the system when a disk is full."""
    if not os.path.exists("/dev/full"):
        return True
    try:
        with open("/dev/full", "wb", buffering=0) as file:
            torch.save(torch.zeros(100_000), file)
    except OSError:
        return True
    except RuntimeError as error:
        return isinstance(error.__context__, OSError)
    return False
