"""What the C library does with the memory of tensors that are no longer needed.

glibc gives blocks of more than 32 MB back to the system when they are freed, and the unused end of its heap too. The
system hands them out again page by page, and first fills each page with zeros. Activations of a batch are such blocks:
with memory that is kept, a training step of yolov12n at 640 pixels in float32 is 1.6 times as fast with batch 16, 1.1
times with batch 8, and a forward pass 1.1 times (tests/bench/freed_memory.py). The peak of memory stays within 5 %.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
LARGEST_KEPT = 1 << 30  # bytes of a block; a larger one is given back
NEVER = -1  # is the end of the heap given back
# variables by which a user decides; GLIBC_TUNABLES has many others too
DECIDING = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory(device: torch.device) -> bool:
    """Let this process keep freed memory for its next tensors, where `device` is a CPU; returns whether it does.

    Only glibc is told. Nothing changes where a variable of the environment decides about its malloc.
    """
    return device.type == "cpu" and _is_kept()


@cache
def _is_kept() -> bool:
    if any(name in os.environ for name in DECIDING) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  of glibc alone
        mallopt = library.mallopt
    except (OSError, TypeError, AttributeError):  # another system or C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
