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

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # numbers of <malloc.h>
LARGEST_KEPT = 1 << 30  # bytes; glibc still gives larger blocks back
NO_TRIMMING = -1  # a value of M_TRIM_THRESHOLD: glibc never gives the end of its heap back
# Environment variables of glibc's malloc. GLIBC_TUNABLES can set the same values, and others that do not matter here.
DECIDING = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory(device: torch.device) -> bool:
    """Make this process keep freed memory for its next tensors, where `device` is a CPU. Returns whether it keeps it.

    Nothing changes without glibc, and where the user has set one of malloc's environment variables.
    """
    return device.type == "cpu" and _configure_malloc()


@cache
def _configure_malloc() -> bool:
    if any(name in os.environ for name in DECIDING) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  only glibc has this function
        mallopt = library.mallopt
    except (OSError, TypeError, AttributeError):  # another system or C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, NO_TRIMMING))
