"""Settings: problems are collected, old names translated, the result is frozen, files lie under the other keys."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import yaml

from bitfalcon_plugin.config.default_table import active_settings, table
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.listing import defaults_text
from bitfalcon_plugin.config.settings import load_settings
from tests.helpers.problems import problems


def test_all_problems_are_reported_at_once_with_the_nearest_names() -> None:
    text = problems(epcohs=1, imgsz="big", lr0=2, qwxyz=1, split="tset")
    assert text.count("\n  - ") == 5
    assert "epcohs=1: there is no such setting. Nearest: epochs=100" in text
    assert "qwxyz=1: there is no such setting. `bitfalcon cfg` lists them all." in text
    assert "Did you mean 'test'?" in text


def test_a_message_stays_short() -> None:
    assert len(problems(epochs="x" * 100_000)) < 400
    deep: list = []
    for _ in range(60):
        deep = [deep, deep]  # a YAML of aliases: its full text would have 2**60 parts
    assert len(problems(epochs=deep)) < 1000


def test_scale_serves_two() -> None:
    assert (load_settings({"scale": "l"}).model_scale, load_settings({"scale": "l"}).scale) == ("l", 0.5)
    assert (load_settings({"scale": 0.9}).model_scale, load_settings({"scale": 0.9}).scale) == (None, 0.9)
    assert load_settings({"scale": "l"}).given == {"model_scale"}


def test_old_names_are_translated_and_noted() -> None:
    settings = load_settings({"boxes": False, "hide_labels": True, "hide_conf": False, "line_thickness": 3})
    assert (settings.show_boxes, settings.show_labels) == (False, False)
    assert (settings.show_conf, settings.line_width) == (True, 3)
    assert len(settings.notes) == 4 and "'hide_labels' is an old name of 'show_labels'." in settings.notes
    assert settings.given == {"show_boxes", "show_labels", "show_conf", "line_width"}
    assert "show_labels=perhaps: expected True or False" in problems(hide_labels="perhaps")


def test_keys_without_effect_are_noted_once_and_are_no_settings() -> None:
    settings = load_settings({"dnn": True, "label_smoothing": 0.1, "profile": False})
    assert settings.notes == (
        "dnn=True has no effect: no other runtimes are used.",
        "label_smoothing=0.1 has no effect: the assigner's soft labels take its place.",
    )
    assert settings.given == frozenset() and "dnn" not in settings.as_dict()
    with pytest.raises(AttributeError):
        settings.dnn  # noqa: B018


def test_no_key_waits_to_be_built() -> None:
    assert not [key for key, row in table().items() if "not built" in row.get("unused", "")]


def test_settings_are_frozen_values() -> None:
    settings = load_settings({"epochs": 3, "classes": [0, 2], "dnn": True})
    with pytest.raises(AttributeError, match="replace"):
        settings.epochs = 4
    with pytest.raises(AttributeError, match="Did you mean 'epochs'"):
        settings.epcohs  # noqa: B018
    with pytest.raises(AttributeError):
        del settings.epochs
    for twin in (pickle.loads(pickle.dumps(settings)), copy.copy(settings), copy.deepcopy(settings)):
        assert twin == settings and twin.notes == settings.notes
    assert settings != load_settings({"epochs": 3}) and settings != {"epochs": 3}
    assert settings.given == {"epochs", "classes"}
    assert list(settings.as_dict()) == list(active_settings()) and settings.as_dict()["classes"] == [0, 2]
    assert "epochs=3" in repr(settings) and "imgsz" not in repr(settings)


def test_replace_is_checked_and_keeps_the_given_keys() -> None:
    settings = load_settings({"epochs": 3})
    changed = settings.replace(imgsz=320, scale="l")
    assert (changed.imgsz, changed.model_scale, changed.epochs, settings.imgsz) == (320, "l", 3, 640)
    assert changed.given == {"epochs"}
    with pytest.raises(UserError, match="imgsz=0"):
        settings.replace(imgsz=0)


def test_a_settings_file_lies_under_the_other_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 5\nlr0: 1e-3\nconf: None\nscale: s\nseed: 4\ncfg: other.yaml\ndevice: '0'\nname: 12\n")
    settings = load_settings({"cfg": str(path), "seed": 9, "scale": 0.2})
    assert (settings.epochs, settings.lr0, settings.conf, settings.seed) == (5, 0.001, None, 9)
    assert (settings.model_scale, settings.scale, settings.name, settings.device) == ("s", 0.2, "12", 0)
    assert settings.cfg is None
    assert settings.given == {"epochs", "lr0", "conf", "model_scale", "seed", "device", "name", "scale"}
    assert load_settings({"scale": 0.2, "seed": 9, "cfg": str(path)}) == settings


def test_our_own_files_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings({"epochs": 3, "classes": [0, 2], "scale": "l", "name": "none of it", "lr0": 0.125})
    (tmp_path / "args.yaml").write_text(yaml.safe_dump({**settings.as_dict(), "save_dir": "runs/x"}, sort_keys=False))
    again = load_settings({"cfg": tmp_path / "args.yaml"})
    assert again.as_dict() == settings.as_dict() and len(again.notes) == 1
    (tmp_path / "copy.yaml").write_text(defaults_text())
    assert load_settings({"cfg": tmp_path / "copy.yaml"}).as_dict() == load_settings({}).as_dict()
    monkeypatch.chdir(tmp_path)
    assert load_settings({"cfg": "default.yaml"}).as_dict() == load_settings({}).as_dict()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epcohs: 1\nimgsz: [a]\n", ("mine.yaml: epcohs=1: there is no such setting", "mine.yaml: imgsz=")),
        ("epochs: [1\n", ("line 2",)),
        ("- 1\n", ("expected a mapping",)),
        ("on: 1\n", ("True=1: there is no such setting",)),
        (b"\xff\xfe\x00", ("not text",)),
        ("a: !!python/object/apply:os.system [x]\n", ("not YAML",)),
        (None, ("there is no such file",)),
    ],
)
def test_a_settings_file_that_is_wrong(tmp_path: Path, text: str | bytes | None, expected: tuple[str, ...]) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = problems(cfg=str(path), epochs=0)
    assert "epochs=0: expected" in message and all(part in message for part in expected) and "mine.yaml" in message
