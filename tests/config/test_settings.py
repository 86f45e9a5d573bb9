"""config.py and cfg/default.yaml: every row is whole, every wrong value is told, settings stay as they are."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.files import cfg_dir
from bitfalcon_plugin.config.settings import (
    KINDS,
    Settings,
    defaults_text,
    literal,
    live,
    load_settings,
    settings_table,
    table,
)
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
    "tracker": "botsort.yaml",
}


def problems(**overrides: object) -> str:
    with pytest.raises(UserError) as caught:
        load_settings(overrides)
    return str(caught.value)


@pytest.mark.parametrize("key", REFERENCE)
def test_defaults_are_those_of_the_release(key: str) -> None:
    assert table()[key]["default"] == REFERENCE[key]
    assert type(table()[key]["default"]) is type(REFERENCE[key])


def test_a_recorded_settings_file_of_the_release_is_read_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "args.yaml").write_text(yaml.safe_dump({**REFERENCE, "save_dir": None}, sort_keys=False))
    settings = load_settings({"cfg": tmp_path / "args.yaml"})
    assert settings.notes == ()
    assert settings.as_dict().items() >= {key: value for key, value in REFERENCE.items() if key in live()}.items()


@pytest.mark.parametrize("key", [key for key, row in table().items() if "now" not in row])
def test_every_row_is_whole(key: str) -> None:
    row = table()[key]
    assert "unused" not in row or row["unused"] and not row["unused"].endswith(".")
    if "type" not in row:
        assert "unused" in row and set(row) <= {"default", "also", "unused"}
        return
    used_by = {
        "verbs": {"doctor", "selftest", "export", "benchmark"},
        "not_for": {"train"},
        "resume": {"run", "experiment"},
    }
    columns = {"default", "type", "unit", "min", "max", "above", "choices", "example", "help", "unused"}
    assert set(row) <= columns | used_by.keys()
    assert all(set(row.get(column, ())) <= values for column, values in used_by.items())
    kinds = row["type"].split("|")
    assert set(kinds) <= set(KINDS) and row["help"] and not row["help"].endswith(".")
    assert "choices" not in row or {"str", "name"} & set(kinds)
    if {"int", "float", "ints", "size"} & set(kinds) and key != "device":
        assert "unit" in row and {"min", "above"} & set(row)
    right = row["default"] if row["default"] is not None else row["example"]
    if key in live() and key != "cfg":
        assert getattr(load_settings({key: right}), key) == (tuple(right) if isinstance(right, list) else right)


def test_no_key_stands_twice_and_none_hides_a_method() -> None:
    node = yaml.compose((cfg_dir() / "default.yaml").read_text(), Loader=yaml.SafeLoader)
    keys = [key.value for _, group in node.value for key, _ in group.value]
    assert len(keys) == len(set(keys)) == len(table())
    assert not set(keys) & set(dir(Settings))
    assert all(row["now"] in live() for row in table().values() if "now" in row)


def test_every_setting_is_read_somewhere() -> None:
    """A key that nothing reads would be accepted and ignored: build it, or mark it `unused` with the reason."""
    read = {"cfg", "task", "debug"}  # settled in config.py, commands.py and cli.py themselves
    for path in (ROOT / "bitfalcon_plugin").rglob("*.py"):
        if path.name in ("config.py", "commands.py"):
            continue
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
    assert set(live()) - read == set()


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("epochs", 3, 3),
        ("epochs", 1e2, 100),
        ("epochs", np.int64(7), 7),
        ("imgsz", 320.0, 320),
        ("imgsz", [320, 640], (320, 640)),
        ("imgsz", (640,), 640),
        ("batch", -1, -1),
        ("batch", 0.7, 0.7),
        ("batch", 8.0, 8),
        ("box", 8, 8.0),
        ("box", Fraction(1, 2), 0.5),
        ("lr0", 1, 1.0),
        ("lr0", np.float32(0.5), 0.5),
        ("workers", 0, 0),
        ("seed", 0, 0),
        ("patience", 0, 0),
        ("save_period", -1, -1),
        ("resume", "a.pt", "a.pt"),
        ("resume", True, True),
        ("optimizer", "adamw", "AdamW"),
        ("device", 0, 0),
        ("device", "0,1", "0,1"),
        ("device", [0, 1], (0, 1)),
        ("device", -1, -1),
        ("device", "", ""),
        ("classes", [0, 3], (0, 3)),
        ("classes", 0, 0),
        ("name", 7, "7"),
        ("project", Path("a/b"), str(Path("a/b"))),
        ("amp", "bf16", "bf16"),
        ("conf", None, None),
        ("freeze", 10, 10),
        ("freeze", [0, 2], (0, 2)),
        ("freeze", "23.cv2", ("23.cv2",)),
        ("freeze", "[23.cv2, 4]", ("23.cv2", 4)),
        ("freeze", ["backbone", 3, "7"], ("backbone", 3, 7)),
        ("freeze", "3,4", (3, 4)),
        ("cls_pw", 0.5, 0.5),
        ("compile", True, True),
        ("compile", "MAX-autotune", "max-autotune"),
        ("deterministic", False, False),
        ("cls_remap", False, False),
        ("sync_bn", True, True),
        ("checkpointing", True, True),
        ("data", Path("d.yaml"), "d.yaml"),
        ("shear", -5, -5.0),
        ("time", 0.1, 0.1),
        ("variant", "turbo", "turbo"),
    ],
)
def test_values_that_are_right(key: str, value: object, kept: object) -> None:
    found = getattr(load_settings({key: value}), key)
    assert found == kept and type(found) is type(kept)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", "many"),
        ("epochs", True),
        ("epochs", None),
        ("epochs", float("inf")),
        ("epochs", [1]),
        ("patience", -1),
        ("nbs", 0),
        ("max_det", 0),
        ("vid_stride", 0),
        ("seed", -1),
        ("workers", -1),
        ("lr0", 2),
        ("lr0", -0.1),
        ("lr0", float("nan")),
        ("lr0", "0.1"),
        ("iou", 1.01),
        ("mosaic", True),
        ("fraction", 0),
        ("save", "yes"),
        ("save", 1),
        ("save", None),
        ("batch", 0),
        ("batch", -2),
        ("batch", 1.5),
        ("batch", 0.0),
        ("batch", True),
        ("imgsz", 0),
        ("imgsz", [320, 320, 3]),
        ("imgsz", []),
        ("imgsz", [320, "x"]),
        ("imgsz", "320"),
        ("cache", "tape"),
        ("optimizer", "lion"),
        ("split", "all"),
        ("split", None),
        ("scale", 1.5),
        ("scale", True),
        ("scale", "0.5"),
        ("scale", None),
        ("data", 3),
        ("data", ["a.yaml"]),
        ("model", True),
        ("freeze", -1),
        ("freeze", []),
        ("freeze", ["23.cv2", -1]),
        ("freeze", 1.5),
        ("freeze", "2 3"),
        ("freeze", [["a"]]),
        ("freeze", [None]),
        ("freeze", [True]),
        ("freeze", ["1.5"]),
        ("freeze", "a,,b"),
        ("freeze", {"a": 1}),
        ("time", 0),
        ("sync_bn", 1),
        ("checkpointing", "yes"),
        ("degrees", 400),
        ("device", {}),
        ("device", -2),
        ("task", "segment"),
        ("mode", "deploy"),
        ("amp", "fp8"),
        ("cfg", 3),
        ("variant", "v2"),
        ("name", ["a"]),
        ("close_mosaic", -1),
        ("save_period", -2),
        ("warmup_epochs", -1),
        pytest.param("epochs", 10**400, id="epochs-huge"),
    ],
)
def test_values_that_are_wrong(key: str, value: object) -> None:
    text = problems(**{key: value})
    row = table()[key]
    assert f"- {key}=" in text and "expected " in text and f"for example {key}=" in text
    assert text.count("\n  - ") == 1
    assert "choices" not in row or not isinstance(value, str) or all(choice in text for choice in row["choices"])


def test_all_problems_are_told_at_once_with_the_nearest_names() -> None:
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


def test_old_names_are_translated_and_said() -> None:
    settings = load_settings({"boxes": False, "hide_labels": True, "hide_conf": False, "line_thickness": 3})
    assert (settings.show_boxes, settings.show_labels) == (False, False)
    assert (settings.show_conf, settings.line_width) == (True, 3)
    assert len(settings.notes) == 4 and "'hide_labels' is an old name of 'show_labels'." in settings.notes
    assert settings.given == {"show_boxes", "show_labels", "show_conf", "line_width"}
    assert "show_labels=perhaps: expected True or False" in problems(hide_labels="perhaps")


def test_keys_without_effect_are_said_once_and_are_no_settings() -> None:
    settings = load_settings(
        {"mask_ratio": 8, "label_smoothing": 0.1, "retina_masks": False, "tracker": "tracktrack.yaml"}
    )
    assert settings.notes == (
        "mask_ratio=8 has no effect: masks are not trained here.",
        "label_smoothing=0.1 has no effect: the assigner's soft labels take its place.",
    )
    assert settings.given == frozenset() and "mask_ratio" not in settings.as_dict()
    with pytest.raises(AttributeError):
        settings.mask_ratio  # noqa: B018


def test_no_key_waits_to_be_built() -> None:
    assert not [key for key, row in table().items() if "not built" in row.get("unused", "")]


def test_settings_are_frozen_values() -> None:
    settings = load_settings({"epochs": 3, "classes": [0, 2], "tracker": "mine.yaml"})
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
    assert list(settings.as_dict()) == list(live()) and settings.as_dict()["classes"] == [0, 2]
    assert "epochs=3" in repr(settings) and "imgsz" not in repr(settings)


def test_replace_is_checked_and_keeps_what_was_given() -> None:
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
    told = problems(cfg=str(path), epochs=0)
    assert "epochs=0: expected" in told and all(part in told for part in expected) and "mine.yaml" in told


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 0.001),
        ("-1", -1),
        ("True", True),
        ("fAlSe", False),
        ("NONE", None),
        ("[1, 2]", [1, 2]),
        ("1,2", (1, 2)),
        ("{'a': 1}", {"a": 1}),
        ("'1'", "1"),
        ("cpu", "cpu"),
        ("cuda:0", "cuda:0"),
        ("007", "007"),
        ("3or 4", "3or 4"),
        ("1+2j", "1+2j"),
        ("b'x'", "b'x'"),
        ("...", "..."),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("9**9", "9**9"),
        ("[" * 9 + "]" * 9, "[" * 9 + "]" * 9),
        ("[" * 400, "[" * 400),
        ("1" * 1001, "1" * 1001),
        ("a\0b", "a\0b"),
    ],
)
def test_literals_and_nothing_else(text: str, value: object, recwarn: pytest.WarningsRecorder) -> None:
    assert literal(text) == value and type(literal(text)) is type(value)
    assert not recwarn.list


def test_text_keys_keep_text() -> None:
    assert [literal(text, "name") for text in ("007", "'x'", "true", "None")] == ["007", "'x'", "true", None]
    assert [literal(text, "source") for text in ("2024", "'2024'", "none", "true")] == ["2024", "2024", None, "true"]
    assert literal("7", "epochs") == 7


def test_the_table_is_whole() -> None:
    """Read back by its columns: every key once, with its default, what it is, and why where it has no effect."""
    lines = settings_table().splitlines()
    rows = {
        cells[0].strip("`"): cells for cells in (re.split(r"\s*(?<!\\)\|\s*", line[1:-1].strip(" ")) for line in lines)
    }
    assert all(len(cells) == 4 for cells in rows.values())
    assert [key for key in rows if key in table()] == list(table())
    for key, row in table().items():
        told = rows[key][2]
        if "now" in row:
            assert row["now"] in told
            continue
        assert yaml.safe_load(rows[key][1].strip("`")) == row["default"]
        assert row.get("help", "") in told and row.get("unused", "") in told
        assert ("no effect" in told) == ("unused" in row) and ("type" not in row or rows[key][3])
