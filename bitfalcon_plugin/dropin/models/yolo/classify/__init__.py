"""Trainer, validator and predictor of classification."""

from __future__ import annotations

from ....engine.classifying import ClassPredictor, ClassTrainer, ClassValidator
from ..family import classes_of

__all__ = ["ClassificationPredictor", "ClassificationTrainer", "ClassificationValidator"]

BASES = ClassTrainer, ClassValidator, ClassPredictor
ClassificationTrainer, ClassificationValidator, ClassificationPredictor = classes_of("classify", __name__, BASES)
