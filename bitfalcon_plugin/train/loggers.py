"""The loggers of a run, named by loggers=: what they are told, and what happens when one of them fails.

Each works in a thread of its own, and the run waits for it only so long: a server that hangs stops no training. (It is
waited for because processes that read images may be forked at any time, which goes wrong while a thread imports.) The
first error of a logger is one note, and the run goes on without it. TensorBoard also gets scalars where it is
installed, without being named.
"""

from __future__ import annotations

import importlib.util
import json
import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol

from ..compat.allowed import cut_line
from ..config.errors import UserError, did_you_mean
from ..config.files import write_text
from ..config.notes import print_note
from ..config.settings import Settings
from ..config.user_settings import choice
from .progress import LOGGING, Progress

PACKAGES = {  # logger -> module of its package, which is also what pip installs; adapters are integrations/<logger>.py
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "clearml": "clearml",
    "comet": "comet_ml",
}
GROUP = "bitfalcon.loggers"  # entry points of other packages: a name, and a class that makes a RunLogger
WAIT = 30.0  # seconds that the run waits for a logger at a call; once that was too short, it does not wait any more
PATIENCE = 60.0  # seconds that a logger may take after the end of a run
SHORT_PATIENCE = 5.0  # after an error or Ctrl-C
FIGURES = (".png", ".jpg")


@dataclass(frozen=True)
class LoggedRun:
    """What a logger is told of a run at its start.

    project, name: the names of the run's folder and of the folder that holds it. parameters: the settings and the
    graph, as plain values.
    """

    project: str
    name: str
    folder: Path
    parameters: Mapping[str, object]


