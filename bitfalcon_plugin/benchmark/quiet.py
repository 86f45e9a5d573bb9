"""Whether a machine is quiet: the share of the processors' time that this process gets when it asks for all of it.

One thread for each processor computes for a moment. Where another process spins, the threads are made to wait: they
get less processor time than the time that passes. A quota of a container shows in the same way.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..config.threads import usable_processors

SECONDS = 0.5  # of the measurement
QUIET = 0.9  # of the processors' time, and more: quiet
BLOCK = bytes(1 << 20)  # hashing a block takes about a millisecond, without Python's lock


@dataclass(frozen=True)
class Quiet:
    """The processors that this process may use, and the processor time it got, in processors."""

    processors: int
    obtained: float

    @property
    def is_quiet(self) -> bool:
        """Whether nothing else took a noticeable share."""
        return self.obtained >= QUIET * self.processors


def measure_quiet(
    processors: int | None = None,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    used: Callable[[], float] = time.thread_time,
    work: Callable[[], object] = lambda: hashlib.sha256(BLOCK),
) -> Quiet:
    """Compute on all processors for a moment and return the processor time that the threads got.

    processors: by default those that this process may use. clock, used: seconds that have passed, and that the calling
    thread has computed. work: a short computation that lets other threads compute at the same time.
    """
    count = usable_processors() if processors is None else processors

    def share(_: int) -> float:
        start, begin = clock(), used()
        while clock() - start < seconds:
            work()
        return (used() - begin) / (clock() - start)

    with ThreadPoolExecutor(count, "bitfalcon-quiet") as pool:
        return Quiet(count, round(sum(pool.map(share, range(count))), 2))


def quiet_note(quiet: Quiet) -> str:
    """What a reader of times must know where the machine is not quiet; "" where it is."""
    if quiet.is_quiet:
        return ""
    return (
        f"this machine is not quiet: at the start {quiet.processors} threads got the time of {quiet.obtained:.1f} "
        f"of {quiet.processors} processors. Other programs run beside the benchmark, or a quota holds it back. "
        "Milliseconds are those of a busy machine; end the other programs and run again for others."
    )
