"""A last.pt of somebody else: its settings choose no place outside of the run, and its state ends in one line."""

from __future__ import annotations

import copy
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from bitfalcon_plugin.cli import main
from tests.attack.graphs import mutate
from tests.helpers.coloured import lay_out
from tests.helpers.small_runs import last, train


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The content of the last.pt of a run of one epoch of two, in a folder of its own, which is the current one."""
    folder = tmp_path_factory.mktemp("outer") / "inner"
    folder.mkdir()
    lay_out(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("done", epochs=1)
        yield torch.load(last("done"))


def resume(content: dict, capsys, *words: str) -> tuple[int, str]:
    """Resume a copy of the run with this content; nothing is made outside of it."""
    shutil.rmtree("runs/odd", ignore_errors=True)
    shutil.copytree("runs/done", "runs/odd")
    torch.save(content, last("odd"))
    places = [Path("."), Path(".."), Path("runs"), Path("/tmp/bitfalcon-outside")]
    before = [set(os.listdir(place)) if place.exists() else set() for place in places]
    code = main(["train", f"resume={last('odd')}", "epochs=2", "device=cpu", *words])
    assert [set(os.listdir(place)) if place.exists() else set() for place in places] == before
    text = capsys.readouterr().err
    assert code == 0 or code == 2 and "error: " in text and "fault" not in text, text
    return code, text


@pytest.mark.parametrize(
    "settings, code",
    [
        ({"name": "n/../../../up"}, 2),
        ({"name": "/tmp/bitfalcon-outside"}, 2),
        ({"project": "/tmp/bitfalcon-outside", "name": "x"}, 0),  # the run's folder is where last.pt lies
        ({"project": "../../up", "exist_ok": True}, 0),
        ({"imgsz": [40_000, 40_000]}, 2),
        ({"imgsz": 10**30}, 2),
        ({"batch": 100_000}, 2),
        ({"workers": 10**9}, 2),
        ({"keep": "(a+)+$", "bit": "(a+)+$"}, 0),  # of a model that is made already
        ({"data": "a\0b"}, 2),
        ({"epochs": "x"}, 0),  # another number is given
        ({"optimizer": "x"}, 2),
    ],
    ids=str,
)
def test_settings_of_the_file_choose_no_place_outside(stopped, settings, code, capsys):
    assert resume({**stopped, "settings": {**stopped["settings"], **settings}}, capsys)[0] == code


def test_the_right_to_read_outside_the_dataset_is_not_taken_from_the_file(stopped, tmp_path, capsys):
    content = yaml.safe_load(Path("data/data.yaml").read_text())
    outside = {key: os.path.relpath(f"data/{content[key]}", tmp_path) for key in ("train", "val")}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**content, "path": str(tmp_path), **outside}))
    settings = {**stopped["settings"], "data": str(tmp_path / "data.yaml"), "allow_outside": True}
    code, text = resume({**stopped, "settings": settings}, capsys)
    assert code == 2 and "leads out of the dataset's folder" in text
    assert "allow_outside=True stands in the file that is resumed" in text and "type it again: allow_outside=" in text
    code, text = resume({**stopped, "settings": settings}, capsys, "allow_outside=True")
    assert code == 0 and "stands in the file" not in text


def test_the_type_of_autocast_is_one_of_three(stopped, capsys):
    precision = {**stopped["training"]["precision"], "name": "hub"}
    code, text = resume({**stopped, "training": {**stopped["training"], "precision": precision}}, capsys)
    assert code == 2 and "last.pt' is damaged or made by hand" in text


@pytest.mark.parametrize("seed", range(12))
def test_a_broken_state_ends_in_one_line_or_trains(stopped, seed, capsys):
    draw = random.Random(seed)
    part = {key: value for key, value in stopped["training"].items() if key != "weights"}
    changed = copy.deepcopy(stopped)
    mutate(draw, part, into=changed["training"]) if seed % 3 else mutate(draw, changed["settings"])
    resume(changed, capsys)
