"""What does the next larger model buy? One graph, each of its sizes trained under the same budget, and one table of what came out.

An experiment is a folder: a training run of its own for each size (n/, s/, ...), sizes.json (what was asked and what
is done; written whole after each size), sizes.md and sizes.png. Killed at any moment it goes on where it was:
finished sizes are kept, the one that was being trained goes on from its last.pt as `train resume=` does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..config.devices import select_devices
from ..config.errors import UserError, did_you_mean
from ..config.files import new_run_dir, write_text
from ..config.settings import Settings, given, load_settings
from ..config.yaml_files import ModelFile, find_model
from ..data.from_settings import find_data, legal_side, scan_split
from ..export.formats import ModelKind, model_kind
from ..models.build import DEFAULT_MODEL, build
from ..models.inference.prepare import fold_for_inference
from ..models.summary import summary
from ..models.weights.checkpoint import Checkpoint, load_checkpoint
from ..plots.charts import NoMatplotlib
from ..tasks.metrics import Metrics
from ..train.resume import changed_settings, is_finished, newest, recorded_settings
from ..train.run import run_train
from ..val.pictures import Pictures
from ..val.run import evaluate_and_report
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

USUAL = ("n", "s", "m", "l")  # where scale= names none
# What may be changed when an experiment goes on; the rest would make its sizes incomparable.
CHANGEABLE = frozenset(("device", "workers", "cache", "plots", "verbose", "debug", "allow_outside"))
ADDRESS = frozenset(("mode", "task", "resume", "project", "name", "exist_ok", "model_scale"))
FOLDERS = frozenset(("project", "name", "exist_ok", "resume", "mode", "task", "model_scale"))  # set for each size here
LATENCY = "fp32 channels_last"


def run_sizes(settings: Settings) -> Experiment:
    """Train every size that is not trained yet, time all in turns, write and print the table.

    A first Ctrl-C or SIGTERM ends it as it ends a training run, with everything kept. Raises UserError as training
    does, and for settings under which sizes cannot be compared.
    """
    if "LOCAL_RANK" in os.environ:
        raise UserError(
            "sizes starts its own processes: call it without torchrun; device=0,1 trains each size on two GPUs."
        )
    experiment = _resumed(settings) if settings.resume else _begun(settings)
    folder = experiment.folder
    print(f"Sizes {', '.join(experiment.scales)} under one budget ({budget(experiment)}); results in {folder}")
    try:
        experiment = _completed(experiment)
    except BaseException:
        if _holds_work(folder) or settings.resume:
            print(f"The experiment is not finished. To go on with it: bitfalcon sizes resume={folder}")
        else:  # the mistake was in what was asked: nothing is left of it
            (folder / FILE).unlink(missing_ok=True)
            for empty in (*(folder / scale for scale in experiment.scales), folder):
                if empty.is_dir() and not any(empty.iterdir()):
                    empty.rmdir()
        raise
    text = markdown(experiment)
    write_text(folder / "sizes.md", text)
    print(f"\n{text}\nTable: {folder / 'sizes.md'}, {folder / FILE}")
    if experiment.resolved.plots:
        try:
            print(f"Picture: {draw(folder / 'sizes.png', experiment)}")
        except NoMatplotlib as error:
            print(f"note: no picture: {error}")
    return experiment


def _completed(experiment: Experiment) -> Experiment:
    trained = False
    for scale in experiment.scales:
        if experiment.record(scale) is None:
            row, used = _train(experiment, scale)
            experiment = replace(experiment, rows=(*experiment.rows, row), used=used)
            save_experiment(experiment)
            trained = True
    if trained or any(row.latency is None for row in experiment.rows):
        experiment = _timed(experiment)
        save_experiment(experiment)
    return experiment


def _holds_work(folder: Path) -> bool:
    return any(path.is_file() and path.name != FILE for path in folder.rglob("*"))


def _begun(settings: Settings) -> Experiment:
    """A new experiment and its folder. Raises UserError for what cannot be compared or gone on with."""
    _check(settings)
    found = find_model(settings.model or DEFAULT_MODEL, settings.variant)
    scales = _scales(settings.model_scale, found)
    kept = {key: value for key, value in given(settings).items() if key not in FOLDERS}
    kept["model"] = _whole_path(settings.model or DEFAULT_MODEL, str(found.path))
    if settings.data is not None:
        kept["data"] = _whole_path(settings.data, settings.data)
    for scale in scales:  # a size that cannot be built is told of before the first is trained
        with torch.device("meta"):
            build(str(kept["model"]), scale, variant=kept.get("variant"))
    folder = new_run_dir("sizes", settings.project, settings.name, settings.exist_ok)
    if (folder / FILE).exists():
        raise UserError(
            f"'{folder}' holds an experiment already. Go on with it: resume={folder}; or give another name=."
        )
    experiment = Experiment(folder, kept, scales)
    save_experiment(experiment)
    return experiment


def _check(settings: Settings) -> None:
    if settings.model is not None and model_kind(settings.model) is not ModelKind.GRAPH:
        raise UserError(
            f"sizes trains a graph in several sizes; model={settings.model} is weights of one size. Give a graph, for example "
            "model=yolov12-lite.yaml ."
        )
    if isinstance(settings.pretrained, str):
        raise UserError(
            f"pretrained={settings.pretrained}: weights fit one size only, the others would start from less. Leave it away."
        )
    if settings.batch < 1:
        raise UserError(
            f"batch={settings.batch:g}: each size would find another batch, and the budgets would differ. Give a number of images."
        )
    if not settings.save:
        raise UserError("save=False: without checkpoints an experiment cannot go on after a kill. Leave it away.")


def _scales(wanted: str | None, found: ModelFile) -> tuple[str, ...]:
    """The sizes that scale= names ("n,s", "[n, s]", "n"), or the usual ones of the graph."""
    known = found.document.get("scales")
    known = list(map(str, known)) if isinstance(known, Mapping) else []
    if not known:
        raise UserError(
            f"'{found.path.name}' has no scales: there is one size of it only. Give a graph with scales, for example "
            "model=yolov12-lite.yaml ."
        )
    if wanted is None:
        return tuple(scale for scale in USUAL if scale in known) or tuple(known)
    words = list(dict.fromkeys(word.strip(" '\"") for word in wanted.strip("[]() ").split(",")))
    if wrong := [word for word in words if word not in known]:
        raise UserError(
            f"scale={wanted}: '{found.path.name}' has no size {wrong[0]!r}; its sizes are {', '.join(known)}. Give some of "
            f"them, for example scale={','.join(known[:2])}.{did_you_mean(wrong[0], known)}"
        )
    return tuple(words)


def _whole_path(given_path: str, found: str) -> str:
    # kept whole where it is a file of the user's, so that the experiment can go on from any folder
    return str(Path(found).resolve()) if Path(given_path).is_file() else given_path


def _resumed(settings: Settings) -> Experiment:
    """The experiment that resume= means. Raises UserError for settings that would make another one of it."""
    experiment = load_experiment(_to_resume(settings))
    typed = {key: value for key, value in given(settings).items() if key not in ADDRESS}
    if settings.model is not None:
        found = find_model(settings.model, settings.variant).path
        typed["model"] = _whole_path(settings.model, str(found))
    if settings.data is not None:
        typed["data"] = _whole_path(settings.data, settings.data)
    plain = json.loads(json.dumps(typed))  # as the file holds it: lists, not tuples
    changed = changed_settings(plain, experiment.settings, CHANGEABLE, "experiment")
    scales = experiment.scales
    if settings.model_scale is not None:  # more sizes may be asked for
        more = _scales(
            settings.model_scale, find_model(str(experiment.settings["model"]), experiment.settings.get("variant"))
        )
        scales = (*scales, *(scale for scale in more if scale not in scales))
    return replace(experiment, scales=scales, settings={**experiment.settings, **changed})


def _to_resume(settings: Settings) -> Path:
    """The sizes.json that is meant: a folder's, or the newest below project=."""
    if isinstance(settings.resume, str):
        path = Path(settings.resume)
        path = path / FILE if path.is_dir() else path
        if not path.is_file() or path.name != FILE:
            raise UserError(
                f"resume={settings.resume}: expected the folder of an experiment, with its {FILE}, for example "
                "resume=runs/detect/sizes; resume=True takes the newest."
            )
        return path
    top = Path(settings.project or "runs/detect")
    path = newest(p for p in top.rglob(FILE) if settings.name is None or p.parent.name.startswith(settings.name))
    if path is None:
        raise UserError(
            f"resume=True: no experiment lies in or below '{top.resolve()}'. Give resume=<its folder>, or start one without "
            "resume."
        )
    print(f"resume=True: the newest experiment here is {path.parent}")
    return path


