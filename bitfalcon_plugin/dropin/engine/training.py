"""The methods of a script's trainer in the place of the steps of our training run (train.steps.Steps)."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...config.errors import UserError
from ...config.notes import print_note
from ...config.printable import say
from ...config.settings import Settings
from ...data.augmentation.augment import Batch
from ...data.data_format import DataFormat
from ...data.dataset import Scan
from ...data.formats.dataset_yaml import DataSpec
from ...models.graph.rows import Graph
from ...models.weights.checkpoint import Checkpoint, load_checkpoint
from ...tasks import task_of
from ...tasks.script_model import ScriptModel
from ...train import optim
from ...train.initial_model import InitialModel
from ...train.records import columns_of
from ...train.steps import Steps
from ...train.trainer import Run, Trainer
from .batches import ScriptBatch, batch_of, dict_of, with_bytes
from .datasets import LoaderForScript, LoaderOfScript, data_of_dict, scan_of
from .detections import without_masks
from .events import CallbackOwner
from .loaders import replaced_builders
from .losses import has_own_loss, losses_of
from .measuring import LoaderOfSplit
from .networks import checked, fits_its_graph, network_to_train
from .overriding import is_replaced
from .pictures import PicturesOfScript

Script = Any  # a BaseTrainer, whose file imports this one
METHODS = (
    "get_dataset setup_model get_model set_model_attributes build_dataset get_dataloader preprocess_batch "
    "get_validator build_optimizer optimizer_step validate label_loss_items progress_string save_model save_metrics "
    "final_eval plot_training_samples plot_training_labels plot_metrics on_plot"
).split()
PRIVATE = {  # methods of the wider package that have no place in our run -> what to replace instead
    "_do_train": "callbacks, preprocess_batch, optimizer_step or validate",
    "_setup_train": "get_model, build_optimizer or get_validator",
    "_setup_scheduler": "lr0=, lrf=, cos_lr= and warmup_epochs=, or a callback at on_train_batch_start",
    "criterion": "init_criterion or loss of the network that get_model returns",
    "resume_training": "resume=",
    "set_class_weights": "cls_pw=",
    "_model_train": "freeze=, or a callback at on_train_epoch_start",
    "_close_dataloader_mosaic": "close_mosaic=, or a callback at on_train_epoch_start",
    "check_resume": "resume=",
    "auto_batch": "batch=",
    "read_results_csv": "save_metrics",
}


@dataclass
class ScriptMetrics:
    """The numbers that a script's validation gave, with the attributes that records read."""

    results_dict: dict[str, float]
    fitness: float
    losses: dict[str, float]

    def line(self) -> str:
        """Return the line that training prints after an epoch."""
        numbers = {name.removeprefix("metrics/"): value for name, value in self.results_dict.items()}
        return "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())


def steps_of(script: Script) -> Steps:
    """Return the steps of a run that calls the methods of `script`."""
    functions = {
        "folder": _folder,
        "data": _data,
        "model": _model,
        "scans": _scans,
        "loaders": _loaders,
        "optimizer": _optimizer,
        "pictures": _pictures,
        "batch": _batch,
        "losses": _losses,
        "step": _step,
        "validate": _validate,
        "record": _record,
        "save": _save,
        "measure": _measure,
    }
    return Steps(**{name: partial(function, script) for name, function in functions.items()})


def refuse_private(script: Script) -> None:
    """Raise UserError where a script replaces a method that no run of ours would call."""
    for name, instead in PRIVATE.items():
        if hasattr(type(script), name) and is_replaced(script, name):
            raise UserError(f"{type(script).__name__}.{name}: no run calls this method here. Replace {instead}.")


def replaces_nothing(script: Script) -> bool:
    """Whether the trainer does what YOLO.train does, without functions of a script."""
    changes = is_replaced(script, *METHODS) or replaced_builders(script.task) or isinstance(script.model, nn.Module)
    return not (changes or any(script.callbacks.values()))


def is_plain(script: Script) -> bool:
    """Whether our own validation measures what the script's would: its data, network and validator are ours."""
    network = script._running.model if script._running is not None else script.model
    ours = script._run.fits and not script._run.loads and not has_own_loss(network)
    return ours and isinstance(script.validator, CallbackOwner) and script.validator.is_ours()


def data_spec(script: Script) -> DataSpec:
    """The dataset of a run: that of data=, or what the script made of it."""
    if script._run.spec is not None and script.data == script._run.data:
        return script._run.spec
    return data_of_dict(script.data)


