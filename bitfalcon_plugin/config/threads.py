"""How the threads of torch wait for each other, and how many there are, chosen before torch is loaded.

OpenMP's threads spin at every barrier by default. That is quickest where each thread has a processor of its own. Beside
another busy process the threads spin for one that is not running, and a training step takes several times as long
(tests/bench/neighbours.py measures it). Threads that sleep instead cost next to nothing on a quiet machine.

OpenMP reads the environment when its library is loaded, which `import torch` does. So the variables are set when this
package is imported, if torch is not there yet. Nothing that a user has set is changed.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import MutableMapping, Sequence

from .notes import print_note_once

TYPE_CHECKING = False  # as in bitfalcon_plugin/__init__.py
if TYPE_CHECKING:
    import torch

# variables by which a user says how threads wait: OpenMP's own, and those of the libraries of GNU and LLVM
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
COUNTING = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")
OURS = "BITFALCON_THREADS"  # names the variables that this package has set, also for its child processes
ADVICE = "OMP_WAIT_POLICY=PASSIVE"

_torch_came_first = False


def prepare_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set how OpenMP's threads wait, and how many there are where a quota gives fewer processors than the machine has.

    Nothing is set if torch is loaded already, and no variable changes the meaning of one that is set.
    """
    global _torch_came_first
    if "torch" in sys.modules:
        _torch_came_first = not any(name in environment for name in (*WAITING, OURS))
        return
    ours = []
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        ours.append("OMP_WAIT_POLICY")
    count = usable_processors()
    if count < _allowed() and not any(name in environment for name in COUNTING):
        environment["OMP_NUM_THREADS"] = str(count)
        ours.append("OMP_NUM_THREADS")
    if ours:
        environment[OURS] = ",".join(ours)


def is_ours(name: str) -> bool:
    """Whether this package has set the variable, here or in the process that started this one."""
    return name in os.environ.get(OURS, "").split(",")


def usable_processors() -> int:
    """The processors that this process may use: those of its affinity, or fewer if a quota of its cgroup says so."""
    quota = _quota()
    return _allowed() if quota is None else max(min(_allowed(), math.ceil(quota)), 1)


def _allowed() -> int:
    """The processors that the scheduler gives this process."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(root: str = "/sys/fs/cgroup", listing: str = "/proc/self/cgroup") -> float | None:
    """The processors that the cgroup of this process, or one above it, may use at once; None without a limit.

    Version 2 writes `quota period` or `max period` into cpu.max; version 1 has a file for each of the two.
    """
    quotas = []
    for line in (_text(listing) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        names = path.strip("/").split("/") if path.strip("/") else []
        groups = ["/".join(names[:depth]) for depth in range(len(names) + 1)]  # in a container some are not there
        if not controllers:
            quotas += [(_text(f"{root}/{group}/cpu.max") or "max").split() for group in groups]
        elif "cpu" in controllers.split(","):
            values = "cpu.cfs_quota_us", "cpu.cfs_period_us"
            quotas += [[_text(f"{root}/cpu/{group}/{name}") or "max" for name in values] for group in groups]
    shares = [int(quota) / int(period) for quota, period in filter(_is_limit, quotas)]
    return min(shares, default=None)


def _is_limit(numbers: Sequence[str]) -> bool:
    return len(numbers) == 2 and all(number.strip().isdecimal() and int(number) > 0 for number in numbers)


def _text(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def waiting_text() -> str:
    """One line: how the threads of torch wait in this process, who chose it, and what to set where they spin."""
    if _torch_came_first:
        return f"spin, which is slow beside other programs: torch was imported first. Set {ADVICE}"
    named = [f"{name}={os.environ[name]}" for name in WAITING if name in os.environ]
    by = "bitfalcon" if is_ours("OMP_WAIT_POLICY") else "you"
    return f"{' '.join(named)} (set by {by})" if named else "as torch chooses"


def note_spinning_threads(device: torch.device) -> None:
    """Say once what to set, where this process computes on the CPU with several threads that spin."""
    import torch

    if _torch_came_first and device.type == "cpu" and torch.get_num_threads() > 1:
        print_note_once(
            "torch was imported before bitfalcon_plugin, so its threads spin while they wait: beside other programs "
            f"that is several times slower. Set {ADVICE} before Python starts, or import bitfalcon_plugin first.",
            "spinning threads",
        )
