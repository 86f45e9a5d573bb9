"""Functions that scripts add to events, as trainers, validators and predictors keep them (spec/interface.md 10)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from ...config.callbacks import EVENTS, Events
from ...config.errors import UserError
from ...tasks import TASKS


class CallbackOwner:
    """Keeps functions by event. Each function gets this object, whatever else of ours was running."""

    def __init__(self, callbacks: Mapping | None = None) -> None:
        if isinstance(callbacks, MutableMapping):
            self.callbacks = callbacks  # of the model that runs this: functions added later count too
        else:
            self.callbacks = defaultdict(list, {event: [] for event in EVENTS})

    def add_callback(self, event: str, callback: Callable) -> None:
        """Call a function at an event, after those added before."""
        self.callbacks.setdefault(event, []).append(callback)

    def set_callback(self, event: str, callback: Callable) -> None:
        """Call a function at an event in the place of those added before."""
        self.callbacks[event] = [callback]

    def run_callbacks(self, event: str) -> None:
        """Call the functions of an event with this object."""
        for function in tuple(self.callbacks.get(event, ())):
            function(self)


def known_task(owner: Any) -> None:
    """Raise UserError where the task of an object's class is not supported."""
    if owner.task not in TASKS:
        raise UserError(
            f"{type(owner).__name__}: models of the task {owner.task} are not supported yet; these are: "
            f"{', '.join(TASKS)}."
        )


class ScriptEvents(Events):
    """The events of a run of ours, for the objects of a script.

    owner_of: what is running (a Trainer, Validator or Predictor of ours) -> the script's object for it, whose functions
    are called.
    """

    def __init__(self, callbacks: MutableMapping, owner_of: Callable[[object], CallbackOwner]) -> None:
        super().__init__()
        self.callbacks, self.owner_of = callbacks, owner_of  # type: ignore[assignment]

    def fire(self, event: str, subject: object) -> None:
        """Call the functions of an event with the script's object."""
        self.owner_of(subject).run_callbacks(event)