def fire(script: Script, running: object) -> Any:
    """Bind the object of ours that an event is about, and return the script's object for it."""
    if isinstance(running, Trainer):
        script._running, script.model = running, running.model
        return script
    if running is not script.validator:
        script.validator.bind(running, script)
    return script.validator


def begin_epoch(script: Script) -> None:
    """Print the header of an epoch, where the script has one of its own."""
    if is_replaced(script, "progress_string"):
        say(script.progress_string())


def measure_in_memory(script: Script) -> Any:
    """Measure the best weights with the script's validator, without a file of the network; returns the metrics."""
    running = script._running
    network = copy.deepcopy(running.ema.model)
    if running.best.is_file():
        network.load_state_dict(load_checkpoint(running.best).state)
    numbers = script.validator(model=network)
    if isinstance(network, ScriptModel) or not script._run.fits:
        script.best_network = network.live() if isinstance(network, ScriptModel) else network
    running.metrics, script._run.losses = dict(numbers), {}
    script.run_callbacks("on_fit_epoch_end")
    return script.validator.metrics


def _folder(script: Script, own: Callable, settings: Settings) -> Path:
    folder = script.save_dir
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _data(script: Script, own: Callable, settings: Settings, form: DataFormat) -> tuple[DataSpec, Settings]:
    changes = {key: value for key, value in script._run.settings.items() if key not in settings.given or key == "data"}
    return data_spec(script), settings.replace(**changes)


def _model(
    script: Script, own: Callable, settings: Settings, start: Checkpoint | Graph, data: DataSpec
) -> InitialModel:
    run = script._run
    if not isinstance(script.model, nn.Module):
        run.start = start
        if is_replaced(script, "setup_model", "get_model"):
            script.setup_model()
        else:
            run.initial = own(settings, start, data)
            script.model = run.initial.model
    checked(script.model)
    script.set_model_attributes()
    network = network_to_train(script.model)
    run.fits = fits_its_graph(network)
    if not run.fits:
        print_note(
            "the network of get_model is not that of its graph: best.pt and last.pt hold its tensors, which only "
            "the script's own network takes (load_state_dict)."
        )
    if run.initial is not None and run.initial.model is network:
        return run.initial
    is_checkpoint = isinstance(start, Checkpoint)
    origin = f"get_model, from {settings.model}" if is_checkpoint else "get_model"
    return InitialModel(network, start.license if is_checkpoint else None, origin, tuned=is_checkpoint)


