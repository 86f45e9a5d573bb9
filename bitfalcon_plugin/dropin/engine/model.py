"""The YOLO object under its wider name."""

from __future__ import annotations

from typing import Any

from ...config.callbacks import VAL
from ...tasks.script_model import ScriptModel
from ...yolo import YOLO as _YOLO
from ..models.yolo.family import task_map
from ..nn.tasks import as_wider
from .as_module import AsModule


class YOLO(_YOLO, AsModule):
    __doc__ = _YOLO.__doc__

    def _begin(self, source: str, verbose: bool) -> None:
        self._become_module()
        super()._begin(source, verbose)

    @_YOLO.model.getter
    def model(self) -> ScriptModel:
        """The network, a DetectionModel or one of its kin; for an exported model its runtime."""
        return as_wider(_YOLO.model.fget(self))

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """The classes of each task: model, trainer, validator, predictor."""
        return task_map()

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """As YOLO.train, by the trainer that scripts know: its attributes are those that callbacks read.

        train(True) and train(False), which a module that holds this object calls, set the mode of the network.
        """
        if isinstance(trainer, bool):
            self.model.train(trainer)
            return self
        return super().train(trainer=trainer or self.task_map[self.task]["trainer"], **kwargs)

    def val(self, validator: Any = None, **kwargs: Any) -> Any:
        """As YOLO.val; where a script has added functions to its events, by the validator that they know."""
        if validator is None and any(self.callbacks.get(event) for event in VAL):
            validator = self.task_map[self.task]["validator"]
        return super().val(validator=validator, **kwargs)


Model = YOLO
