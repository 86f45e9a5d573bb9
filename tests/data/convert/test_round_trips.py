"""What the verb data writes in one format and back is the same to a ten-thousandth of a pixel, and images stay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.data.dataset import Sample, scan
from bitfalcon_plugin.data.formats.coco_labels import Wish
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.data.formats.pose_rows import read_pose
from bitfalcon_plugin.data.formats.yolo import read_row
from tests.helpers import posed
from tests.helpers.coco_files import coco_dataset
from tests.helpers.outlined import lay_out

PX = 1e-4


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(*words: str) -> int:
    return main(["data", *words])


def samples(data: str, split: str = "train", part: str = "") -> dict[str, Sample]:
    read = read_pose if part == "keypoints" else read_row
    content = scan(load_data(data), split, read=read, wish=Wish(part, part == "outlines", exact=True))
    return {sample.image.name: sample for sample in content.samples}


def objects(sample: Sample) -> list[list[float]]:
    """Class, box, and points of each label in pixels, in any order."""
    labels, (height, width) = sample.labels, sample.size
    labels = labels.scaled(width, height)
    points = [[]] * len(labels)
    if labels.polygons is not None:
        points = [ring.flatten().tolist() for ring in labels.polygons.split()]
    if labels.keypoints is not None:
        points = labels.keypoints.flatten(1).tolist()
    rows = zip(labels.classes.tolist(), labels.boxes.tolist(), points)
    return sorted([cls, *(round(value, 6) for value in box), *row] for cls, box, row in rows)


def agree(first: str, second: str, part: str = "", but: Sequence[str] = ()) -> None:
    for split in ("train", "val"):
        before, after = samples(first, split, part), samples(second, split, part)
        assert before.keys() == after.keys() and any(len(sample.labels) for sample in before.values())
        for name in before.keys() - set(but):
            sample = before[name]
            pairs = zip(objects(sample), objects(after[name]), strict=True)
            assert all(np.allclose(one, other, rtol=0, atol=PX) for one, other in pairs), name


@pytest.mark.parametrize("task, part", [("detect", ""), ("segment", "outlines"), ("pose", "keypoints")])
def test_coco_to_yolo_to_coco(here, task, part):
    coco_dataset(here / "mine", keypoints=task == "pose")
    if part == "outlines":  # label files have an outline or a box, so boxes are the hulls here
        for file in (here / "mine/annotations").iterdir():
            content = json.loads(file.read_text())
            for entry in content["annotations"]:
                x, y, w, h = entry["bbox"]
                entry["segmentation"] = [[x, y, x + w, y, x + w, y + h / 3, x, y + h]]
            file.write_text(json.dumps(content))
    assert convert("to=yolo", "data=mine/data.yaml", "out=y", f"task={task}") == 0
    assert convert("to=coco", "data=y/data.yaml", "out=c", f"task={task}") == 0
    agree("mine/data.yaml", "y/data.yaml", part)
    agree("mine/data.yaml", "c/data.yaml", part)


def test_keypoints_without_visibility_stay_pairs(here, capsys):
    posed.lay_out(here, kpt_shape=[2, 2])
    for path in (here / "data/labels").rglob("*.txt"):
        cls, *values = path.read_text().split()
        path.write_text(" ".join([cls, *values[:6], *values[7:9]]) + "\n")
    (here / "data/labels/train/0.txt").write_text("0 .5 .5 .4 .4 -.008 .5 .6 .5\n")
    assert convert("to=yolo", "data=data/data.yaml", "out=y", "split=0.5/0.5") == 0
    assert (
        convert("to=coco", "data=data/data.yaml", "out=c") == convert("to=yolo", "data=c/data.yaml", "out=again") == 0
    )
    files = {path.name: path.read_text().split() for path in (here / "again/labels/train").iterdir()}
    assert {len(fields) for fields in files.values()} == {9} and len(files) == 10
    agree("data/data.yaml", "c/data.yaml", "keypoints", but=["0.png"])
    agree("data/data.yaml", "again/data.yaml", "keypoints", but=["0.png"])
    for data, split in (("y", "train"), ("y", "val"), ("c", "train"), ("again", "train")):
        if point := samples(f"{data}/data.yaml", split, "keypoints").get("0.png"):
            assert point.labels.keypoints[0, :, 2].tolist() in ([0, 1], [1, 1])  # the other one is of the split val
    assert samples("again/data.yaml", "train", "keypoints")["0.png"].labels.keypoints[0, :, 2].tolist() == [0, 1]
    capsys.readouterr()
    assert convert("to=voc", "data=data/data.yaml", "out=v") == 0
    assert main(["doctor", *capsys.readouterr().out.split("next: bitfalcon doctor ")[1].split()]) == 0


def test_a_visibility_that_coco_has_not_is_written_as_visible(here):
    posed.lay_out(here)
    (here / "data/labels/train/0.txt").write_text("0 .5 .5 .4 .4 .4 .5 3 .6 .5 .5\n")
    assert convert("to=coco", "data=data/data.yaml", "out=c") == 0
    assert samples("c/data.yaml", "train", "keypoints")["0.png"].labels.keypoints[0, :, 2].tolist() == [2, 2]


def test_coco_to_voc_to_yolo(here, capsys):
    coco_dataset(here / "mine")
    assert convert("to=voc", "data=mine/data.yaml", "out=v", "task=detect") == 0
    assert convert("to=yolo", "data=v/data.yaml", "out=y") == 0
    agree("mine/data.yaml", "v/data.yaml")
    agree("mine/data.yaml", "y/data.yaml")
    assert "groups (iscrowd) left out" in capsys.readouterr().out


def test_coco_to_coco_keeps_what_the_file_says(here):
    coco_dataset(here / "mine")
    assert convert("to=coco", "data=mine/data.yaml", "out=c") == 0
    for split in ("train", "val"):
        before = json.loads((here / f"mine/annotations/instances_{split}.json").read_text())
        after = json.loads((here / f"c/annotations/{split}.json").read_text())

        def plain(content: dict) -> list[dict]:
            names = {each["id"]: Path(each["file_name"]).name for each in content["images"]}
            entries = [{**each, "image_id": names[each["image_id"]], "id": 0} for each in content["annotations"]]
            return sorted(entries, key=lambda each: (each["image_id"], each["bbox"]))

        assert plain(before) == plain(after)
        assert sorted(before["categories"], key=lambda each: each["id"]) == after["categories"]
        assert {each["id"] for each in before["images"]} == {each["id"] for each in after["images"]}


def test_outlines_of_label_files_have_their_masks_area(here):
    lay_out(here)
    assert convert("to=coco", "data=data/data.yaml", "out=c") == 0
    agree("data/data.yaml", "c/data.yaml", "outlines")
    entries = json.loads((here / "c/annotations/train.json").read_text())["annotations"]
    areas = [entry["area"] for entry in entries if "segmentation" in entry]
    assert areas and all(area.is_integer() for area in areas)


def test_a_split_writes_lists_and_moves_no_image(here, capsys):
    coco_dataset(here / "mine", count=10)
    before = {path: path.read_bytes() for path in (here / "mine").rglob("*") if path.is_file()}
    for to in ("yolo", "coco", "voc"):
        assert convert(f"to={to}", "data=mine/data.yaml", f"out={to}", "split=0.5/0.3/0.2", "task=detect") == 0
        lists = [(here / to / f"{split}.txt").read_text().split() for split in ("train", "val", "test")]
        assert [len(lines) for lines in lists] == [10, 6, 4] and len({*sum(lists, [])}) == 20
        data = load_data(f"{to}/data.yaml")
        content = [sample for split in data.splits for sample in scan(data, split).samples]
        links = sorted(str(sample.image.resolve()) for sample in content)
        assert links == sorted(str(path) for path in before if path.suffix == ".png")
    assert {path: path.read_bytes() for path in before} == before
    assert convert("to=yolo", "data=yolo/data.yaml", "out=again", "split=0.5/0.3/0.2") == 0
    assert (here / "again/val.txt").read_text() != ""
    assert convert("to=yolo", "data=yolo/data.yaml", "out=again", "split=0.5/0.3") == 2
    assert "shares of train, val and test such as 0.8/0.1/0.1" in capsys.readouterr().err
    assert convert("to=yolo", "data=mine/data.yaml", "out=few", "split=0.98/0.01/0.01", "task=detect") == 2
    assert "leaves no image for val: there are 20" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, expected",
    [
        (["to=kitti", "data=mine/data.yaml", "out=x"], "supervision, hotcoco and labelformat"),
        (["to=coco", "format=labelme", "data=mine/data.yaml", "out=x"], "supervision, hotcoco and labelformat"),
        (["to=coco", "out=x"], "data needs data=: for example"),
        (["to=yolo", "format=voc", "data=mine/data.yaml", "out=x"], "is of format coco; write `format: voc` into it"),
        (["to=voc", "data=mine/data.yaml", "out=x", "tile=640"], "with to=yolo, not with to=voc"),
        (["to=yolo", "data=mine/data.yaml", "out=x", "task=obb"], "has upright boxes; task=obb reads label files"),
        (["to=yolo", "data=mine/data.yaml", "out=x", "task=classify"], "data converts labels of detect, segment, pose"),
    ],
)
def test_wrong_words(here, capsys, words, expected):
    coco_dataset(here / "mine")
    assert convert(*words) == 2
    assert expected in capsys.readouterr().err and not (here / "x").exists()


def test_labels_in_float64_are_exact(here):
    coco_dataset(here / "mine")
    sample = next(sample for sample in samples("mine/data.yaml").values() if len(sample.labels))
    assert sample.labels.boxes.dtype == torch.float64
