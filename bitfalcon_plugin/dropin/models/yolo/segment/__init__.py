"""Trainer, validator and predictor of the task segment."""

from __future__ import annotations

from ..detect import DetectionPredictor, DetectionTrainer, DetectionValidator
from ..family import classes_of

__all__ = ["SegmentationPredictor", "SegmentationTrainer", "SegmentationValidator"]

BASES = DetectionTrainer, DetectionValidator, DetectionPredictor
SegmentationTrainer, SegmentationValidator, SegmentationPredictor = classes_of("segment", __name__, BASES)
