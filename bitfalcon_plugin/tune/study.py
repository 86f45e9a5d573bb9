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
from .locks import Lock
from .space import Space, read_space

FILE = "study.db"
NAME = "tune"
MAX_ATTEMPTS = 2  # of a trial that was killed; a third one would be killed too
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
    """A trial that this process trains. values: of the searched settings. lock: shows other processes that it runs."""

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
        try:
            self.optuna = optuna.load_study(study_name=NAME, storage=_storage(folder))
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
    def create(cls, folder: Path, settings: Mapping[str, object], space: Space, start: Mapping[str, object]) -> Study:
        """Make the study of a new search in `folder`; its first trial has the values `start`."""
        optuna = import_optuna()
        with Lock(folder / "study.lock"):
            study = optuna.create_study(study_name=NAME, storage=_storage(folder), direction="maximize")
            study.set_user_attr("settings", dict(settings))
            study.set_user_attr("space", {key: values.plain() for key, values in space.items()})
            study.enqueue_trial(dict(start))
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
            drawn = self.optuna.ask()
            folder = self.trial_folder(drawn.number)
            folder.mkdir(parents=True, exist_ok=True)
            lock = Lock(_lock_file(folder))
            lock.acquire()
            values = {key: values.draw(drawn, key) for key, values in self.space.items()}
        return Trial(drawn.number, values, folder, lock, drawn)

    def trial_folder(self, number: int) -> Path:
        """Return the folder of a trial's training run."""
        return self.folder / "trials" / f"{number:04d}"

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
            for name, value in {**facts, "state": state, "fitness": fitness}.items():
                trial.optuna.set_user_attr(name, value)
            complete = state == "complete" and fitness is not None and math.isfinite(fitness)
            result = {"values": fitness} if complete else {"state": states.PRUNED if state == "pruned" else states.FAIL}
            self.optuna.tell(trial.number, **result)
            if state == "interrupted":
                self._repeat(trial.number, trial.values, trial.optuna.user_attrs)
            trial.lock.remove()
        best = self.best()
        return complete and best is not None and best.number == trial.number

    def rows(self) -> list[TrialRow]:
        """Return all trials in their order, without those that wait."""
        return [_row(trial) for trial in self._trials() if trial.state.name != "WAITING"]

    def best(self) -> TrialRow | None:
        """Return the complete trial with the highest fitness, the first of several; None where there is none."""
        complete = [row for row in self.rows() if row.state == "complete"]
        return max(complete, key=lambda row: (row.fitness, -row.number), default=None)

    def importances(self) -> dict[str, float]:
        """Return how much of the fitness each searched setting explains, a share of 1, the largest first.

        Measured by PED-ANOVA (Watanabe et al., 2023). Empty where too few trials are complete.
        """
        importance = import_optuna().importance
        try:
            evaluator = importance.PedAnovaImportanceEvaluator()
            shares = importance.get_param_importances(self.optuna, evaluator=evaluator)
        except Exception:  # of few or equal values it raises any of several exceptions
            return {}
        return {key: float(share) for key, share in shares.items() if math.isfinite(share)}

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
    facts = trial.user_attrs
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "RUNNING": "running", "FAIL": "killed"}
    error = facts.get("error", "")
    if trial.state.name == "FAIL" and "state" not in facts:
        error = "its process was killed"
    return TrialRow(
        trial.number,
        facts.get("state", names[trial.state.name]) if trial.state.name != "RUNNING" else "running",
        trial.value if trial.state.name == "COMPLETE" else facts.get("fitness"),
        dict(trial.params),
        facts.get("metrics", {}),
        facts.get("epochs"),
        facts.get("seconds"),
        error,
    )


def _lock_file(folder: Path) -> Path:
    return folder / "running.lock"


def _storage(folder: Path):
    """Return Optuna's storage in the folder's SQLite file; it waits for other processes."""
    arguments = {"connect_args": {"timeout": 60}}
    return import_optuna().storages.RDBStorage(f"sqlite:///{(folder / FILE).as_posix()}", engine_kwargs=arguments)
