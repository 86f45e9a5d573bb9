"""The layouts of DOTA: which folders belong together, which classes there are, and what is told about files."""

from __future__ import annotations

import shutil

import pytest

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.convert.dota import find_splits, read_dota_folder
from bitfalcon_plugin.data.formats.dota import CLASSES
from tests.helpers.harbour import HEADER, lay_out_dota
from tests.helpers.tiny_dataset import image

LINE = "4 4 20 4 20 12 4 12"


def one_image(root, text: str, name: str = "P1", split: str = "train"):
    image(root / split / "images" / f"{name}.png")
    (root / split / "labelTxt").mkdir(exist_ok=True)
    (root / split / "labelTxt" / f"{name}.txt").write_text(text)
    return root


def read(root, version: str = "", **given):
    return read_dota_folder(load_settings({"data": str(root), **given}), version)


def test_the_layout_of_dota(tmp_path):
    root = lay_out_dota(tmp_path / "DOTA")
    source = read(root)
    assert list(source.parts) == ["train", "val", "test"] and source.task == "obb"
    assert [part.labelled for part in source.parts.values()] == [True, True, False]
    assert list(source.names.values()) == list(CLASSES[:15])
    sample = source.parts["val"].samples[1]
    lines = (root / "val/labelTxt/P1001.txt").read_text().removeprefix(HEADER).splitlines()
    width, height = 400, 300
    assert sample.size == (height, width) and len(sample.labels) == len(lines) == 12
    for line, cls, ring in zip(lines, sample.labels.classes.tolist(), sample.labels.polygons.split()):
        words = line.split()
        assert CLASSES[cls] == words[8].replace("-", " ")
        pixels = [value for x, y in ring.tolist() for value in (x * width, y * height)]
        assert pixels == pytest.approx(list(map(float, words[:8])), abs=1e-9)


def test_the_other_layouts(tmp_path):
    root = lay_out_dota(tmp_path / "DOTA")
    expected = {split: len(part.samples) for split, part in read(root).parts.items()}
    other = tmp_path / "other"
    for split in ("train", "val", "test"):
        shutil.copytree(root / split / "images", other / "images" / split)
        if split != "test":
            shutil.copytree(root / split / "labelTxt", other / "labels" / f"{split}_original")
    (other / "labels/train").mkdir()  # of an earlier conversion
    assert find_splits(other)["train"].labels == other / "labels/train_original"
    assert {split: len(part.samples) for split, part in read(other).parts.items()} == expected
    parts = tmp_path / "parts/train"
    shutil.copytree(root / "train/images", parts / "images/part1")
    shutil.copytree(root / "train/labelTxt", parts / "labelTxt-v1.5/labelTxt")
    for folder in (parts.parent, parts):  # the whole, and one split alone
        source = read(folder)
        assert list(source.parts) == ["train"] and sum(len(s.labels) for s in source.parts["train"].samples) == 24


def test_several_folders_of_labels(tmp_path):
    root = one_image(tmp_path, f"{LINE} plane 0\n")
    (tmp_path / "train/labelTxt").rename(tmp_path / "train/labelTxt-v1.0")
    shutil.copytree(tmp_path / "train/labelTxt-v1.0", tmp_path / "train/labelTxt-v1.5")
    with pytest.raises(UserError, match="several folders of labels: labelTxt-v1.0, labelTxt-v1.5. Say which version"):
        read(root)
    assert len(read(root, "v1.5").names) == 16


@pytest.mark.parametrize("name, count", [("plane", 15), ("container-crane", 16), ("airport", 18), ("helipad", 18)])
def test_the_version_follows_from_the_classes(tmp_path, name, count):
    root = one_image(tmp_path, f"{LINE} {name} 0\n")
    assert read(root).names == dict(enumerate(CLASSES[:count]))
    if count > 15:
        with pytest.raises(UserError, match=f"P1.txt:1: class '{name}' is unknown"):
            read(root, "v1.0")
    assert len(read(root, "v2.0").names) == 18


