"""From settings to a training run and its result: data, model, weights to start from, folder, devices; resuming."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config.callbacks import Events
from ..config.devices import select_devices, spelled
from ..config.errors import UserError
from ..config.files import new_run_dir
from ..config.settings import Settings
from ..config.unused import idle
from ..data.dataset import Scan
from ..data.formats.dataset_yaml import DataSpec
from ..data.from_settings import class_names, find_data, legal_side, scan_split
from ..models.bitify import bitify, unbitify
from ..models.build import DEFAULT_MODEL, graph_for, graph_of, read_graph
from ..models.detector import Detector
from ..models.graph.bit_policy import NOTHING
from ..models.graph.rows import Graph
from ..models.inference.precision import precision_of
from ..models.weights.checkpoint import Checkpoint, load
from ..models.weights.foreign import load_any
from ..models.weights.transfer import class_width, transfer
from ..tasks.metrics import Metrics
from ..val.run import finish, measure, report
from ..val.worst import worst_images
from .batch_size import search_batch
from .distributed import World, check_batch, join
from .launch import launch
from .loop import train
from .resume import _resumed, _settings_of, _start
from .trainer import Run, Trainer


@dataclass(frozen=True)
class Result:
    """What a training run leaves: the best weights' path, their Metrics, and its Trainer where it ran in this process."""

    best: Path
    metrics: Metrics
    trainer: Trainer | None = None


def run_train(settings: Settings, checkpoint: Checkpoint | None, events: Events | None = None) -> Result:
    """Train a graph, or go on from a checkpoint or an interrupted run; on several devices in as many processes."""
    if checkpoint is not None and settings.pretrained is not False:
        checkpoint.to_train(settings.model)
    devices = select_devices(settings.device)
    if len(devices) > 1:
        if events and any(events.callbacks.values()):
            raise UserError(
                "Callbacks stay in the process that added them: start the script itself on every device instead, "
                f"torchrun --nproc_per_node={len(devices)} script.py."
            )
        check_batch(settings.batch, len(devices))  # before any process starts
        best, metrics = launch(len(devices), _in_process, settings.replace(device=spelled(devices)), checkpoint)
        return Result(best, metrics)
    with join(devices) as world, _quiet(not world.main):
        return _train_here(settings, checkpoint, events or Events(), world, devices[0])


@contextlib.contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Of several processes the first speaks for all."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as stack:
        if wanted:
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def _in_process(settings: Settings, checkpoint: Checkpoint | None) -> tuple[Path, Metrics]:
    result = run_train(settings, checkpoint)
    return result.best, result.metrics


