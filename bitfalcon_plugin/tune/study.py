"""The study of a search: Optuna's trials in an SQLite file of the run folder, which several processes use at once.

A trial belongs to the process that holds its lock. A trial without one was killed: it is marked, and its values are
tried once more. Optuna is imported when a study is opened.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..config.errors import UserError
from ..config.files import atomic
from .locks import Lock
from .space import Space, near, read_space

FILE = "study.db"
NAME = "tune"
MAX_ATTEMPTS = 2  # of a trial that was killed; a third one would be killed too
NEAR_TRIALS = 10  # first trials, all of them near the best one so far; later every second one
SURE_TRIALS = 4  # finished trials before any trial is pruned
MISSING = "tune searches with the package optuna, which is not installed: pip install 'bitfalcon[tune]'"


@dataclass(frozen=True)
class TrialRow:
    """A trial as the tables show it.

    state: complete, pruned, failed, interrupted, killed, running or waiting. fitness: of the best epoch. metrics: of
    the final validation, by their names in results.csv. values: of the searched settings. error: why it failed.
    """

    number: int
    state: str
    fitness: float | None
    values: Mapping[str, object]
    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs: int | None = None
    seconds: float | None = None
    error: str = ""


@dataclass
class Trial:
    """A trial that this process trains.

    values: of the searched settings. folder: of its training run; one that was interrupted or killed has its
    weights/last.pt there. lock: shows other processes that the trial runs.
    """

    number: int
    values: dict[str, object]
    folder: Path
    lock: Lock
    optuna: object  # the optuna.Trial


def import_optuna():
    """Return the package optuna. Raises UserError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(MISSING) from error
    return optuna


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Let Optuna print neither its progress nor that parts of it are experimental."""
    optuna = import_optuna()
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="optuna")
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


class Study:
    """The study in a folder. settings: those that all trials share. space: what is searched."""

    def __init__(self, folder: Path) -> None:
        """Open the study of a folder. Raises UserError where the file is no such study."""
        optuna = import_optuna()
        self.folder, self.lock = folder, Lock(folder / "study.lock")
        self._running: Trial | None = None  # of this process
        try:
            self.optuna = optuna.load_study(study_name=NAME, storage=_storage(folder / FILE))
            attributes = self.optuna.user_attrs
            self.settings: dict[str, object] = dict(attributes["settings"])
            self.space: Space = read_space(attributes["space"], str(folder / FILE))
        except Exception as error:  # damaged files make SQLAlchemy raise any of a dozen exceptions
            reason = str(error).splitlines()[:1] or [type(error).__name__]
            raise UserError(
                f"'{folder / FILE}' is not the study of a search ({reason[0]}). Give another folder, or start anew "
                "without resume."
            ) from error

    @classmethod
    def create(
        cls, folder: Path, settings: Mapping[str, object], space: Space, start: Mapping[str, object], iterations: int
    ) -> Study:
        """Make the study of a new search in `folder`, or open the one that another process has made meanwhile.

        start: the values of its first trial.
        """
        optuna = import_optuna()
        with Lock(folder / "study.lock"):
            if not (folder / FILE).is_file():
                for left in folder.glob(f".{Path(FILE).stem}-*"):  # by a process that was killed here
                    left.unlink()
                with atomic(folder / FILE) as path:
                    storage = _storage(path)
                    study = optuna.create_study(study_name=NAME, storage=storage, direction="maximize")
                    study.set_user_attr("space", {key: values.plain() for key, values in space.items()})
                    study.set_user_attr("iterations", iterations)
                    study.enqueue_trial(dict(start))
                    study.set_user_attr("settings", dict(settings))
                    storage.remove_session()
                    storage.engine.dispose()  # closes the file
        return cls(folder)

    @property
    def iterations(self) -> int:
        """The number of trials that the search is to have."""
        return int(self.optuna.user_attrs.get("iterations", 0))

    @iterations.setter
    def iterations(self, number: int) -> None:
        self.optuna.set_user_attr("iterations", number)

    def next_trial(self, seed: int) -> Trial | None:
        """Begin a trial of this process; None where the search has its trials, those of other processes included.

        seed: of the first trial; each trial draws with its own.
        """
        optuna = import_optuna()
        with self.lock:
            self._mark_killed()
            trials = self._trials()
            repeated = {trial.user_attrs.get("again") for trial in trials}
            waiting = optuna.trial.TrialState.WAITING
            if sum(trial.state != waiting and trial.number not in repeated for trial in trials) >= self.iterations:
                return None
            # Several processes do not draw the same values: each trial has a seed, and those that run are avoided.
            self.optuna.sampler = optuna.samplers.TPESampler(seed=seed + len(trials), constant_liar=True)
            if not any(trial.state == waiting for trial in trials):
                self._suggest(len(trials), seed)
            drawn = self.optuna.ask()
            folder = self._make_folder(drawn.number, drawn.user_attrs.get("again"))
            lock = Lock(_lock_file(folder))
            lock.acquire()
            self._running = trial = Trial(drawn.number, {}, folder, lock, drawn)
            trial.values.update({key: values.draw(drawn, key) for key, values in self.space.items()})
        return trial

    def trial_folder(self, number: int) -> Path:
        """Return the folder of a trial's training run."""
        return self.folder / "trials" / f"{number:04d}"

    def _suggest(self, number: int, seed: int) -> None:
        """Queue values near the best ones for the first trials, and for every second one of the others.

        The others are Optuna's (TPE). With 24 settings TPE alone draws its first ten trials anywhere, where one setting
        in 24 spoils them: on test functions its best of 10, 30 and 60 trials gained 0.000, 0.055 and 0.089 on the
        first, those of this mixture 0.045, 0.079 and 0.110; with two settings both gained the same.
        """
        best = self.best()
        if best is not None and self.space.keys() == best.values.keys() and (number < NEAR_TRIALS or number % 2):
            self.optuna.enqueue_trial(near(self.space, best.values, seed + number))

    def _make_folder(self, number: int, again: int | None) -> Path:
        """Make the folder of a trial; of one that is tried again, what its first attempt has left."""
        folder = self.trial_folder(number)
        if again is not None and self.trial_folder(again).is_dir() and not folder.exists():
            self.trial_folder(again).rename(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def report(self, trial: Trial, epoch: int, fitness: float, epochs: int) -> bool:
        """Record the fitness of an epoch (from 0); returns whether the trial is to be pruned.

        epochs: of the trial; the first quarter and the last epoch prune nothing. A trial is pruned where its best
        fitness so far is below the median of the others at that epoch.
        """
        optuna = import_optuna()
        trial.optuna.report(fitness, epoch)
        warmup = max(1, epochs // 4)
        self.optuna.pruner = optuna.pruners.MedianPruner(n_startup_trials=SURE_TRIALS, n_warmup_steps=warmup)
        return epoch + 1 < epochs and trial.optuna.should_prune()

    def finish(self, trial: Trial, state: str, fitness: float | None, facts: Mapping[str, object]) -> bool:
        """Record the end of a trial; returns whether it is the best one so far. facts: fields of its TrialRow.

        A trial that was interrupted is tried again when the search goes on.
        """
        states = import_optuna().trial.TrialState
        with self.lock:
            trial.optuna.set_user_attr("row", {**facts, "state": state, "fitness": fitness})
            complete = state == "complete" and fitness is not None and math.isfinite(fitness)
            result = {"values": fitness} if complete else {"state": states.PRUNED if state == "pruned" else states.FAIL}
            self.optuna.tell(trial.number, **result)
            if state == "interrupted" and trial.values:
                self._repeat(trial.number, trial.values, trial.optuna.user_attrs)
            trial.lock.remove()
            self._running = None
        best = self.best()
        return complete and best is not None and best.number == trial.number

    def interrupt(self) -> None:
        """Record that the trial of this process, where there is one, was interrupted."""
        if self._running is not None:
            self.finish(self._running, "interrupted", None, {"epochs": 0})

    def rows(self) -> list[TrialRow]:
        """Return all trials in their order, without those that wait."""
        return [_row(trial) for trial in self._trials() if trial.state.name != "WAITING"]

    def best(self) -> TrialRow | None:
        """Return the complete trial with the highest fitness, the first of several; None where there is none."""
        complete = [row for row in self.rows() if row.state == "complete"]
        return max(complete, key=lambda row: (row.fitness, -row.number), default=None)

    def _trials(self) -> list:
        return self.optuna.get_trials(deepcopy=False)

    def _mark_killed(self) -> None:
        """Mark trials whose process has ended without a word, and queue their values again."""
        states = import_optuna().trial.TrialState
        for trial in self.optuna.get_trials(deepcopy=False, states=(states.RUNNING,)):
            lock = Lock(_lock_file(self.trial_folder(trial.number)))
            if lock.path.parent.is_dir() and not lock.acquire():
                continue  # it runs, in this or another process
            self.optuna.tell(trial.number, state=states.FAIL)
            lock.remove()
            attempt = trial.user_attrs.get("attempt", 1)
            if trial.params and attempt < MAX_ATTEMPTS:
                self._repeat(trial.number, trial.params, {"attempt": attempt + 1})

    def _repeat(self, number: int, values: Mapping[str, object], attributes: Mapping[str, object]) -> None:
        attempt = attributes.get("attempt", 1)
        self.optuna.enqueue_trial(dict(values), user_attrs={"again": number, "attempt": attempt})


def _row(trial) -> TrialRow:
    """Return a trial of Optuna as a row; one that failed without a word was killed."""
    facts = trial.user_attrs.get("row", {})
    name = trial.state.name
    state = {"COMPLETE": "complete", "PRUNED": "pruned", "RUNNING": "running"}.get(name, facts.get("state"))
    error = facts.get("error", "")
    if state not in ("complete", "pruned", "running", "failed", "interrupted"):
        state, error = "killed", "its process was killed"
    fitness = trial.value if name == "COMPLETE" else facts.get("fitness")
    measured = {"metrics": facts.get("metrics", {}), "epochs": facts.get("epochs"), "seconds": facts.get("seconds")}
    return TrialRow(trial.number, state, fitness, dict(trial.params), error=error, **measured)


def _lock_file(folder: Path) -> Path:
    return folder / "running.lock"


def _storage(path: Path):
    """Return Optuna's storage in an SQLite file; it waits for other processes."""
    arguments = {"connect_args": {"timeout": 60}}
    return import_optuna().storages.RDBStorage(f"sqlite:///{path.as_posix()}", engine_kwargs=arguments)
