"""How the threads of torch wait for each other, and how many there are, chosen before torch is loaded.

OpenMP's threads spin at every barrier by default. That is quickest where each thread has a processor of its own. Beside
another busy program the threads spin for one that is not running, and a training step takes several times as long.
Threads that sleep are slow to wake where nothing else runs. So on a quiet machine nothing is changed, and beside busy
programs there are as many threads as processors are left, which sleep while they wait (tests/bench/neighbours.py).

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
    """Set how many threads of OpenMP there are, where a quota or busy programs leave fewer processors than there are.

    Beside busy programs the threads sleep while they wait. Nothing is set if torch is loaded already, and no variable
    changes the meaning of one that is set.
    """
    global _torch_came_first
    if "torch" in sys.modules:
        _torch_came_first = not any(name in environment for name in (*WAITING, OURS))
        return
    ours = []
    usable, free = usable_processors(), max((os.cpu_count() or 1) - busy_programs(), 1)
    if free < usable and not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        ours.append("OMP_WAIT_POLICY")
    count = min(free, usable)
    if count < _allowed() and not any(name in environment for name in COUNTING):
        environment["OMP_NUM_THREADS"] = str(count)
        ours.append("OMP_NUM_THREADS")
    if ours:
        environment[OURS] = ",".join(ours)


def busy_programs() -> int:
    """How many other threads compute on this machine: those of now, or of the last minute where these were fewer.

    0 where the system does not say (/proc/loadavg of Linux).
    """
    fields = (_text("/proc/loadavg") or "").split()
    try:
        return max(min(int(fields[3].partition("/")[0]) - 1, round(float(fields[0]))), 0)
    except (IndexError, ValueError):
        return 0


def is_ours(name: str) -> bool:
    """Whether this package has set the variable, here or in the process that started this one."""
    return name in os.environ.get(OURS, "").split(",")


def usable_processors() -> int:
    """The processors that this process may use: those of its affinity, or fewer if a quota of its cgroup says so."""
    quota, allowed = _quota(), _allowed()
    return allowed if quota is None else max(min(allowed, math.ceil(quota)), 1)


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
    """One line: how the threads of torch wait in this process and how many there are, and who chose it."""
    chosen = [name for name in (*WAITING, *COUNTING) if name in os.environ]
    named = [f"{name}={os.environ[name]} (set by {'bitfalcon' if is_ours(name) else 'you'})" for name in chosen]
    if named:
        return ", ".join(named)
    return f"they spin while they wait; beside busy programs set {ADVICE}" if _torch_came_first else "as torch chooses"


def note_spinning_threads(device: torch.device) -> None:
    """Say once what to set, where torch was imported first and its threads spin beside busy programs."""
    import torch

    if _torch_came_first and device.type == "cpu" and torch.get_num_threads() > 1 and busy_programs():
        print_note_once(
            "other programs are busy, and torch was imported before bitfalcon_plugin, so its threads spin while they "
            f"wait: that is several times slower. Set {ADVICE} before Python starts, or import bitfalcon_plugin first.",
            key="spinning threads",
        )
