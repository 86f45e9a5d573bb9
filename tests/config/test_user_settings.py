"""The user's own settings: their file, their types, and what they change in a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from bitfalcon_plugin.config import user_settings
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.run_folder import new_run_dir, runs_top
from bitfalcon_plugin.config.user_settings import ACTIVE, KEYS, all_settings, change, choice, reset, settings_file
from bitfalcon_plugin.config.weight_files import find_weights
from bitfalcon_plugin.data.formats.dataset_yaml import read_data
from bitfalcon_plugin.models.weights.foreign import identify_checkpoint


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BITFALCON_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(user_settings, "_unwritten", {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_reading_writes_nothing_and_gives_the_defaults(here):
    assert all_settings().keys() == KEYS.keys() and all_settings()["runs_dir"] == str(here / "runs")
    assert choice("runs_dir") is None and not any(here.iterdir())
    assert ACTIVE == ("runs_dir", "datasets_dir", "weights_dir", "tensorboard")


def test_a_change_is_written_at_once_and_only_what_was_chosen(here):
    assert change({"runs_dir": here / "mine", "tensorboard": False}) == []
    assert json.loads((here / "config/settings.json").read_text()) == {
        "runs_dir": str(here / "mine"),
        "tensorboard": False,
    }
    change({"tensorboard": True})
    assert all_settings()["runs_dir"] == str(here / "mine") and choice("tensorboard") is True
    reset()
    reset()
    assert not settings_file().exists() and choice("tensorboard") is None


def test_keys_of_other_tools_are_kept_and_said(here):
    (note,) = change({"wandb": True, "sync": False})
    assert "wandb=True is kept but has no effect" in note and choice("wandb") is True


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        ({"runs_dri": "x"}, KeyError, "Did you mean 'runs_dir'?"),
        ({"zzzzzzz": 1}, KeyError, "Known: runs_dir"),
        ({"tensorboard": "yes"}, TypeError, "tensorboard='yes': expected bool, as in tensorboard=True."),
        ({"runs_dir": None}, TypeError, "runs_dir=None: expected str"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused_before_anything_is_written(here, values, kind, text):
    with pytest.raises(kind) as error:
        change({"datasets_dir": "x", **values})
    assert isinstance(error.value, UserError) and text in str(error.value) and "\\n" not in str(error.value)
    assert not settings_file().exists()


@pytest.mark.parametrize("content", ["{", "[1]", "\xff", '{"runs_dir": 3, "unknown": 1}'])
def test_a_damaged_file_is_a_note(here, content, capsys):
    settings_file().parent.mkdir()
    settings_file().write_bytes(content.encode("latin-1"))
    assert choice("runs_dir") is None and str(settings_file()) in capsys.readouterr().err
    change({"runs_dir": "a"})
    assert choice("runs_dir") == "a"


def test_where_no_file_can_be_written_a_choice_holds_for_the_process(here, monkeypatch):
    (here / "file").write_text("")
    monkeypatch.setenv("BITFALCON_CONFIG", str(here / "file"))
    (note,) = change({"runs_dir": "a"})
    assert "for this process only" in note and choice("runs_dir") == "a"
    reset()
    assert choice("runs_dir") is None


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the folders of Linux")
def test_the_place_of_the_file(monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/xdg")
    places = [settings_file().parent.name]
    for name in ("BITFALCON_CONFIG", "YOLO_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv("YOLO_CONFIG_DIR", "/yolo") if name == "BITFALCON_CONFIG" else None
        monkeypatch.delenv(name)
        places.append(settings_file().as_posix())
    home = (Path.home() / ".config/bitfalcon/settings.json").as_posix()
    assert places == ["config", "/yolo/bitfalcon/settings.json", "/xdg/bitfalcon/settings.json", home]


def test_runs_dir_holds_the_folders_of_runs(here):
    assert new_run_dir("train") == Path("runs/detect/train")
    change({"runs_dir": str(here / "elsewhere")})
    assert new_run_dir("train") == here / "elsewhere/detect/train"
    assert new_run_dir("train") == here / "elsewhere/detect/train2"
    assert runs_top("given") == Path("given")


def test_datasets_dir_is_the_last_place_of_a_relative_root(here):
    text = {"path": "things", "train": "a", "val": "a", "names": ["x"]}
    (here / "sub").mkdir()
    (here / "sub/data.yaml").write_text(yaml.safe_dump(text))
    roots = [read_data("sub/data.yaml")[0].root]
    change({"datasets_dir": "all"})
    for folder in ("all/things", "things", "sub/things"):
        (here / folder).mkdir(parents=True)
        roots.append(read_data("sub/data.yaml")[0].root)
    assert roots == [here / "things", here / "all/things", here / "things", here / "sub/things"]


def test_a_bare_name_of_weights_is_looked_for_in_weights_dir(here):
    places = [find_weights("best.pt")]
    change({"weights_dir": str(here / "kept")})
    for folder in ("kept", "."):
        (here / folder).mkdir(exist_ok=True)
        (here / folder / "best.pt").write_bytes(b"not a checkpoint")
        places.append(find_weights("best.pt"))
    assert places == [Path("best.pt"), here / "kept/best.pt", Path("best.pt")]
    assert find_weights("x/best.pt") == Path("x/best.pt")
    Path("best.pt").unlink()
    with pytest.raises(UserError, match="kept/best.pt"):  # it was opened there
        identify_checkpoint("best.pt")
