"""The verb `sizes`: train one graph in several sizes under the same budget, and compare them in one table.

An experiment is a folder: a training run for each size (n/, s/, ...), sizes.json (settings and trained sizes, written
whole after each size), sizes.md and sizes.png. An experiment that was killed can be resumed: finished sizes are kept,
and the size that was in training is resumed from its last.pt, as `train resume=` does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ..config.default_table import keys_with
from ..config.devices import select_devices
from ..config.errors import UserError, did_you_mean
from ..config.printable import say
from ..config.run_folder import new_run_dir, runs_top
from ..config.settings import Settings, load_settings
from ..config.yaml_files import ModelFile, find_model
from ..data.from_settings import find_data, legal_side, scan_split
from ..export.formats import ModelKind, model_kind
from ..models.build import build, model_for_task, task_of_document
from ..models.inference.prepare import fold_for_inference
from ..models.summary import summary
from ..models.weights.checkpoint import Checkpoint, load_checkpoint
from ..tasks import task_of
from ..tasks.metrics import TaskMetrics
from ..train.resume import changed_settings, is_finished, newest, recorded_settings, without_rights
from ..train.run import run_train
from ..val.pictures import Pictures
from ..val.run import validate_and_report
from .record import write_report
from .sizes_report import (
    BUDGET,
    FILE,
    ROUNDS,
    Experiment,
    SizeRecord,
    budget,
    draw,
    load_experiment,
    markdown,
    save_experiment,
)
from .timing import interleave, machine, variants

DEFAULT_SCALES = ("n", "s", "m", "l")
# Settings of the verb itself, or that differ from size to size. They are no part of the budget.
NOT_SHARED = frozenset(("mode", "task", "resume", "project", "name", "exist_ok", "model_scale"))
VARIANT = "fp32 channels_last"  # type and layout of the latencies


def run_sizes(settings: Settings) -> Experiment:
    """Train every size that is not trained yet, time all in turns, write and print the table.

    A first Ctrl-C or SIGTERM ends it as it ends a training run, with everything kept. Raises UserError as training
    does, and for settings under which sizes cannot be compared.
    """
    if "LOCAL_RANK" in os.environ:
        raise UserError(
            "sizes starts its own processes: call it without torchrun; device=0,1 trains each size on two GPUs."
        )
    experiment = _resumed_experiment(settings) if settings.resume else _new_experiment(settings)
    folder = experiment.folder
    say(f"Sizes {', '.join(experiment.scales)} under one budget ({budget(experiment)}); results in {folder}")
    try:
        experiment = _complete(experiment)
    except BaseException:
        if settings.resume or any(path.is_file() and path.name != FILE for path in folder.rglob("*")):
            say(f"The experiment is not finished. To go on with it: bitfalcon sizes resume={folder}")
        else:  # a mistake in the settings: nothing was trained
            _remove_empty(experiment)
        raise
    picture = partial(draw, experiment=experiment) if experiment.resolved.plots else None
    write_report(markdown(experiment), folder / "sizes.md", folder / FILE, picture)
    return experiment


def _complete(experiment: Experiment) -> Experiment:
    """Train and time what is not trained or timed yet; the record on the disk is written after each size."""
    trained = False
    for scale in experiment.scales:
        if experiment.record(scale) is None:
            record, used = _train(experiment, scale)
            experiment = replace(experiment, rows=(*experiment.rows, record), used=used)
            save_experiment(experiment)
            trained = True
    if trained or any(record.latency is None for record in experiment.rows):
        experiment = _time(experiment)
        save_experiment(experiment)
    return experiment


def _remove_empty(experiment: Experiment) -> None:
    (experiment.folder / FILE).unlink(missing_ok=True)
    for folder in (*(experiment.folder / scale for scale in experiment.scales), experiment.folder):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _new_experiment(settings: Settings) -> Experiment:
    """Make a new experiment and its folder. Raises UserError for settings under which sizes cannot be compared."""
    _check_settings(settings)
    name = model_for_task(settings.model, settings.task if "task" in settings.given else None)
    model = find_model(name, settings.variant)
    scales = _scales(settings.model_scale, model)
    shared = {**_shared(settings), "model": _resolved_path(name, model.path)}
    for scale in scales:  # a size that cannot be built is refused before the first one is trained
        with torch.device("meta"):
            build(str(shared["model"]), scale, variant=shared.get("variant"))
    task = task_of_document(model.document)
    folder = new_run_dir("sizes", settings.project, settings.name, settings.exist_ok, task)
    if (folder / FILE).exists():
        raise UserError(
            f"'{folder}' holds an experiment already. Go on with it: resume={folder}; or give another name=."
        )
    experiment = Experiment(folder, shared, scales)
    save_experiment(experiment)
    return experiment


def _check_settings(settings: Settings) -> None:
    if settings.model is not None and model_kind(settings.model) is not ModelKind.GRAPH:
        raise UserError(
            f"sizes trains a graph in several sizes; model={settings.model} is weights of one size. Give a graph, for "
            "example model=yolov12-lite.yaml ."
        )
    if isinstance(settings.pretrained, str):
        problem = "weights fit one size only, the others would start without them. Leave it out."
        raise UserError(f"pretrained={settings.pretrained}: {problem}")
    if settings.batch < 1:
        problem = "each size would choose another batch, and the budgets would differ. Give a number of images."
        raise UserError(f"batch={settings.batch:g}: {problem}")
    if not settings.save:
        raise UserError("save=False: without checkpoints an experiment cannot go on after a kill. Leave it out.")


def _scales(names: str | None, model: ModelFile) -> tuple[str, ...]:
    """Return the sizes that scale= names ("n,s", "[n, s]", "n"), or the default ones that the graph has."""
    available = model.document.get("scales")
    available = list(map(str, available)) if isinstance(available, Mapping) else []
    if not available:
        raise UserError(
            f"'{model.path.name}' has no scales: there is one size of it only. Give a graph with scales, for example "
            "model=yolov12-lite.yaml ."
        )
    if names is None:
        return tuple(scale for scale in DEFAULT_SCALES if scale in available) or tuple(available)
    scales = list(dict.fromkeys(name.strip(" '\"") for name in names.strip("[]() ").split(",")))
    if unknown := [scale for scale in scales if scale not in available]:
        problem = f"'{model.path.name}' has no size {unknown[0]!r}; its sizes are {', '.join(available)}"
        repair = f"Give some of them, for example scale={','.join(available[:2])}."
        raise UserError(f"scale={names}: {problem}. {repair}{did_you_mean(unknown[0], available)}")
    return tuple(scales)


def _shared(settings: Settings) -> dict[str, object]:
    """Return the settings that the user gave for all sizes, with paths that hold in any working directory."""
    shared = settings.given_values(without=NOT_SHARED)
    if settings.model is not None:
        shared["model"] = _resolved_path(settings.model, find_model(settings.model, settings.variant).path)
    if settings.data is not None:
        shared["data"] = _resolved_path(settings.data, settings.data)
    return shared


def _resolved_path(name: str, path: str | Path) -> str:
    """Return the absolute path of a file of the user's; the name alone for what the package brings."""
    return str(Path(path).resolve()) if Path(name).is_file() else name


