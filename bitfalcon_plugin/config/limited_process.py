"""Call a function in a short-lived process of its own, which may crash, hang or fill its memory.

The process ends with its result, at its limits, or with the process that started it. It writes nothing to the terminal.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing.connection
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from .errors import UserError

try:
    import resource
except ImportError:  # Windows, where only the time is limited
    resource = None

STACK = 2**20  # bytes; other threads have 8 MB, so that what passes here does not overflow theirs
START_SECONDS = 300.0  # until a process must have imported what the function needs
USUAL_START = 3.0  # seconds; where the start takes longer, as on slow and busy machines, all times are longer
WATCHED = 0.05  # seconds between two looks at the memory
MEMORY_CODE = 87  # exit code of a process that took too much memory
DONE, REFUSED, FAILED, MORE = b"d", b"r", b"f", b"m"  # first byte of a message
_STARTING = threading.Lock()


class DiedError(Exception):
    """Why a process gave no result, as the end of the sentence "the process ..."."""


def call_limited(function: Callable[..., None], *arguments: object, seconds: float, memory: int) -> None:
    """Call `function(allow, *arguments)` in a process of its own. Function and arguments are pickled.

    seconds: of the call, without the start of the process. memory: bytes that it may take, more than at its start.
    allow: a function (seconds, bytes) which adds to both limits, where the call learns what they should be.

    Raises the UserError of the function, DiedError for any other end of it, and UserError in a process that may not
    start others.
    """
    process_class = multiprocessing.get_context("spawn").Process
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = process_class(target=_run, args=(sender, function, arguments, seconds, memory), daemon=True)
    try:
        _start(process)
        sender.close()
        result = _receive(receiver, seconds)
    except EOFError:
        process.join(10)
        raise DiedError(_describe_end(process.exitcode)) from None
    finally:
        _end(process)
        receiver.close()
    kind, said = result[:1], result[1:].decode("utf-8", "replace")
    if kind != DONE:
        raise UserError(said) if kind == REFUSED else DiedError(f"raised {said}")


def _receive(receiver: Connection, seconds: float) -> bytes:
    """The result of the process. Raises DiedError after the time, and EOFError where the process ended without one."""
    began = time.monotonic()
    if not receiver.poll(START_SECONDS):
        raise DiedError(f"did not start in {START_SECONDS:.0f} s")
    receiver.recv_bytes()
    slowness = max(1.0, (time.monotonic() - began) / USUAL_START)
    began = time.monotonic()
    while receiver.poll(max(began + slowness * seconds - time.monotonic(), 0)):
        message = receiver.recv_bytes()
        if message[:1] != MORE:
            return message
        seconds += float(message[1:])
    raise DiedError(f"did not end in {slowness * seconds:.0f} s")


def _start(process: multiprocessing.Process) -> None:
    """Start a process that does not import the user's script, whose import could start everything again.

    multiprocessing has no switch for this: it imports what __main__ says of itself.
    """
    with _STARTING:
        main = sys.modules["__main__"]
        said = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
        main.__spec__ = None
        vars(main).pop("__file__", None)
        try:
            process.start()
        except (AssertionError, RuntimeError) as error:  # a worker of a pool; a script that is still being imported
            raise UserError(
                "An exported model that was not written on this machine is tried in a process of its own, once; this "
                f"process may start none: {' '.join(str(error).split())[:100]}. Open the file in the main process "
                "first, for example by `bitfalcon info`."
            ) from error
        finally:
            vars(main).update(said)


def _end(process: multiprocessing.Process) -> None:
    """End the process and all that it started, and wait for it."""
    if process.pid is None:  # it was not started
        return
    if hasattr(os, "killpg"):
        with contextlib.suppress(OSError):  # it ended before it had a group of its own
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    process.close()


def _describe_end(code: int | None) -> str:
    if code == MEMORY_CODE:
        return "took more memory than files of its size need"
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return "did not end in time" if name == "SIGXCPU" else f"crashed ({name})"
    return f"ended with code {code}"


def _run(sender: Connection, function: Callable, arguments: tuple, seconds: float, memory: int) -> None:
    """Call the function under the limits, and send the result; the process ends here."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpgid(0, 0)  # a group of its own, which Ctrl-C in a terminal does not reach
    null = os.open(os.devnull, os.O_RDWR)
    for number in {0, 1, 2} - {sender.fileno()}:  # which has such a number where the parent's terminal is closed
        os.dup2(null, number)
    limits = _Limits(seconds, memory)
    threading.Thread(target=limits.watch, daemon=True).start()
    sender.send_bytes(b"started")

    def allow(seconds: float, memory: int) -> None:
        limits.add(seconds, memory)
        sender.send_bytes(MORE + str(seconds).encode())

    results: list[bytes] = []
    threading.stack_size(STACK)
    thread = threading.Thread(target=lambda: results.append(_result(function, allow, *arguments)), daemon=True)
    thread.start()
    thread.join()
    sender.send_bytes(results[0])
    os._exit(0)  # without the destructors of libraries, some of which crash


def _result(function: Callable, *arguments: object) -> bytes:
    try:
        function(*arguments)
        return DONE
    except UserError as error:
        return REFUSED + str(error).encode("utf-8", "replace")
    except BaseException as error:  # noqa: BLE001  whatever libraries raise
        return FAILED + type(error).__name__.encode()


class _Limits:
    """The limits of this process: memory, and the time of all processors, which ends it where nobody watches it."""

    def __init__(self, seconds: float, memory: int):
        self._seconds, self._memory = 0.0, peak_memory()
        self._data = _kilobytes("VmData") * 1024
        self._reported = self._data > 0  # by Linux
        self.add(seconds, memory)

    def add(self, seconds: float, memory: int) -> None:
        """Allow so many more seconds and bytes."""
        self._seconds, self._memory, self._data = self._seconds + seconds, self._memory + memory, self._data + memory
        if resource is None:
            return
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        limits = {"RLIMIT_CORE": 0, "RLIMIT_CPU": math.ceil(used + 10 * self._seconds * (os.cpu_count() or 1))}
        if self._reported:
            limits["RLIMIT_DATA"] = self._data
        for name, limit in limits.items():
            with contextlib.suppress(OSError, ValueError, AttributeError):  # a system may not have one
                number = getattr(resource, name)
                hard = resource.getrlimit(number)[1]
                resource.setrlimit(number, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))

    def watch(self) -> None:
        """End this process when it takes too much memory or when its parent has ended."""
        parent = multiprocessing.parent_process()
        while not multiprocessing.connection.wait([parent.sentinel], WATCHED):
            if peak_memory() > self._memory:
                os._exit(MEMORY_CODE)
        os._exit(1)


def peak_memory() -> int:
    """Return the peak memory of this process in bytes; 0 where the system does not report it."""
    if peak := _kilobytes("VmHWM"):  # getrusage would count the memory of the parent when this process was made
        return peak * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if resource else 0


def _kilobytes(name: str) -> int:
    """A size of this process as Linux reports it, 0 on other systems."""
    with contextlib.suppress(OSError):
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if match := re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE):
            return int(match[1])
    return 0
