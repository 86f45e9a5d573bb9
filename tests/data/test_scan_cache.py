"""scan_cache.py: what a cached scan of a split gives is what a new scan would give."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.data import scan_cache as module
from bitfalcon_plugin.data.dataset import Scan, scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from tests.helpers.tiny_dataset import dataset, image

LABELS = {
    "a": "0 .5 .5 .1 .1\n1 .3 .3 .123456789 .2", "b": "1 .1 .2 .5 .2 .3 .6\n0 .5 .5 .2 .2\n0 .1 .1 .9 .1 .9 .9 .5 .95",
    "c": "", "d": None, "e": "0 .9 .5 .5 .5\n0 .5 .5 0 .2", "f": "1 .5 .5 1 1",
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "MIN_IMAGES", 1)
    result = dataset(tmp_path / "set", LABELS)
    image(tmp_path / "set/images/train/tiny.png", (40, 5))
    (tmp_path / "set/images/train/zz.jpg").write_text("hello")
    age(tmp_path)
    return result


def age(folder: Path) -> None:
    """Files as of long ago: of fresh ones nothing is remembered."""
    for file in folder.rglob("*"):
        if file.is_file() and "cache" not in file.parts:
            os.utime(file, ns=(10**18, 10**18))


def looked(monkeypatch) -> list[str]:
    names, plain = [], module.scan_image
    monkeypatch.setattr(
        module, "scan_image", lambda image, *options: (names.append(image.name), plain(image, *options))[1]
    )
    return names


def plain(result: Scan) -> tuple:
    samples = []
    for sample in result.samples:
        polygons = sample.labels.polygons and [points.tolist() for points in sample.labels.polygons.split()]
        labels = sample.labels.classes.tolist(), sample.labels.boxes.tolist(), polygons
        samples.append((sample.image, sample.size, *labels))
    return samples, result.labelled, result.missing, result.empty, result.unreadable, result.notes


@pytest.mark.parametrize("options", [{}, {"classes": 1}, {"single_cls": True}, {"fraction": 0.5}])
def test_a_second_scan_finds_the_same_without_looking(path, options, monkeypatch):
    first, names = scan(load_data(path), "train", **options), looked(monkeypatch)
    again = scan(load_data(path), "train", **options)
    assert names == [] and plain(again) == plain(first)
    monkeypatch.setattr(module, "MIN_IMAGES", 1000)
    assert plain(scan(load_data(path), "train", **options)) == plain(first) and len(names) in (4, 8)


def test_what_changed_is_looked_at_again(path, monkeypatch):
    scan(load_data(path), "train")
    names, folder = looked(monkeypatch), path.parent
    Image.new("RGB", (50, 40)).save(folder / "images/train/a.png")
    (folder / "labels/train/b.txt").write_text("0 .5 .5 .3 .3")
    (folder / "labels/train/d.txt").write_text("1 .5 .5 .3 .3")
    (folder / "labels/train/f.txt").unlink()
    os.utime(folder / "images/train/e.png", ns=(10**18 + 1, 10**18))
    os.utime(folder / "images/train/c.png", ns=(10**18, 10**18 + 1))
    image(folder / "images/train/new.png")
    result = scan(load_data(path), "train")
    assert sorted(names) == ["a.png", "b.png", "c.png", "d.png", "f.png", "new.png"]
    names.clear()
    scan(load_data(path), "train")
    assert sorted(names) == ["a.png", "b.png", "d.png", "new.png"]  # too fresh to be sure of
    age(path.parent)
    scan(load_data(path), "train")
    names.clear()
    assert plain(scan(load_data(path), "train")) == plain(result) and names == []


def test_problems_are_told_each_time(path):
    (path.parent / "labels/train/a.txt").write_text("7 .5 .5 .1 .1")
    age(path.parent)
    for _ in range(2):
        with pytest.raises(UserError, match="a.txt:1: class 7"):
            scan(load_data(path), "train")
    assert len(scan(load_data(path), "train", single_cls=True).samples) == 6
    with pytest.raises(UserError, match="a.txt:1: class 7"):
        scan(load_data(path), "train")


RIGHT_EDGE = np.float32(0.3) + np.float32(0.123456789) / 2  # of the second label of a.txt


@pytest.mark.parametrize("harm", [
    lambda data: data[:100], lambda data: b"", lambda data: b"\x80\x02K\x01.", lambda data: data[:-50] + bytes(50),
    lambda data: data.replace(RIGHT_EDGE.tobytes(), np.float32(0.9).tobytes()),
])  # fmt: skip
def test_a_broken_memory_costs_a_look_and_no_more(path, harm, tmp_path, monkeypatch):
    first = scan(load_data(path), "train")
    (file,) = (tmp_path / "cache" / "scans").iterdir()
    whole = file.read_bytes()
    file.write_bytes(harm(whole))
    assert file.read_bytes() != whole
    names = looked(monkeypatch)
    assert plain(scan(load_data(path), "train")) == plain(first) and len(names) == 8
    names.clear()
    assert plain(scan(load_data(path), "train")) == plain(first) and names == []


def test_a_memory_of_another_kind_is_no_memory(path, tmp_path, monkeypatch):
    scan(load_data(path), "train")
    (file,) = (tmp_path / "cache" / "scans").iterdir()
    content = torch.load(file, weights_only=True)
    names = looked(monkeypatch)
    for wrong in ({}, [1], {**content, "boxes": content["boxes"][:1]}, {**content, "stamps": "text"}):
        torch.save(wrong, file)
        names.clear()
        result = scan(load_data(path), "train")
        assert len(names) == 8 and len(result.samples) == 6


def test_nothing_is_remembered_where_nothing_can_be_written(path, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "file"))
    names = looked(monkeypatch)
    first = scan(load_data(path), "train")
    assert plain(scan(load_data(path), "train")) == plain(first) and len(names) == 16
