"""The events of a run, by the names of spec/interface.md section 10, and the functions that scripts add to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from .errors import UserError, did_you_mean
from .notes import print_note

TRAIN = (
    "on_pretrain_routine_start",
    "on_pretrain_routine_end",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "optimizer_step",
    "on_before_zero_grad",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_fit_epoch_end",
    "on_model_save",
    "on_train_end",
    "on_params_update",
    "teardown",
)
VAL = ("on_val_start", "on_val_batch_start", "on_val_batch_end", "on_val_end")
PREDICT = (
    "on_predict_start",
    "on_predict_batch_start",
    "on_predict_postprocess_end",
    "on_predict_batch_end",
    "on_predict_end",
)
EXPORT = ("on_export_start", "on_export_end")
EVENTS = (*TRAIN, *VAL, *PREDICT, *EXPORT)


class Events:
    """Functions by event, which start as a copy of `others`. Each takes the trainer, validator or predictor."""

    def __init__(self, others: Events | None = None) -> None:
        self.callbacks: defaultdict[str, list[Callable[[object], object]]] = defaultdict(list)
        for event, functions in others.callbacks.items() if others else ():
            self.callbacks[event] = list(functions)

    def add(self, event: str, function: Callable[[object], object]) -> None:
        """Call `function` at each `event`, after the functions added before. A note names an event that never happens.

        Raises UserError for a `function` that cannot be called.
        """
        if event not in EVENTS:
            print_note(f"'{event}' is no event, so that its functions are never called.{did_you_mean(event, EVENTS)}")
        if not callable(function):
            raise UserError(f"add_callback({event!r}, {function!r}): expected a function that takes one argument.")
        self.callbacks[event].append(function)

    def fire(self, event: str, subject: object) -> None:
        """Call the functions of an event with the trainer, validator or predictor. Their errors end the run."""
        for function in tuple(self.callbacks.get(event, ())):
            function(subject)


class EventMethods:
    """The part of YOLO that is about functions at events. A class that inherits sets `_events`."""

    _events: Events

    @property
    def callbacks(self) -> dict[str, list]:
        """The functions of each event."""
        return self._events.callbacks

    def add_callback(self, event: str, func) -> None:
        """Call `func` at an event of a run (EVENTS) with its trainer, validator or predictor."""
        self._events.add(event, func)

    def clear_callback(self, event: str) -> None:
        """Remove the functions of one event."""
        self._events.callbacks.pop(event, None)

    def reset_callbacks(self) -> None:
        """Remove all functions."""
        self._events.callbacks.clear()
