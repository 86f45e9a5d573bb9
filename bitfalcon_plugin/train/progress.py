"""What a process of a training does at the moment: the stage, for messages, and whether it works or waits."""

from __future__ import annotations

import glob
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

START = "start-up"
READING = "reading data"
FORWARD = "forward pass"
BACKWARD = "backward pass and gradient exchange"
STEP = "optimizer step"
VALIDATION = "validation"
MEASURING = "final measurement"
WRITING = "writing results and checkpoints"
CALLBACK = "a callback"
LOGGING = "a logger"  # which is waited for only so long, see loggers.py
END = "the end of the run"

THREADS = "watch"  # name of the threads that watch, whose processor time is no progress


class Progress:
    """The stage of this process, set by the thread that trains and read by the thread that watches.

    stage: one of the names above. waiting: whether it waits for other processes, or may. changes: how often anything
    changed, so that a number that stays means no progress. timeout: seconds without progress after which the process
    counts as hanging; 0: never. file: gets every new stage, for the launcher.
    """

    def __init__(self, timeout: float = 0.0) -> None:
        self.stage, self.waiting, self.changes = START, False, 0
        self.timeout = timeout
        self.file: FileIO | None = None

    def __reduce__(self) -> tuple:
        return Progress, (self.timeout,)  # another process has a progress of its own

    def enter(self, stage: str, waiting: bool = False) -> None:
        """Begin a stage, or report progress in it."""
        if stage != self.stage and self.file is not None:
            self.file.seek(0)
            self.file.write(f"{stage:<48}".encode())
        self.stage, self.waiting = stage, waiting
        self.changes += 1

    @contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """Be in another stage for the length of the context; after an error the stage stays, to be named."""
        before = self.stage, self.waiting
        self.enter(stage)
        yield
        self.enter(*before)

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Wait for other processes for the length of the context; after an error the process still waits."""
        before = self.waiting
        self.waiting = True
        self.changes += 1
        yield
        self.waiting = before
        self.changes += 1


def stage_file(folder: Path, rank: int | str) -> Path:
    """The file for the stages of a process in a folder of notes, for Progress.file."""
    return folder / f"{rank}.stage"


def stage_of(folder: Path, rank: int | str) -> str:
    """The latest stage of a process by its file."""
    path = stage_file(folder, rank)
    return path.read_text(encoding="utf-8").strip() or START if path.is_file() else START


def processor_seconds() -> float:
    """Seconds of processor time of this process, without the threads that watch, and of all processes below it.

    Threads that libraries started for themselves do not count, because those of gloo and nccl never rest. Without
    /proc, outside of Linux, they count, only the calling thread does not, and processes below do not.
    """
    if not _fields("self"):
        return time.process_time() - time.thread_time()
    threads = [thread.native_id for thread in threading.enumerate() if thread.name != THREADS]
    paths = [f"self/task/{number}" for number in threads] + [str(pid) for pid in _processes_below()]
    ticks = sum(int(fields[11]) + int(fields[12]) for fields in map(_fields, paths) if fields)
    return ticks / os.sysconf("SC_CLK_TCK")


def parent_of(pid: int) -> int | None:
    """The process that started process `pid`; None where there is no such process, and outside of Linux."""
    fields = _fields(str(pid))
    return int(fields[1]) if fields else None


def _processes_below() -> set[int]:
    """The processes that this one started, and those that they started."""
    parents = {pid: parent_of(pid) for pid in (int(path[6:]) for path in glob.glob("/proc/[0-9]*"))}
    below, generation = set(), {os.getpid()}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation} - below
        below |= generation
    return below


def _fields(path: str) -> list[bytes]:
    """The fields of /proc/<path>/stat behind the name: state, parent, ...; [] where there is none."""
    try:
        return Path(f"/proc/{path}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []
