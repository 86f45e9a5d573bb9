"""The moving parts and the state of a run: what the loop drives, checkpoints carry and callbacks look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..config.callbacks import Events
from ..config.settings import Settings
from ..data.dataset import Sample
from ..data.loading.loader import TrainLoader, ValLoader
from ..models.detector import Detector
from ..tasks import Task
from ..tasks.metrics import Metrics
from ..val.pictures import Pictures
from ..val.run import Validator
from .distributed import World
from .guard import Guard
from .optim import Ema, OptimizerPlan, Schedule
from .records import Records


@dataclass
class Run:
    """What a training run is made of.

    start: the training state of the checkpoint that is resumed, None for a new run. matched, tuned: as of InitialModel.
    """

    model: Detector
    settings: Settings
    samples: Sequence[Sample]
    val_samples: Sequence[Sample]
    folder: Path
    device: torch.device
    license: str | None = None
    say: Callable[[str], None] = print
    start: Mapping[str, object] | None = None
    matched: str = ""
    tuned: bool = False
    events: Events = field(default_factory=Events)
    world: World = field(default_factory=World)


@dataclass
class Trainer:
    """The moving parts and the state of a run. Callbacks get this object.

    network: what is called for outputs (the model, distributed or compiled). epoch, batch: the next batch, both from
    0. epochs: their planned number (time= changes it). last_step: iteration of the optimizer's last step, -1 before
    the first. tloss: sums of the epoch's losses, in the order of task.losses, and at the end of the epoch their
    means. loss_items: losses of the latest batch. counted: batches of this epoch with finite losses. stop: set it to
    end the run after this epoch. slower: factor of the planned learning rate. first_updates: updates of the EMA
    before the run's first step.
    """

    run: Run
    loader: TrainLoader
    val_loader: ValLoader
    network: Callable[[Tensor], Mapping[str, Tensor]]
    optimizer: torch.optim.Optimizer
    plan: OptimizerPlan
    schedule: Schedule
    scaler: torch.amp.GradScaler
    ema: Ema
    guard: Guard
    task: Task
    gains: Mapping[str, float]
    class_weights: Tensor | None
    precision: torch.dtype | None
    frozen: tuple[str, ...]
    records: Records
    pictures: Pictures
    epochs: int
    epoch: int = 0
    batch: int = 0
    last_step: int = -1
    boxes: int = 0
    tloss: Tensor = field(default_factory=lambda: torch.zeros(3))
    counted: Tensor = field(default_factory=lambda: torch.zeros(()))
    loss_items: Tensor = field(default_factory=lambda: torch.zeros(3))
    metrics: dict[str, float] = field(default_factory=dict)
    stop: bool = False
    slower: float = 1.0
    first_updates: int = 0
    validator: Validator | None = None

    @property
    def args(self) -> Settings:
        """The settings of the run."""
        return self.run.settings

    @property
    def model(self) -> Detector:
        """The network that is trained."""
        return self.run.model

    @property
    def device(self) -> torch.device:
        """The device that trains."""
        return self.run.device

    @property
    def save_dir(self) -> Path:
        """The run's folder."""
        return self.run.folder

    @property
    def best(self) -> Path:
        """Path of the best weights so far."""
        return self.records.best

    @property
    def last(self) -> Path:
        """Path of the latest checkpoint."""
        return self.records.last

    @property
    def best_fitness(self) -> float:
        """The highest fitness so far; -1 before the first."""
        return self.records.best_fitness

    @property
    def fitness(self) -> float | None:
        """The fitness of the latest validation; None before the first."""
        return self.metrics.get("fitness")

    @property
    def lr(self) -> dict[str, float]:
        """Learning rate of each group, as in results.csv."""
        return {f"lr/pg{index}": group["lr"] for index, group in enumerate(self.optimizer.param_groups)}

    @property
    def iteration(self) -> int:
        """The number of the next batch, counted over the whole run from 0."""
        return self.epoch * len(self.loader) + self.batch

    def fire(self, event: str) -> None:
        """Tell the callbacks of an event."""
        self.run.events.fire(event, self)

    def current_schedule(self) -> Schedule:
        """The schedule with the planned number of epochs and the lowered rate."""
        return replace(self.schedule, epochs=self.epochs, lr=self.schedule.lr * self.slower)

    def set_metrics(self, metrics: Metrics | None) -> None:
        """Set the numbers of a validation; None where the epoch was not validated."""
        self.metrics = metrics.results_dict if metrics is not None else {}

    def state(self) -> dict[str, object]:
        """Everything that resuming needs, as tensors and plain values under the keys of files; `restore` takes it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "weights": self.model.state_dict(),
            "updates": self.ema.updates,
            "first_updates": self.first_updates,
            "epoch": self.epoch,
            "batch": self.batch,
            "gradients": {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None},
            "losses": self.tloss.cpu(),
            "counted": float(self.counted),
            "boxes": self.boxes,
            "slower": self.slower,
            "returned": self.guard.returned,
            "skipped": self.guard.skipped,
            **self.guard.state(),
            "plan": vars(self.plan),
            "epochs": self.epochs,
            "gathered": self.iteration - self.last_step,
            "images": len(self.run.samples),
            "given": sorted(self.args.given),
            "names": self._parameter_names(),
            **self.records.state(),
        }

    def restore(self, state: Mapping[str, object], average: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave, of this or an earlier process; average: the state dict of the EMA."""
        self.model.load_state_dict(state["weights"])
        self._restore_optimizer(state)
        self.scaler.load_state_dict(state["scaler"])
        self.ema.load(average, state["updates"])
        self.first_updates = state.get("first_updates", self.first_updates)
        for name, parameter in self.model.named_parameters():
            gradient = state["gradients"].get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.last_step = self.iteration - state["gathered"] if "gathered" in state else state["last_step"]
        self.tloss, self.boxes = state["losses"].to(self.device), state["boxes"]
        self.counted = torch.full_like(self.counted, state.get("counted", state["batch"]))
        self.slower, self.guard.returned, self.guard.skipped = state["slower"], state["returned"], state["skipped"]
        self.records.restore(state)
        self.guard.restore(state.get("row", 0), state.get("statistics"))

    def _parameter_names(self) -> list[str]:
        """Names of the parameters in the order of the optimizer's state."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[parameter] for group in self.optimizer.param_groups for parameter in group["params"]]

    def _restore_optimizer(self, state: Mapping[str, object]) -> None:
        # Moments go by name, because freeze= may have changed. Decays are those of the present batch size.
        own, saved = self.optimizer.state_dict(), state["optimizer"]
        if "names" in state:
            moments = {name: saved["state"].get(index) for index, name in enumerate(state["names"])}
            kept = {index: moments[name] for index, name in enumerate(self._parameter_names()) if moments.get(name)}
            old = {group["kind"]: group for group in saved["param_groups"]}
            groups = [
                {**old.get(group["kind"], group), **{key: group[key] for key in ("params", "weight_decay", "decay")}}
                for group in own["param_groups"]
            ]
            saved = {"state": kept, "param_groups": groups}
        self.optimizer.load_state_dict(saved)
