"""The YOLO object under its wider name."""

from __future__ import annotations

from typing import Any

from ...config.callbacks import VAL
from ...tasks.script_model import ScriptModel
from ...yolo import YOLO as _YOLO
from ..models.yolo.family import task_map
from ..nn.tasks import as_wider


class YOLO(_YOLO):
    __doc__ = _YOLO.__doc__

    @property
    def model(self) -> ScriptModel:
        """The network, a DetectionModel or one of its kin; for an exported model its runtime."""
        return as_wider(super().model)

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """The classes of each task: model, trainer, validator, predictor."""
        return task_map()

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """As YOLO.train, by the trainer that scripts know: its attributes are those that callbacks read."""
        return super().train(trainer or self.task_map[self.task]["trainer"], **kwargs)

    def val(self, validator: Any = None, **kwargs: Any) -> Any:
        """As YOLO.val; where a script has added functions to its events, by the validator that they know."""
        if validator is None and any(self.callbacks.get(event) for event in VAL):
            validator = self.task_map[self.task]["validator"]
        return super().val(validator, **kwargs)


Model = YOLO
