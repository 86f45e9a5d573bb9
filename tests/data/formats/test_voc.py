"""Label files of Pascal VOC: what is read, what is refused, and that difficult objects neither count nor are missed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data import scan_cache
from bitfalcon_plugin.data.dataset import Scan, scan
from bitfalcon_plugin.data.formats.coco_labels import Wish
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks import TASKS
from tests.helpers.tiny_dataset import image, write_yaml

NAMES = ["cat", "dog"]
BOX = "<bndbox><xmin>4</xmin><ymin>6</ymin><xmax>14</xmax><ymax>18.5</ymax></bndbox>"


def box(**values: object) -> str:
    corners = {"xmin": 4, "ymin": 6, "xmax": 14, "ymax": 18.5, **values}
    return "<bndbox>" + "".join(f"<{key}>{value}</{key}>" for key, value in corners.items()) + "</bndbox>"


def thing(name: str = "cat", corners: str = BOX, more: str = "") -> str:
    return f"<object><name>{name}</name>{more}{corners}</object>"


def xml(*objects: str, size: str = "<size><width>32</width><height>24</height></size>", more: str = "") -> str:
    return "<annotation>\n" + more + size + "\n" + "\n".join(objects) + "</annotation>"


def written(folder: Path, text: str | None, **keys: object) -> Path:
    """A dataset in VOC's own layout with one picture of 32 x 24 px."""
    image(folder / "JPEGImages/a.png")
    (folder / "Annotations").mkdir(exist_ok=True)
    if text is not None:
        (folder / "Annotations/a.xml").write_text(text, encoding="utf-8")
    (folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets/Main/train.txt").write_text("a  1\n")
    keys = {"format": "voc", "train": "ImageSets/Main/train.txt", "val": "JPEGImages", "names": NAMES, **keys}
    return write_yaml(folder / "data.yaml", {key: value for key, value in keys.items() if value is not None})


def read(path: Path, split: str = "train", part: str = "", **options: object) -> Scan:
    return scan(load_data(path), split, wish=Wish(part, **options))


def boxes(content: Scan) -> list[list[float]]:
    return content.samples[0].pixel_labels().boxes.tolist()


WRONG = {
    "no xml": ("<annotation><object>", "a.xml:1: not XML", "was the file cut off?"),
    "entities": (
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>' + xml(thing("&b;")),
        "it has a document type (<!DOCTYPE ...>), which may define entities; remove it",
    ),
    "a foreign file": ('<!DOCTYPE x SYSTEM "file:///etc/passwd">' + xml(), "document type"),
    "another document": ("<html/>", "its element is <html>; expected the elements of Pascal VOC"),
    "deep": ("<a>" * 5000, "nested too deep"),
    "many": ("<annotation>" + "<a/>" * 100_001, "too many elements", "at most 100000"),
    "long": ("<annotation>" + "x" * (1 << 22), "expected the labels of one image, at most 4194304"),
    "sizes that lie": (xml(thing(), size="<size><width>320</width><height>24</height></size>"), "the size is 320 x 24"),
    "size of nothing": (xml(size="<size><width>0</width><height>0</height></size>"), "size with width '0', height '0'"),
    "unknown class": (xml(thing("cow"), thing("dgo")), "a.xml:3: object 'cow' is of an unknown class; expected one of",
                      "a.xml:4: object 'dgo'", "Did you mean 'dog'?"),
    "no name": (xml("<object>" + BOX + "</object>"), "name ''; expected the name of a class"),
    "no box": (xml(thing(corners="")), "object 'cat' without <bndbox>"),
    "no corner": (xml(thing(corners="<bndbox><xmin>3</xmin></bndbox>")), "with ymin '', xmax '', ymax ''; expected"),
    "nan": (xml(thing(corners=box(xmin="nan"))), "with xmin 'nan'; expected finite numbers of pixels"),
    "exchanged": (xml(thing(corners=box(xmin=20))), "with xmin = 20 above xmax = 14"),
    "outside": (xml(thing(corners=box(xmin=40, xmax=60))), "lies outside its image: 40, 6, 60, 18.5 in 32 x 24 pixels"),
    "shares of thousands": (xml(thing(corners=box(xmax=9000))), "lies outside its image"),
    "difficult maybe": (xml(thing(more="<difficult>maybe</difficult>")), "difficult 'maybe'; expected 0 or 1"),
    "not utf-8": ('<?xml version="1.0" encoding="nonsense"?>' + xml(), "not XML"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_told(tmp_path, case):
    text, *expected = WRONG[case]
    with pytest.raises(UserError) as error:
        read(written(tmp_path, text))
    assert "a.xml:" in str(error.value) and all(part in str(error.value) for part in expected), str(error.value)


def test_an_oracle_refuses_the_same_documents(tmp_path):
    defused = pytest.importorskip("defusedxml.ElementTree")
    for case in ("entities", "a foreign file"):
        with pytest.raises(ValueError):
            defused.fromstring(WRONG[case][0], forbid_dtd=True)


def test_coordinates_begin_at_0_and_in_pascals_own_files_at_1(tmp_path):
    path = written(tmp_path, xml(thing()))
    assert boxes(read(path)) == [[4, 6, 14, 18.5]] == boxes(read(path, "val"))
    own = "<source><database>The VOC2007 Database</database></source>"
    assert boxes(read(written(tmp_path, xml(thing(), more=own)))) == [[3, 5, 14, 18.5]]
    assert boxes(read(written(tmp_path, xml(thing()), first_pixel=1))) == [[3, 5, 14, 18.5]]
    with pytest.raises(UserError, match="first_pixel: 2; expected 0 or 1"):
        read(written(tmp_path, xml(thing()), first_pixel=2))


def test_what_can_be_repaired_is_noted(tmp_path):
    content = read(written(tmp_path, xml(thing(corners=box(xmin=-5)), thing("dog", corners=box(xmax=4)))))
    assert boxes(content) == [[0, 6, 14, 18.5]]
    assert (
        "reaches 0.156 of a side beyond the image, clipped" in content.notes[0] and "without area" in content.notes[1]
    )
    assert read(written(tmp_path / "none", None), "val").missing == 1


def test_objects_are_pasted_along_outlines_only_where_there_are_some(tmp_path):
    """copy_paste has a default above 0, and VOC has no outlines."""
    path, form = written(tmp_path, xml(thing())), TASKS["detect"].data
    settings = load_settings({"mode": "train", "copy_paste": 0.5})
    assert len(form.scan(load_data(path), "train", settings).samples[0].labels) == 1
    assert main(["doctor", f"data={path}", "task=detect"]) == 1  # a leak, and no word of outlines
    assert main(["doctor", f"data={path}", "task=segment"]) == 2


def test_wrong_files_are_told_where_these_name_the_classes(tmp_path):
    with pytest.raises(UserError, match="a.xml:1: not XML"):
        load_data(written(tmp_path, "<annotation><object>", names=None))
    with pytest.raises(UserError, match="has no names:, and no VOC file of it a class"):
        load_data(written(tmp_path, xml(), names=None))


def test_names_and_xml_beside_the_images(tmp_path):
    path = written(tmp_path, xml(thing("zebra"), thing("ape")), names=None)
    data = load_data(path)
    assert data.names == {0: "ape", 1: "zebra"} and "the classes are those of 2 label files" in data.notes[0]
    image(tmp_path / "other/train/b.png")
    (tmp_path / "other/train/b.xml").write_text(xml(thing("dog")))
    keys = {"format": "voc", "train": "train", "names": NAMES}
    content = read(write_yaml(tmp_path / "other/data.yaml", keys))
    assert content.samples[0].labels.classes.tolist() == [1]
    (tmp_path / "ImageSets/Main/train.txt").write_text("b\n")
    with pytest.raises(UserError, match="train.txt:1: 'b' is no image in"):
        read(path)


@pytest.mark.parametrize("kept", [True, False])
def test_difficult_objects_count_neither_as_found_nor_as_missed(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(scan_cache, "MIN_IMAGES", 1)
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    text = xml(thing(), thing("dog", box(xmin=20, xmax=30), "<difficult>1</difficult>"))
    path = written(tmp_path, text)
    for age in (10**18, 10**18, None):  # into the cache, from the cache, and of files that may change again
        for file in tmp_path.rglob("a.*"):
            os.utime(file, **({"ns": (age, age)} if age else {}))
        content = read(path, difficult=kept, truth=True)
        assert len(content.samples[0].labels) == 1 + kept
        assert content.samples[0].truth.difficult.tolist() == [False, True]
    assert any("1 difficult objects" in note for note in content.notes)
    cat, dog = torch.tensor([[4.0, 6, 14, 18.5]]), torch.tensor([[20.0, 6, 30, 18.5]])
    one = {"scores": torch.tensor([0.5]), "image": torch.tensor([0])}
    alone = Instances(cat, torch.tensor([0]), **one)
    both = Instances.cat([Instances(dog, torch.tensor([1]), **one), alone])
    for found in (alone, both):
        metrics = TASKS["detect"].evaluate(content.samples, found, dict(enumerate(NAMES)), conf=0.25)
        assert metrics.stats["AP"] == pytest.approx(1) and metrics.ap_class_index.tolist() == [0]


@pytest.mark.parametrize("part, text", [("outlines", "task=segment reads"), ("keypoints", "task=pose reads"),
                                        ("corners", "task=obb reads")])  # fmt: skip
def test_tasks_that_need_more_than_boxes_are_refused(tmp_path, part, text):
    with pytest.raises(UserError, match=text):
        read(written(tmp_path, xml(thing())), part=part)
