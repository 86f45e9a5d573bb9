"""The attributes of a script's trainer that are those of the run under way (spec/dropin.md section 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from torch import Tensor

from ...config.run_folder import new_run_dir
from ...config.settings import Settings
from ...train.resume import resumed_run, resumed_settings
from .arguments import Given
from .events import CallbackOwner
from .running import Averaged, Running, RunOfScript


class TrainerAttributes(CallbackOwner):
    """What scripts read of a trainer. Before a run the attributes are empty, or what a script has set.

    _given: what the script gave. _run: what is known of the run. _running: our Trainer, None before a run.
    """

    args: Any
    _given: Given
    _run: RunOfScript
    _running: Any
    _folder: Path | None

    epoch = Running(default=0)
    epochs = Running()
    optimizer = Running()
    scaler = Running()
    stop = Running(default=False)
    tloss = Running()
    loss_items = Running()
    lr = Running(default=MappingProxyType({}))
    fitness = Running()
    best_fitness = Running()
    freeze_layer_names = Running("frozen", ())
    scheduler = Running("schedule")

    @property
    def ema(self) -> Averaged | None:
        """The moving average of the weights: `.ema` is the network, `.updates` the number of updates."""
        return None if self._running is None else Averaged(self._running.ema)

    @property
    def amp(self) -> bool:
        """Whether the run computes in half precision."""
        return self._running is not None and self._running.precision is not None

    @property
    def accumulate(self) -> int:
        """Batches of an optimizer step."""
        return 1 if self._running is None else self._running.schedule.accumulate(self._running.iteration)

    @property
    def lf(self) -> Callable[[int], float]:
        """The factor of the rate as a function of the epoch, from 0."""
        return (lambda epoch: 1.0) if self._running is None else self._running.schedule.factor

    @property
    def stopper(self) -> SimpleNamespace:
        """What patience= knows: patience, best_fitness, best_epoch (from 0), possible_stop."""
        records, epoch = self._running.records, self._running.epoch
        patience = self.args.patience or float("inf")
        values = {"best_fitness": records.best_fitness, "best_epoch": records.best_epoch, "patience": patience}
        return SimpleNamespace(**values, possible_stop=epoch - records.best_epoch >= patience - 1)

    @property
    def loss(self) -> Tensor | None:
        """The sum of the losses of the latest batch."""
        return None if self.loss_items is None else self.loss_items.sum()

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the latest validation and its losses, by the columns of results.csv, rounded."""
        numbers = {} if self._running is None else self._running.metrics
        numbers = {key: value for key, value in {**numbers, **self._run.losses}.items() if key != "fitness"}
        return {key: round(float(value), 5) for key, value in numbers.items()}

    @metrics.setter
    def metrics(self, numbers: Mapping[str, float]) -> None:
        if self._running is not None:
            self._running.metrics = dict(numbers)

    @property
    def save_dir(self) -> Path:
        """The folder of the run, made when it is first asked for."""
        if self._folder is None:
            settings = self._settings()
            self._folder = new_run_dir("train", settings.project, settings.name, settings.exist_ok, settings.task)
        return self._folder

    @save_dir.setter
    def save_dir(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    @property
    def wdir(self) -> Path:
        """The folder of the weights."""
        return self.save_dir / "weights"

    @property
    def last(self) -> Path:
        """The latest checkpoint."""
        return self.wdir / "last.pt"

    @property
    def best(self) -> Path:
        """The best weights; with save=False the last ones."""
        return self.wdir / "best.pt" if self._running is None else self._running.best

    @property
    def csv(self) -> Path:
        """The table of the epochs."""
        return self.save_dir / "results.csv"

    def _begin(self) -> Settings:
        """Return the settings of the run; those of a run that is resumed come from its checkpoint."""
        settings = self._given.settings()
        if not settings.resume:
            return settings
        checkpoint, folder = resumed_run(settings)
        self._given.values["resume"] = str(folder)  # found once
        self._run.resumed = resumed_settings(checkpoint, settings)
        self._given.adopt({**self._run.resumed.as_dict(), "resume": str(folder), "mode": "train"})
        return self._run.resumed

    def _settings(self) -> Settings:
        return self._run.resumed or self._given.settings()
