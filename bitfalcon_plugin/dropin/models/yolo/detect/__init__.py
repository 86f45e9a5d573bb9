"""Trainer, validator and predictor of detection, and the functions that scripts replace beside them (names.py)."""

from __future__ import annotations

from ..family import classes_of

__all__ = ["DetectionPredictor", "DetectionTrainer", "DetectionValidator"]

DetectionTrainer, DetectionValidator, DetectionPredictor = classes_of("detect", __name__)
