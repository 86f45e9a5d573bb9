"""cfg/default.yaml: every row is whole, has the default of the release, and is read by some code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from bitfalcon_plugin.config.default_table import active_settings, table
from bitfalcon_plugin.config.files import cfg_dir
from bitfalcon_plugin.config.listing import settings_table
from bitfalcon_plugin.config.settings import Settings, load_settings
from bitfalcon_plugin.config.values import KINDS
from bitfalcon_plugin.tasks import TASKS
from tests.helpers.paths import ROOT

# spec/interface.md section 2, column F where it differs: what a YOLOv12 user's scripts rely on.
REFERENCE = {
    "task": "detect",
    "mode": "train",
    "model": None,
    "data": None,
    "epochs": 100,
    "time": None,
    "patience": 100,
    "batch": 16,
    "imgsz": 640,
    "save": True,
    "save_period": -1,
    "cache": False,
    "device": None,
    "workers": 8,
    "project": None,
    "name": None,
    "exist_ok": False,
    "pretrained": True,
    "optimizer": "auto",
    "verbose": True,
    "seed": 0,
    "deterministic": True,
    "single_cls": False,
    "rect": False,
    "cos_lr": False,
    "close_mosaic": 10,
    "resume": False,
    "amp": True,
    "fraction": 1.0,
    "profile": False,
    "freeze": None,
    "multi_scale": False,
    "overlap_mask": True,
    "mask_ratio": 4,
    "dropout": 0.0,
    "val": True,
    "split": "val",
    "save_json": False,
    "save_hybrid": False,
    "conf": None,
    "iou": 0.7,
    "max_det": 300,
    "half": False,
    "dnn": False,
    "plots": True,
    "source": None,
    "vid_stride": 1,
    "stream_buffer": False,
    "visualize": False,
    "augment": False,
    "agnostic_nms": False,
    "classes": None,
    "retina_masks": False,
    "embed": None,
    "show": False,
    "save_frames": False,
    "save_txt": False,
    "save_conf": False,
    "save_crop": False,
    "show_labels": True,
    "show_conf": True,
    "show_boxes": True,
    "line_width": None,
    "format": "torchscript",
    "keras": False,
    "optimize": False,
    "int8": False,
    "dynamic": False,
    "simplify": True,
    "opset": None,
    "workspace": None,
    "lr0": 0.01,
    "lrf": 0.01,
    "momentum": 0.937,
    "weight_decay": 0.0005,
    "warmup_epochs": 3.0,
    "warmup_momentum": 0.8,
    "warmup_bias_lr": 0.0,
    "box": 7.5,
    "cls": 0.5,
    "dfl": 1.5,
    "pose": 12.0,
    "kobj": 1.0,
    "nbs": 64,
    "hsv_h": 0.015,
    "hsv_s": 0.7,
    "hsv_v": 0.4,
    "degrees": 0.0,
    "translate": 0.1,
    "scale": 0.5,
    "shear": 0.0,
    "perspective": 0.0,
    "flipud": 0.0,
    "fliplr": 0.5,
    "bgr": 0.0,
    "mosaic": 1.0,
    "mixup": 0.0,
    "copy_paste": 0.1,
    "copy_paste_mode": "flip",
    "auto_augment": "randaugment",
    "erasing": 0.4,
    "crop_fraction": 1.0,
    "cfg": None,
    "tracker": "bytetrack.yaml",  # the release: botsort.yaml
}


@pytest.mark.parametrize("key", REFERENCE)
def test_defaults_are_those_of_the_release(key: str) -> None:
    assert table()[key]["default"] == REFERENCE[key]
    assert type(table()[key]["default"]) is type(REFERENCE[key])


def test_a_recorded_settings_file_of_the_release_is_read_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "args.yaml").write_text(yaml.safe_dump({**REFERENCE, "save_dir": None}, sort_keys=False))
    settings = load_settings({"cfg": tmp_path / "args.yaml"})
    assert settings.notes == ()
    expected = {key: value for key, value in REFERENCE.items() if key in active_settings()}
    assert settings.as_dict().items() >= expected.items()


@pytest.mark.parametrize("key", [key for key, row in table().items() if "now" not in row])
def test_every_row_is_whole(key: str) -> None:
    row = table()[key]
    assert "unused" not in row or row["unused"] and not row["unused"].endswith(".")
    if "type" not in row:
        assert "unused" in row and set(row) <= {"default", "also", "unused"}
        return
    used_by = {
        "verbs": {"doctor", "selftest", "export", "benchmark", "data"},
        "not_for": {"train"},
        "resume": {"run", "experiment"},
        "typed": {"run", "dataset"},
    }
    columns = {"default", "type", "unit", "min", "max", "above", "path", "choices", "example", "help", "unused"}
    assert set(row) <= columns | used_by.keys()
    assert all(set(row.get(column, ())) <= values for column, values in used_by.items())
    kinds = row["type"].split("|")
    assert set(kinds) <= set(KINDS) and row["help"] and not row["help"].endswith(".")
    assert "choices" not in row or {"str", "name"} & set(kinds)
    if {"int", "float", "ints", "numbers", "size"} & set(kinds) and key != "device":
        assert "unit" in row and {"min", "above"} & set(row)
    right = row["default"] if row["default"] is not None else row["example"]
    if key in active_settings() and key != "cfg":
        several = isinstance(right, list) or "words" in kinds
        expected = tuple([right] if isinstance(right, str) else right) if several else right
        assert getattr(load_settings({key: right}), key) == expected


def test_no_key_stands_twice_and_none_hides_a_method() -> None:
    node = yaml.compose((cfg_dir() / "default.yaml").read_text(), Loader=yaml.SafeLoader)
    keys = [key.value for _, group in node.value for key, _ in group.value]
    assert len(keys) == len(set(keys)) == len(table())
    assert not set(keys) & set(dir(Settings))
    assert all(row["now"] in active_settings() for row in table().values() if "now" in row)


def test_every_setting_is_read_somewhere() -> None:
    """A key that nothing reads would be accepted and ignored: build it, or mark it `unused` with the reason."""
    read = {"cfg", "task", "debug"}  # read by config/settings.py, config/command_line.py and cli.py under other names
    read |= {setting for task in TASKS.values() for setting in task.losses.values()}  # Task.gains reads these
    read |= {setting for task in TASKS.values() for setting in task.options}
    read |= {setting for task in TASKS.values() if task.data.rows for setting in task.data.rows.instead}
    for path in (ROOT / "bitfalcon_plugin").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for table_of_names in [node for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))]:
            tree.body.remove(
                table_of_names
            )  # which keys a verb takes, or a resumed run: naming one there is not reading it
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == "Recipe":  # filled from the settings field by field
                read |= {field.target.id for field in node.body if isinstance(field, ast.AnnAssign)}
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("settings"):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
    assert set(active_settings()) - read == set()


def test_the_table_is_whole() -> None:
    """Read back by its columns: every key once, with its default, what it is, and why where it has no effect."""
    lines = settings_table().splitlines()
    rows = {
        cells[0].strip("`"): cells for cells in (re.split(r"\s*(?<!\\)\|\s*", line[1:-1].strip(" ")) for line in lines)
    }
    assert all(len(cells) == 4 for cells in rows.values())
    assert [key for key in rows if key in table()] == list(table())
    for key, row in table().items():
        meaning = rows[key][2]
        if "now" in row:
            assert row["now"] in meaning
            continue
        assert yaml.safe_load(rows[key][1].strip("`")) == row["default"]
        assert row.get("help", "") in meaning and row.get("unused", "") in meaning
        assert ("no effect" in meaning) == ("unused" in row) and ("type" not in row or rows[key][3])
