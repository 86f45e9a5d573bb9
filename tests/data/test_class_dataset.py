"""Splits of class folders: labels, fractions, classes, what is left out, and what a second scan costs."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
import torch

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.data import scan_cache
from bitfalcon_plugin.data.class_dataset import describe_classes, scan_classes
from bitfalcon_plugin.data.dataset import Scan
from bitfalcon_plugin.data.formats.class_folders import load_class_folders
from tests.helpers.class_folders import TWO, class_folders
from tests.helpers.paths import SHARED
from tests.helpers.tiny_dataset import image

SIGNS = SHARED / "datasets" / "signs"


def classes(result: Scan) -> list[int]:
    return [int(sample.labels.classes) for sample in result.samples]


def test_the_label_is_the_class_of_the_whole_image(tmp_path):
    class_folders(tmp_path)
    result = scan_classes(load_class_folders(tmp_path), "train")
    assert classes(result) == [0] * 4 + [1] * 4 and [sample.size for sample in result.samples] == [(30, 40)] * 8
    for sample in result.samples:
        assert torch.equal(sample.labels.boxes, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
        assert torch.equal(sample.pixel_labels().boxes, torch.tensor([[0.0, 0.0, 40.0, 30.0]]))
    assert (result.labelled, result.missing, result.empty, result.unreadable, result.polygons) == (8, 0, 0, 0, 0)
    assert describe_classes(result) == "8 images in 2 classes, 0 unreadable"


@pytest.mark.parametrize(
    "fraction, expected", [(0.5, {0: 5, 1: 2, 2: 1}), (0.01, {0: 1, 1: 1, 2: 1}), (1.0, {0: 10, 1: 3, 2: 1})]
)
def test_a_fraction_keeps_every_class(tmp_path, fraction, expected):
    class_folders(tmp_path, {"train": {"a": 10, "b": 3, "c": 1}})
    result = scan_classes(load_class_folders(tmp_path), "train", fraction=fraction)
    assert Counter(classes(result)) == expected
    if fraction == 0.5:  # evenly spaced
        assert [sample.image.stem for sample in result.samples[:5]] == ["000", "002", "004", "006", "008"]


def test_single_cls_and_chosen_classes(tmp_path):
    class_folders(tmp_path)
    spec = load_class_folders(tmp_path)
    assert classes(scan_classes(spec, "train", single_cls=True)) == [0] * 8
    assert classes(scan_classes(spec, "train", classes=[1])) == [1] * 4
    assert len(scan_classes(spec, "train", classes=0, single_cls=True).samples) == 4
    with pytest.raises(UserError, match=r"classes=\[2\]: not in this dataset"):
        scan_classes(spec, "train", classes=2)
    shutil.rmtree(tmp_path / "val" / "dog")
    with pytest.raises(UserError, match=r"has no image of classes=\[1\]"):
        scan_classes(load_class_folders(tmp_path), "val", classes=1)


def test_images_that_cannot_be_used_are_left_out_and_told(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "train" / "cat" / "000.png").write_bytes(b"hello")
    whole = (tmp_path / "train" / "cat" / "001.png").read_bytes()
    (tmp_path / "train" / "cat" / "001.png").write_bytes(whole[:-100])
    image(tmp_path / "train" / "dog" / "tiny.png", (5, 5))
    result = scan_classes(load_class_folders(tmp_path), "train")
    assert classes(result) == [0, 0, 1, 1, 1, 1] and result.unreadable == 3
    assert [note.split(":")[0].rsplit("/", 1)[1] for note in result.notes] == ["000.png", "001.png", "tiny.png"]
    for path in (tmp_path / "val").rglob("*.png"):
        path.write_bytes(b"hello")
    with pytest.raises(UserError, match=r"has no usable image \(4 listed\)"):
        scan_classes(load_class_folders(tmp_path), "val")


def test_missing_and_empty_splits(tmp_path):
    class_folders(tmp_path, {**TWO, "test": {"cat": 0}})
    spec = load_class_folders(tmp_path)
    with pytest.raises(UserError, match="has no image in its folders cat"):
        scan_classes(spec, "test")
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(MissingFileError, match="there is no folder .*val"):
        scan_classes(spec, "val")
    class_folders(tmp_path / "single", {"": {"a": 1, "b": 1}})
    with pytest.raises(UserError, match="no class has two images"):
        scan_classes(load_class_folders(tmp_path / "single", share=0.8), "val")


def test_a_second_scan_reads_no_image_and_nothing_is_written_beside_them(tmp_path, monkeypatch):
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scan_cache, "MIN_IMAGES", 1)
    monkeypatch.setattr(scan_cache, "SETTLED", -(10**18))  # files of this moment are remembered too
    class_folders(tmp_path / "set")
    (tmp_path / "set" / "train" / "cat" / "000.txt").write_text("0 .5 .5 .1 .1")  # no label of an image here
    before = sorted(tmp_path.joinpath("set").rglob("*"))
    spec = load_class_folders(tmp_path / "set")
    first = scan_classes(spec, "train")
    monkeypatch.setattr(scan_cache, "scan_image", lambda *_: pytest.fail("an image is read again"))
    again = scan_classes(spec, "train")
    assert classes(again) == classes(first) == [0] * 4 + [1] * 4
    assert [sample.size for sample in again.samples] == [sample.size for sample in first.samples]
    assert sorted(tmp_path.joinpath("set").rglob("*")) == before


@pytest.mark.skipif(not SIGNS.is_dir(), reason="../shared/datasets/signs is not here")
def test_the_signs():
    spec = load_class_folders(SIGNS)
    assert list(spec.names.values()) == "eight five four nine one seven six three two zero".split()
    for split, count in (("train", 80), ("val", 20)):
        result = scan_classes(spec, split)
        assert Counter(classes(result)) == dict.fromkeys(range(10), count) and not result.notes
