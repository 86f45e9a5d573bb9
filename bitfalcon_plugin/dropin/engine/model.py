"""The YOLO object under its wider name."""

from __future__ import annotations

from ...tasks.script_model import ScriptModel
from ...yolo import YOLO as _YOLO
from ..nn.tasks import as_wider


class YOLO(_YOLO):
    __doc__ = _YOLO.__doc__

    @property
    def model(self) -> ScriptModel:
        """The network, a DetectionModel or one of its kin; for an exported model its runtime."""
        return as_wider(super().model)


Model = YOLO
