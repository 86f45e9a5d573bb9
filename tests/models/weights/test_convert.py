"""The verbs convert and info: families, tasks, licences, and weights that come back unchanged."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from bitfalcon_plugin.cli import main
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.foreign import write
from tests.helpers.paths import RECORDED
from tests.helpers.small_yolo import save_weights
from tests.models.test_conformance import foreign_state


@pytest.mark.parametrize("name, task", [("turbo-n-seg", "segment"), ("turbo-n-cls", "classify")])
def test_info_and_convert_of_other_tasks_say_family_task_and_licence(tmp_path, name, task, capsys):
    vectors = json.loads(gzip.decompress((RECORDED / "conformance.json.gz").read_bytes()))
    source = write(tmp_path / "x.pt", foreign_state(vectors[name], True), license="AGPL-3.0 " + "x" * 500)
    licence = "licence: AGPL-3.0 " + "x" * 191
    for arguments in (
        ["convert", str(source), f"out={tmp_path / 'ours.pt'}"],
        ["info", str(tmp_path / "ours.pt")],
        ["convert", str(source), "to=turbo", f"out={tmp_path / 'a.pt'}"],
        ["convert", str(tmp_path / "ours.pt"), "to=turbo", f"out={tmp_path / 'b.pt'}"],
    ):
        capsys.readouterr()
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert "family turbo" in out and task in out and licence in out and "x" * 192 not in out


def test_info_of_our_own_file_says_where_it_comes_from(place, capsys):
    assert main(["info", str(save_weights(place, "x.pt", license="CC0", epoch=4))]) == 0
    out = capsys.readouterr().out
    assert "family of no other maker, detect, 3 classes" in out and "epoch 5" in out and "licence: CC0" in out
    assert "classes: 0, 1, 2" in out and "small.yaml scale=n summary" in out


@pytest.mark.parametrize("family", ["yolo11", "yolov8"])
def test_convert_writes_every_family(tmp_path, family):
    vectors = json.loads(gzip.decompress((RECORDED / "conformance.json.gz").read_bytes()))
    state = foreign_state(vectors[f"{family}-n"], False)
    torch.save(state, tmp_path / "x.pt")
    assert main(["convert", str(tmp_path / "x.pt"), f"out={tmp_path / 'ours.pt'}"]) == 0
    assert main(["convert", str(tmp_path / "ours.pt"), f"to={family}", f"out={tmp_path / 'back.pt'}"]) == 0
    back = torch.load(tmp_path / "back.pt")
    assert back.keys() == state.keys() and all(torch.equal(back[key], tensor) for key, tensor in state.items())
