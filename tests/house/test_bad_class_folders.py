"""Class folders that cannot be used: exit code 2, one message that names the repair, and nothing half-written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bitfalcon_plugin.cli import main
from tests.helpers.class_folders import TWO, class_folders
from tests.helpers.tiny_dataset import dataset, image, write_yaml

ONE = {"a": 2, "b": 2}


def corrupt(folder: Path) -> None:
    for path in class_folders(folder / "set").rglob("*.png"):
        path.write_bytes(b"\x89PNG not")


def unknown(folder: Path) -> None:
    class_folders(folder / "set", {"train": ONE, "val": {**ONE, "c": 1, "d": 1}})


def archive(folder: Path) -> None:
    (folder / "set").write_bytes(b"PK\x03\x04")


def far(folder: Path) -> None:
    class_folders(folder / "far")
    write_yaml(folder / "in" / "set.yaml", {"train": "../far/train", "val": "../far/val"})


# name -> (what makes the data, data=, further words of the command, words of the message)
CASES: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...], str]] = {
    "nothing there": (lambda f: class_folders(f / "sets"), "set", (), "no such folder or YAML.*Nearest: sets"),
    "a file": (archive, "set", (), "is a file; expected a folder"),
    "an empty folder": (lambda f: (f / "set").mkdir(), "set", (), "train: missing"),
    "not split": (lambda f: class_folders(f / "set", {"": ONE}), "set", (), "split=0.8"),
    "no val": (lambda f: class_folders(f / "set", {"train": ONE}), "set", (), "no val or test.*split=0.8"),
    "split and a share": (lambda f: class_folders(f / "set"), "set", ("split=0.8",), "there is val already"),
    "a share of all": (lambda f: class_folders(f / "set", {"": ONE}), "set", ("split=1.0",), "above 0 and below 1"),
    "no images": (lambda f: class_folders(f / "set", {"train": {"a": 0}}), "set", (), "has no image in its folders a"),
    "images without folders": (lambda f: image(f / "set" / "train" / "a.png"), "set", (), "task=detect"),
    "corrupt images": (corrupt, "set", (), "no usable image"),
    "unknown classes": (unknown, "set", (), "unknown classes: c, d"),
    "labels": (lambda f: dataset(f / "set"), "set/data.yaml", (), "label files, which task=detect trains"),
    "leaves its root": (far, "in/set.yaml", (), "allow_outside=True"),
    "a YAML of nothing": (lambda f: write_yaml(f / "set.yaml", {"a": 1}), "set.yaml", (), "train: missing"),
    "other classes": (lambda f: class_folders(f / "set"), "set", ("classes=[7]",), r"classes=\[7\]: not in this"),
    "an unknown policy": (lambda f: class_folders(f / "set"), "set", ("auto_augment=rand",), "augmix"),
    "an odd share": (lambda f: class_folders(f / "set"), "set", ("split=1.5",), "from 0 to 1"),
}


@pytest.mark.parametrize("case", CASES)
def test_training(case, tmp_path, monkeypatch, capsys):
    make, data, words, message = CASES[case]
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", "task=classify", "scale=n", "imgsz=32", "device=cpu", f"data={data}", *words]) == 2
    output = capsys.readouterr()
    (text,) = [part for part in output.err.split("Error: ") if part.strip() and "note:" not in part.split("\n")[0]]
    assert re.search(message, text.replace("\n", " ")) and "Traceback" not in output.err
    assert sorted(tmp_path.rglob("*")) == before


def test_class_folders_given_to_another_task(tmp_path, monkeypatch, capsys):
    class_folders(tmp_path / "set", TWO)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "scale=n", "imgsz=32", "device=cpu", "data=set"]) == 2
    assert "holds class folders (cat, dog), which task=classify trains" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_share_given_to_data_with_label_files(tmp_path, monkeypatch, capsys):
    dataset(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "scale=n", "imgsz=32", "device=cpu", "data=set", "split=0.8"]) == 2
    assert "a share is for class folders" in capsys.readouterr().err
