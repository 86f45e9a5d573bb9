"""Functions that tests call in a limited process; they import nothing heavy."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.limited_process import call_limited

Allow = Callable[[float, int], None]


def write(allow: Allow, path: Path, text: str) -> None:
    """Write a file, and to the terminal."""
    print("not to be seen", flush=True)
    os.write(2, b"not to be seen")
    path.write_text(text)


def refuse(allow: Allow, text: str) -> None:
    """Raise a UserError."""
    raise UserError(text)


def fail(allow: Allow) -> None:
    """Raise an error that nobody expects."""
    raise ZeroDivisionError


def leave(allow: Allow) -> None:
    """End the process."""
    os._exit(3)


def crash(allow: Allow) -> None:
    """Read where no memory is."""
    ctypes.string_at(0)


def wait(allow: Allow, path: Path, seconds: float, more: float = 0.0) -> None:
    """Write the number of the process, then wait. more: seconds that it allows itself."""
    path.write_text(str(os.getpid()))
    allow(more, 0)
    time.sleep(seconds)


def spin(allow: Allow, path: Path) -> None:
    """Compute without an end."""
    path.write_text(str(os.getpid()))
    while True:
        pass


def fill(allow: Allow, size: int, more: int = 0, step: int = 2**24) -> None:
    """Take so many bytes of memory, in steps."""
    allow(0, more)
    held = [bytearray(b"x") * step for _ in range(size // step)]
    time.sleep(0.3)  # until somebody looks
    del held


def fill_unlimited(allow: Allow, size: int) -> None:
    """Take memory as on a system that only reports how much is taken."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    fill(lambda seconds, memory: None, size)


def from_a_worker(path: str) -> str:
    """Try to start a limited process from the worker of a pool; returns what is said."""
    try:
        call_limited(write, Path(path), "x", seconds=5, memory=10**8)
    except UserError as error:
        return str(error)
    return ""