def _train_here(
    settings: Settings, checkpoint: Checkpoint | None, events: Events, world: World, device: torch.device
) -> Result:
    resumed, folder = _resumed(settings)
    if resumed is not None:
        settings = _settings_of(resumed, settings)
    if checkpoint is None and resumed is None:  # a wrong graph is told before data are looked at or generated
        read_graph(settings.model or DEFAULT_MODEL, settings.model_scale or "", variant=settings.variant)
    if not world.main:  # generated data are written once
        world.barrier()
    data, settings = find_data(settings)
    if world.main:
        world.barrier()
    model, license, matched, tuned = _model_to_train(settings, resumed or checkpoint, data, resumed is not None)
    if resumed is None and settings.bit and settings.bit != NOTHING:  # the graph of a run that goes on has it
        changes = bitify(model, settings.bit, settings.keep or "default")
        print(f"bit={settings.bit}: {changes.total()}")
    elif resumed is None and settings.bit == NOTHING and (changes := unbitify(model)):  # of bitfalcon.yaml, for one
        print(f"bit=none: {len(changes)} layers are float now")
    settings = legal_side(settings, model.multiple)
    train_scan, val_scan = scan_split(data, "train", settings), scan_split(data, "val", settings)
    settings = _whole_batch(settings, model, device, world)
    settings = _applicable(settings, train_scan)
    if resumed is None:
        for line in idle(settings, checkpoint is not None):
            print(f"note: {line}", file=sys.stderr)
    share = -(-settings.batch // world.size)
    if settings.imgsz == model.multiple and (
        share == 1 or -(-(len(train_scan.samples) % settings.batch) // world.size) == 1
    ):
        raise UserError(
            f"imgsz={settings.imgsz} leaves one cell of a map, and one image a batch: nothing to normalise over. Give "
            f"imgsz={2 * model.multiple} or another batch."
        )
    folder = world.same(
        folder or (new_run_dir("train", settings.project, settings.name, settings.exist_ok) if world.main else None)
    )
    print(
        f"Training {model.graph.name} scale={model.graph.scale or 'none'}, {model.nc} classes, on {device}"
        + (f" and {world.size - 1} more" if world.size > 1 else "")
        + f"; results in {folder}"
    )
    run = Run(
        model,
        settings,
        train_scan.samples,
        val_scan.samples,
        folder,
        device,
        license=license,
        matched=matched,
        tuned=tuned,
        start=_start(resumed, settings, len(train_scan.samples)) if resumed else None,
        events=events,
        world=world,
    )
    trainer = train(run)
    metrics = _final(trainer)
    print(f"Best weights: {trainer.best}\nResults: {folder}")
    trainer.fire("on_train_end")
    trainer.fire("teardown")
    return Result(trainer.best, metrics, trainer)


def _final(trainer: Trainer) -> Metrics:
    """Measure the best weights as `val` does, with the table and the pictures."""
    settings, run = trainer.args, trainer.run
    run.world.barrier()  # the first process has written the file
    model = load(trainer.best).model().fuse().requires_grad_(False).to(run.device, memory_format=torch.channels_last)
    validator, found = measure(
        model,
        run.val_samples,
        settings,
        run.device,
        folder=trainer.save_dir,
        pictures=trainer.pictures,
        events=run.events,
        rank=run.world.rank,
        size=run.world.size,
        gather=run.world.gather,
    )
    metrics, trainer.validator = validator.metrics, validator
    trainer.measured(metrics)
    worst = worst_images(run.val_samples, found, model.names, conf=metrics.best_conf)
    report(metrics, worst, settings)
    if run.world.main:
        finish(trainer.save_dir, metrics, worst, trainer.pictures)
    trainer.fire("on_fit_epoch_end")
    return metrics


def _whole_batch(settings: Settings, model: Detector, device: torch.device, world: World) -> Settings:
    check_batch(settings.batch, world.size)
    if settings.batch >= 1:
        return settings.replace(batch=int(settings.batch))
    precision = precision_of(settings, device, lambda text: None)
    return settings.replace(batch=search_batch(model, settings.batch, settings.imgsz, device, precision, print))


def _applicable(settings: Settings, found: Scan) -> Settings:
    """Settings without what cannot apply here; says so of those that the user gave."""
    changes: dict[str, object] = {}
    if settings.copy_paste and not found.polygons:
        if "copy_paste" in settings.given:
            print(
                f"note: copy_paste={settings.copy_paste:g} needs labels with outlines (polygons); these have boxes only, nothing is pasted."
            )
        changes["copy_paste"] = 0.0
    return settings.replace(**changes) if changes else settings


def _model_to_train(
    settings: Settings, checkpoint: Checkpoint | None, data: DataSpec, resumed: bool
) -> tuple[Detector, str | None, str, bool]:
    # The model, the licence of the weights that it starts from, what was taken over from them, and whether that was all.
    torch.manual_seed(settings.seed + 1)  # fresh weights are part of what a seed repeats
    names = class_names(settings, data)
    if checkpoint is not None:
        source, graph = settings.model, checkpoint.graph
        if resumed and dict(graph.names) != names:
            raise UserError(
                f"The run was of the classes {', '.join(graph.names.values())}; {data.path} has {', '.join(names.values())}. "
                "Give the data of the run, or start a new run with model= and no resume."
            )
        document = (
            graph.document if dict(graph.names) == names else {**graph.document, "class_width": class_width(checkpoint)}
        )
        model = Detector(
            graph_of(
                document, name=graph.name, named_scale=graph.scale, variant=graph.variant, nc=len(names), names=names
            )
        )
    else:
        graph = graph_for(settings.model or DEFAULT_MODEL, settings, names)
        if not isinstance(settings.pretrained, str):
            return Detector(graph), None, "", False
        source, checkpoint = settings.pretrained, load_any(settings.pretrained)
        model = Detector(_same_width(graph, checkpoint))
    if resumed:
        checkpoint.set_norms(model)
        return model, checkpoint.license, "", False
    if settings.pretrained is False:
        print(f"pretrained=False: '{source}' gives the graph, its weights are not used", file=sys.stderr)
        return model, None, "", False
    if bad := [
        name for name, tensor in checkpoint.state.items() if tensor.is_floating_point() and not tensor.isfinite().all()
    ]:
        raise UserError(
            f"'{source}' holds NaN or infinite values in {len(bad)} tensors (the first is {bad[0]}): nothing can be trained "
            "from it. Give other weights."
        )
    table = transfer(model, checkpoint, source, by_name=settings.cls_remap)
    print(f"Weights of '{source}':\n{table}")
    words = "; ".join(" ".join(line.split()) for line in str(table).splitlines())
    return model, checkpoint.license, f"{source}: {words}", not table.new


def _same_width(graph: Graph, checkpoint: Checkpoint) -> Graph:
    # The class branches keep the hidden width of the weights, so that these fit.
    if checkpoint.graph.nc == graph.nc or len(checkpoint.graph.rows) != len(graph.rows):
        return graph
    return graph_of(
        {**graph.document, "class_width": class_width(checkpoint)},
        name=graph.name,
        named_scale=graph.scale,
        variant=graph.variant,
        nc=graph.nc,
        names=graph.names,
    )
