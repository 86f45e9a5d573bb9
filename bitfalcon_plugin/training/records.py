"""What a training run writes: results.csv, last.pt, best.pt; and taking up a run from its last.pt."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from ..checkpoint import Checkpoint, save
from ..config import Settings
from ..files import write_text
from ..model import Detector, odd_norms
from ..validate import Metrics
from .optim import Ema

LOSSES = ("box_loss", "cls_loss", "dfl_loss")
COLUMNS = ("epoch", "time", *(f"train/{name}" for name in LOSSES), "metrics/precision(B)", "metrics/recall(B)",
           "metrics/mAP50(B)", "metrics/mAP50-95(B)", *(f"val/{name}" for name in LOSSES), "lr/pg0", "lr/pg1", "lr/pg2")


class Records:
    """The results of a run, epoch by epoch, and its files. best: weights/best.pt; last: weights/last.pt.

    With save=False there is one checkpoint, written when the run ends: `best` is `last` then.
    """

    def __init__(self, folder: Path, settings: Settings, license: str | None, say: Callable[[str], None] = print):
        self.folder, self.settings, self.license, self.say = folder, settings, license, say
        self.last = folder / "weights" / "last.pt"
        self.best = folder / "weights" / "best.pt" if settings.save else self.last
        self.rows: list[list[float]] = []
        self.metrics: Metrics | None = None
        self.best_fitness, self.best_epoch = -1.0, 0
        self._unwritten: Checkpoint | None = None
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent on this run, earlier starts included."""
        return time.monotonic() - self._start

    def add(self, epoch: int, losses: Sequence[float], metrics: Metrics | None, rates: Sequence[float]) -> None:
        """Write the row of a finished epoch (0-based)."""
        self.metrics = metrics
        measured = [math.nan] * 7
        if metrics is not None:
            measured = [metrics.precision, metrics.recall, metrics.ap50, metrics.ap, *(metrics.losses or [math.nan] * 3)]
            self.say(f"{'val':>9}  AP {metrics.ap:.4f}  AP50 {metrics.ap50:.4f}  P {metrics.precision:.3f}  "
                     f"R {metrics.recall:.3f}")
        self.rows.append([epoch + 1, self.seconds, *(round(loss, 5) for loss in losses), *measured, *rates])
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([f"{value:.6g}" for value in row] for row in self.rows)
        write_text(self.folder / "results.csv", text.getvalue())

    def save(self, epoch: int, model: Detector, optimizer: torch.optim.Optimizer, scaler, ema: Ema, last_step: int) -> None:
        """Write last.pt, and best.pt when this epoch's fitness is the best so far (ties count, as does an unmeasured one)."""
        fitness = self.best_fitness if self.metrics is None else self.metrics.fitness
        improved = fitness >= self.best_fitness
        if improved:
            self.best_fitness, self.best_epoch = fitness, epoch
        finished = Checkpoint(
            graph=model.graph, state=ema.model.state_dict(), settings={**self.settings.as_dict(), "save_dir": str(self.folder)},
            metrics=self.metrics.results_dict if self.metrics else {}, epoch=epoch, license=self.license,
            norms=odd_norms(model), measured=(model.strides, model.multiple))
        if not self.settings.save:
            self._unwritten = finished
            return
        if improved:
            save(self.best, finished)
        period = self.settings.save_period
        if period > 0 and epoch % period == 0:
            save(self.last.with_name(f"epoch{epoch}.pt"), finished)
        training = None if epoch + 1 == self.settings.epochs else {
            "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(), "weights": model.state_dict(),
            "updates": ema.updates, "last_step": last_step, "best_fitness": self.best_fitness, "best_epoch": self.best_epoch,
            "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
            "seconds": self.seconds, "rows": self.rows}
        save(self.last, Checkpoint(**{**finished.__dict__, "training": training}))

    def restore(self, state: Mapping[str, object], model: Detector, optimizer: torch.optim.Optimizer, scaler, ema: Ema) -> int:
        """Take up where a last.pt was written; returns the iteration of the optimizer's last step."""
        model.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        ema.updates = state["updates"]
        for name, parameter in model.named_parameters():
            gradient = state["gradients"].get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        self.rows = [list(row) for row in state["rows"]]
        self.best_fitness, self.best_epoch = state["best_fitness"], state["best_epoch"]
        self._start = time.monotonic() - state["seconds"]
        return state["last_step"]

    def stop_reason(self, epoch: int) -> str:
        """Why the run should end after this epoch, or an empty string."""
        patience, hours = self.settings.patience, self.settings.time
        if patience and self.settings.val and epoch - self.best_epoch >= patience:
            return (f"Stopping: no better fitness in {patience} epochs; the best is epoch {self.best_epoch + 1}. "
                    "patience=0 never stops.")
        if hours and self.seconds * (epoch + 2) / (epoch + 1) > hours * 3600:
            return f"Stopping: another epoch would pass time={hours:g} h."
        return ""

    def finish(self) -> None:
        """Write what save=False kept back, and say what was reached."""
        if self._unwritten is not None:
            save(self.last, self._unwritten)
        if self.rows:
            self.say(f"{len(self.rows)} epochs in {self.seconds / 60:.1f} minutes; best epoch {self.best_epoch + 1}")
