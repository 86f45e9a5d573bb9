"""Trainer, validator and predictor of the task obb."""

from __future__ import annotations

from ..detect import DetectionPredictor, DetectionTrainer, DetectionValidator
from ..family import classes_of

__all__ = ["OBBPredictor", "OBBTrainer", "OBBValidator"]

BASES = DetectionTrainer, DetectionValidator, DetectionPredictor
OBBTrainer, OBBValidator, OBBPredictor = classes_of("obb", __name__, BASES)
