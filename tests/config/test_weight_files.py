"""Weights by name: where a bare name is looked for, what counts as weights, and the message about a missing file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import MissingFileError
from bitfalcon_plugin.config.user_settings import change
from bitfalcon_plugin.config.weight_files import find_weights, names_folder, names_weights, weight_folders
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.small_yolo import save_weights


@pytest.fixture()
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITFALCON_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BITFALCON_WEIGHTS", raising=False)
    return tmp_path


def test_the_folders_have_an_order(here, monkeypatch):
    assert weight_folders() == [Path("weights"), here / "cache/weights"]
    monkeypatch.setenv("BITFALCON_WEIGHTS", f"{here / 'a'}{os.pathsep}{here / 'b'}{os.pathsep}")
    change({"weights_dir": str(here / "mine")})
    folders = [here / "a", here / "b", Path("weights"), here / "mine", here / "cache/weights"]
    assert weight_folders() == folders
    for folder in reversed(folders):
        folder.mkdir(parents=True)
        (folder / "x.pt").write_bytes(b"")
        assert find_weights("x.pt") == folder / "x.pt"
    (here / "x.pt").write_bytes(b"")
    assert find_weights("x.pt") == Path("x.pt")
    assert find_weights("sub/x.pt") == Path("sub/x.pt") and find_weights("y.pt") == Path("y.pt")


def test_a_folder_with_weights_is_found_by_name_too(here):
    (here / "weights/boats").mkdir(parents=True)
    assert find_weights("boats") == Path("boats") and not names_weights("boats")
    (here / "weights/boats/model.safetensors").write_bytes(b"")
    assert find_weights("boats") == Path("weights/boats") and names_weights("boats")


@pytest.mark.parametrize("name", ["x.pt", "x.PTH", Path("x.safetensors"), "a/b.pt"])
def test_names_of_weights(name):
    assert names_weights(name)


@pytest.mark.parametrize("name", ["yolov12.yaml", "x.onnx", "x", "", None, 3])
def test_other_names(here, name):
    assert not names_weights(name)


def test_names_of_folders_to_write(here):
    (here / "there").mkdir()
    assert names_folder("x/") and names_folder("there") and not names_folder("x") and not names_folder("x.pt")


def test_files_of_these_folders_are_opened_by_every_way(place, monkeypatch, capsys):
    monkeypatch.setenv("BITFALCON_WEIGHTS", str(place / "kept"))
    (place / "kept").mkdir()
    save_weights(place, "kept/best.pt")
    assert YOLO("best.pt").names == YOLO("best").names == {0: "0", 1: "1", 2: "2"}
    assert main(["info", "best.pt"]) == main(["convert", "best.pt", "to=v1"]) - 2 == 0
    assert main("predict best.pt source=data/images/val imgsz=64 device=cpu save=False".split()) == 0
    assert YOLO("small.yaml").load("best.pt").ckpt_path is None


@pytest.mark.parametrize("name", ["yolo12n.pt", "yolov12l.pt"])
def test_the_error_of_a_published_name_says_where_from_its_licence_and_where_it_is_looked_for(here, monkeypatch, name):
    with pytest.raises(MissingFileError) as caught:
        YOLO(name)
    text = str(caught.value)
    assert "/releases (licence AGPL-3.0" in text and "nothing is downloaded" in text
    for folder in (str(here), "'weights'", str(here / "cache/weights"), "$BITFALCON_WEIGHTS"):
        assert folder in text
    monkeypatch.setenv("BITFALCON_WEIGHTS", str(here / "kept"))
    with pytest.raises(MissingFileError, match=str(here / "kept")):
        YOLO(name)


def test_the_error_of_another_bare_name_says_where_it_is_looked_for(here):
    with pytest.raises(MissingFileError, match="Looked for in .*'weights'"):
        YOLO("mine.pt")
    with pytest.raises(MissingFileError) as caught:
        YOLO("sub/mine.pt")
    assert "Looked for" not in str(caught.value)
