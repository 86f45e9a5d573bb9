"""What a training run writes: results.csv, last.pt, best.pt, epochN.pt."""

from __future__ import annotations

import csv
import errno
import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..config.files import write_text
from ..config.printable import say
from ..config.settings import Settings
from ..models.weights.checkpoint import Checkpoint, save_checkpoint
from ..tasks import Task
from ..tasks.metrics import TaskMetrics

RATES = ("lr/pg0", "lr/pg1", "lr/pg2")


def columns_of(task: Task) -> tuple[str, ...]:
    """The columns of results.csv for a task."""
    train, val = ([f"{split}/{name}" for name in task.losses] for split in ("train", "val"))
    return ("epoch", "time", *train, *task.columns, *val, *RATES)


class Records:
    """The results of a run, epoch by epoch, and its files. best: weights/best.pt; last: weights/last.pt.

    With save=False there is one checkpoint, last.pt, written when the run ends; `best` is its path, too. active:
    whether this process writes files; of several that train together only rank 0 does.
    """

    def __init__(self, folder: Path, settings: Settings, task: Task, active: bool = True) -> None:
        self.folder, self.settings, self.task, self.active = folder, settings, task, active
        self.columns = columns_of(task)
        self.last = folder / "weights" / "last.pt"
        self.best = folder / "weights" / "best.pt" if settings.save else self.last
        self.rows: list[list[float]] = []
        self.best_fitness, self.best_epoch = -1.0, 0
        self.has_own_checkpoint = False  # whether this run wrote last.pt, not an earlier one under exist_ok=True
        self._unwritten: Checkpoint | None = None
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return time.monotonic() - self._start

    def row(
        self, epoch: int, losses: Sequence[float], metrics: TaskMetrics | None, rates: Sequence[float]
    ) -> dict[str, float]:
        """The row of a finished epoch (0-based) by column; prints the metrics."""
        numbers = dict.fromkeys((*self.task.columns, *(f"val/{name}" for name in self.task.losses)), math.nan)
        if metrics is not None:
            numbers |= {name: value for name, value in metrics.results_dict.items() if name != "fitness"}
            numbers |= {f"val/{name}": value for name, value in (metrics.losses or {}).items()}
            say(f"{'val':>9}  {metrics.line()}")
        losses_by_name = {f"train/{name}": round(loss, 5) for name, loss in zip(self.task.losses, losses, strict=True)}
        rates_by_name = dict(zip(RATES, rates))  # the group of ternary layers has the rate of the others
        return {"epoch": epoch + 1, "time": self.seconds, **losses_by_name, **numbers, **rates_by_name}

    def write(self, row: Mapping[str, float]) -> None:
        """Write results.csv with one row more. A key that is no column yet becomes one, empty in earlier rows."""
        new = [name for name in row if name not in self.columns]
        self.columns = (*self.columns, *new)
        self.rows = [[*values, *[math.nan] * len(new)] for values in self.rows]
        self.rows.append([row.get(name, math.nan) for name in self.columns])
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([f"{value:.6g}" for value in row] for row in self.rows)
        if self.active:
            with self._repair_named("results.csv"):
                write_text(self.folder / "results.csv", text.getvalue())

    def judge(self, epoch: int, metrics: TaskMetrics | None) -> bool:
        """Whether an epoch (0-based) is the best so far; ties count, as does one that was not measured."""
        fitness = self.best_fitness if metrics is None else metrics.fitness
        improved = fitness >= self.best_fitness
        if improved:
            self.best_fitness, self.best_epoch = fitness, epoch
        return improved

    def save(self, weights: Checkpoint, training: Mapping[str, object], *, improved: bool) -> None:
        """Write last.pt (weights and training state), best.pt if improved, and epochN.pt every save_period epochs."""
        if not self.active:
            return
        if not self.settings.save:
            self._unwritten = weights
            return
        period, epoch = self.settings.save_period, weights.epoch
        if improved:
            self._write(self.best, weights)
        if period > 0 and epoch % period == 0:
            self._write(self.last.with_name(f"epoch{epoch}.pt"), weights)
        self.save_last(weights, training)

    def save_last(self, weights: Checkpoint, training: Mapping[str, object]) -> None:
        """Write last.pt alone."""
        if self.active:
            self._write(self.last, Checkpoint(**{**vars(weights), "training": training}))
        self.has_own_checkpoint = True  # on every process

    def state(self) -> dict[str, object]:
        """What a checkpoint needs; `restore` takes it."""
        values = {name: getattr(self, name) for name in ("best_fitness", "best_epoch", "seconds", "rows")}
        return {**values, "columns": list(self.columns)}

    def restore(self, state: Mapping[str, object]) -> None:
        """Restore what `state` gave."""
        self.has_own_checkpoint = True
        self.rows = [list(row) for row in state["rows"]]
        self.columns = tuple(state.get("columns", self.columns))
        self.best_fitness, self.best_epoch = state["best_fitness"], state["best_epoch"]
        self._start = time.monotonic() - state["seconds"]

    def stop_reason(self, epoch: int) -> str:
        """Why the run ends after this epoch (0-based) by patience=; "" where it goes on."""
        patience = self.settings.patience
        if patience and self.settings.val and epoch - self.best_epoch >= patience:
            return (
                f"Stopping: no better fitness in {patience} epochs; the best is epoch {self.best_epoch + 1}. "
                "patience=0 never stops."
            )
        return ""

    def finish(self, skipped: int = 0) -> None:
        """Write the checkpoint of save=False, and print a summary. skipped: steps that were left out."""
        if self._unwritten is not None:
            self._write(self.last, self._unwritten)
        if self.rows:
            left_out = f"; {skipped} steps were left out, see above" if skipped else ""
            minutes = self.seconds / 60
            say(f"{len(self.rows)} epochs in {minutes:.1f} minutes; best epoch {self.best_epoch + 1}{left_out}")

    def _write(self, path: Path, checkpoint: Checkpoint) -> None:
        with self._repair_named(path.name):
            save_checkpoint(path, checkpoint)

    @contextmanager
    def _repair_named(self, name: str) -> Iterator[None]:
        """Raise an OSError that also names the file, what is kept, and how to go on."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or (str(error).splitlines() or ["unknown"])[0]
            if self.has_own_checkpoint and self.last.is_file():
                repair = (
                    f"{self.last} as last written is whole: make room or mend the folder, then: "
                    f"bitfalcon train resume={self.last}"
                )
            else:
                repair = "nothing was saved before: make room or mend the folder and start again"
            text = f"{self.folder / name} cannot be written ({reason}); {repair}"
            raise OSError(error.errno or errno.EIO, text) from error
