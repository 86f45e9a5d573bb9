"""Trainer, validator and predictor of detection, and the functions that scripts replace beside them."""

from __future__ import annotations

from ....engine.predictor import BasePredictor
from ....engine.trainer import BaseTrainer
from ....engine.validator import BaseValidator

__all__ = ["DetectionPredictor", "DetectionTrainer", "DetectionValidator"]


class DetectionValidator(BaseValidator):
    """The validation of a detector."""


class DetectionPredictor(BasePredictor):
    """The prediction of a detector."""


class DetectionTrainer(BaseTrainer):
    """The training of a detector."""

    validator_class = DetectionValidator
