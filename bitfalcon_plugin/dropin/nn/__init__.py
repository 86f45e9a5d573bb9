"""Networks and their modules, under the module names of the wider package."""

from __future__ import annotations

from .tasks import (
    BaseModel,
    ClassificationModel,
    DetectionModel,
    SegmentationModel,
    attempt_load_one_weight,
    attempt_load_weights,
    guess_model_scale,
    guess_model_task,
    load_checkpoint,
    parse_model,
    torch_safe_load,
    yaml_model_load,
)

__all__ = [
    "BaseModel",
    "ClassificationModel",
    "DetectionModel",
    "SegmentationModel",
    "attempt_load_one_weight",
    "attempt_load_weights",
    "guess_model_scale",
    "guess_model_task",
    "load_checkpoint",
    "parse_model",
    "torch_safe_load",
    "yaml_model_load",
]
