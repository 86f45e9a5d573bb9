"""The space of a search: ranges from cfg/tune.yaml and from space=, and what is wrong in them."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
import yaml

from bitfalcon_plugin.config.default_table import active_settings
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.tasks import TASKS
from bitfalcon_plugin.tune.space import Choices, Range, default_space, near, read_space, space_of, start_of


def space(**settings):
    return space_of(load_settings({"mode": "tune", "optimizer": "AdamW", **settings}))


def test_the_shipped_space_holds_the_defaults_and_values_that_settings_take():
    space = default_space()
    assert len(space) == 26 and all(isinstance(values, Range) for values in space.values())
    for key, values in space.items():
        assert values.low <= active_settings()[key]["default"] <= values.high, key
    assert space["lr0"] == Range(1e-5, 0.1, log=True) and space["close_mosaic"] == Range(0, 20, whole=True)
    assert read_space({key: values.plain() for key, values in space.items()}, "again") == space


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1e-5, 1e-1), Range(1e-5, 0.1, log=True)),  # logarithmic, as in cfg/tune.yaml
        ([1e-5, 1e-1], Range(1e-5, 0.1, log=True)),
        ((1e-5, 1e-1, 1.5), Range(1e-5, 0.1, log=True)),  # with a gain
        ((0.0, 0.1), Range(0.0, 0.1)),
        ({"min": 0.01, "max": 0.1}, Range(0.01, 0.1)),
        ({"min": 0.01, "max": 0.1, "log": True}, Range(0.01, 0.1, log=True)),
        ([0.1, 0.01, 0.001], Choices((0.1, 0.01, 0.001))),
        ({"choices": [0.1, 0.01]}, Choices((0.1, 0.01))),
        (SimpleNamespace(low=0.01, high=0.1, log=True), Range(0.01, 0.1, log=True)),  # as Optuna's distributions
        (SimpleNamespace(lower=0.01, upper=0.1), Range(0.01, 0.1)),  # as Ray's domains
        (SimpleNamespace(categories=[0.1, 0.2]), Choices((0.1, 0.2))),
    ],
)
def test_forms_of_a_range(value, expected):
    assert read_space({"lr0": value}, "space=") == {"lr0": expected}


def test_settings_that_are_whole_numbers_or_words():
    given = {"close_mosaic": (0, 5), "optimizer": ["SGD", "AdamW"], "cos_lr": [True, False], "imgsz": (320, 640)}
    assert read_space(given, "space=") == {
        "close_mosaic": Range(0, 5, whole=True),
        "optimizer": Choices(("SGD", "AdamW")),
        "cos_lr": Choices((True, False)),
        "imgsz": Range(320, 640, whole=True),
    }


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"lr00": (0, 1)}, "lr00: there is no such setting. Did you mean 'lr0'?"),
        ({"lr0": (0.1, 0.01)}, "the first number is the smallest one"),
        ({"lr0": (0.1, 2)}, "lr0=2: expected a number from 0 to 1"),
        ({"lr0": {"min": 0, "max": 1, "log": True}}, "a logarithmic range begins above 0"),
        ({"lr0": 0.1}, "lr0: 0.1; expected (min, max), or a list of choices"),
        ({"lr0": (0.1, math.inf)}, "expected (min, max)"),
        ({"optimizer": (1, 2)}, "optimizer: this setting is no number"),
        ({"optimizer": ["SGD", "Best"]}, "optimizer=Best: expected one of"),
        ({}, "expected a mapping of settings to ranges"),
    ],
)
def test_what_is_wrong_in_a_space(given, text):
    with pytest.raises(UserError) as error:
        read_space(given, "space=")
    assert text in str(error.value) and str(error.value).startswith("space=")


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(UserError) as error:
        read_space({"lr": (0, 1), "box": (2, 1), "cls": (0.1, 1)}, "space=")
    assert str(error.value).count("\n  - ") == 2


def test_what_has_no_effect_is_not_searched():
    searched, notes = space()
    assert "warmup_momentum" not in searched and "lr0" in searched and "optimizer=SGD" in notes[0]
    assert "lr0" not in space(optimizer="auto")[0] and "warmup_momentum" in space(optimizer="SGD")[0]
    assert not {"mosaic", "close_mosaic", "copy_paste"} & space(rect=True)[0].keys()
    boxes, notes = space_of(load_settings({"mode": "tune", "optimizer": "SGD"}), has_outlines=False)
    assert "copy_paste" not in boxes and "no label has an outline" in notes[0]
    classes, notes = space_of(load_settings({"mode": "tune"}), False, TASKS["classify"].means_nothing)
    assert not {"mosaic", "degrees", "translate", "box", "cls", "copy_paste"} & classes.keys()
    assert {"scale", "hsv_v", "fliplr"} <= classes.keys() and "mosaic (images are cropped" in notes[0]
    chosen, notes = space(optimizer="auto", space={"lr0": (1e-4, 1e-2)})
    assert list(chosen) == ["lr0"] and notes == ["lr0 is searched, but has no effect: optimizer=auto chooses it."]


def test_the_search_begins_at_the_values_that_are_given():
    searched, notes = space(degrees=90, lr0=0.02)
    assert searched["degrees"] == Range(0.0, 90.0) and "the search begins at lr0=0.02, degrees=90.0" in notes[-1]
    start = start_of(searched, load_settings({"degrees": 90, "lr0": 0.02}))
    assert start["degrees"] == 90.0 and start["lr0"] == 0.02 and start["box"] == 7.5
    narrow = space(space={"lr0": (1e-5, 1e-3), "optimizer": ["SGD", "Adam"]})[0]
    assert start_of(narrow, load_settings({"optimizer": "Adam"})) == {"lr0": 1e-3, "optimizer": "Adam"}
    assert start_of(narrow, load_settings({})) == {"lr0": 1e-3}  # optimizer=auto is none of the choices


def test_a_space_from_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"box": {"min": 1, "max": 9}, "cls": [0.1, 1.0]}))
    assert space(space=str(tmp_path / "mine.yaml"))[0] == {"box": Range(1, 9), "cls": Range(0.1, 1.0, log=True)}
    with pytest.raises(UserError, match="there is no such file"):
        space(space=str(tmp_path / "none.yaml"))


def test_values_near_others_stay_in_their_ranges_and_lie_around_them():
    searched = {"lr0": Range(1e-4, 1e-2, log=True), "box": Range(0, 10), "close_mosaic": Range(0, 9, whole=True)}
    searched["optimizer"] = Choices(("SGD", "AdamW"))
    values = {"lr0": 1e-3, "box": 9.5, "close_mosaic": 4, "optimizer": "SGD"}
    drawn = [near(searched, values, seed) for seed in range(400)]
    assert drawn[:3] == [near(searched, values, seed) for seed in range(3)]
    for key, values_of_key in searched.items():
        column = [row[key] for row in drawn]
        assert 0.35 < sum(value != values[key] for value in column) / 400 < 0.6 or key in ("optimizer", "close_mosaic")
        assert all(values_of_key.nearest(value) == value for value in column)
    assert all(isinstance(row["close_mosaic"], int) for row in drawn)
    logs = [math.log10(row["lr0"]) for row in drawn if row["lr0"] != 1e-3]
    assert abs(sum(logs) / len(logs) + 3) < 0.1  # around the middle of the logarithms
    assert Range(1, 2).near(1.5, random.Random(0)) != 1.5
