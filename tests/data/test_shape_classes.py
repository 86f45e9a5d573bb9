"""The generated class folders: the same every time, one shape a picture, and put back where files are missing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.random import RandomState

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data import shape_classes
from bitfalcon_plugin.data.class_dataset import scan_classes
from bitfalcon_plugin.data.data_format import CLASS_FOLDERS
from bitfalcon_plugin.data.formats.class_folders import load_class_folders
from bitfalcon_plugin.data.from_settings import find_data
from bitfalcon_plugin.data.shapes import NAMES


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes-cls")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITFALCON_CACHE", str(folder))
        load_class_folders("shapes-cls")
        yield folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.jpg"))
    }


def test_the_packaged_name(cache, monkeypatch):
    for name in ("shapes-cls", "shapes-cls.yaml"):
        spec = load_class_folders(name)
        assert spec.path.name == "shapes-cls.yaml" and spec.root == cache / "shapes-cls-v1"
        assert list(spec.names.values()) == sorted(NAMES) and spec.settings["imgsz"] == 64
    train, val = scan_classes(spec, "train"), scan_classes(spec, "val")
    assert (len(train.samples), len(val.samples)) == (600, 100) and train.notes == val.notes == ()


def test_they_are_the_data_of_a_classifier_where_none_are_given(cache, capsys):
    spec, settings = find_data(load_settings({"epochs": 3}), CLASS_FOLDERS)
    assert spec.root == cache / "shapes-cls-v1" and settings.data == "shapes-cls.yaml"
    assert settings.imgsz == 64 and settings.epochs == 3  # what was given stays
    assert "using the generated dataset 'shapes-cls' in" in capsys.readouterr().out


def test_the_same_bytes_every_time_and_no_two_alike(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(shape_classes, "COUNTS", {"train": 2, "val": 1})
    again, first = digests(shape_classes.ensure_shape_classes(tmp_path / "again")), digests(cache / "shapes-cls-v1")
    assert len(again) == 12 and all(first[name] == value for name, value in again.items())
    assert len(set(first.values())) == 700


def test_the_shape_lies_inside_and_the_sizes_vary():
    sizes = set()
    for seed in range(20):
        pixels = shape_classes.draw_class(RandomState(seed), seed % 4)
        sizes.add(pixels.shape)
        assert pixels.dtype == np.uint8 and 72 <= min(pixels.shape[:2]) and max(pixels.shape[:2]) <= 112
    assert len(sizes) > 15


def test_missing_files_are_put_back(tmp_path, monkeypatch):
    monkeypatch.setattr(shape_classes, "COUNTS", {"train": 2, "val": 1})
    folder = shape_classes.ensure_shape_classes(tmp_path / "set")
    before = digests(folder)
    (folder / "val/star/0000.jpg").unlink()
    (folder / "train/circle/0001.jpg").write_bytes(b"")
    assert digests(shape_classes.ensure_shape_classes(folder)) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="Set BITFALCON_CACHE"):
        shape_classes.ensure_shape_classes(tmp_path / "file" / "set")
