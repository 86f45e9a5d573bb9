"""Trainer, validator and predictor of classification."""

from __future__ import annotations

from ..family import classes_of

__all__ = ["ClassificationPredictor", "ClassificationTrainer", "ClassificationValidator"]

ClassificationTrainer, ClassificationValidator, ClassificationPredictor = classes_of("classify", __name__)
