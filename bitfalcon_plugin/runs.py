"""From settings to a training run and its result: data, model, weights to start from, folder, devices; resuming."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .checkpoint import Checkpoint, load
from .config import Settings, live, load_settings
from .data.dataset import Scan
from .data.spec import DataSpec
from .devices import select_devices, spelled
from .errors import UserError
from .events import Events
from .files import new_run_dir
from .foreign import load_any
from .graph import Graph
from .idle import idle
from .inputs import DEFAULT_MODEL, class_names, find_data, given, graph_for, is_weights, legal_side, scan_split
from .measuring import finish, measure, report
from .model import Detector, graph_of, read_graph
from .modules.replace import bitify, unbitify
from .policy import NOTHING
from .training.distributed import World, check_batch, join
from .training.launch import launch
from .training.loop import train
from .training.memory import search_batch
from .training.setup import precision_of
from .training.trainer import Run, Trainer
from .transfer import class_width, transfer
from .validate import Metrics
from .worst import worst_images

# What may be changed when a run is resumed; the rest would make another run of it.
CHANGEABLE = frozenset((
    "epochs", "time", "patience", "batch", "imgsz", "device", "workers", "cache", "save", "save_period", "val", "plots", "verbose",
    "close_mosaic", "freeze", "data", "allow_outside", "amp", "compile", "checkpointing", "sync_bn", "debug", "mosaic", "mixup", "cutmix",
    "copy_paste", "copy_paste_mode", "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud",
    "fliplr", "bgr", "multi_scale", "conf", "iou", "max_det"))
ADDRESS = frozenset(("mode", "task", "model", "resume"))  # which run it is


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
            raise UserError("Callbacks stay in the process that added them: start the script itself on every device instead, "
                            f"torchrun --nproc_per_node={len(devices)} script.py.")
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


def _train_here(settings: Settings, checkpoint: Checkpoint | None, events: Events, world: World, device: torch.device) -> Result:
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
    settings = legal_side(settings, model)
    train_scan, val_scan = scan_split(data, "train", settings), scan_split(data, "val", settings)
    settings = _whole_batch(settings, model, device, world)
    settings = _applicable(settings, train_scan)
    if resumed is None:
        for line in idle(settings, checkpoint is not None):
            print(f"note: {line}", file=sys.stderr)
    share = -(-settings.batch // world.size)
    if settings.imgsz == model.multiple and (share == 1 or -(-(len(train_scan.samples) % settings.batch) // world.size) == 1):
        raise UserError(f"imgsz={settings.imgsz} leaves one cell of a map, and one image a batch: nothing to normalise over. Give "
                        f"imgsz={2 * model.multiple} or another batch.")
    folder = world.same(folder or (new_run_dir("train", settings.project, settings.name, settings.exist_ok) if world.main else None))
    print(f"Training {model.graph.name} scale={model.graph.scale or 'none'}, {model.nc} classes, on {device}"
        + (f" and {world.size - 1} more" if world.size > 1 else "") + f"; results in {folder}")
    run = Run(model, settings, train_scan.samples, val_scan.samples, folder, device, license=license, matched=matched, tuned=tuned,
              start=_start(resumed, settings, len(train_scan.samples)) if resumed else None, events=events, world=world)
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
    validator, found = measure(model, run.val_samples, settings, run.device, folder=trainer.save_dir, pictures=trainer.pictures,
                               events=run.events, world=run.world)
    metrics, trainer.validator = validator.metrics, validator
    trainer.measured(metrics)
    worst = worst_images(run.val_samples, found, model.names, conf=metrics.best_conf)
    report(metrics, worst, settings)
    if run.world.main:
        finish(trainer.save_dir, metrics, worst, trainer.pictures)
    trainer.fire("on_fit_epoch_end")
    return metrics


def _resumed(settings: Settings) -> tuple[Checkpoint, Path] | tuple[None, None]:
    # The interrupted run's checkpoint and its folder, wherever that lies now.
    if not settings.resume:
        return None, None
    path = to_resume(settings)
    checkpoint = load(path).to_train(path)
    if checkpoint.training is None:
        raise UserError(f"'{path}' holds weights without the state of a training run, as best.pt does: nothing to resume. Give the run's "
                        "last.pt; or to train on from these weights, give them as model= without resume.")
    epochs = settings.epochs if "epochs" in settings.given else checkpoint.settings["epochs"]
    ended = checkpoint.training.get("ended", "")
    if ended and epochs <= checkpoint.settings["epochs"] and not {"patience", "time"} & settings.given:
        raise UserError(f"'{path}' is of a run that ended by itself after {checkpoint.epoch + 1} epochs. {ended} Give patience=0, or a "
                        f"higher number of epochs than {checkpoint.settings['epochs']}, to go on.")
    if "epochs" not in settings.given and (settings.time or checkpoint.settings.get("time")):
        epochs = checkpoint.training.get("epochs", epochs)  # time= plans them
    if "time" in settings.given and settings.time and settings.time > (checkpoint.settings.get("time") or 0):
        epochs = checkpoint.epoch + 2  # more time: at least another epoch
    if checkpoint.epoch + 1 >= epochs:
        raise UserError(f"'{path}' is of a finished run ({checkpoint.epoch + 1} epochs). Give a higher number to extend it, for example "
                        f"epochs={2 * (checkpoint.epoch + 1)}; or train anew from these weights with model={path} and no resume.")
    return checkpoint, Path(path).resolve().parent.parent


def to_resume(settings: Settings) -> Path:
    """The last.pt that is meant: a path, a run's folder, the one beside model=best.pt, or the newest."""
    if isinstance(settings.resume, str):
        path = Path(settings.resume)
        found = next((one for one in (path / "weights" / "last.pt", path / "last.pt") if one.is_file()), path)
        if found.is_dir() or not is_weights(found):
            raise UserError(f"resume={settings.resume}: expected a run's last.pt or its folder, for example "
                            "resume=runs/detect/train/weights/last.pt; resume=True takes the newest.")
        return found
    if settings.model is not None and is_weights(settings.model):
        beside = Path(settings.model).with_name("last.pt")
        return beside if beside.is_file() else Path(settings.model)
    path = _newest_last(Path(settings.project or "."))
    print(f"resume=True: the newest run here is {path}")
    return path


