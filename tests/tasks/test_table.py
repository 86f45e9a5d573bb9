"""The table of tasks: each row agrees with the modules of the graph and with the settings that it names."""

from __future__ import annotations

import pytest

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import active_settings, load_settings
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.modules import MODULES
from bitfalcon_plugin.tasks import TASKS, task_of
from bitfalcon_plugin.tasks.detect import GAINS
from bitfalcon_plugin.train.records import columns_of


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_heads_of_a_task_name_that_task(task):
    heads = {name for name, entry in MODULES.items() if entry.rule.kind == "head" and entry.rule.task == task.name}
    assert heads == task.heads


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_gains_are_settings(task):
    with_gain = {loss: setting for loss, setting in task.losses.items() if setting}
    assert set(with_gain.values()) <= set(active_settings())
    gains = task.gains(load_settings(dict.fromkeys(with_gain.values(), 3.0)))
    assert gains == {loss: 3.0 if loss in with_gain else 1.0 for loss in task.losses}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_what_means_nothing_to_a_task_is_told_where_it_was_changed_and_gets_its_default(task):
    rows = active_settings()
    assert set(task.means_nothing) <= set(rows) and task.unused(load_settings({})) == []
    given = load_settings({"conf": 0.4, "iou": 0.7, "mosaic": 0.5})
    told, effective = " ".join(task.unused(given)), task.effective(given)
    for key, default in (("conf", None), ("mosaic", 1.0)):
        is_told, is_reset = f"{key}=0." in told, getattr(effective, key) == default
        assert is_told == is_reset == (key in task.means_nothing)
    assert "iou" not in told and effective.given == given.given


def test_settings_without_effect_for_one_reason_are_told_together():
    given = load_settings({"box": 3.0, "cls": 1.0, "augment": True})
    assert TASKS["classify"].unused(given) == [
        "augment=True has no effect on task=classify: each image is computed once.",
        "box=3.0, cls=1.0 have no effect on task=classify: the loss is the cross-entropy alone.",
    ]


def test_the_gains_of_the_loss_are_those_of_the_default_settings():
    assert TASKS["detect"].gains(load_settings({})) == GAINS


def test_the_columns_of_detection_are_those_that_scripts_read():
    assert columns_of(TASKS["detect"]) == (
        "epoch", "time", "train/box_loss", "train/cls_loss", "train/dfl_loss",
        "metrics/precision(B)", "metrics/recall(B)", "metrics/mAP50(B)", "metrics/mAP50-95(B)",
        "val/box_loss", "val/cls_loss", "val/dfl_loss", "lr/pg0", "lr/pg1", "lr/pg2",
    )  # fmt: skip


def test_the_columns_of_classification_are_those_that_scripts_read():
    assert columns_of(TASKS["classify"]) == (
        "epoch", "time", "train/loss", "metrics/accuracy_top1", "metrics/accuracy_top5", "val/loss",
        "lr/pg0", "lr/pg1", "lr/pg2",
    )  # fmt: skip


def test_a_model_names_its_task_and_an_unknown_task_is_refused():
    assert task_of(build("yolov12.yaml", "n")) is TASKS["detect"]
    with pytest.raises(UserError, match="task 'detct' of this model is not supported .*detect"):
        task_of(type("Model", (), {"task": "detct"})())