class RunLogger(Protocol):
    """What a logger has. Every method is called in the same thread, and may raise anything."""

    def start(self, run: LoggedRun, id: str) -> str:
        """Begin the record of a run, or go on with record `id` where that is not empty; return its id."""

    def epoch(self, number: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers of a finished epoch, which are counted from 1."""

    def end(self, summary: Mapping[str, float], figures: Sequence[Path], best: Path | None) -> None:
        """End the record: numbers of the best weights, pictures, and the file of the weights; None: ended early."""


def check_loggers(settings: Settings) -> None:
    """Raise UserError for a logger that does not exist, and for one whose package is not installed."""
    known = (*PACKAGES, *(_others() if settings.loggers else ()))
    for name in settings.loggers or ():
        if name.lower() not in known:
            raise UserError(
                f"loggers={name}: there is no such logger; known are {', '.join(known)}.{did_you_mean(name, known)}"
            )
    for name in settings.loggers or ():
        package = PACKAGES.get(name.lower())
        if package and importlib.util.find_spec(package) is None:
            raise UserError(f"loggers={name} needs the package {package}: pip install {package}")


class Loggers:
    """The loggers of a run; none by default, and on all processes but that of rank 0."""

    def __init__(self, channels: Sequence[_Channel] = ()) -> None:
        self.channels = channels

    def begin(self, folder: Path, parameters: Mapping[str, object], epochs: int) -> None:
        """Begin the records of the run in `folder`, which had so many epochs before."""
        folder = folder.resolve()
        plain = {key: value for key, value in parameters.items() if value is not None}
        for channel in self.channels:
            channel.begin(LoggedRun(folder.parent.name or "bitfalcon", folder.name, folder, plain), epochs)

    def epochs(self, columns: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
        """Log the rows of results.csv, of all so far, that were not logged yet."""
        for channel in self.channels:
            channel.epochs([_numbers(dict(zip(columns, row, strict=False))) for row in rows])

    def end(self, folder: Path, metrics: Mapping[str, float], best: Path) -> None:
        """End the records with the numbers of the best weights, the pictures of the folder, and the weights."""
        figures = [path for path in sorted(folder.glob("*")) if path.suffix in FIGURES]
        for channel in self.channels:
            channel.call("end", _finite(metrics), figures, best)


@contextmanager
def loggers_of(settings: Settings, folder: Path, progress: Progress, active: bool) -> Iterator[Loggers]:
    """Yield the loggers of a run in `folder`, and end their records; at once where an exception ends the run.

    progress: of this process. active: whether it logs.
    """
    channels = [_Channel(name, make, folder, progress) for name, make in _makers(settings)] if active else []
    patience = SHORT_PATIENCE
    try:
        yield Loggers(channels)
        patience = PATIENCE
    finally:
        for channel in channels:
            channel.close(patience)


@dataclass
class _Channel:
    """A logger in a thread of its own. sent: how many epochs it was told; id: of its record; late: not waited for."""

    name: str
    make: Callable[[], RunLogger]
    folder: Path
    progress: Progress
    sent: int = 0
    id: str = ""
    failed: bool = False
    late: bool = False
    ended: bool = False
    waiting: queue.Queue = field(default_factory=queue.Queue)

    def begin(self, run: LoggedRun, epochs: int) -> None:
        """Start the thread and the record. epochs: how many the run had before."""
        before = self._kept()
        self.sent = min(before.get("epochs", epochs), epochs)
        self.thread = threading.Thread(target=self._work, name=f"logger {self.name}", daemon=True)
        self.thread.start()
        self.call("start", run, str(before.get("id", "")))

    def epochs(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Log the last epoch, and those before it that were not logged yet."""
        for number in range(max(min(self.sent, len(rows) - 1), 0), len(rows)):
            self.call("epoch", number + 1, rows[number])
        self.sent = len(rows)

    def call(self, method: str, *arguments: object) -> None:
        """Let the thread call a method of the logger, and wait for it unless it is late."""
        self.ended, done = self.ended or method == "end", threading.Event()
        self.waiting.put((method, arguments, done))
        if self.late:
            return
        with self.progress.within(LOGGING):
            self.late = not done.wait(WAIT)
        if self.late:
            print_note(f"loggers={self.name} has not answered for {WAIT:.0f} s: the run does not wait for it any more.")

    def close(self, seconds: float) -> None:
        """Wait until the logger has done what it was told, at most so long."""
        if not hasattr(self, "thread"):
            return
        if not self.ended:
            self.late = True  # an error is not to wait
            self.call("end", {}, [], None)
        self.waiting.put(None)
        with self.progress.within(LOGGING):
            self.thread.join(seconds)
        if self.thread.is_alive() and not self.failed:
            print_note(f"loggers={self.name} has not ended after {seconds:.0f} s: its record may be incomplete.")

    def _work(self) -> None:
        logger = None
        while (item := self.waiting.get()) is not None:
            method, arguments, done = item
            try:
                if not self.failed:
                    logger = logger or self.make()
                    result = getattr(logger, method)(*arguments)
                    self.id = str(result or "") if method == "start" else self.id
                    self._keep(method, arguments)
            except BaseException as error:  # noqa: BLE001  no error of a logger, SystemExit neither, ends a run
                self.failed = True
                reason = cut_line((str(error).strip().splitlines() or [""])[0], 200)
                print_note(f"loggers={self.name} failed and is left out: {type(error).__name__}: {reason}")
            done.set()

    def _kept(self) -> dict[str, object]:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        fits = isinstance(content, dict) and type(content.get("epochs")) is int and isinstance(content.get("id"), str)
        return content if fits else {}

    def _keep(self, method: str, arguments: tuple) -> None:
        """Write down what was logged, for a resumed run; nothing for a logger without ids."""
        if self.id and method in ("start", "epoch"):
            done = arguments[0] if method == "epoch" else self.sent
            write_text(self._file, json.dumps({"id": self.id, "epochs": done}) + "\n")

    @property
    def _file(self) -> Path:
        return self.folder / f"logger-{self.name}.json"


def _makers(settings: Settings) -> list[tuple[str, Callable[[], RunLogger]]]:
    """The name of each logger of a run, and what makes it; a note for one that cannot be had."""
    names = [name.lower() for name in settings.loggers or ()]
    if "tensorboard" not in names and choice("tensorboard") is not False and importlib.util.find_spec("tensorboard"):
        names.append("tensorboard")
    makers = []
    for name in dict.fromkeys(names):
        try:
            check_loggers(settings.replace(loggers=[name]))
        except UserError as error:  # a resumed run goes on without it
            print_note(f"{str(error).rstrip('.')}; the run goes on without it.")
            continue
        makers.append((name, _own(name) if name in PACKAGES else lambda name=name: _others()[name].load()()))
    return makers


def _own(name: str) -> Callable[[], RunLogger]:
    return lambda: import_module(f"...integrations.{name}", __name__).Logger()


def _others() -> dict[str, EntryPoint]:
    return {point.name.lower(): point for point in entry_points(group=GROUP)}


def _numbers(row: Mapping[str, float]) -> dict[str, float]:
    """The losses, metrics and rates of a record of results.csv, as loggers call them."""
    return {name.replace("(B)", ""): value for name, value in _finite(row).items() if "/" in name}


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
