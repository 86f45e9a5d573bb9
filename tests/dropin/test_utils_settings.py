"""The mapping of the user's settings, as scripts read and change it."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from bitfalcon_plugin.dropin.utils import DATASETS_DIR, RUNS_DIR, SETTINGS


@pytest.fixture(autouse=True)
def own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("BITFALCON_CONFIG", str(tmp_path))
    return tmp_path / "settings.json"


def test_reading(own_file):
    assert isinstance(SETTINGS, dict) and SETTINGS.file == own_file and not own_file.exists()
    assert (
        isinstance(SETTINGS["datasets_dir"], str) and SETTINGS.get("nothing", 3) == 3 and SETTINGS["sync"] is not None
    )
    known = {"settings_version", "datasets_dir", "weights_dir", "runs_dir", "uuid", "sync", "api_key", "openai_api_key"}
    known |= {"clearml", "comet", "dvc", "hub", "mlflow", "neptune", "raytune", "tensorboard", "wandb"}
    assert known <= set(SETTINGS) and "uuid" in SETTINGS and len(SETTINGS) == len(list(SETTINGS.values()))
    assert dict(SETTINGS) == {**SETTINGS} == SETTINGS.copy() == json.loads(str(SETTINGS)) == SETTINGS
    assert str(own_file) in repr(SETTINGS) and RUNS_DIR.name == "runs" and DATASETS_DIR.name == "datasets"


def test_changes_are_written_at_once(own_file, tmp_path):
    SETTINGS["runs_dir"] = str(tmp_path / "mine")
    assert SETTINGS["runs_dir"] == str(tmp_path / "mine") == json.loads(own_file.read_text())["runs_dir"]
    assert SETTINGS.update({"weights_dir": "w"}, datasets_dir="d") is None
    assert (SETTINGS["weights_dir"], SETTINGS["datasets_dir"]) == ("w", "d")
    assert pickle.loads(pickle.dumps(SETTINGS))["weights_dir"] == copy.deepcopy(SETTINGS)["weights_dir"] == "w"
    assert SETTINGS.reset() is None
    assert not own_file.exists() and SETTINGS["weights_dir"] != "w"


def test_keys_without_effect_are_kept_and_a_note_says_so(capsys):
    SETTINGS.update({"wandb": True})
    assert SETTINGS["wandb"] is True
    assert "wandb=True is kept but has no effect" in capsys.readouterr().err


def test_wrong_keys_and_values_change_nothing(own_file):
    with pytest.raises(KeyError, match="verbose"):
        SETTINGS.update({"runs_dir": "x", "verbose": False})
    with pytest.raises(KeyError):
        SETTINGS["nothing"]  # noqa: B018
    with pytest.raises(TypeError, match="sync"):
        SETTINGS["sync"] = "yes"
    with pytest.raises(TypeError, match="reset"):
        del SETTINGS["sync"]
    with pytest.raises(TypeError, match="reset"):
        SETTINGS.pop("sync")
    assert not own_file.exists()
