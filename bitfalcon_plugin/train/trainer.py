"""The moving parts and the state of a run: what the loop drives, checkpoints carry and callbacks look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..config.callbacks import Events
from ..config.settings import Settings
from ..data.augmentation.augment import Recipe
from ..data.dataset import Sample
from ..data.loading.loader import TrainLoader, ValLoader
from ..tasks import task_of
from ..val.pictures import Pictures
from ..val.run import Validator
from .distributed import World
from .guard import Guard
from .initial_model import InitialModel
from .loggers import Loggers
from .optim import Ema, OptimizerPlan, Schedule
from .progress import CALLBACK
from .records import Records
from .steps import Steps

NOT_RESTORED = ("params", "weight_decay", "decay")  # what a group of the optimizer does not take from a checkpoint


@dataclass
class Run:
    """What a training run is made of.

    start: the training state of the checkpoint that is resumed, None for a new run. steps: what a caller replaced.
    loggers: what is told of the run.
    """

    initial: InitialModel
    settings: Settings
    samples: Sequence[Sample]
    val_samples: Sequence[Sample]
    folder: Path
    device: torch.device
    start: Mapping[str, object] | None = None
    events: Events = field(default_factory=Events)
    world: World = field(default_factory=World)
    steps: Steps = Steps()
    loggers: Loggers = field(default_factory=Loggers)


@dataclass
class Trainer:
    """The moving parts and the state of a run. Callbacks get this object.

    network: what is called for outputs (the model, distributed or compiled). args: the settings of the run. model: the
    network that is trained. save_dir: the run's folder. best, last: paths of the best weights and of the latest
    checkpoint. epoch, batch: the next batch, both from 0. epochs: their planned number (time= changes it). last_step:
    iteration of the optimizer's last step, -1 before the first. tloss: sums of the epoch's losses, in the order of
    task.losses, and at the end of the epoch their means. counted: batches of this epoch with finite losses. boxes:
    objects of this epoch. loss_items: losses of the latest batch. metrics: the numbers of the latest validation, empty
    where the epoch was not validated. stop: set it to end the run after this epoch. rate_factor: factor of the planned
    learning rate. first_updates: updates of the EMA before the run's first step.
    """

    run: Run
    loader: TrainLoader
    val_loader: ValLoader
    frozen: tuple[str, ...]
    precision: torch.dtype | None
    scaler: torch.amp.GradScaler
    ema: Ema
    network: Callable[[Tensor], Mapping[str, Tensor]]
    optimizer: torch.optim.Optimizer
    plan: OptimizerPlan
    schedule: Schedule
    class_weights: Tensor | None
    guard: Guard
    records: Records
    pictures: Pictures
    epoch: int = 0
    batch: int = 0
    last_step: int = -1
    metrics: dict[str, float] = field(default_factory=dict)
    stop: bool = False
    rate_factor: float = 1.0
    validator: Validator | None = None

    def __post_init__(self) -> None:
        run, records = self.run, self.records
        self.args, self.model, self.device, self.save_dir = run.settings, run.initial.model, run.device, run.folder
        self.best, self.last = records.best, records.last
        self.task = task_of(self.model)
        self.gains, self.loss_options = self.task.gains(self.args), self.task.loss_options(self.args, self.model)
        self.epochs, self.first_updates = self.args.epochs, self.ema.updates
        self.loss_items = torch.zeros(len(self.task.losses))
        self.clear_sums()

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The names of the losses, in the order of `tloss`."""
        return tuple(self.task.losses)

    @property
    def precision_name(self) -> str:
        """The type that the network computes in, as torch names it: float32, bfloat16 or float16."""
        return str(self.precision or torch.float32).removeprefix("torch.")

    @property
    def batch_size(self) -> int:
        """Images of a batch."""
        return self.args.batch

    @property
    def train_loader(self) -> TrainLoader:
        """The batches of training."""
        return self.loader

    @property
    def test_loader(self) -> ValLoader:
        """The batches of validation."""
        return self.val_loader

    @property
    def wdir(self) -> Path:
        """The folder of the weights."""
        return self.last.parent

    @property
    def csv(self) -> Path:
        """The table of epochs."""
        return self.save_dir / "results.csv"

    @property
    def data(self) -> dict[str, object]:
        """The dataset as scripts read it: names, nc, and yaml_file, the value of data=."""
        return {"names": dict(self.model.names), "nc": len(self.model.names), "yaml_file": self.args.data}

    def label_loss_items(self, loss_items: Sequence[float] | Tensor | None = None, prefix: str = "train") -> object:
        """Return the names of the losses with a prefix, or where values are given these by name, rounded."""
        names = [f"{prefix}/{name}" for name in self.loss_names]
        if loss_items is None:
            return names
        return {name: round(float(value), 5) for name, value in zip(names, loss_items, strict=True)}

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

    def recipe(self, closed: bool) -> Recipe:
        """The augmentations of an epoch; `closed` is as for Recipe.closed."""
        return self.task.data.recipe(self.args, closed)

    def fire(self, event: str, subject: object = None) -> None:
        """Call the callbacks of an event with this object, or with another subject."""
        called = self.run.events.callbacks.get(event)
        with self.run.world.progress.within(CALLBACK) if called else nullcontext():
            self.run.events.fire(event, subject or self)

    def plan_epochs(self, done: int, at_least: int) -> None:
        """Set the number of epochs that fit into time=, by the speed of the `done` ones."""
        if self.args.time and done:
            seconds = self.run.world.broadcast(self.records.seconds)
            self.epochs = max(int(self.args.time * 3600 / (max(seconds, 1e-9) / done)), at_least)

    def clear_sums(self) -> None:
        """Begin the sums of an epoch anew."""
        self.tloss = torch.zeros(len(self.task.losses), device=self.device)
        self.counted = torch.zeros((), device=self.device)
        self.boxes = 0

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
            "slower": self.rate_factor,
            **self.guard.state(),
            "plan": vars(self.plan),
            "precision": {"asked": [self.args.amp, self.device.type], "name": self.precision_name},
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
        self.clear_sums()
        if self.batch:  # the sums of an epoch that continues in its middle
            self.tloss, self.boxes = state["losses"].to(self.device), state["boxes"]
            self.counted = torch.full_like(self.counted, state.get("counted", self.batch))
        self.rate_factor = state["slower"]
        self.records.restore(state)
        self.guard.restore(state)

    def _parameter_names(self) -> list[str]:
        """Names of the parameters in the order of the optimizer's state."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[parameter] for group in self.optimizer.param_groups for parameter in group["params"]]

    def _restore_optimizer(self, state: Mapping[str, object]) -> None:
        """Restore the optimizer, with its moments by the names of parameters, because freeze= may have changed."""
        saved = state["optimizer"]
        if "names" in state:
            moments = {name: saved["state"].get(index) for index, name in enumerate(state["names"])}
            by_index = {index: moments[name] for index, name in enumerate(self._parameter_names()) if moments.get(name)}
            groups = {group["kind"]: group for group in saved["param_groups"]}
            present = self.optimizer.state_dict()["param_groups"]
            for group in present:  # decays are those of the present batch size
                before = groups.get(group["kind"], {})
                group |= {key: value for key, value in before.items() if _is_restored(key, value, group.get(key))}
            saved = {"state": by_index, "param_groups": present}
        self.optimizer.load_state_dict(saved)
        self._check_moments()

    def _check_moments(self) -> None:
        """Raise ValueError where the moments of a parameter are not those that this optimizer keeps of it."""
        for group in self.optimizer.param_groups:
            sample = torch.zeros(1, device=self.device, requires_grad=True)
            sample.grad = torch.zeros_like(sample)
            kind = type(self.optimizer)([{**group, "params": [sample]}])
            kind.step()
            expected = kind.state[sample]
            for parameter in group["params"]:
                moments = self.optimizer.state.get(parameter, {})
                shapes = {key: getattr(moment, "shape", None) for key, moment in moments.items()}
                sizes = {key: getattr(value, "shape", None) for key, value in expected.items()}
                fits = {key: parameter.shape if size == sample.shape else size for key, size in sizes.items()}
                if moments and shapes != fits:
                    raise ValueError("the moments of its optimizer are not those of the parameters")


def _is_restored(key: str, value: object, present: object) -> bool:
    """Whether a group of the optimizer takes a value of a checkpoint: rates and momenta, which change in a run."""
    if key in NOT_RESTORED:
        return False
    if isinstance(present, tuple):
        return isinstance(value, tuple) and len(value) == len(present) and all(type(item) is float for item in value)
    return type(present) in (int, float) and type(value) in (int, float)