def _resumed_experiment(settings: Settings) -> Experiment:
    """Load the experiment that resume= means. Raises UserError for settings that would make another one of it."""
    experiment = load_experiment(_path_to_resume(settings))
    shared = json.loads(json.dumps(_shared(settings)))  # lists for tuples, as in the file
    recorded = without_rights(experiment.settings, shared)
    changed = changed_settings(shared, recorded, "experiment")
    scales = experiment.scales
    if settings.model_scale is not None:  # sizes may be added
        model = find_model(str(experiment.settings["model"]), experiment.settings.get("variant"))
        scales = tuple(dict.fromkeys((*scales, *_scales(settings.model_scale, model))))
    return replace(experiment, scales=scales, settings={**recorded, **changed})


def _path_to_resume(settings: Settings) -> Path:
    """Return the sizes.json that resume= means: that of a folder, or the newest below project=."""
    if isinstance(settings.resume, str):
        path = Path(settings.resume)
        path = path / FILE if path.is_dir() else path
        if not path.is_file() or path.name != FILE:
            raise UserError(
                f"resume={settings.resume}: expected the folder of an experiment, with its {FILE}, for example "
                "resume=runs/detect/sizes; resume=True takes the newest."
            )
        return path
    top, name = runs_top(settings.project), settings.name or ""
    path = newest(path for path in top.rglob(FILE) if path.parent.name.startswith(name))
    if path is None:
        raise UserError(
            f"resume=True: no experiment lies in or below '{top.resolve()}'. Give resume=<its folder>, or start one "
            "without resume."
        )
    say(f"resume=True: the newest experiment here is {path.parent}")
    return path


