"""cfg/hyp: the YOLOv12 authors' recipes are found by name, checked like a user's file, and overridden by typed keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bitfalcon_plugin.config.default_table import table
from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.config.files import cfg_dir
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.config.yaml_files import find_settings

# spec/interface.md, end of section 2.
PUBLISHED = {
    "n": {"scale": 0.5, "mixup": 0.0, "copy_paste": 0.1},
    "s": {"scale": 0.9, "mixup": 0.05, "copy_paste": 0.15},
    "m": {"scale": 0.9, "mixup": 0.15, "copy_paste": 0.4},
    "l": {"scale": 0.9, "mixup": 0.15, "copy_paste": 0.5},
    "x": {"scale": 0.9, "mixup": 0.2, "copy_paste": 0.6},
}
SHARED = {"epochs": 600, "batch": 256, "imgsz": 640, "mosaic": 1.0}


def test_every_size_has_a_recipe():
    assert {path.stem for path in (cfg_dir() / "hyp").iterdir()} == {f"yolov12-{letter}" for letter in PUBLISHED}


@pytest.mark.parametrize("letter", PUBLISHED)
def test_a_recipe_holds_the_published_settings_only(letter):
    content = yaml.safe_load((cfg_dir() / "hyp" / f"yolov12-{letter}.yaml").read_text())
    assert content == {**SHARED, **PUBLISHED[letter]}


@pytest.mark.parametrize("letter", PUBLISHED)
@pytest.mark.parametrize("typed", ["yolov12-{}", "yolov12-{}.yaml", "yolov12-{}.yml", "yolo12-{}"])
def test_by_name(letter, typed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = load_settings({"cfg": typed.format(letter)})
    live = {key: value for key, value in {**SHARED, **PUBLISHED[letter]}.items() if "unused" not in table()[key]}
    assert {key: getattr(settings, key) for key in live} == live
    assert settings.given == set(live) and settings.model_scale is None


def test_by_path(tmp_path):
    assert load_settings({"cfg": cfg_dir() / "hyp/yolov12-m.yaml"}).epochs == 600


def test_given_keys_win_and_are_noted():
    settings = load_settings({"cfg": "yolov12-n", "epochs": 3, "scale": "n", "batch": 8})
    assert (settings.epochs, settings.batch, settings.scale, settings.model_scale) == (3, 8, 0.5, "n")
    assert settings.notes[0] == (
        "cfg=yolov12-n sets imgsz=640, mosaic=1.0, scale=0.5, mixup=0.0, copy_paste=0.1; given beside "
        "it: epochs, batch."
    )
    assert load_settings({"cfg": "yolov12-x"}).notes[0] == (
        "cfg=yolov12-x sets epochs=600, batch=256, imgsz=640, mosaic=1.0, scale=0.9, mixup=0.2, copy_paste=0.6."
    )


def test_a_file_of_that_name_comes_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("yolov12-n.yaml").write_text("epochs: 5\n")
    settings = load_settings({"cfg": "yolov12-n.yaml"})
    assert (settings.epochs, settings.batch, settings.notes) == (5, 16, ())
    assert load_settings({"cfg": "yolov12-n"}).epochs == 600  # no such file: the recipe


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("yolov12-q", "Did you mean 'yolov12-"),
        ("yolov12n.yaml", "Did you mean 'yolov12-n'?"),
        ("zzz", "yolov12-x. `bitfalcon copy-cfg`"),
        ("nowhere/yolov12-n.yaml", "there is no such file"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(typed, message):
    with pytest.raises(MissingFileError) as error:
        find_settings(typed)
    assert message in str(error.value) and "yolov12-l, yolov12-m, yolov12-n, yolov12-s, yolov12-x" in str(error.value)
    with pytest.raises(UserError, match=f"cfg={typed}: there is no such file"):
        load_settings({"cfg": typed})
