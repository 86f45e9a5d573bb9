"""The steps of a training run that a caller may replace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Step = Callable[..., Any]


@dataclass(frozen=True)
class Steps:
    """Functions that stand in place of steps of a run; None keeps the step as it is.

    A function gets the step itself and the step's arguments, and returns what the step returns: it may call the step,
    with these or other arguments, or do something else.

    folder: (settings) -> the new folder of the run. data: (settings, form) -> the DataSpec and the Settings. model:
    (settings, checkpoint or graph, DataSpec) -> InitialModel. scans: (DataSpec, settings, form) -> Scans of train and
    val. loaders: (run) -> the loaders of train and val. optimizer: (run) -> the optimizer and its OptimizerPlan.
    pictures: (folder, names, plots) -> Pictures. form: the DataFormat of the task.

    The others get the Trainer first. batch: (trainer, Batch, indices of its samples) -> the Batch that is trained.
    losses: (trainer, Batch) -> losses by name, with gradient. step: (trainer) steps the optimizer. validate: (trainer,
    interrupts) -> Metrics. record: (trainer, row) writes a row of results.csv, a dict. save: (trainer, checkpoint,
    state, improved) writes the checkpoints. measure: (trainer) -> the Metrics of the best weights.
    """

    folder: Step | None = None
    data: Step | None = None
    model: Step | None = None
    scans: Step | None = None
    loaders: Step | None = None
    optimizer: Step | None = None
    pictures: Step | None = None
    batch: Step | None = None
    losses: Step | None = None
    step: Step | None = None
    validate: Step | None = None
    record: Step | None = None
    save: Step | None = None
    measure: Step | None = None

    def __call__(self, name: str, own: Step, *arguments: object) -> Any:
        """Return what step `name` returns. own: the function that this package has for it."""
        replacement = getattr(self, name)
        return own(*arguments) if replacement is None else replacement(own, *arguments)
