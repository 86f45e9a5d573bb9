"""From settings to a training run and its result: devices and processes, data, model, folder, the final measurement."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config.callbacks import Events
from ..config.devices import device_text, select_devices
from ..config.errors import UserError, blaming
from ..config.freed_memory import keep_freed_memory
from ..config.keywords import check_task
from ..config.notes import print_note
from ..config.printable import say
from ..config.run_folder import new_run_dir
from ..config.settings import Settings
from ..config.threads import note_spinning_threads
from ..config.unused import unused_settings
from ..data.data_format import DataFormat
from ..data.dataset import Scan
from ..data.formats.dataset_yaml import DataSpec
from ..data.from_settings import find_data, legal_side, scan_split
from ..models.build import DEFAULT_MODEL, graph_from_settings, task_of_graph
from ..models.detector import Detector
from ..models.graph.rows import Graph
from ..models.inference.precision import training_precision
from ..models.inference.prepare import fold_for_inference
from ..models.weights.checkpoint import Checkpoint, load_checkpoint
from ..tasks import task_named, task_of
from ..tasks.metrics import TaskMetrics
from ..val.run import Share, validate_and_report
from .batch_size import search_batch
from .distributed import World, check_batch, join
from .initial_model import initial_model, resumed_model
from .launch import launch
from .loggers import check_loggers, loggers_of
from .loop import train
from .progress import END, MEASURING
from .resume import resumed_run, resumed_settings, training_state
from .steps import Steps
from .trainer import Run, Trainer


@dataclass(frozen=True)
class Result:
    """The path of the best weights, their Metrics, and the Trainer where the run was in this process."""

    best: Path
    metrics: TaskMetrics
    trainer: Trainer | None = None


def run_train(
    settings: Settings, checkpoint: Checkpoint | None, events: Events | None = None, steps: Steps = Steps()
) -> Result:
    """Train a graph or a checkpoint, or resume an interrupted run; on several devices in as many processes.

    checkpoint: what model= names, None where that is a graph. steps: replace parts of the run in this process. Raises
    UserError for mistakes in settings and data.
    """
    check_loggers(settings)
    if checkpoint is not None and settings.pretrained is not False:
        checkpoint.to_train(settings.model)
    devices = select_devices(settings.device)
    note_spinning_threads(devices[0])
    keep_freed_memory(devices[0])
    if len(devices) > 1:
        if steps != Steps() or events and any(events.callbacks.values()):
            raise UserError(
                "Callbacks and replaced steps stay in the process of the script: start the script itself on every "
                f"device instead, torchrun --nproc_per_node={len(devices)} script.py."
            )
        check_batch(settings.batch, len(devices))  # before any process starts
        best, metrics = launch(len(devices), _in_process, settings.replace(device=device_text(devices)), checkpoint)
        return Result(best, metrics)
    with join(devices, settings.rank_timeout) as world, nullcontext() if world.main else _silence():
        run = _new_run(settings, checkpoint, events or Events(), world, devices[0], steps)
        with loggers_of(run.settings, run.folder, world.progress, world.main) as run.loggers:
            trainer = train(run)
            world.enter(MEASURING)
            metrics = steps("measure", _measure_best, trainer)
            say(f"Best weights: {trainer.best}\nResults: {run.folder}")
            trainer.fire("on_train_end")
            run.loggers.end(run.folder, trainer.metrics, trainer.best)
        trainer.fire("teardown")
        world.enter(END)
        return Result(trainer.best, metrics, trainer)


def _in_process(settings: Settings, checkpoint: Checkpoint | None) -> tuple[Path, TaskMetrics]:
    result = run_train(settings, checkpoint)
    return result.best, result.metrics


@contextmanager
def _silence() -> Iterator[None]:
    """Print nothing: of several processes the first one speaks for all."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _new_run(
    settings: Settings, checkpoint: Checkpoint | None, events: Events, world: World, device: torch.device, steps: Steps
) -> Run:
    """Find the data, build the model, complete the settings and make the run's folder; prints each step."""
    resumed, folder = resumed_run(settings) if settings.resume else (None, None)
    if resumed is not None:
        with blaming(folder / "weights" / "last.pt"):
            settings = resumed_settings(resumed, settings)
        world.progress.timeout = settings.rank_timeout
    elif checkpoint is None:  # a wrong graph is reported before data are read or generated
        graph = graph_from_settings(settings.model or DEFAULT_MODEL, settings)
        settings = _of_task(settings, graph)
    else:
        settings = _of_task(settings, checkpoint.graph)
    form = task_named(settings.task).data
    with world.main_first():  # generated data are written once
        data, settings = steps("data", find_data, settings, form)
    if resumed is not None:
        initial = steps("model", resumed_model, settings, resumed, data)
    else:
        initial = steps("model", initial_model, settings, checkpoint or graph, data)
    model = initial.model
    settings = legal_side(settings, model.multiple)
    train_scan, val_scan = steps("scans", _scans, data, settings, form)
    settings = _counted_batch(settings, model, device, world)
    settings = settings if "copy_paste" in form.without_effect else _applicable(settings, train_scan)
    if resumed is None:
        print_note(*unused_settings(settings, checkpoint is not None))
    _check_cells(settings, model.multiple, len(train_scan.samples), world)
    if folder is None and world.main:
        folder = steps("folder", _new_folder, settings)
    folder = world.broadcast(folder)
    more = f" and {world.size - 1} more" if world.size > 1 else ""
    say(
        f"Training {model.graph.name} scale={model.graph.scale or 'none'}, {model.nc} classes, on {device}{more}; "
        f"results in {folder}"
    )
    start = None
    if resumed is not None:
        with blaming(folder / "weights" / "last.pt"):
            start = training_state(resumed, settings, len(train_scan.samples))
    return Run(initial, settings, train_scan.samples, val_scan.samples, folder, device, start, events, world, steps)


