"""The verb `tune`: search for the hyper-parameters that give the best fitness, a training run for each trial.

A search is a folder: study.db (every trial, as it ends), trials/ (a training run each, without weights),
weights/best.pt of the best one, and the files of report.py. Several processes may search in one folder; after a kill
it goes on.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from ..config.callbacks import Events
from ..config.default_table import keys_with
from ..config.devices import select_devices
from ..config.errors import UserError
from ..config.files import atomic
from ..config.notes import print_note
from ..config.printable import say
from ..config.run_folder import new_run_dir, runs_top
from ..config.settings import Settings, load_settings
from ..data.from_settings import find_data, scan_split
from ..export.formats import ModelKind, model_kind
from ..models.build import DEFAULT_MODEL, graph_from_settings
from ..models.detector import Detector
from ..models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ..models.weights.foreign import open_checkpoint
from ..tasks import Task, task_of
from ..tasks.metrics import TaskMetrics
from ..train.resume import changed_settings, is_finished, newest, without_rights
from ..train.run import run_train
from .report import Tuning, write_report, write_values
from .space import Space, space_of, start_of
from .study import FILE, Study, Trial, import_optuna, quiet_optuna

DEFAULT_OPTIMIZER = "AdamW"  # optimizer=auto would choose lr0 and momentum itself, and nothing would search them
# Settings of the search itself, or that differ from trial to trial. They are no part of what all trials share.
NOT_SHARED = frozenset(("mode", "iterations", "space", "resume", "project", "name", "exist_ok", "plots", "debug"))
SAME_FAILURES = 3  # first trials that end with one and the same error before the search ends with it


class Pruned(Exception):
    """A trial is ended early, because others were better at the same epoch."""


def run_tune(settings: Settings, checkpoint: Checkpoint | None = None, events: Events | None = None) -> Tuning:
    """Search until there are iterations= trials, write and print the table; a failed trial is a row of it.

    checkpoint: weights to begin each trial with, where they are not those of model=. events: of each training run.
    Ctrl-C ends the search with what there is; resume= goes on with it. Raises UserError for mistakes in the settings,
    and where the first trials fail for the same reason.
    """
    import_optuna()
    if "LOCAL_RANK" in os.environ:
        raise UserError("tune starts its own runs: call it without torchrun; device=0,1 trains each trial on two GPUs.")
    with quiet_optuna():
        folder = _folder_to_resume(settings, checkpoint)
        study = _new(settings, checkpoint) if folder is None else _resumed(settings, folder)
        study.settings = without_rights(study.settings, settings.given_values())
        say(f"Search of {len(study.space)} settings, {study.iterations} trials; results in {study.folder}")
        try:
            _search(study, settings, events or Events())
        except BaseException as error:
            study.interrupt()
            if not isinstance(error, UserError):
                say(f"The search is not finished. To go on with it: bitfalcon tune resume={study.folder}")
            write_report(study, settings.plots)
            raise
        tuning = write_report(study, settings.plots)
    if tuning.best is None:
        errors = [row.error for row in tuning.rows if row.error]
        raise UserError(f"No trial of {len(tuning)} ended with a fitness. The last error: {(errors or ['none'])[-1]}")
    return tuning


def _search(study: Study, settings: Settings, events: Events) -> None:
    """Train trials until the search has as many as it should, those of other processes included."""
    shared = {**study.settings, **_own_choices(study, settings)}
    while (trial := study.next_trial(settings.seed)) is not None:
        values = ", ".join(f"{key}={_short(value)}" for key, value in trial.values.items())
        say(f"\nTrial {trial.number} (of {study.iterations}): {values}")
        _run_trial(study, trial, shared, events)
        with study.lock:
            write_values(study)
        _raise_if_all_fail(study)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _run_trial(study: Study, trial: Trial, shared: Mapping[str, object], events: Events) -> None:
    """Train a trial and record how it ended."""
    start, epochs, best = time.monotonic(), [], []

    def watch(trainer) -> None:
        fitness = trainer.fitness
        epochs.append(trainer.epoch + 1)
        if fitness is None or fitness != fitness:
            return
        best[:] = [max([*best, fitness])]
        if study.report(trial, trainer.epoch, fitness, trainer.epochs):
            raise Pruned

    def end(state: str, fitness: float | None, **facts: object) -> bool:
        facts |= {"epochs": max(epochs, default=0), "seconds": round(time.monotonic() - start, 1)}
        return study.finish(trial, state, fitness, facts)

    fitness = best[0] if best else None
    try:
        metrics, path = _train(study, trial, shared, events, watch)
        fitness = metrics.fitness
        if fitness != fitness:
            raise UserError("the fitness is no number: the validation split has no labels.")
        if end("complete", fitness, metrics=_numbers(metrics)):
            _keep(path, study.folder / "weights" / "best.pt")
        leader = study.best()
        say(f"Trial {trial.number}: fitness {fitness:.4f}; best {leader.fitness:.4f}, trial {leader.number}")
    except Pruned:
        end("pruned", best[0])
        say(f"Trial {trial.number}: ended after epoch {epochs[-1]}, fitness {best[0]:.4f} is below the others'.")
    except Exception as error:
        text = _reason(error)
        end("failed", best[0] if best else None, error=text)
        print_note(f"trial {trial.number} failed: {text}")
        _free_memory()
    except BaseException:
        end("interrupted", best[0] if best else None)
        raise  # its weights stay: the trial goes on with them
    shutil.rmtree(trial.folder / "weights", ignore_errors=True)


def _train(study: Study, trial: Trial, shared: Mapping[str, object], events: Events, watch) -> tuple[TaskMetrics, Path]:
    """Train with the values of a trial; returns the metrics and the path of the best weights.

    watch: called with the trainer after each epoch; on several GPUs, whose trainers are in other processes, never.
    """
    own = {"project": str(study.folder / "trials"), "name": trial.folder.name, "exist_ok": True, "plots": False}
    settings, start = load_settings({**shared, **trial.values, **own, "mode": "train"}), None
    source, last = settings.model or DEFAULT_MODEL, trial.folder / "weights" / "last.pt"
    if last.is_file() and not is_finished(load_checkpoint(last)):
        changeable = {key: shared[key] for key in keys_with("resume", "experiment") if key in shared}
        settings = load_settings({**changeable, "mode": "train", "resume": str(last)})
    elif model_kind(source) is ModelKind.CHECKPOINT:
        start = open_checkpoint(source, say=say if trial.number == 0 else lambda text: None)
    events = Events(events)
    if len(select_devices(settings.device)) == 1:
        events.add("on_model_save", watch)
    with contextlib.nullcontext() if settings.verbose else _silence():
        result = run_train(settings, start, events)
    return result.metrics, result.best


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        with contextlib.redirect_stderr(nowhere):
            yield


def _numbers(metrics: TaskMetrics) -> dict[str, float]:
    """Return the numbers of a validation by their names in results.csv, those that were measured."""
    return {name: value for name, value in metrics.results_dict.items() if name != "fitness" and value == value}


def _keep(path: Path, target: Path) -> None:
    with atomic(target) as temporary:
        shutil.copyfile(path, temporary)


def _free_memory() -> None:
    """Give the memory of a run that failed back, for the next one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    """Return an error on a line of at most 300 letters; the kind of an error that is not the user's before it."""
    text = " ".join(str(error).split())[:300] or "no message"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _raise_if_all_fail(study: Study) -> None:
    """Raise UserError where all trials so far failed with one error: the next ones would too."""
    rows = [row for row in study.rows() if row.state != "running"]
    if len(rows) == SAME_FAILURES and len({(row.state, row.error) for row in rows}) == 1 and rows[0].state == "failed":
        raise UserError(f"The first {SAME_FAILURES} trials failed for one reason: {rows[0].error}")


