"""The trainer, validator and predictor classes of each task, from one table."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...engine.predictor import BasePredictor
from ...engine.trainer import BaseTrainer
from ...engine.validator import BaseValidator
from ...nn.tasks import CLASSES


@dataclass(frozen=True)
class Family:
    """The classes of a task.

    stem: what their names begin with. defaults: settings of the task, which a script's own win over.
    """

    stem: str
    defaults: Mapping[str, object] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {
    "detect": Family("Detection"),
    "segment": Family("Segmentation"),
    "pose": Family("Pose"),
    "obb": Family("OBB"),
    "classify": Family("Classification", {"imgsz": 224}),
}
BASES = (BaseTrainer, BaseValidator, BasePredictor)


def classes_of(task: str, module: str, bases: tuple[type, type, type] = BASES) -> tuple[Any, Any, Any]:
    """Return trainer, validator and predictor of a task. module: where they stand. bases: their base classes."""
    family = FAMILIES[task]
    trainer, validator, predictor = bases
    shared = {"__module__": module, "task": task, "defaults": dict(family.defaults)}

    def make(kind: str, base: type, **more: object) -> type:
        text = f"The {kind} of the task {task}.\n\n{base.__doc__}"
        return type(f"{family.stem}{kind.title()}", (base,), {**shared, "__doc__": text, **more})

    made = make("validator", validator)
    return make("trainer", trainer, validator_class=made), made, make("predictor", predictor)


def task_map() -> dict[str, dict[str, Any]]:
    """Return for each task its classes: model, trainer, validator and predictor."""
    found: dict[str, dict[str, Any]] = {}
    for task, family in FAMILIES.items():
        module = importlib.import_module(f"{__package__}.{task}")
        kinds = ("trainer", "validator", "predictor")
        found[task] = {
            "model": CLASSES[task],
            **{kind: getattr(module, f"{family.stem}{kind.title()}") for kind in kinds},
        }
    return found