def _train(experiment: Experiment, scale: str) -> tuple[SizeRecord, dict[str, object]]:
    """Train a size, or what is left of it; its row, and the settings of the budget as they held."""
    run = experiment.folder / scale
    best, last = (run / "weights" / name for name in ("best.pt", "last.pt"))
    resumed = load_checkpoint(last) if last.is_file() else None
    print(f"\nSize {scale}:")
    if resumed is None:  # killed before its first checkpoint, or not begun
        own = {
            "mode": "train",
            "model_scale": scale,
            "project": str(experiment.folder),
            "name": scale,
            "exist_ok": True,
        }
        metrics = run_train(load_settings({**experiment.settings, **own}), None).metrics
    elif not is_finished(resumed):
        kept = {key: value for key, value in experiment.settings.items() if key in CHANGEABLE}
        metrics = run_train(load_settings({**kept, "mode": "train", "resume": str(last)}), None).metrics
    else:  # killed after its last epoch
        metrics = _measured(run, resumed)
    opened, ended = load_checkpoint(best), load_checkpoint(last)
    sizes = summary(opened.model(), _side(opened))
    row = SizeRecord(
        scale,
        sizes.parameters,
        sizes.gflops,
        metrics.ap50,
        metrics.ap,
        best.stat().st_size,
        ended.epoch + 1,
        ended.training["seconds"],
    )
    return row, {key: ended.settings[key] for key in BUDGET}


