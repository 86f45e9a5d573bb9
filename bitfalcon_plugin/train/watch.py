"""Which process of a training ended or hangs, and in which stage.

Every process has a thread that reports into torch's TCPStore, at which the processes meet, and reads the reports of
the others. A process hangs where no report comes (it was stopped, its machine or the network is gone), or where its
training neither goes on nor uses the processor, and does not wait for the others. One that computes is never taken for
hanging.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from ..config.printable import say
from .progress import END, LOGGING, START, THREADS, Progress, parent_of, processor_seconds, stage_file, stage_of

NOTES = "BITFALCON_NOTES"  # variable with the folder in which launch.py looks for notes of failures
WORK = 0.05  # seconds of processor time that count as work
SUSPICION = 10.0  # seconds without a report after which a note says so
GRACE = 10.0  # seconds in which the error of another process should arrive by itself
CONNECT = timedelta(seconds=10)
GO_ON = "The run goes on with resume=<run folder>/weights/last.pt"
LEFT = "left"


@dataclass
class Peer:
    """What is known of a process. silence: seconds since its last report. quiet: seconds since its last progress.

    ended: seconds since it reported its end.
    """

    report: dict = field(default_factory=lambda: {"stage": START, "waiting": False, "end": ""})
    silence: float = 0.0
    quiet: float = 0.0
    ended: float = 0.0


class Watch:
    """Report on this process, and end it with a sentence when another one is gone or this one hangs.

    rank, size: of this process. gpu: whether it trains on a GPU, where the processor is busy also while it waits.
    """

    def __init__(self, rank: int, size: int, local_rank: int, progress: Progress, gpu: bool, group: int) -> None:
        self.rank, self.size, self.local_rank, self.progress, self.gpu = rank, size, local_rank, progress, gpu
        self.peers = {other: Peer() for other in range(size)}
        self.beat = 0
        self.unreachable = 0.0  # seconds since the last answer of the store
        self.suspected: set[int] = set()
        self._seen: tuple[int, float | None] = (progress.changes, None)
        self._end, self._stop = "", threading.Event()
        self._prefix = f"bitfalcon watch {group}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        self._store: dist.Store | None = None
        self._exchanging = threading.Thread()
        self.notes = Path(os.environ[NOTES]) if NOTES in os.environ else None
        if self.notes is not None:
            progress.file = open(stage_file(self.notes, rank), "wb", buffering=0)
            self._pid_file(rank).write_text(str(os.getpid()))
        self._thread = threading.Thread(target=self._run, name=THREADS, daemon=True)

    def start(self) -> None:
        """Begin to report and to watch."""
        self._thread.start()

    def leave(self, error: BaseException | None, expected: bool) -> None:
        """Report the end of this process and stop watching. expected: whether the others end by themselves."""
        self._stop.set()
        self._thread.join(2)
        self._end = LEFT
        if error is not None and not expected:
            reason = " ".join(str(error).split())
            self._end = f"{self._who(self.rank)} failed: {type(error).__name__}: {reason[:500]}. {GO_ON}"
        self._exchange(0.0)
        if self.progress.file is not None:
            self.progress.file.close()
            self.progress.file = None

    def find_lost(self) -> str:
        """The sentence about the process that is gone, after an exchange failed; "" where none is missed."""
        enough = max(5 * self._interval(), 3.0)
        until = time.monotonic() + 2 * enough
        while time.monotonic() < until:
            for rank, peer in self.peers.items():
                if peer.report["end"] not in ("", LEFT):
                    return peer.report["end"]
                if peer.report["end"] == "" and peer.silence >= enough:
                    return f"{self._who(rank)} ended without a word; the others cannot go on. {GO_ON}"
            time.sleep(0.1)
        return ""

    def _interval(self) -> float:
        """Seconds between two reports: short beside the timeout, and longer where many processes report."""
        timeout = self.progress.timeout or 60.0
        return min(max(timeout / 40, self.size / 100, 0.2), timeout / 8, 10.0)

    def _run(self) -> None:
        before = time.monotonic()
        self._look(0.0)
        while not self._stop.wait(self._interval()):
            now = time.monotonic()
            # after a time in which this process itself was stopped, the reports of the others are still to be read
            elapsed, before = min(now - before, 2 * self._interval()), now
            self._look(elapsed)

    def _look(self, elapsed: float) -> None:
        """Report, read and judge, `elapsed` seconds after the look before."""
        self._measure_quiet(elapsed)
        self.unreachable += elapsed
        self._exchange(elapsed)
        if self.progress.timeout and self.progress.stage != END:
            self._judge()

    def _measure_quiet(self, elapsed: float) -> None:
        """Add to the time without progress of this process, or begin it anew."""
        progress, me = self.progress, self.peers[self.rank]
        changes, seconds = self._seen
        changed, now = progress.changes != changes or progress.stage == LOGGING, None
        worked = False
        if not changed and not (self.gpu and progress.waiting):
            now = processor_seconds()
            worked = seconds is not None and abs(now - seconds) >= WORK
        if changed or worked:
            me.quiet, seconds = 0.0, now
        else:
            me.quiet += elapsed
        self._seen = progress.changes, now if seconds is None else seconds

    def _exchange(self, elapsed: float) -> None:
        """Report and read, but wait no longer than two intervals: where the store's machine is gone, no error comes."""

        def exchange() -> None:
            with contextlib.suppress(RuntimeError, OSError):  # of the store
                self._report()
                self._read(elapsed)
                self.unreachable = 0.0

        if self._exchanging.is_alive():
            self._exchanging.join(self._interval())
        if not self._exchanging.is_alive():
            self._exchanging = threading.Thread(target=exchange, name=THREADS, daemon=True)
            self._exchanging.start()
            self._exchanging.join(self._interval())

    def _report(self) -> None:
        if self._store is None:
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            # a connection of its own: one that the training waits at would make this thread wait too
            store = dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=CONNECT)
            self._store = dist.PrefixStore(self._prefix, store)
        self.beat += 1
        progress = self.progress
        report = {"beat": self.beat, "stage": progress.stage, "waiting": progress.waiting, "end": self._end}
        report |= {"quiet": self.peers[self.rank].quiet, "pid": os.getpid()}
        self.peers[self.rank].report = report
        self._store.set(str(self.rank), json.dumps(report))

    def _read(self, elapsed: float) -> None:
        others = [rank for rank in self.peers if rank != self.rank]
        if any("beat" not in self.peers[rank].report for rank in others):  # not all were there at the last look
            others = [rank for rank in others if self._store.check([str(rank)])]
        for rank, text in zip(others, self._store.multi_get([str(rank) for rank in others]) if others else ()):
            peer, report = self.peers[rank], json.loads(text)
            if report["beat"] != peer.report.get("beat"):
                peer.report, peer.silence, peer.quiet = report, -elapsed, report["quiet"]
        for rank, peer in self.peers.items():
            peer.silence += elapsed if rank != self.rank else 0.0
            peer.ended += elapsed if peer.report["end"] else 0.0

    def _judge(self) -> None:
        """End this process where the training cannot go on."""
        timeout = self.progress.timeout
        for rank, peer in self.peers.items():
            end = peer.report["end"]
            if end not in ("", LEFT) and peer.ended > GRACE:
                self._finish(end, "lost")
            is_due = rank != self.rank and end == "" and peer.report["stage"] != END
            if "beat" not in peer.report:  # it is starting; only a launcher starts all at once
                is_due = is_due and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            if is_due and peer.silence > timeout:
                self._kill(rank)
                self._finish(
                    f"{self._who(rank)} has not answered for {peer.silence:.0f} s: it hangs, or it or its machine is "
                    f"gone. {self._way_out()}"
                )
            elif is_due and peer.silence > min(SUSPICION, timeout / 2):
                self._suspect(rank)
        me = self.peers[self.rank]
        if me.quiet > timeout:
            if not self.progress.waiting:
                text = f"{self._who(self.rank)} hangs: no progress for {me.quiet:.0f} s. {self._way_out()}"
                self._finish(text, speaks=True)
            elif all(peer.report["waiting"] and peer.quiet > timeout for peer in self.peers.values()):
                stages = ", ".join(f"{rank} in {peer.report['stage']}" for rank, peer in self.peers.items())
                self._finish(
                    f"All {self.size} processes wait for each other for {me.quiet:.0f} s (process {stages}): the "
                    f"network between them or a device hangs. {self._way_out()}"
                )
        if self.unreachable > timeout:
            self._finish(
                f"{self._who(self.rank)} has not reached {os.environ['MASTER_ADDR']}, where the processes meet, for "
                f"{self.unreachable:.0f} s: that machine or its first process is gone. {self._way_out()}",
                speaks=self.local_rank == 0,  # it cannot know which others are left
            )

    def _way_out(self) -> str:
        limit = self.progress.timeout
        return f"Where it is only slow, allow more than rank_timeout={limit:g} seconds. {GO_ON}"

    def _who(self, rank: int) -> str:
        stage = self.progress.stage if rank == self.rank else self.peers[rank].report["stage"]
        if self.notes is not None:
            stage = stage_of(self.notes, rank)  # newer than the latest report
        return f"Process {rank} of {self.size} (counted from 0; stage: {stage})"

    def _suspect(self, rank: int) -> None:
        """Say once that a process does not answer; of those that do, the first one says it."""
        if rank not in self.suspected and self._speaks():
            text = f"{self._who(rank)} has not answered for {self.peers[rank].silence:.0f} s; waiting for it."
            say(f"note: {text}", file=sys.__stderr__, flush=True)
        self.suspected.add(rank)

    def _speaks(self) -> bool:
        limit = self.progress.timeout / 4
        return self.rank == min(rank for rank, peer in self.peers.items() if peer.silence < limit)

    def _kill(self, rank: int) -> None:
        """Kill a process of the same launcher that does not answer: the launcher would wait half a minute for it."""
        first, pid = self.rank - self.local_rank, self.peers[rank].report.get("pid") or self._noted_pid(rank)
        is_here = first <= rank < first + int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if is_here and parent_of(pid) == os.getppid():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _pid_file(self, rank: int) -> Path:
        return self.notes / f"{rank}.pid"

    def _noted_pid(self, rank: int) -> int:
        """The process id by the file that each rank writes when it starts; 0 where there is none."""
        known = self.notes is not None and self._pid_file(rank).is_file()
        return int(self._pid_file(rank).read_text() or 0) if known else 0

    def _finish(self, text: str, kind: str = "hang", speaks: bool = False) -> None:
        """End this process at once, whatever its training is held up by, with code 1.

        kind: of the note for the launcher. speaks: whether this process says it, even where others are to.
        """
        self._end = text
        self._exchange(0.0)
        if self.notes is not None:  # the launcher says it
            (self.notes / f"{time.time_ns()}.{self.rank}.{kind}").write_text(text, encoding="utf-8")
        elif speaks or self._speaks():
            say(f"error: {text}", file=sys.__stderr__, flush=True)
        flush = threading.Thread(target=sys.stdout.flush, daemon=True)  # it may wait for whoever reads the output
        flush.start()
        flush.join(1)
        os._exit(1)
