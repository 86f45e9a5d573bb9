"""Scalars for TensorBoard, in the run's folder: `loggers=tensorboard`, and without it where it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..train.loggers import LoggedRun


class Logger:
    """Writes an event file at the first epoch; records that an interrupted run left behind later are hidden."""

    def start(self, run: LoggedRun, id: str) -> str:
        self.run, self.writer = run, None
        return ""

    def epoch(self, number: int, numbers: Mapping[str, float]) -> None:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self.writer = SummaryWriter(str(self.run.folder), purge_step=number)
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, number)
        self.writer.flush()

    def end(self, summary: Mapping[str, float], figures: Sequence[Path], best: Path | None) -> None:
        if self.writer is not None:
            self.writer.close()