def _new(settings: Settings, checkpoint: Checkpoint | None) -> Study:
    """Make a new search. Raises UserError for what every trial would end with."""
    shared = settings.given_values(without=NOT_SHARED)
    shared["optimizer"] = settings.optimizer if "optimizer" in settings.given else DEFAULT_OPTIMIZER
    for key in ("model", "data", "pretrained", "cfg"):
        value = shared.get(key)
        if isinstance(value, str) and Path(value).exists():
            shared[key] = str(Path(value).resolve())  # another process may run elsewhere
    trial_settings = load_settings({**shared, "mode": "train"})
    task = _task_of(trial_settings, checkpoint)
    space, notes = _checked_space(settings, trial_settings, task)
    print_note(*notes)
    folder = new_run_dir("tune", settings.project, settings.name, settings.exist_ok, task.name)
    if checkpoint is not None:
        shared["model"] = str((folder / "initial.pt").resolve())
        save_checkpoint(shared["model"], checkpoint)
    study = Study.create(folder, shared, space, start_of(space, trial_settings), settings.iterations)
    _own_choices(study, settings)  # another process may have made it
    return study


def _task_of(trial_settings: Settings, checkpoint: Checkpoint | None) -> Task:
    """Return the task of the model that the trials train. Raises UserError for a model that cannot be trained."""
    source = trial_settings.model or DEFAULT_MODEL
    kind = model_kind(source)
    if kind is ModelKind.EXPORTED:
        raise UserError(f"tune trains: model={source} is an exported model. Take the .pt it was made from.")
    if kind is ModelKind.CHECKPOINT:
        graph = (checkpoint or open_checkpoint(source, say=lambda text: None).to_train(source)).graph
    else:
        graph = graph_from_settings(source, trial_settings)
    with torch.device("meta"):
        return task_of(Detector(graph))


