"""`bitfalcon models` and list_models: graphs and weights at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitfalcon_plugin import UserError, list_models
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.files import cfg_dir, sha256_of
from bitfalcon_plugin.config.yaml_files import find_model, load_yaml, scale_letter, shipped_models
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.catalogue import counted_parameters
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.foreign import write
from tests.helpers.packed import write_packed
from tests.helpers.parameter_table import count
from tests.helpers.small_yolo import save_weights
from tests.models.test_conformance import VECTORS, foreign_state


@pytest.fixture(autouse=True)
def no_other_weights(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BITFALCON_WEIGHTS", raising=False)


def test_a_graph_in_every_scale_with_its_parameters():
    entries = list_models("yolov12")
    assert [entry.name for entry in entries] == [f"yolov12{scale}.yaml" for scale in "nsmlx"]
    assert [entry.scale for entry in entries] == list("nsmlx") and {entry.kind for entry in entries} == {"graph"}
    counted = sum(parameter.numel() for parameter in build("yolov12n.yaml").parameters())
    assert entries[0].parameters == counted and entries[0].licence == "MIT" and entries[0].classes == 80


def test_the_table_of_parameters_is_that_of_the_shipped_graphs():
    """After a change of a graph or a module: python -m tests.helpers.parameter_table."""
    table = load_yaml(cfg_dir() / "parameters.yaml")
    assert {digest: row["file"] for digest, row in table.items()} == {
        sha256_of(find_model(name).path): name for name in shipped_models()
    }
    for name in shipped_models():
        file = find_model(name)
        counts = counted_parameters(file.path)
        assert list(counts) == list(file.document.get("scales") or [""]), name
        assert list(counts.values()) == sorted(counts.values()) or name.startswith("bitfalcon"), name
    for name in ("yolov8-pose-p6.yaml", "yolo11-obb.yaml", "yolov12-lite.yaml", "yolov12-turbo-cls.yaml"):
        assert counted_parameters(find_model(name).path)["n"] == count(name, "n"), name


def test_a_graph_of_ones_own_is_counted_by_building_it(tmp_path):
    text = find_model("yolov8.yaml").path.read_text()
    Path("yolov8.yaml").write_text(text)  # the same content in another place
    Path("yolov8-mine.yaml").write_text(text.replace("nc: 80", "nc: 3"))
    same, *_ = list_models("yolov8n.yaml")
    mine, *_ = list_models("yolov8n-mine.yaml")
    assert same.path.parent != find_model("yolo11.yaml").path.parent and same.parameters == count("yolov8.yaml", "n")
    assert (mine.classes, mine.scale, mine.task) == (3, "n", "detect")
    assert mine.parameters == count("yolov8-mine.yaml", "n") < same.parameters
    assert mine.as_dict()["parameters"] == mine.parameters


def test_every_shipped_graph_is_listed_under_a_name_that_opens():
    entries = list_models()
    assert {entry.path.name for entry in entries} == set(shipped_models())
    for entry in entries:
        assert entry.name in shipped_models() or scale_letter(entry.name) == entry.scale
        assert find_model(entry.name).path == entry.path
    assert {entry.task for entry in entries} == {"detect", "segment", "classify", "pose", "obb"}


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("YOLOv12n*-SEG", ["yolov12n-seg.yaml", "yolov12n-turbo-seg.yaml"]),
        ("yolov12?-seg.yaml", [f"yolov12{scale}-seg.yaml" for scale in "nsmlx"]),
        ("bitfalcon-p", ["bitfalcon-p.yaml"] * 4),
        ("none*", []),
    ],
)
def test_patterns(pattern, names):
    assert [entry.name for entry in list_models(pattern)] == names


def test_weights_are_listed_with_what_they_say_of_themselves(place, monkeypatch, capsys):
    monkeypatch.setenv("BITFALCON_WEIGHTS", str(place / "kept"))
    (place / "kept").mkdir()
    save_weights(place, "kept/mine.pt", license="CC0")
    write_packed(place)
    state = foreign_state(VECTORS["checkpoint-v1-n-released-layout"], True)
    write(place / "theirs.pt", state, license="AGPL-3.0", epoch=-1)
    (place / "broken.pt").write_bytes(b"no model")
    (place / "data.yaml").write_text("train: x\nnames: [a]\n")
    here = [entry for entry in list_models() if entry.path.parent.name != "models"]
    assert [entry.scale for entry in here if entry.name == "small.yaml"] == ["n", "s"]
    entries = {entry.name: entry for entry in here if entry.scale == "n"}
    assert set(entries) == {"small.yaml", "small-bit.pt", "theirs.pt", str(place / "kept/mine.pt")}
    mine, theirs = entries[str(place / "kept/mine.pt")], entries["theirs.pt"]
    assert (mine.kind, mine.scale, mine.task, mine.licence, mine.classes) == ("weights", "n", "detect", "CC0", 3)
    assert (theirs.scale, theirs.licence, theirs.classes) == ("n", "AGPL-3.0", 80)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert theirs.parameters == sum(value.numel() for key, value in state.items() if not key.endswith(statistics))
    assert mine.parameters == entries["small.yaml"].parameters
    assert "left out: 'broken.pt'" in capsys.readouterr().err
    assert main(["models", "mine"]) == 0
    assert "CC0" in capsys.readouterr().out


def test_the_command_prints_a_table_or_one_document(capsys):
    assert main(["models", "yolov12n-p*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "scale", "task", "parameters", "kind", "licence"]
    assert lines[1].split()[:3] == ["yolov12n-p2.yaml", "n", "detect"] and len(lines) == 4
    assert main(["models", "yolov12n-p*", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert len(entries) == 3 and entries[0]["parameters"] > 1e6
    assert set(entries[0]) == {"name", "kind", "scale", "task", "parameters", "classes", "licence", "path"}
    assert main(["models", "none*", "--json"]) == 0 and json.loads(capsys.readouterr().out) == []
    assert main(["models", "none*"]) == 2 and "called like none*" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["", "  ", None, 3])
def test_a_pattern_that_is_none_is_told(pattern):
    with pytest.raises(UserError, match="expected a pattern"):
        list_models(pattern)


def test_a_graph_that_cannot_be_read_is_left_out_with_a_note(capsys):
    Path("mine.yaml").write_text("backbone: []\nhead: [[1]]\nnc: x\n")
    assert list_models("mine") == [] and "'mine.yaml' is left out" in capsys.readouterr().err