def _scans(script: Script, own: Callable, data: DataSpec, settings: Settings, form: DataFormat) -> list[Scan]:
    script._run.loads = is_replaced(script, "get_dataloader", "build_dataset") or replaced_builders(script.task)
    if not script._run.loads:
        return own(data, settings, form)
    rank, processes = int(os.environ.get("RANK", -1)), int(os.environ.get("WORLD_SIZE", 1))
    batch = max(int(settings.batch) // processes, 1)
    script.train_loader = script.get_dataloader(script.trainset, batch_size=batch, rank=rank, mode="train")
    script.test_loader = script.get_dataloader(script.testset, batch_size=2 * batch, rank=-1, mode="val")
    return [scan_of(loader) for loader in (script.train_loader, script.test_loader)]


def _loaders(script: Script, own: Callable, run: Run) -> tuple[Any, Any]:
    script.save_dir = run.folder
    if script._run.loads:
        loaders = LoaderOfScript(script.train_loader, script.args), script.test_loader
    else:
        loaders = own(run)
        task = task_of(run.initial.model)
        script.train_loader = LoaderForScript(loaders[0], task.data.recipe(run.settings, False), task)
        script.test_loader = LoaderOfSplit(loaders[1], run.val_samples, task)
    script.validator = script.get_validator()
    return loaders


def _optimizer(script: Script, own: Callable, run: Run) -> tuple[torch.optim.Optimizer, optim.OptimizerPlan]:
    if not is_replaced(script, "build_optimizer"):
        return own(run)
    settings, model = run.settings, run.initial.model
    decay = optim.scaled_decay(settings.weight_decay, settings.batch, settings.nbs)
    iterations = optim.planned_iterations(len(run.samples), settings.batch, settings.nbs, settings.epochs)
    values = {"lr": settings.lr0, "momentum": settings.momentum, "decay": decay, "iterations": iterations}
    optimizer = script.build_optimizer(model=model, name=settings.optimizer, **values)
    return optimizer, _plan_of(optimizer, script._run.plan, settings)


def _plan_of(
    optimizer: torch.optim.Optimizer, known: optim.OptimizerPlan | None, settings: Settings
) -> optim.OptimizerPlan:
    """Complete the groups of a script's optimizer, each of which keeps its own rate, and return the plan of the run."""
    groups = optimizer.param_groups
    lr = known.lr if known is not None else max(group["lr"] for group in groups)
    for group in groups:
        is_flat = all(parameter.ndim < 2 for parameter in group["params"])
        decay = group.get("weight_decay", 0.0)
        group.setdefault("kind", "norm" if is_flat and not decay else "weight")
        group.setdefault("decay", decay)
        group.setdefault("weight_decay", decay)
        group["share"] = group["lr"] / lr if lr else 1.0
    if known is not None and type(optimizer).__name__.lower() == known.name.lower():
        return known
    momentum, decay = groups[0].get("momentum", settings.momentum), max(group["decay"] for group in groups)
    reason = "built by the script's build_optimizer"
    return optim.OptimizerPlan(type(optimizer).__name__, lr, momentum, decay, settings.warmup_bias_lr, reason)


def _pictures(script: Script, own: Callable, *arguments: object) -> PicturesOfScript:
    return PicturesOfScript(own(*arguments), script)


def _batch(script: Script, own: Callable, trainer: Trainer, batch: Batch, indices: Sequence[int]) -> Batch:
    script._run.files = [str(trainer.run.samples[index].image) for index in indices]
    if not script._run.loads and not is_replaced(script, "preprocess_batch"):
        return batch
    without_masks(script.task, "training on batches")
    task = trainer.task
    values = batch.values if isinstance(batch, ScriptBatch) else with_bytes(_values(script, trainer, batch))
    return batch_of(script.preprocess_batch(values), trainer.device, task)


def _values(script: Script, trainer: Trainer, batch: Batch) -> dict[str, object]:
    return dict_of(batch, script._run.files, trainer.task, getattr(trainer.model, "keypoints", None))


def _losses(script: Script, own: Callable, trainer: Trainer, batch: Batch) -> dict[str, Tensor]:
    if not has_own_loss(trainer.model):
        return own(trainer, batch)
    with torch.autocast(trainer.device.type, dtype=trainer.precision, enabled=trainer.precision is not None):
        values = _values(script, trainer, batch)
        losses = losses_of(trainer.model, values, script.loss_names, times_images=trainer.task.times_images)
    if tuple(losses) != tuple(trainer.task.losses):
        script.loss_names = tuple(losses)
        trainer.task = trainer.records.task = replace(trainer.task, losses=dict.fromkeys(losses, "box"))
        trainer.records.columns = columns_of(trainer.task)
        trainer.clear_sums()
    return losses


def _step(script: Script, own: Callable, trainer: Trainer) -> None:
    with script._run.in_place_of("step", own, trainer):
        script.optimizer_step()


def _validate(script: Script, own: Callable, trainer: Trainer, interrupts: object) -> Any:
    with script._run.in_place_of("validate", own, trainer, interrupts) as step:
        numbers, fitness = script.validate()
    if is_plain(script) and not is_replaced(script, "validate"):
        return step.result
    numbers = dict(numbers or {})
    fitness = float(numbers.get("fitness", 0.0) if fitness is None else fitness)
    losses = {name.removeprefix("val/"): numbers.pop(name) for name in list(numbers) if name.startswith("val/")}
    return ScriptMetrics({**numbers, "fitness": fitness}, fitness, losses)


def _record(script: Script, own: Callable, trainer: Trainer, row: dict[str, float]) -> None:
    head = {name: row[name] for name in ("epoch", "time")}
    metrics = {name: value for name, value in row.items() if name not in head}
    script._run.losses = {name: value for name, value in row.items() if name.startswith("val/") and value == value}
    if is_replaced(script, "label_loss_items"):
        metrics = {name: value for name, value in metrics.items() if not name.startswith("train/")}
        metrics = {**script.label_loss_items(trainer.tloss, prefix="train"), **metrics}

    def write(metrics: dict[str, float]) -> None:
        own(trainer, {**head, **metrics})

    with script._run.in_place_of("record", write):
        script.save_metrics(metrics=metrics)


def _save(script: Script, own: Callable, trainer: Trainer, *arguments: object) -> None:
    with script._run.in_place_of("save", own, trainer, *arguments):
        script.save_model()


def _measure(script: Script, own: Callable, trainer: Trainer) -> Any:
    script._run.losses = {}
    with script._run.in_place_of("measure", own, trainer) as step:
        script.final_eval()
    if not trainer.pictures.finished:
        trainer.pictures.results()
    return step.result if step.result is not None else trainer.validator and trainer.validator.metrics
