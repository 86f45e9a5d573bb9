"""Dataset YAMLs: which file is meant, what it may say, where its entries lead."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.config.files import cfg_dir
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from tests.helpers.tiny_dataset import MINIMAL, dataset, image, write_yaml


def refusal(data, **options):
    with pytest.raises(UserError) as caught:
        load_data(data, **options)
    return str(caught.value)


def test_found_as_path_in_a_folder_and_in_the_working_directory(tmp_path, monkeypatch):
    path = dataset(tmp_path)
    monkeypatch.chdir(tmp_path)
    for data in (path, str(path), tmp_path, "data.yaml", "."):
        spec = load_data(data)
        assert spec.path == path and spec.root == tmp_path
        assert spec.names == {0: "cat", 1: "dog"} and spec.nc == 2
        assert spec.splits == {"train": (f"{tmp_path}/images/train",), "val": (f"{tmp_path}/images/val",)}


@pytest.mark.parametrize("name", ["coco", "coco.yaml"])
def test_packaged_names_work_anywhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    spec = load_data(name)
    assert spec.path == cfg_dir() / "datasets" / "coco.yaml"
    assert spec.nc == 80 and len(set(spec.names.values())) == 80
    assert [spec.names[i] for i in (0, 2, 26, 54, 79)] == ["person", "car", "handbag", "donut", "toothbrush"]
    assert spec.root == tmp_path / "datasets" / "coco"
    assert set(spec.splits) == {"train", "val", "test"}


def test_a_file_here_comes_before_a_packaged_one(tmp_path, monkeypatch):
    write_yaml(tmp_path / "coco.yaml", MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert load_data("coco.yaml").nc == load_data("coco").nc == 2


def test_missing_file_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match="Nearest: coco.yaml"):
        load_data("cocoo.yaml")
    write_yaml(tmp_path / "sub" / "cells.yaml", MINIMAL)
    with pytest.raises(MissingFileError, match="cells.yaml"):
        load_data("sub/cell.yaml")
    with pytest.raises(MissingFileError):
        load_data(tmp_path / "absent" / "data.yaml")


def test_folders_need_exactly_one_yaml(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(MissingFileError, match="holds no YAML"):
        load_data(tmp_path / "none")
    write_yaml(tmp_path / "two" / "a.yaml", MINIMAL)
    write_yaml(tmp_path / "two" / "b.yml", MINIMAL)
    assert "a.yaml, b.yml" in refusal(tmp_path / "two")


@pytest.mark.parametrize("data", ["", None, 3, ["a.yaml"]])
def test_what_is_no_path_is_refused(data):
    assert repr(data) in refusal(data)


def test_an_archive_is_refused(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"PK\3\4")
    assert "Unpack" in refusal(tmp_path / "set.zip")


def test_malformed_yaml_gives_file_and_line(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("train: images\nval: images\nnames: [a, b\nnc: 2\n")
    assert f"'{path}' line 4" in refusal(path)


@pytest.mark.parametrize(
    "text",
    ["- a\n- b\n", "words\n", "", "3\n", "!!python/object/apply:os.system ['true']\n", "a: !!bool maybe\n", "[" * 9999,
     "a: 2020-99-99\n", "a: \0\n", "a: !!int ''\n"],
)  # fmt: skip
def test_other_content_is_refused(tmp_path, text):
    path = tmp_path / "data.yaml"
    path.write_text(text)
    assert str(path) in refusal(path)


def test_all_problems_at_once(tmp_path):
    message = refusal(write_yaml(tmp_path / "d.yaml", {"valid": "x", "channels": 1, "nc": 0, "path": 4, "settings": 3}))
    told = "train: missing", "val: missing", "mean 'valid'?", "channels: 1", "nc: 0", "path: 4", "names: missing"
    for word in (*told, "settings: 3"):
        assert word in message


@pytest.mark.parametrize(
    "names, expected",
    [
        (["a", "b"], {0: "a", 1: "b"}),
        ({1: "b", 0: "a"}, {0: "a", 1: "b"}),
        ({"0": "a", "1": 7}, {0: "a", 1: "7"}),
        ([0, 1.5], {0: "0", 1: "1.5"}),
        ({i: str(i) for i in reversed(range(12))}, {i: str(i) for i in range(12)}),
    ],
)
def test_names(tmp_path, names, expected):
    spec = load_data(write_yaml(tmp_path / "d.yaml", {**MINIMAL, "names": names}))
    assert spec.names == expected and list(spec.names) == sorted(expected)


@pytest.mark.parametrize(
    "keys, word",
    [
        ({"names": {0: "a", 2: "b"}}, "indices 0, 2; expected 0 to 1"),
        ({"names": {1: "a", 2: "b"}}, "indices 1, 2; expected 0 to 1"),
        ({"names": {"x": "a"}}, "indices x"),
        ({"names": {0.0: "a"}}, "indices 0.0"),
        ({"names": {True: "a", 0: "b"}}, "indices"),
        ({"names": {0: "a", "0": "b"}}, "0"),
        ({"names": []}, "names: []"),
        ({"names": "cat"}, "names: 'cat'"),
        ({"names": ["a", None]}, "class 1 is None"),
        ({"names": ["a", ["b"]]}, "class 1 is ['b']"),
        ({"names": ["yes", True]}, "in quotes"),
        ({"nc": 3}, "nc: 3, but names has 2 entries"),
        ({"nc": "2"}, "nc: '2'"),
        ({"nc": True}, "nc: True"),
        ({"train": 5}, "train: 5"),
        ({"train": []}, "train: []"),
        ({"val": ["images/val", None]}, "val: "),
        ({"val": None}, "val: missing"),
        ({"generator": "shape"}, "Did you mean 'shapes'?"),
        ({"generator": ["shapes"]}, "is unknown"),
        ({"settings": {1: 2}}, "settings: {1: 2}"),
        ({"settings": {"project": "/up"}}, "settings: project: '/up'; a dataset chooses no place"),
        ({"settings": {"weights": "x.pt"}}, "settings: weights: "),
        ({"settings": {"allow_outside": True, "lr0": 0.1}}, "type allow_outside=True where you mean it"),
        ({"settings": {"loggers": "wandb"}}, "settings: loggers: "),
    ],
)
def test_wrong_values_are_refused(tmp_path, keys, word):
    assert word in refusal(write_yaml(tmp_path / "d.yaml", {**MINIMAL, **keys}))


def test_nc_alone_makes_names(tmp_path):
    keys = {"train": "images", "val": "images", "nc": 3}
    assert load_data(write_yaml(tmp_path / "d.yaml", keys)).names == {0: "class_0", 1: "class_1", 2: "class_2"}


def test_what_other_tools_write_is_tolerated(tmp_path):
    keys = {"nc": 2, "channels": 3, "test": None, "roboflow": {"url": "x"}, "license": "MIT", "kpt_shape": [1, 2]}
    spec = load_data(write_yaml(tmp_path / "d.yaml", {**MINIMAL, **keys}))
    assert set(spec.splits) == {"train", "val"} and spec.settings == {} and spec.notes == ()


def test_validation_is_val(tmp_path):
    keys = {"train": "images/train", "validation": "images/val", "names": ["a"]}
    spec = load_data(write_yaml(tmp_path / "d.yaml", keys))
    assert spec.splits["val"] == (f"{tmp_path}/images/val",)
    assert any("validation" in note for note in spec.notes)


def test_settings_come_along(tmp_path):
    spec = load_data(write_yaml(tmp_path / "d.yaml", {**MINIMAL, "settings": {"imgsz": 320}}))
    assert spec.settings == {"imgsz": 320}


def test_root_absolute_beside_the_yaml_then_from_here(tmp_path, monkeypatch):
    here, beside = tmp_path / "here", tmp_path / "yamls"
    for folder in (here / "set", here / "both", beside / "both", tmp_path / "away"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    for value, root in {
        str(tmp_path / "away"): tmp_path / "away",
        "both": beside / "both",
        "set": here / "set",
        "../away": tmp_path / "away",
        ".": beside,
        "nowhere": here / "nowhere",
        None: beside,
    }.items():
        spec = load_data(write_yaml(beside / "d.yaml", {**MINIMAL, "path": value}))
        assert spec.root == root, value
        assert spec.splits["train"] == (str(root / "images" / "train"),)


def test_exports_that_write_one_folder_up(tmp_path):
    keys = {"train": "../train/images", "val": ["../valid/images"], "names": ["a"]}
    path = write_yaml(tmp_path / "set" / "data.yaml", keys)
    image(tmp_path / "set" / "train" / "images" / "a.png")
    label = tmp_path / "set" / "train" / "labels" / "a.txt"
    label.parent.mkdir()
    label.write_text("0 .5 .5 .1 .1")
    spec = load_data(path)
    assert len(scan(spec, "train").samples[0].labels.classes) == 1
    with pytest.raises(MissingFileError, match="set/valid/images"):
        scan(spec, "val")


@pytest.mark.parametrize("entry", ["../other", "images/../../other", "/etc", "./../other", ["images/val", "../other"]])
def test_entries_that_leave_the_root_are_refused(tmp_path, entry):
    (tmp_path / "other").mkdir()
    path = dataset(tmp_path / "set", keys={**MINIMAL, "val": entry})
    message = refusal(path)
    assert "allow_outside=True" in message and "val: " in message and str(tmp_path / "set") in message
    spec = load_data(path, allow_outside=True)
    assert str(Path("/etc") if entry == "/etc" else tmp_path / "other") in spec.splits["val"]


@pytest.mark.parametrize("name", ["x" * 300, "é" * 200, "x/" * 3000, "a\0b"], ids=["long", "letters", "deep", "zero"])
def test_what_the_system_takes_for_no_path_is_refused(tmp_path, name):
    for form, suffix in itertools.product(("yolo", "coco", "voc"), ("", ".txt", ".json", ".zip")):
        for key in ("path", "train", "images") if form == "coco" else ("path", "train"):
            keys = {"train": "a.json", "val": "a.json", "names": ["a"], "format": form, key: name + suffix}
            with pytest.raises(UserError, match="is too long; a path has|contains a zero byte"):
                scan(load_data(write_yaml(tmp_path / "data.yaml", keys)), "train")


def test_a_name_that_starts_like_the_root_is_outside(tmp_path):
    (tmp_path / "set2").mkdir()
    assert "leads out" in refusal(dataset(tmp_path / "set", keys={**MINIMAL, "val": str(tmp_path / "set2")}))


def test_links_inside_the_root_are_followed(tmp_path):
    path = dataset(tmp_path / "set")
    image(tmp_path / "away" / "z.png")
    (tmp_path / "set" / "images" / "val" / "more").symlink_to(tmp_path / "away")
    (tmp_path / "away" / "loop").symlink_to(tmp_path / "away")
    names = [sample.image.name for sample in scan(load_data(path), "val").samples]
    assert names == ["z.png", "v.png"]  # sorted by path: .../more/z.png, .../v.png
