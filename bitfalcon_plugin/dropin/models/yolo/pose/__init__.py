"""Trainer, validator and predictor of the task pose."""

from __future__ import annotations

from ..detect import DetectionPredictor, DetectionTrainer, DetectionValidator
from ..family import classes_of

__all__ = ["PosePredictor", "PoseTrainer", "PoseValidator"]

BASES = DetectionTrainer, DetectionValidator, DetectionPredictor
PoseTrainer, PoseValidator, PosePredictor = classes_of("pose", __name__, BASES)
