"""The classes of every task are there under their names; those of tasks that are not supported refuse when made."""

from __future__ import annotations

import importlib
import pickle

import pytest

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.engine.exporter import Exporter, export_formats
from bitfalcon_plugin.dropin.engine.trainer import BaseTrainer
from bitfalcon_plugin.dropin.models.yolo.detect import DetectionTrainer
from bitfalcon_plugin.dropin.models.yolo.family import FAMILIES
from bitfalcon_plugin.export.formats import EXPORT_FORMATS
from bitfalcon_plugin.tasks import TASKS
from tests.helpers.coloured import place  # noqa: F401  the fixture


@pytest.mark.parametrize("task", FAMILIES)
@pytest.mark.parametrize("part", ["", ".train", ".val", ".predict"])
def test_classes_of_a_task(task, part):
    module = importlib.import_module(f"bitfalcon_plugin.dropin.models.yolo.{task}{part}")
    stem = FAMILIES[task].stem
    trainer, validator, predictor = (getattr(module, f"{stem}{kind}") for kind in ("Trainer", "Validator", "Predictor"))
    assert issubclass(trainer, BaseTrainer) and trainer.validator_class is validator and trainer.task == task
    assert issubclass(trainer, DetectionTrainer) == (task != "classify") and pickle.loads(pickle.dumps(predictor))
    if task not in TASKS:
        for cls in (trainer, validator, predictor):
            with pytest.raises(UserError, match=f"models of the task {task} are not supported yet; these are: detect"):
                cls()


def test_formats_are_those_that_are_written():
    table = export_formats()
    assert list(table) == ["Format", "Argument", "Suffix", "CPU", "GPU", "Arguments"]
    written = [name for name, each in EXPORT_FORMATS.items() if not each.reason]
    assert table["Argument"] == ["-", *written] and len({len(column) for column in table.values()}) == 1


def test_an_export(place):
    events = []
    exporter = Exporter(overrides={"format": "torchscript", "imgsz": 64, "device": "cpu"})
    exporter.add_callback("on_export_end", events.append)
    path = exporter(model=YOLO("small.yaml").model)
    assert path.endswith(".torchscript") and events == [exporter] and exporter.file.is_file()
    assert len(YOLO(path).names) == 3
