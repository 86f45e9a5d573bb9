"""The trainer, validator and predictor classes of each task, from one table."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from ....tasks import TASKS
from ...engine.predictor import BasePredictor
from ...engine.trainer import BaseTrainer
from ...engine.validator import BaseValidator
from ...nn.tasks import CLASSES


@dataclass(frozen=True)
class Family:
    """The classes of a task. stem: what their names begin with. imgsz: of the trainer, where a script gives none."""

    stem: str
    imgsz: int | None = None


FAMILIES: dict[str, Family] = {
    "detect": Family("Detection"),
    "segment": Family("Segmentation"),
    "pose": Family("Pose"),
    "obb": Family("OBB"),
    "classify": Family("Classification", imgsz=224),
}
BASES = (BaseTrainer, BaseValidator, BasePredictor)


def classes_of(task: str, module: str, bases: tuple[type, type, type] = BASES) -> tuple[Any, Any, Any]:
    """Return trainer, validator and predictor of a task. module: where they stand. bases: their base classes."""
    family = FAMILIES[task]
    trainer, validator, predictor = bases
    defaults: dict[str, object] = {"task": task} if task in TASKS else {}
    of_trainer = defaults if family.imgsz is None else {**defaults, "imgsz": family.imgsz}

    def make(kind: str, base: type, **more: object) -> type:
        text = f"The {kind} of the task {task}.\n\n{base.__doc__}"
        shared = {"__module__": module, "task": task, "defaults": defaults, "__doc__": text}
        return type(f"{family.stem}{kind.title()}", (base,), {**shared, **more})

    made = make("validator", validator)
    return make("trainer", trainer, validator_class=made, defaults=of_trainer), made, make("predictor", predictor)


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