def _train(experiment: Experiment, scale: str) -> tuple[SizeRecord, dict[str, object]]:
    """Train a size to its end; returns its record, and the settings of the budget as training resolved them."""
    folder = experiment.folder / scale
    best, last = (folder / "weights" / name for name in ("best.pt", "last.pt"))
    before = load_checkpoint(last) if last.is_file() else None
    say(f"\nSize {scale}:")
    if before is None:  # not begun, or killed before its first checkpoint
        own = {"model_scale": scale, "project": str(experiment.folder), "name": scale, "exist_ok": True}
        metrics = run_train(load_settings({**experiment.settings, **own, "mode": "train"}), None).metrics
    elif not is_finished(before):
        keys = [key for key in keys_with("resume", "experiment") if key in experiment.settings]
        changeable = {key: experiment.settings[key] for key in keys}
        metrics = run_train(load_settings({**changeable, "mode": "train", "resume": str(last)}), None).metrics
    else:  # killed after its last epoch
        metrics = _evaluate(folder, before, experiment.settings)
    checkpoint, after = load_checkpoint(best), load_checkpoint(last)
    size = summary(checkpoint.model(), _imgsz(checkpoint))
    cost = {"parameters": size.parameters, "gflops": size.gflops, "bytes": best.stat().st_size}
    length = {"epochs": after.epoch + 1, "seconds": after.training["seconds"]}
    record = SizeRecord(scale=scale, numbers=metrics.headline, **cost, **length)
    return record, {key: after.settings[key] for key in BUDGET}


def _evaluate(folder: Path, last: Checkpoint, typed: Mapping[str, object]) -> TaskMetrics:
    """Measure the best weights of a run as training does at its end. typed: the settings of the experiment."""
    settings = recorded_settings(last, typed)
    device = select_devices(settings.device)[0]
    model = fold_for_inference(load_checkpoint(folder / "weights" / "best.pt").model(), device)
    form = task_of(model).data
    data, settings = find_data(settings, form)
    settings = legal_side(settings, model.multiple)
    samples = scan_split(data, "val", settings, form).samples
    pictures = Pictures(folder, model.names, settings.plots)
    validator, _ = validate_and_report(model, samples, settings, folder=folder, pictures=pictures)
    return validator.metrics


def _imgsz(checkpoint: Checkpoint) -> int:
    imgsz = checkpoint.settings.get("imgsz", 640)
    return imgsz if isinstance(imgsz, int) else max(imgsz)


def _time(experiment: Experiment) -> Experiment:
    """Return the experiment with new latencies of all its sizes, measured in turns in this process."""
    device = select_devices(experiment.resolved.device)[0]
    runs = {}
    for record in experiment.rows:
        checkpoint = load_checkpoint(experiment.folder / record.scale / "weights" / "best.pt")
        runs[record.scale] = variants(checkpoint.model(), _imgsz(checkpoint), 1, device, names=[VARIANT])[VARIANT]
    timings = interleave(runs, rounds=ROUNDS, warmup=2, device=device)
    records = tuple(replace(record, latency=timings[record.scale]) for record in experiment.rows)
    return replace(experiment, rows=records, machine=machine())