def _checked_space(settings: Settings, trial_settings: Settings, task: Task) -> tuple[Space, list[str]]:
    """Return the space and its notes, after a look at the data."""
    settings = settings.replace(optimizer=trial_settings.optimizer)
    space_of(settings)  # a wrong space= is told before data are read
    data, _ = find_data(trial_settings, task.data)
    scans = [scan_split(data, split, trial_settings, task.data) for split in ("train", "val")]
    return space_of(settings, bool(scans[0].polygons), task.means_nothing)


def _resumed(settings: Settings, folder: Path) -> Study:
    """Open the search of a folder. Raises UserError for settings that would make another one of it."""
    study = Study(folder)
    _own_choices(study, settings)
    if settings.space is not None:
        raise UserError("space= belongs to a new search: this one goes on with its own. Leave space= out.")
    if "iterations" in settings.given:
        study.iterations = settings.iterations
    return study


def _own_choices(study: Study, settings: Settings) -> dict[str, object]:
    """Return the settings of this process that may differ from those of the search, such as device and workers.

    Raises UserError for others that differ.
    """
    typed = settings.given_values(without={*NOT_SHARED, "model", "task"})
    if "data" in typed and Path(str(typed["data"])).exists():
        typed["data"] = str(Path(str(typed["data"])).resolve())
    return changed_settings(typed, study.settings, "experiment")


def _folder_to_resume(settings: Settings, checkpoint: Checkpoint | None) -> Path | None:
    """Return the folder that resume= or exist_ok= mean, None for a new search.

    For resume=True it is the newest search below project=, without it below the folder of all tasks.
    """
    if isinstance(settings.resume, str):
        path = Path(settings.resume)
        folder = path.parent if path.name == FILE else path
        if not (folder / FILE).is_file():
            raise UserError(
                f"resume={settings.resume}: expected the folder of a search, with its {FILE}, for example "
                "resume=runs/detect/tune; resume=True takes the newest."
            )
        return folder
    if not settings.resume:
        if not settings.exist_ok:
            return None
        trial_settings = load_settings({**settings.given_values(without=NOT_SHARED), "mode": "train"})
        folder = runs_top(settings.project, _task_of(trial_settings, checkpoint).name) / (settings.name or "tune")
        return folder if (folder / FILE).is_file() else None
    top = runs_top(settings.project) if settings.project else runs_top().parent
    found = newest(path for path in top.rglob(FILE) if path.parent.name.startswith(settings.name or ""))
    if found is None:
        raise UserError(
            f"resume=True: no search lies in or below '{top.resolve()}'. Give resume=<its folder>, or start one "
            "without resume."
        )
    say(f"resume=True: the newest search here is {found.parent}")
    return found.parent
