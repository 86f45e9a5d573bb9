"""Class folders: which folder is meant, which classes it has, and what is refused with which repair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.config.user_settings import settings_file
from bitfalcon_plugin.data.class_dataset import scan_classes
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.class_folders import load_class_folders
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from tests.helpers.class_folders import TWO, class_folders
from tests.helpers.tiny_dataset import MINIMAL, dataset, image, write_yaml

ONE = {"a": 1, "b": 1}


def refusal(data, **options) -> str:
    with pytest.raises(UserError) as caught:
        load_class_folders(data, **options)
    return str(caught.value)


def counts(data, split: str, **options) -> dict[str, int]:
    """Class -> number of images of a split."""
    spec = load_class_folders(data, **{name: options.pop(name) for name in ("share",) if name in options})
    result: dict[str, int] = {}
    for sample in scan_classes(spec, split, **options).samples:
        name = spec.names[int(sample.labels.classes)]
        result[name] = result.get(name, 0) + 1
    return result


def test_classes_are_the_folders_of_train_in_plain_string_order(tmp_path):
    names = {"b": 1, "B": 1, "10": 1, "2": 1, "é": 1, "empty": 0, ".hidden": 1, "n01440764": 1}
    class_folders(tmp_path, {"train": names, "val": {"b": 1}})
    image(tmp_path / "train" / "b" / "deep" / "er" / "x.JPG")
    (tmp_path / "train" / "b" / "notes.txt").write_text("no image")
    spec = load_class_folders(tmp_path)
    assert list(spec.names.values()) == ["10", "2", "B", "b", "empty", "n01440764", "é"]
    assert list(spec.names) == list(range(7)) and spec.path == spec.root == tmp_path
    assert counts(tmp_path, "train") == {"10": 1, "2": 1, "B": 1, "b": 2, "n01440764": 1, "é": 1}
    (note,) = scan_classes(spec, "train").notes
    assert "no image of 1 of 7 classes in train: empty" in note


def test_found_as_path_and_as_name(tmp_path, monkeypatch):
    class_folders(tmp_path / "datasets" / "pets")
    class_folders(tmp_path / "mine" / "birds")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITFALCON_CONFIG", str(tmp_path))
    for data in ("datasets/pets", Path("datasets/pets"), "pets", tmp_path / "datasets" / "pets"):
        assert load_class_folders(data).path == tmp_path / "datasets" / "pets"
    settings_file().write_text(json.dumps({"datasets_dir": str(tmp_path / "mine")}))
    assert load_class_folders("birds").path == tmp_path / "mine" / "birds"
    with pytest.raises(MissingFileError, match="neither here nor in .*mine.* Nearest: birds"):
        load_class_folders("bird")


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_names_of_val(tmp_path, name):
    class_folders(tmp_path, {"train": ONE, name: {"a": 3}})
    assert counts(tmp_path, "val") == {"a": 3}


def test_val_and_test_stand_in_for_each_other(tmp_path):
    class_folders(tmp_path, {"train": ONE, "test": {"a": 2, "b": 1}})
    result = scan_classes(load_class_folders(tmp_path), "val")
    assert len(result.samples) == 3 and "has no split 'val': 'test' is used instead" in result.notes[0]
    class_folders(tmp_path / "other", TWO)
    result = scan_classes(load_class_folders(tmp_path / "other"), "test")
    assert len(result.samples) == 4 and "'val' is used instead" in result.notes[0]
    class_folders(tmp_path / "alone", {"train": ONE})
    with pytest.raises(UserError, match=r"have no val or test \(only train\); make val/<class>, or give split=0.8"):
        scan_classes(load_class_folders(tmp_path / "alone"), "val")


def test_classes_are_matched_by_name_in_every_split(tmp_path):
    class_folders(tmp_path, {"train": {"a": 1, "b": 1, "c": 1}, "val": {"c": 2}})
    result = scan_classes(load_class_folders(tmp_path), "val")
    assert [int(sample.labels.classes) for sample in result.samples] == [2, 2]  # not 0, as counted afresh
    assert "no image of 2 of 3 classes in val: a, b" in result.notes[0]
    class_folders(tmp_path, {"val": {"d": 1, "e": 1}})
    with pytest.raises(UserError, match="folders of unknown classes: d, e; the classes are a, b, c"):
        scan_classes(load_class_folders(tmp_path), "val")


def test_a_yaml_names_folders_and_classes(tmp_path):
    class_folders(tmp_path / "set", {"one": ONE, "two": {"b": 2}, "three": {"a": 4}})
    keys = {"path": "set", "train": ["one", "two"], "valid": "three"}
    path = write_yaml(tmp_path / "data.yaml", keys)
    spec = load_class_folders(path)
    assert spec.path == path and spec.root == tmp_path / "set" and spec.notes == ("key 'valid' is read as 'val'",)
    assert counts(path, "train") == {"a": 1, "b": 3} and counts(path, "val") == {"a": 4}
    path = write_yaml(tmp_path / "data.yaml", {**keys, "names": ["b", "x", "a"]})
    assert load_class_folders(path).names == {0: "b", 1: "x", 2: "a"}  # its own order
    result = scan_classes(load_class_folders(path), "train")
    assert [int(sample.labels.classes) for sample in result.samples] == [0, 0, 0, 2]
    assert "no image of 1 of 3 classes in train: x" in result.notes[0]
    path = write_yaml(tmp_path / "data.yaml", {**keys, "names": ["b"]})
    with pytest.raises(UserError, match="unknown classes: a; the classes are b"):
        scan_classes(load_class_folders(path), "train")


def test_a_yaml_without_train_measures(tmp_path):
    class_folders(tmp_path, {"val": ONE})
    path = write_yaml(tmp_path / "data.yaml", {"val": "val", "names": ["a", "b"]})
    assert counts(path, "val") == {"a": 1, "b": 1}
    with pytest.raises(UserError, match=r"have no train \(only val\)"):
        scan_classes(load_class_folders(path), "train")


def test_entries_of_a_yaml_stay_in_its_root(tmp_path):
    class_folders(tmp_path / "out")
    path = write_yaml(tmp_path / "in" / "data.yaml", {"train": "../out/train", "val": "../out/val"})
    assert "leads out of the dataset's folder" in refusal(path)
    assert load_class_folders(path, allow_outside=True).names == {0: "cat", 1: "dog"}


def test_a_folder_with_a_yaml(tmp_path):
    class_folders(tmp_path, {"first": ONE, "second": ONE})
    path = write_yaml(tmp_path / "data.yaml", {"train": "first", "val": "second"})
    assert load_class_folders(tmp_path).path == path
    class_folders(tmp_path, TWO)
    assert load_class_folders(tmp_path).path == tmp_path  # with a folder train the folder itself is meant


def test_a_share_of_folders_that_are_not_split(tmp_path):
    class_folders(tmp_path, {"": {"a": 10, "b": 5, "c": 2, "d": 1}})
    before = sorted(path for path in tmp_path.rglob("*"))
    message = refusal(tmp_path)
    assert "no folder train, but class folders (a, b, c, d)" in message and "split=0.8" in message
    parts = {part: counts(tmp_path, part, share=0.8) for part in ("train", "val")}
    spec = load_class_folders(tmp_path, share=0.8)
    train, val = ({sample.image for sample in scan_classes(spec, part).samples} for part in ("train", "val"))
    assert (
        not train & val
        and len(train | val) == 18
        and parts == {"train": {"a": 8, "b": 4, "c": 1, "d": 1}, "val": {"a": 2, "b": 1, "c": 1}}
    )
    names = [path.parent.name for path in sorted(val)]
    assert names == ["a", "a", "b", "c"]  # one at least where a class has two images
    again = {sample.image for sample in scan_classes(spec, "val").samples}
    assert again == val and sorted(path for path in tmp_path.rglob("*")) == before


def test_a_share_of_train_alone(tmp_path):
    class_folders(tmp_path, {"train": {"a": 10, "b": 10}})
    spec = load_class_folders(tmp_path, share=0.5)
    assert [len(scan_classes(spec, part).samples) for part in ("train", "val")] == [10, 10]
    class_folders(tmp_path, {"val": ONE})
    assert "split=0.5 is for data without val and test; there is val already" in refusal(tmp_path, share=0.5)
    assert "above 0 and below 1" in refusal(tmp_path, share=1.0)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda folder: (folder / "train").mkdir(parents=True), "'train' is empty; expected a folder for each class"),
        (lambda folder: class_folders(folder, {"train": {"a": 0}}), "has no image in its folders a"),
        (lambda folder: image(folder / "train" / "a.png"), "no class folders; it looks like data with label files"),
        (lambda folder: image(folder / "val" / "a" / "a.png"), "train: missing (only val)"),
        (lambda folder: image(folder / "a.png"), "train: missing; expected train/<class>/<images>"),
        (lambda folder: folder.mkdir(parents=True), "train: missing"),
    ],
)
def test_folders_without_classes(tmp_path, make, words):
    make(tmp_path / "set")
    assert words in refusal(tmp_path / "set").replace(f"{tmp_path}/set/", "")


@pytest.mark.parametrize("data", ["", None, 3, ["a"]])
def test_what_is_no_path_is_refused(data):
    assert "expected a folder of class folders" in refusal(data)


def test_files_are_refused(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"PK")
    assert "is a file; expected a folder of class folders. Unpack" in refusal(tmp_path / "set.zip")
    write_yaml(tmp_path / "a.yaml", {"train": "list.txt"})
    (tmp_path / "list.txt").write_text("a.png")
    assert "list.txt' is a file; expected a folder that holds a folder for each class" in refusal(tmp_path / "a.yaml")
    assert "makes no class folders" in refusal("shapes.yaml")


def test_data_with_label_files_say_what_they_are(tmp_path):
    assert "looks like data with label files, which task=detect trains" in refusal(
        write_yaml(dataset(tmp_path / "plain"), {"train": "images/train", "val": "images/val"})
    )
    path = dataset(tmp_path / "named")
    with pytest.raises(UserError, match="looks like data with label files, which task=detect trains"):
        load_class_folders(path)
    for part in ("images", "labels"):
        image(tmp_path / "export" / "train" / part / "a.png")
    assert "looks like data with label files" in refusal(tmp_path / "export")
    keys = {"train": "images/train", "val": "images/val", "names": ["cat", "dog"]}
    path = dataset(tmp_path / "film", {"scene1/a": None, "scene2/b": None})
    labels = tmp_path / "film" / "labels" / "train" / "scene1" / "a.txt"
    labels.parent.mkdir(parents=True)
    labels.write_text("0 .5 .5 .1 .1")
    with pytest.raises(UserError, match="unknown classes: scene1, scene2.*Label files lie beside these images"):
        scan_classes(load_class_folders(write_yaml(path, keys)), "train")


def test_class_folders_given_as_data_with_label_files_say_what_they_are(tmp_path):
    class_folders(tmp_path)
    with pytest.raises(UserError, match="holds class folders .*cat, dog.*task=classify"):
        load_data(tmp_path)
    path = write_yaml(tmp_path / "data.yaml", {"train": "train", "val": "val"})
    with pytest.raises(UserError, match="names: missing.*\n.*train: .*class folders .*cat, dog.*task=classify"):
        load_data(path)
    path = write_yaml(tmp_path / "data.yaml", {**MINIMAL, "train": "train", "val": "val"})
    with pytest.raises(UserError, match="no usable label.*named like the classes.*task=classify"):
        scan(load_data(path), "train")


def test_linked_folders_are_followed_once(tmp_path):
    class_folders(tmp_path / "far", {"": {"x": 3}})
    class_folders(tmp_path / "set", {"train": {"a": 1}, "val": {"a": 1}})
    (tmp_path / "set" / "train" / "b").symlink_to(tmp_path / "far" / "x")
    (tmp_path / "far" / "x" / "again").symlink_to(tmp_path / "far" / "x")
    assert counts(tmp_path / "set", "train") == {"a": 1, "b": 3}
    (tmp_path / "set" / "train" / "broken").symlink_to(tmp_path / "nowhere")
    assert list(load_class_folders(tmp_path / "set").names.values()) == ["a", "b"]


def test_one_class_is_noted(tmp_path):
    class_folders(tmp_path, {"train": {"a": 1}, "val": {"a": 1}})
    assert "there is one class only, 'a'" in load_class_folders(tmp_path).notes[0]
