"""BaseTrainer: a training run as an object whose methods a script may replace (spec/dropin.md section 7).

A method that is not replaced leaves our own step as it is; `training.py` calls the others in the place of our steps.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ...config.devices import select_devices
from ...config.errors import UserError
from ...data.from_settings import class_names, find_data
from ...models.build import DEFAULT_MODEL
from ...models.weights.checkpoint import Checkpoint
from ...tasks import TASKS, task_named
from ...tasks.script_model import ScriptModel
from ...train import optim
from ...train.batch_size import search_batch
from ...train.initial_model import initial_model
from ...train.run import Result, run_train
from ..nn.tasks import as_wider
from .arguments import Given, ModelArguments
from .attributes import TrainerAttributes
from .batches import to_device
from .datasets import dict_of_data
from .events import ScriptEvents, known_task
from .loaders import build_dataset, build_loader
from .networks import checkpoint_of, document_of, name_classes, origin_of, start_of
from .overriding import own
from .running import RunOfScript
from .training import (
    begin_epoch,
    data_spec,
    fire,
    is_plain,
    measure_in_memory,
    refuse_private,
    replaces_nothing,
    steps_of,
)


class BaseTrainer(TrainerAttributes):
    """A training run: `Trainer(overrides=dict(model=..., data=..., epochs=3)).train()`.

    cfg: settings in a file, a mapping or a namespace; overrides win over them. _callbacks: functions by event. The
    attributes that callbacks read stand in attributes.py.
    """

    task = "detect"  # a key of tasks.TASKS
    defaults: Mapping[str, object] = MappingProxyType({})  # settings of the class, which overrides win over
    validator_class: Any = None

    def __init__(self, cfg: object = None, overrides: Mapping | None = None, _callbacks: Mapping | None = None):
        super().__init__(_callbacks)
        known_task(self)
        self._running: Any = None
        self._run, self._given = RunOfScript(), Given("train", cfg, {**self.defaults, **(overrides or {})})
        refuse_private(self)
        self.args, settings = self._given.args, self._begin()
        self._folder = Path(self._given.save_dir) if self._given.save_dir else None
        self.device = select_devices(settings.device)[0]
        self.model: Any = settings.model or DEFAULT_MODEL
        self.epochs, self.batch_size, self.save_period = settings.epochs, settings.batch, settings.save_period
        self.start_epoch, self.world_size, self.resume = 0, 1, bool(settings.resume)
        self.validator: Any = None
        self.result: Result | None = None
        self.best_network: nn.Module | None = None  # with the best weights, where their file does not say all of it
        self.train_loader = self.test_loader = None
        self.plots: dict[Path, dict[str, object]] = {}
        self.plot_idx = [0, 1, 2]
        self.loss_names: tuple[str, ...] = tuple(TASKS[self.task].losses)
        found = self.get_dataset()
        if isinstance(found, Mapping):
            self.data: Any = found
            self.trainset, self.testset = found.get("train"), found.get("val") or found.get("test")
        elif found is not None:
            self.trainset, self.testset = found

    def train(self) -> None:
        """Train. `result` then holds the path of the best weights and their metrics."""
        settings = self._given.settings()
        if isinstance(self.model, nn.Module):
            start: Checkpoint | None = origin_of(self.model)
        else:
            settings = settings if self.model == settings.model else settings.replace(model=str(self.model))
            start = None if settings.resume else checkpoint_of(settings)
        events = ScriptEvents(self.callbacks, self._owner_of)
        alone = len(select_devices(settings.device)) == 1 or not replaces_nothing(self)
        self.result = run_train(settings, start, events, *([steps_of(self)] if alone else []))

    def _owner_of(self, running: Any) -> Any:
        """The object whose callbacks an event of our run calls: this trainer, or its validator."""
        return fire(self, running)

    def run_callbacks(self, event: str) -> None:
        """Call the functions of an event with this trainer."""
        super().run_callbacks(event)
        if event == "on_train_epoch_start":
            begin_epoch(self)

    @own
    def get_dataset(self) -> dict[str, object]:
        """Return the dataset of data= as a dict: path, train, val, test, names, nc, yaml_file."""
        before = self._settings()
        self._run.spec, after = find_data(before, task_named(before.task).data)
        old = before.as_dict()
        self._run.settings = {key: value for key, value in after.as_dict().items() if old[key] != value}
        self._run.data = dict_of_data(self._run.spec)
        return copy(self._run.data)

    @own
    def setup_model(self) -> None:
        """Set `model` to the network that is trained, unless it is one already."""
        if isinstance(self.model, nn.Module):
            return
        start = self._run.start
        weights = start.model() if isinstance(start, Checkpoint) and self._settings().pretrained else None
        self.model = self.get_model(cfg=document_of(start), weights=weights, verbose=True)

    @own
    def get_model(self, cfg: object = None, weights: object = None, verbose: bool = True) -> nn.Module:
        """Return a network for the classes of the dataset. cfg: a graph; weights: a network whose weights are taken."""
        settings = self._settings()
        known = self._run.start
        if not isinstance(known, Checkpoint):
            known = checkpoint_of(settings, silent=True) if known is None else None
        start = start_of(cfg, weights, settings, known)
        self._run.initial = initial_model(settings, start, data_spec(self))
        origin = start if isinstance(start, Checkpoint) else None
        return as_wider(ScriptModel(self._run.initial.model, ModelArguments(self.args), origin))

    @own
    def set_model_attributes(self) -> None:
        """Give the network the classes of the dataset, and `args`."""
        name_classes(self.model, class_names(self._settings(), data_spec(self)))
        self.model.args = ModelArguments(self.args)

    @own
    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Return the dataset of the images at a path."""
        return build_dataset(self, img_path, mode, batch)

    @own
    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """Return a loader of dicts of the images at a path."""
        return build_loader(self, self.build_dataset(dataset_path, mode, batch_size), batch_size, mode, rank)

    @own
    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch on the device, its images in [0, 1]."""
        return to_device(batch, self.device)

    @own
    def get_validator(self) -> Any:
        """Return the validator of the run."""
        options = {"save_dir": self.save_dir, "args": copy(self.args), "_callbacks": self.callbacks}
        return self.validator_class(self.test_loader, **options)

    @own
    def build_optimizer(
        self,
        model: nn.Module,
        name: str = "auto",
        lr: float = 0.001,
        momentum: float = 0.9,
        decay: float = 1e-5,
        iterations: float = 1e5,
    ) -> torch.optim.Optimizer:
        """Return an optimizer over biases, decayed weights and norms of a model."""
        groups, nc = optim.parameter_groups(model, decay), getattr(model, "nc", 80)
        values = {"lr": lr, "momentum": momentum, "warmup_bias_lr": self._settings().warmup_bias_lr}
        built, self._run.plan = optim.choose_optimizer(name, groups, iterations=int(iterations), nc=nc, **values)
        return built

    @own
    def optimizer_step(self) -> None:
        """Step the optimizer by clipped gradients, and update the average."""
        self._run.step("step", "optimizer_step")()

    @own
    def validate(self) -> tuple[dict[str, float], float]:
        """Validate the averaged weights; returns the numbers by name, and the fitness."""
        if is_plain(self):
            metrics = self._run.step("validate", "validate")()
            losses = {f"val/{name}": value for name, value in (metrics.losses or {}).items()}
            numbers = {key: value for key, value in metrics.results_dict.items() if key != "fitness"}
            return {**numbers, **losses}, metrics.fitness
        numbers = dict(self.validator(self))
        return numbers, numbers.pop("fitness", 0.0)

    @own
    def label_loss_items(self, loss_items: Any = None, prefix: str = "train") -> Any:
        """Return names `prefix/loss`, or with values a dict of them, rounded."""
        names = [f"{prefix}/{name}" for name in self.loss_names]
        if loss_items is None:
            return names
        values = loss_items.values() if isinstance(loss_items, Mapping) else loss_items
        return {name: round(float(value), 5) for name, value in zip(names, values)}

    @own
    def progress_string(self) -> str:
        """Return the header of the table of epochs."""
        words = ["Epoch", "GPU_mem", *self.loss_names, "Instances", "Size"]
        return "\n" + "".join(f"{word:>11}" for word in words)

    @own
    def save_model(self) -> None:
        """Write last.pt, and best.pt where the epoch was the best."""
        self._run.step("save", "save_model")()

    @own
    def save_metrics(self, metrics: Mapping[str, float]) -> None:
        """Write a row of results.csv. A name that is no column yet becomes one."""
        self._run.step("record", "save_metrics")(metrics)

    @own
    def final_eval(self) -> None:
        """Measure the best weights."""
        step = self._run.step("measure", "final_eval")
        if is_plain(self):
            step()
        else:
            step.result = measure_in_memory(self)

    @own
    def plot_training_samples(self, batch: dict[str, Any], ni: int) -> None:
        """Draw train_batch<ni>.jpg."""
        self._run.step("train_batch", "plot_training_samples")()

    @own
    def plot_training_labels(self) -> None:
        """Draw labels.jpg."""
        self._run.step("labels", "plot_training_labels")()

    @own
    def plot_metrics(self) -> None:
        """Draw results.png."""
        self._run.step("results", "plot_metrics")()

    @own
    def on_plot(self, name: str | Path, data: object = None) -> None:
        """Remember a picture that was drawn."""
        self.plots[Path(name)] = {"data": data}

    @own
    def read_results_csv(self) -> dict[str, list[float]]:
        """Return the columns of results.csv."""
        with open(self.csv, newline="", encoding="utf-8") as file:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        return {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}

    @own
    def auto_batch(self, max_num_obj: int = 0) -> int:
        """Return the batch that fits 60 % of the GPU's memory."""
        if not isinstance(self.model, nn.Module):
            raise UserError("auto_batch(): the trainer has no network yet; batch=-1 searches in train().")
        return search_batch(self.model, -1, self.args.imgsz, self.device, None)
