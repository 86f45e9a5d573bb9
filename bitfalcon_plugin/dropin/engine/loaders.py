"""Datasets and loaders of dicts for trainers and validators, by the functions of their task's module.

A script may replace these functions, `build_yolo_dataset` and `build_dataloader`, in that module.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from .overriding import is_foreign

PACKAGE = __package__.rpartition(".")[0]


def home_of(task: str) -> ModuleType:
    """The module of a task, models.yolo.<task>."""
    return importlib.import_module(f"{PACKAGE}.models.yolo.{task}")


def replaced_builders(task: str) -> bool:
    """Whether a script has put a function or a class of its own in the place of ours that build its batches."""
    names = ("build_yolo_dataset", "build_dataloader", "YOLODataset")
    places = (sys.modules.get(f"{PACKAGE}.{name}") for name in (f"models.yolo.{task}", "data.build", "data.dataset"))
    return any(is_foreign(vars(module)[name]) for module in places if module for name in names if name in vars(module))


def build_dataset(script: Any, img_path: str, mode: str, batch: int | None) -> Any:
    """Return the dataset of the images at a path; training augments them."""
    stride = max(int(getattr(script.model, "multiple", 32)), 32) if hasattr(script, "model") else 32
    options = {"mode": mode, "rect": mode == "val", "stride": stride}
    return home_of(script.task).build_yolo_dataset(script.args, img_path, batch, script.data, **options)


def build_loader(script: Any, dataset: Any, batch_size: int, mode: str, rank: int = -1) -> Any:
    """Return a loader of batches of a dataset."""
    workers = script.args.workers if mode == "train" else 2 * script.args.workers
    workers = 0 if str(script.device or "cpu") == "cpu" else workers  # they would take the network's cores
    shuffle = mode == "train" and not getattr(dataset, "rect", False)
    return home_of(script.task).build_dataloader(dataset, batch_size, workers, shuffle, rank)