def _measured(run: Path, last: Checkpoint) -> Metrics:
    """Metrics of a run's best weights, as training itself measures them at its end."""
    settings = recorded_settings(last)
    device = select_devices(settings.device)[0]
    model = fold_for_inference(load_checkpoint(run / "weights" / "best.pt").model(), device)
    data, settings = find_data(settings)
    settings = legal_side(settings, model.multiple)
    samples = scan_split(data, "val", settings).samples
    pictures = Pictures(run, model.names, settings.plots, print, board=False)
    validator, _ = evaluate_and_report(model, samples, settings, folder=run, pictures=pictures)
    return validator.metrics


def _side(checkpoint: Checkpoint) -> int:
    side = checkpoint.settings.get("imgsz", 640)
    return side if isinstance(side, int) else max(side)


def _timed(experiment: Experiment) -> Experiment:
    """All rows with latencies, measured in turns in this process."""
    device = select_devices(experiment.resolved.device)[0]
    runs = {}
    for row in experiment.rows:
        opened = load_checkpoint(experiment.folder / row.scale / "weights" / "best.pt")
        runs[row.scale] = variants(opened.model(), _side(opened), 1, device, names=[LATENCY])[LATENCY]
    taken = interleave(runs, rounds=ROUNDS, warmup=2, device=device)
    return replace(
        experiment, rows=tuple(replace(row, latency=taken[row.scale]) for row in experiment.rows), machine=machine()
    )
