"""Tuner: a search for hyper-parameters as an object; it is YOLO.tune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...models.build import DEFAULT_MODEL
from ...yolo import YOLO
from .arguments import Given
from .events import CallbackOwner


class Tuner(CallbackOwner):
    """A search: `Tuner(args=dict(model=..., data=..., epochs=3))(iterations=10)`.

    args: settings of each training, a mapping or a namespace. _callbacks: functions by event.
    """

    def __init__(self, args: Any = None, _callbacks: Mapping | None = None):
        super().__init__(_callbacks)
        self._given = Given("train", args, None)
        self.args = self._given.args

    def __call__(self, model: Any = None, iterations: int = 10, cleanup: bool = True) -> Any:
        """Search for the hyper-parameters of the best fitness. model: a YOLO object, by default that of `args`."""
        values = self._given.settings().given_values(without=("model", "mode", "task"))
        yolo = model if isinstance(model, YOLO) else YOLO(self.args.model or DEFAULT_MODEL)
        for event, functions in self.callbacks.items():
            for function in functions:
                yolo.add_callback(event, function)
        return yolo.tune(iterations=iterations, **values)
