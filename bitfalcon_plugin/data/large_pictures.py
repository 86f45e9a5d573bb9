"""Large pictures are decoded one at a time, by one thread, while several threads decode the others.

A thread keeps much of the memory that it has once used. So it is not enough that threads wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T")
LARGE = 2**22  # pixels; decoding takes up to 20 bytes for each


def decode_in_turn(pixels: int, decode: Callable[..., T], *arguments: object) -> T:
    """Return `decode(*arguments)`. A picture of more than LARGE pixels waits until no other such is decoded."""
    if pixels <= LARGE:
        return decode(*arguments)
    return _thread_of(os.getpid()).submit(decode, *arguments).result()


@cache
def _thread_of(process: int) -> ThreadPoolExecutor:
    """The thread of this process; a process that was forked has none of its parent's threads."""
    return ThreadPoolExecutor(1, "bitfalcon-large")
