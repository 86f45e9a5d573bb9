"""A child process that handles numbered cases, watched from outside: crashes, hangs, memory, and what it started.

The child prints a line when it begins a case and one when it has ended it. Where it dies or takes too long it is ended,
the case is noted, and a new child goes on behind it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_UP = 180.0  # seconds until a child must have begun its first case
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn", "socket.connect", "socket.bind",
    "socket.getaddrinfo", "ftplib.connect", "urllib.Request", "ctypes.dlopen.evil", "webbrowser.open",
)  # fmt: skip


class Line:
    """The lines that a child and its watcher exchange."""

    BEGIN, END = "BEGIN", "END"


def watched(
    command: Sequence[str], numbers: range, *, seconds: float, megabytes: float
) -> Iterator[tuple[int, str, float, float]]:
    """Run `python -m *command first last` for the numbers; yield (number, outcome, seconds, megabytes) of each.

    An outcome begins with the name of the case; then follows what the child says, or "crashed", "hung" or "memory".
    seconds: of a case. megabytes: that a case may take beside what the child had before.
    """
    first = numbers.start
    while first < numbers.stop:
        for number, outcome, took, memory in _one_child([*command, str(first), str(numbers.stop)], seconds, megabytes):
            yield number, outcome, took, memory
            first = number + 1


def _one_child(command: list[str], seconds: float, megabytes: float) -> Iterator[tuple[int, str, float, float]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    number, name, begun, before, has_ended = None, "", time.monotonic(), 0.0, False
    selector = selectors.DefaultSelector()
    os.set_blocking(child.stdout.fileno(), False)
    os.set_blocking(child.stderr.fileno(), False)
    selector.register(child.stdout, selectors.EVENT_READ)
    selector.register(child.stderr, selectors.EVENT_READ)
    text, errors = b"", b""
    try:
        while True:
            for key, _ in selector.select(0.1):
                data = key.fileobj.read()
                if key.fileobj is child.stderr:
                    errors = (errors + (data or b""))[-5000:]
                    continue
                text += data or b""
            *lines, text = text.split(b"\n")
            for line in lines:
                word, _, rest = line.decode("utf-8", "replace").partition(" ")
                if word == Line.BEGIN:
                    digits, _, name = rest.partition(" ")
                    number, begun = int(digits), time.monotonic()
                    before = _peak(child.pid, reset=True)
                elif word == Line.END and number is not None:
                    took, memory = time.monotonic() - begun, _peak(child.pid) - before
                    outcome = rest if memory <= megabytes else f"memory: {memory:.0f} MB; {rest}"
                    yield number, f"{name}: {outcome}", took, memory
                    number, begun, has_ended = None, time.monotonic(), True
            took = time.monotonic() - begun
            if child.poll() is not None and not lines:
                if number is not None:
                    last = errors.decode("utf-8", "replace").strip().splitlines()
                    yield number, f"{name}: crashed: {child.returncode}: {' | '.join(last[-6:])[:600]}", took, 0.0
                elif child.returncode or not has_ended:
                    raise RuntimeError(f"the child ended with {child.returncode}: {errors.decode()[-2000:]}")
                return
            if number is not None and (took > seconds or _now(child.pid) - before > 4 * megabytes):
                yield number, f"{name}: {'hung' if took > seconds else 'memory'}", took, _now(child.pid) - before
                return
            if number is None and took > START_UP:
                raise RuntimeError(f"the child does not begin: {errors.decode()[-2000:]}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        child.stderr.close()


def _status(process: int, name: str) -> float:
    with contextlib.suppress(OSError, IndexError, ValueError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    return 0.0


def _now(process: int) -> float:
    return _status(process, "VmRSS")


def _peak(process: int, reset: bool = False) -> float:
    """The most memory of a process so far, in MB; reset: begin anew, at what it has now."""
    if reset:
        with contextlib.suppress(OSError):
            Path(f"/proc/{process}/clear_refs").write_text("5")
    return _status(process, "VmHWM")


def handle(numbers: range, name_of: Callable[[int], str], case: Callable[[int], str]) -> None:
    """In a child: run the cases, and print the lines that the watcher reads.

    name_of: number -> name of the case. case: number -> outcome, of one line.
    """
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is printed by libraries is no line of ours
    started: list[str] = []
    sys.addaudithook(lambda event, arguments: _note(started, event, arguments))
    for number in numbers:
        print(Line.BEGIN, number, name_of(number), file=out)
        started.clear()
        outcome = case(number)
        if started:
            outcome = f"executed: {started[:3]}; {outcome}"
        print(Line.END, " ".join(outcome.split())[:900], file=out)


def _note(started: list[str], event: str, arguments: tuple) -> None:
    if event == "subprocess.Popen":
        if arguments and str(arguments[0]) != sys.executable:
            started.append(f"{event} {arguments[0]}")
    elif event == "os.fork":
        started.append(
            "os.fork "
            + " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_stack()[-9:-2][::-1])
        )
    elif event in FORBIDDEN:
        started.append(event)