def _of_task(settings: Settings, graph: Graph) -> Settings:
    """The settings with the task of a graph and what follows from it; notes what has no effect."""
    task = task_named(task_of_graph(graph))
    if "task" in settings.given and settings.task != task.name:
        check_task(settings.task, task.name, settings.model or graph.name)
        print_note(f"a graph of task={settings.task} and pretrained={settings.model} start from its weights.")
    print_note(*task.unused(settings))
    size = {} if "imgsz" in settings.given else {"imgsz": task.imgsz}
    return task.effective(settings).replace(task=task.name, **size)


def _scans(data: DataSpec, settings: Settings, form: DataFormat) -> list[Scan]:
    return [scan_split(data, split, settings, form) for split in ("train", "val")]


def _new_folder(settings: Settings) -> Path:
    return new_run_dir("train", settings.project, settings.name, settings.exist_ok, settings.task)


def _counted_batch(settings: Settings, model: Detector, device: torch.device, world: World) -> Settings:
    """The settings with batch= as a number of images, searched for where it is -1 or a fraction of the memory."""
    check_batch(settings.batch, world.size)
    if settings.batch >= 1:
        return settings.replace(batch=int(settings.batch))
    precision = training_precision(settings, device, lambda text: None)
    options = task_of(model).loss_options(settings, model)
    return settings.replace(batch=search_batch(model, settings.batch, settings.imgsz, device, precision, options))


def _applicable(settings: Settings, training: Scan) -> Settings:
    """The settings without copy_paste where no label has an outline; a note where the user gave it."""
    if not settings.copy_paste or training.polygons:
        return settings
    if "copy_paste" in settings.given:
        print_note(
            f"copy_paste={settings.copy_paste:g} needs labels with outlines (polygons); these have boxes only, "
            "nothing is pasted."
        )
    return settings.replace(copy_paste=0.0)


def _check_cells(settings: Settings, multiple: int, images: int, world: World) -> None:
    """Raise UserError where some batch of a process has one image of one cell: batch norm needs at least two values."""
    if settings.imgsz != multiple:
        return
    share = -(-settings.batch // world.size)
    last_share = -(-(images % settings.batch) // world.size)
    if share == 1 or last_share == 1:
        raise UserError(
            f"imgsz={settings.imgsz} leaves one cell of a map, and one image a batch: nothing to normalise over. Give "
            f"imgsz={2 * multiple} or another batch."
        )


def _measure_best(trainer: Trainer) -> TaskMetrics:
    """Measure the best weights as `val` does, with the table and the pictures."""
    settings, run = trainer.args, trainer.run
    run.world.barrier()  # the first process has written the file
    model = fold_for_inference(load_checkpoint(trainer.best).model(), run.device)
    outputs = {"folder": trainer.save_dir, "pictures": trainer.pictures, "events": run.events}
    share = Share(run.world.rank, run.world.size, run.world.gather)
    bad = getattr(trainer.val_loader, "bad", None)  # a script's own loader has none
    named = bad.named if bad else ()
    validator, _ = validate_and_report(model, run.val_samples, settings, share=share, named=named, **outputs)
    trainer.validator = validator
    trainer.metrics = validator.metrics.results_dict
    trainer.fire("on_fit_epoch_end")
    return validator.metrics
