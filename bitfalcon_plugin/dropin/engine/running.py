"""Attributes of trainers and validators of scripts that are those of the run under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...config.errors import UserError
from ...config.settings import Settings
from ...data.formats.dataset_yaml import DataSpec
from ...models.graph.rows import Graph
from ...models.weights.checkpoint import Checkpoint
from ...train.initial_model import InitialModel
from ...train.optim import Ema, OptimizerPlan


class OwnStep:
    """A step of our run that waits while a script's method runs in its place. result: what it returned."""

    def __init__(self, function: Callable, arguments: tuple) -> None:
        self.function, self.arguments = function, arguments
        self.result: Any = None

    def __call__(self, *arguments: object) -> Any:
        self.result = self.function(*self.arguments, *arguments)
        return self.result


@dataclass
class RunOfScript:
    """What a script's trainer knows of its run, beside the attributes that scripts read.

    spec: the dataset of data=, and the dict and the settings that came of it. resumed: the settings of a run that is
    resumed. start: what the weights start from.
    initial, plan: what our get_model and build_optimizer made. loads: whether the batches come from the script's own
    loaders. fits: whether the network is that of its graph. losses: of the latest validation. files: the images of the
    batch at hand. steps: our steps by name, see OwnStep.
    """

    spec: DataSpec | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    resumed: Settings | None = None
    start: Checkpoint | Graph | None = None
    initial: InitialModel | None = None
    plan: OptimizerPlan | None = None
    loads: bool = False
    fits: bool = True
    losses: Mapping[str, float] = field(default_factory=dict)
    files: Sequence[str] = ()
    steps: dict[str, OwnStep] = field(default_factory=dict)

    def step(self, name: str, method: str) -> OwnStep:
        """Our step that `method` stands for. Raises UserError outside of a run."""
        if name not in self.steps:
            raise UserError(f"{method}() belongs to a run: train() calls it.")
        return self.steps[name]

    @contextmanager
    def in_place_of(self, name: str, own: Callable, *arguments: object) -> Iterator[OwnStep]:
        """Keep our step for the method that runs now in its place."""
        before = self.steps.get(name)
        self.steps[name] = step = OwnStep(own, arguments)
        try:
            yield step
        finally:
            self.steps.pop(name)
            if before is not None:
                self.steps[name] = before


class Running:
    """An attribute of `_running`, the object of ours that runs; before a run what a script has set, or `default`.

    name: of the attribute of ours, where it is another one. `_running` is None before a run.
    """

    def __init__(self, name: str = "", default: object = None) -> None:
        self.name, self.default = name, default

    def __set_name__(self, owner: type, name: str) -> None:
        self.key, self.name = name, self.name or name

    def __get__(self, script: Any, owner: type | None = None) -> Any:
        if script is None:
            return self
        running = vars(script).get("_running")
        return vars(script).get(self.key, self.default) if running is None else getattr(running, self.name)

    def __set__(self, script: Any, value: object) -> None:
        running = vars(script).get("_running")
        if running is None:
            vars(script)[self.key] = value
        else:
            setattr(running, self.name, value)


class Averaged:
    """The moving average of the weights, as scripts read it. ema: the averaged network. updates: their number."""

    enabled = True

    def __init__(self, average: Ema) -> None:
        self._average = average

    @property
    def ema(self) -> nn.Module:
        """The averaged network."""
        return self._average.model

    @property
    def updates(self) -> int:
        """The number of updates."""
        return self._average.updates

    def decay(self, updates: int) -> float:
        """The share of the old average at an update."""
        return self._average.decay(updates)

    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of a model."""
        self._average.update(model)

    def update_attr(self, model: nn.Module, include: tuple = (), exclude: tuple = ()) -> None:
        """Do nothing: attributes of the network are copied when it is made."""