def _newest_last(folder: Path) -> Path:
    found = [path for path in folder.rglob("last*.pt") if path.is_file()]
    if not found:
        raise UserError(f"resume=True: no last.pt lies in or below '{folder.resolve()}'. Give resume=<run folder>/weights/last.pt .")
    return max(found, key=lambda path: path.stat().st_mtime)


def _settings_of(resumed: Checkpoint, settings: Settings) -> Settings:
    kept = {key: value for key, value in resumed.settings.items() if key != "save_dir"}
    changed = {key: value for key, value in given(settings).items() if key not in ADDRESS and value != kept.get(key)}
    fixed = [f"{key}={changed[key]} (the run: {kept.get(key)})" for key in changed if key not in CHANGEABLE]
    if fixed:
        raise UserError(f"A resumed run keeps its settings; these would make another run of it: {', '.join(fixed)}. Leave them away; "
                        "or start a new run from its weights with model= and no resume.")
    # what nobody gave stays so: workers and amp then follow the machine, and the values are the defaults anyway
    typed = resumed.training.get("given", kept)
    kept = {key: value for key, value in kept.items() if key in typed or value != live().get(key, {}).get("default")}
    return load_settings({**kept, **changed, "mode": "train", "resume": True})


def _start(resumed: Checkpoint, settings: Settings, images: int) -> Mapping[str, object]:
    """The training state of a checkpoint for these settings, the EMA's weights with it."""
    state = dict(resumed.training)
    if "batch" not in state:  # version 0.1.0 wrote it at the end of epochs only
        state |= {"epoch": resumed.epoch + 1, "batch": 0, "losses": torch.zeros(3), "boxes": 0, "slower": 1.0, "returned": 0, "skipped": 0,
                  "plan": None, "epochs": settings.epochs}
    if state.get("images", images) != images:
        print(f"note: the training split has {images} images; it had {state['images']} when the run stopped.")
    other = [key for key in ("batch", "imgsz", "data") if settings.as_dict()[key] != resumed.settings.get(key)]
    if state["batch"] and (other or state.get("images", images) != images):
        print(f"note: epoch {state['epoch'] + 1} begins anew: its batches are others now.")
        state |= {"batch": 0, "losses": torch.zeros(3), "boxes": 0}
    return {**state, "average": resumed.state}


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
            print(f"note: copy_paste={settings.copy_paste:g} needs labels with outlines (polygons); these have boxes only, nothing is pasted.")
        changes["copy_paste"] = 0.0
    return settings.replace(**changes) if changes else settings


def _model_to_train(settings: Settings, checkpoint: Checkpoint | None, data: DataSpec, resumed: bool) -> tuple[Detector, str | None, str, bool]:
    # The model, the licence of the weights that it starts from, what was taken over from them, and whether that was all.
    torch.manual_seed(settings.seed + 1)  # fresh weights are part of what a seed repeats
    names = class_names(settings, data)
    if checkpoint is not None:
        source, graph = settings.model, checkpoint.graph
        if resumed and dict(graph.names) != names:
            raise UserError(f"The run was of the classes {', '.join(graph.names.values())}; {data.path} has {', '.join(names.values())}. "
                            "Give the data of the run, or start a new run with model= and no resume.")
        document = graph.document if dict(graph.names) == names else {**graph.document, "class_width": class_width(checkpoint)}
        model = Detector(graph_of(document, name=graph.name, named_scale=graph.scale, variant=graph.variant, nc=len(names),
                                  names=names))
    else:
        graph = graph_for(settings.model or DEFAULT_MODEL, settings, data)
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
    if bad := [name for name, tensor in checkpoint.state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise UserError(f"'{source}' holds NaN or infinite values in {len(bad)} tensors (the first is {bad[0]}): nothing can be trained "
                        "from it. Give other weights.")
    table = transfer(model, checkpoint, source, by_name=settings.cls_remap)
    print(f"Weights of '{source}':\n{table}")
    words = "; ".join(" ".join(line.split()) for line in str(table).splitlines())
    return model, checkpoint.license, f"{source}: {words}", not table.new


def _same_width(graph: Graph, checkpoint: Checkpoint) -> Graph:
    # The class branches keep the hidden width of the weights, so that these fit.
    if checkpoint.graph.nc == graph.nc or len(checkpoint.graph.rows) != len(graph.rows):
        return graph
    return graph_of({**graph.document, "class_width": class_width(checkpoint)}, name=graph.name, named_scale=graph.scale,
                    variant=graph.variant, nc=graph.nc, names=graph.names)
