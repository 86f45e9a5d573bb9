"""Steps of a run that a caller replaces: each is called in place of the run's own, and may call that."""

from __future__ import annotations

import csv
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.tasks import DETECT
from bitfalcon_plugin.train import run
from bitfalcon_plugin.train.records import Records
from bitfalcon_plugin.train.run import run_train
from bitfalcon_plugin.train.steps import Steps
from tests.helpers.coloured import place  # noqa: F401  the fixture

SETTINGS = {
    "mode": "train",
    "model": "small.yaml",
    "scale": "n",
    "data": "data/data.yaml",
    "imgsz": 64,
    "batch": 4,
    "epochs": 2,
    "device": "cpu",
    "plots": False,
}
NAMES = [field.name for field in fields(Steps)]


def test_every_step_is_asked_for_and_calling_the_own_one_changes_nothing(place):
    calls = []

    def passing(name):
        return lambda own, *arguments: (calls.append(name), own(*arguments))[1]

    plain = run_train(load_settings(SETTINGS), None)
    steps = Steps(**{name: passing(name) for name in NAMES})
    replaced = run_train(load_settings(SETTINGS), None, steps=steps)
    assert set(calls) == set(NAMES) and calls.index("data") < calls.index("model") < calls.index("loaders")
    assert calls.count("losses") == calls.count("batch") == 6 and calls.count("validate") == calls.count("save") == 2
    before, after = (result.trainer.model.state_dict() for result in (plain, replaced))
    assert all(before[name].equal(after[name]) for name in before)


def test_a_row_with_a_new_key_gets_a_column(tmp_path: Path):
    records = Records(tmp_path, load_settings({}), DETECT)
    rates = [0.1, 0.1, 0.1]
    records.write(records.row(0, [1, 2, 3], None, rates))
    records.write({**records.row(1, [1, 2, 3], None, rates), "extra": 5.0})
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["extra"] for row in rows] == ["nan", "5"] and [row["epoch"] for row in rows] == ["1", "2"]
    other = Records(tmp_path, load_settings({}), DETECT)
    other.restore(records.state())
    assert other.columns == records.columns and other.rows == records.rows


def test_replaced_steps_need_one_process(monkeypatch):
    monkeypatch.setattr(run, "select_devices", lambda device: [torch.device("cuda:0"), torch.device("cuda:1")])
    with pytest.raises(UserError, match="torchrun"):
        run_train(load_settings(SETTINGS), None, steps=Steps(step=print))
