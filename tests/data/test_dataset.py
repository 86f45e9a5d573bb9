"""Splits: which images they hold, what is set aside, what is refused; and the blood cells where they are at hand."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from tests.helpers.labels import centres
from tests.helpers.paths import SHARED
from tests.helpers.tiny_dataset import MINIMAL, dataset, image, write_yaml

BCCD = SHARED / "datasets" / "bccd"


def test_folders_are_searched_by_suffix_without_hidden_files(tmp_path):
    path = dataset(tmp_path)
    train = tmp_path / "images" / "train"
    image(train / "deep" / "er" / "B.JPG")
    image(train / "c.jpeg")
    image(train / ".hidden.png")
    image(train / ".ipynb_checkpoints" / "a.png")
    (train / "notes.txt").write_text("no image")
    samples = scan(load_data(path), "train").samples
    assert [str(sample.image.relative_to(train)) for sample in samples] == ["a.png", "c.jpeg", "deep/er/B.JPG"]


def test_lists_of_images(tmp_path):
    path = dataset(tmp_path, {"a": "0 .5 .5 .1 .1", "b": "1 .5 .5 .1 .1"}, {**MINIMAL, "train": "lists/train.txt"})
    image(tmp_path / "lists" / "near.png")
    whole = str(tmp_path / "images/val/v.png")
    lines = ["\ufeffimages/train/b.png", "./near.png", "", "  images/train/a.png  ", whole, "x.csv"]
    (tmp_path / "lists" / "train.txt").write_bytes("\r\n".join(lines).encode())
    result = scan(load_data(path), "train")
    assert [sample.image.name for sample in result.samples] == ["a.png", "b.png", "v.png", "near.png"]
    assert [note for note in result.notes if "train.txt:6" in note and "x.csv" in note]


def test_lines_that_leave_the_root_are_refused(tmp_path):
    path = dataset(tmp_path / "set", keys={**MINIMAL, "train": "train.txt"})
    outside = image(tmp_path / "out.png")
    (tmp_path / "set" / "train.txt").write_text(f"images/train/a.png\n../out.png\n./../out.png\n{outside}\n")
    with pytest.raises(UserError) as caught:
        scan(load_data(path), "train")
    assert [f"train.txt:{line}:" in str(caught.value) for line in (1, 2, 3, 4)] == [False, True, True, True]
    assert len(scan(load_data(path, allow_outside=True), "train").samples) == 4


def test_single_images_and_several_entries(tmp_path):
    path = dataset(tmp_path, keys={**MINIMAL, "train": ["images/val", "images/train/a.png"]})
    assert [sample.image.name for sample in scan(load_data(path), "train").samples] == ["a.png", "v.png"]


def test_other_entries_are_refused(tmp_path):
    path = dataset(tmp_path, keys={**MINIMAL, "val": "data.yaml"})
    with pytest.raises(UserError, match="neither a folder"):
        scan(load_data(path), "val")


@pytest.mark.parametrize("entry", ["é" * 300, "a/" * 3000 + "b", "x\\0y"])
def test_entries_that_cannot_be_looked_for_are_refused(tmp_path, entry):
    path = write_yaml(tmp_path / "data.yaml", {**MINIMAL, "val": entry.replace("\\0", "\0")})
    with pytest.raises(UserError) as caught:
        scan(load_data(path), "val")
    assert len(str(caught.value)) < 7000


def test_missing_images_say_what_to_fetch_and_where(tmp_path):
    mark = tmp_path / "executed"
    keys = {**MINIMAL, "path": "set", "download": f"touch {mark}"}
    spec = load_data(write_yaml(tmp_path / "d.yaml", keys))
    with pytest.raises(MissingFileError) as caught:
        scan(spec, "train")
    for word in (f"touch {mark}", f"{spec.root}/images/train", "Nothing is fetched or executed", "train"):
        assert word in str(caught.value)
    assert not mark.exists()


def test_a_list_whose_images_are_missing_says_so_too(tmp_path):
    keys = {**MINIMAL, "val": "val.txt", "download": "http://example.org/v.zip"}
    path = dataset(tmp_path, keys=keys)
    (tmp_path / "val.txt").write_text("./images/gone/1.png\n./images/gone/2.png\n")
    with pytest.raises(MissingFileError, match="example.org"):
        scan(load_data(path), "val")
    (tmp_path / "val.txt").write_text("./images/gone/1.png\n./images/val/v.png\n")
    result = scan(load_data(path), "val")
    assert result.unreadable == 1 and len(result.samples) == 1 and "gone/1.png" in result.notes[0]


def test_nearest_folder_is_named(tmp_path):
    path = dataset(tmp_path, keys={**MINIMAL, "val": "images/vall"})
    with pytest.raises(MissingFileError, match="nearest there: val"):
        scan(load_data(path), "val")


def test_empty_and_absent_splits_are_refused(tmp_path):
    spec = load_data(dataset(tmp_path, keys={**MINIMAL, "val": "empty"}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is empty"):
        scan(spec, "val")
    with pytest.raises(UserError, match="no split 'test'; it has train, val"):
        scan(spec, "test")


def test_fraction_keeps_the_first(tmp_path):
    spec = load_data(dataset(tmp_path, dict.fromkeys("gfedcba", "0 .5 .5 .1 .1")))
    for fraction, count in ((1.0, 7), (0.5, 4), (0.2, 1), (0.01, 1)):
        names = [sample.image.stem for sample in scan(spec, "train", fraction=fraction).samples]
        assert names == list("abcdefg")[:count]


def test_unusable_images_are_set_aside_and_counted(tmp_path):
    path = dataset(tmp_path)
    train = tmp_path / "images" / "train"
    image(train / "tiny.png", (40, 9))
    image(train / "cut.jpg", (200, 200), quality=95)
    (train / "cut.jpg").write_bytes((train / "cut.jpg").read_bytes()[:-400])
    (train / "text.bmp").write_text("hello")
    image(train / "edge.png", (10, 10))
    bad_label = tmp_path / "labels" / "train" / "text.txt"
    bad_label.write_text("not a label")  # of an image that is out anyway
    result = scan(load_data(path), "train")
    assert [sample.image.name for sample in result.samples] == ["a.png", "edge.png"]
    assert (result.labelled, result.missing, result.empty, result.unreadable) == (1, 1, 0, 3)
    assert len(result.notes) == 3 and not any("\n" in note for note in result.notes)
    for name, reason in (("tiny.png", "40x9"), ("cut.jpg", "truncated"), ("text.bmp", "not a picture")):
        assert any(str(train / name) in note and reason in note for note in result.notes)


def test_no_usable_image_is_refused(tmp_path):
    path = dataset(tmp_path)
    (tmp_path / "images" / "val" / "v.png").write_text("hello")
    with pytest.raises(UserError, match="no usable image") as caught:
        scan(load_data(path), "val")
    assert "v.png" in str(caught.value)


def test_size_is_that_of_the_upright_image(tmp_path):
    path = dataset(tmp_path)
    turned = Image.Exif()
    turned[0x0112] = 6
    image(tmp_path / "images" / "val" / "t.jpg", (40, 20), exif=turned)
    sizes = {sample.image.name: sample.size for sample in scan(load_data(path), "val").samples}
    assert sizes == {"t.jpg": (40, 20), "v.png": (24, 32)}


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"the blood cell images are not at {BCCD}")
@pytest.mark.parametrize("split, count", [("train", 205), ("val", 87), ("test", 72)])
def test_blood_cells(split, count):
    spec = load_data(BCCD)
    assert spec.names == {0: "RBC", 1: "WBC", 2: "Platelets"}
    result = scan(spec, split)
    assert len(result.samples) == result.labelled == count and result.unreadable == 0
    rows = 0
    for sample in result.samples:
        with Image.open(sample.image) as picture:
            assert sample.size == (picture.height, picture.width)
        text = (BCCD / "labels" / split / f"{sample.image.stem}.txt").read_text().split("\n")
        theirs = {tuple(map(float, line.split())) for line in text if line.strip()}
        rows += len(theirs)
        centre, half = centres(sample)[:, :2], centres(sample)[:, 2:] / 2
        corners = torch.cat((centre - half, centre + half), 1)
        assert len(centres(sample)) <= len(theirs) and (corners >= -1e-6).all() and (corners <= 1 + 1e-6).all()
    assert rows - sum(len(centres(sample)) for sample in result.samples) <= len(result.notes)