def test_unknown_classes_and_places_are_told_together(tmp_path):
    one_image(tmp_path, f"gsd:1\n{LINE} plain 0\n{LINE} plane 0\n")
    one_image(tmp_path, f"400 400 420 400 420 412 400 412 plane 0\n1 2 3 plane\n{LINE} ship 0.5\n", "P2", "val")
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    text = str(caught.value)
    assert "P1.txt:2: class 'plain' is unknown" in text and "Did you mean 'plane'?" in text
    assert "P2.txt:1: the object lies outside its image (400, 400, 420, 412 in an image of 32 x 24 pixels)" in text
    assert "P2.txt:2: 4 words" in text and "P2.txt:3: difficulty 0.5" in text and text.count("\n") == 4


def test_own_classes(tmp_path):
    one_image(tmp_path, f"{LINE} Fishing-Boat 0\n")
    with pytest.raises(UserError, match="classes.txt in the dataset's folder"):
        read(tmp_path)
    (tmp_path / "classes.txt").write_text("buoy\nfishing boat\n\n")
    source = read(tmp_path)
    assert source.names == {0: "buoy", 1: "fishing boat"}
    assert source.parts["train"].samples[0].labels.classes.tolist() == [1]
    (tmp_path / "classes.txt").write_text("buoy\nBuoy\n")
    with pytest.raises(UserError, match="buoy stands twice"):
        read(tmp_path)


def test_difficult_objects_and_those_without_area(tmp_path):
    one_image(tmp_path, f"{LINE} plane 1\n{LINE} ship 0\n4 4 8 8 12 12 16 16 ship 0\n")
    part = read(tmp_path).parts["train"]
    assert part.samples[0].labels.classes.tolist() == [0, 1] and part.left_out == {"without area": 1}
    part = read(tmp_path, difficult=False).parts["train"]
    assert part.samples[0].labels.classes.tolist() == [1] and part.left_out == {"difficult": 1, "without area": 1}


def test_files_without_partner(tmp_path):
    one_image(tmp_path, "imagesource:GoogleEarth\ngsd:null\n")  # a background
    one_image(tmp_path, f"{LINE} plane 0\n", "lost")
    (tmp_path / "train/images/lost.png").unlink()
    image(tmp_path / "train/images/bare.png")
    (tmp_path / "train/images/broken.png").write_bytes(b"no picture")
    (tmp_path / "train/labelTxt/._P1.txt").write_bytes(b"\x00\x05")  # of another system's archive
    part = read(tmp_path).parts["train"]
    assert [sample.image.name for sample in part.samples] == ["P1.png", "bare.png"]
    assert all(len(sample.labels) == 0 for sample in part.samples)
    notes = "\n".join(part.notes)
    assert "1 images of" in notes and "have no label, and are backgrounds: bare.png" in notes
    assert "1 labels in" in notes and "have no image, and are left out: lost" in notes
    assert "broken.png: " in notes and "image set aside" in notes


def test_names_that_stand_twice(tmp_path):
    one_image(tmp_path, f"{LINE} plane 0\n")
    image(tmp_path / "train/images/P1.jpg")
    with pytest.raises(UserError, match="another image of this split is called 'P1' too"):
        read(tmp_path)


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda root: None, "there is no such folder; format=dota reads <split>/images with <split>/labelTxt"),
        (lambda root: (root / "stuff").mkdir(parents=True), "holds stuff; expected the layout of DOTA"),
        (lambda root: root.mkdir(), "holds no folder; expected the layout"),
        (lambda root: image(root / "train/images/P1.png"), "Split 'train' of .* has images and no labels"),
    ],
)
def test_folders_that_are_none(tmp_path, make, text):
    make(tmp_path / "DOTA")
    with pytest.raises(MissingFileError, match=text):
        read(tmp_path / "DOTA")


def test_a_split_without_images(tmp_path):
    for name in ("images", "labelTxt"):
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="images: no image; expected files .avif"):
        read(tmp_path)
