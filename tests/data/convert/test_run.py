"""The verb data: what it writes, that the result is a dataset, and that it is whole or absent."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.files import STALE_SECONDS
from bitfalcon_plugin.data import images, large
from bitfalcon_plugin.data.convert import write
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.data.formats.obb_rows import read_obb
from bitfalcon_plugin.ops.tiles import read_tile_name
from tests.helpers import outlined
from tests.helpers.coloured import lay_out
from tests.helpers.harbour import SHAPES, lay_out_dota
from tests.helpers.tiny_dataset import MINIMAL, dataset, image, write_yaml


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lay_out_dota(tmp_path / "DOTA")
    return tmp_path


def convert(out: str = "out", *words: str, data: str = "DOTA", format: str = "dota") -> int:
    return main(["data", "to=yolo", f"format={format}", f"data={data}", f"out={out}", *words])


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_images_as_they_are(here, capsys):
    before = contents(here / "DOTA")
    assert convert() == 0
    assert contents(here / "DOTA") == before
    output = capsys.readouterr()
    assert "train: 2 images, 24 objects, 0 backgrounds" in output.out and "test: 2 images without labels" in output.out
    assert "next: bitfalcon doctor data=" in output.out and output.err == ""
    data = load_data("out/data.yaml")
    assert set(data.splits) == {"train", "val", "test"} and data.nc == 15 and data.names[2] == "storage tank"
    link = here / "out/images/train/P0000.png"
    assert link.is_symlink() and link.resolve() == here / "DOTA/train/images/P0000.png"
    rows = (here / "out/labels/train/P0000.txt").read_text().splitlines()
    lines = (here / "DOTA/train/labelTxt/P0000.txt").read_text().splitlines()[2:]
    classes = {"ship": 1, "storage-tank": 2, "harbor": 7}
    for row, line in zip(rows, lines, strict=True):
        words = line.split()
        shares = [float(word) / side for word, side in zip(words, (400, 300) * 4)]
        assert row == f"{classes[words[8]]} " + " ".join(f"{share:.9g}" for share in shares)
    assert not (here / "out/labels/test").exists()
    samples = scan(data, "train", read=read_obb).samples
    assert [len(sample.labels) for sample in samples] == [12, 12]


@pytest.mark.parametrize("words", [["data=DOTA", "format=dota"], ["data=whole", "format=yolo"]])
def test_images_beyond_the_limit_of_pixels_are_cut_by_windows(here, monkeypatch, capsys, words):
    assert convert("whole") == main(["data", "to=yolo", "tile=160", *words, "out=usual"]) == 0
    monkeypatch.setattr(large, "LARGE", 1000)
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    assert main(["data", "to=yolo", "tile=160", *words, "out=windows"]) == 0
    assert {name for name in contents(here / "usual") if name.endswith(".jpg")} > {"images/val/P1000__160__0___0.jpg"}
    same = [contents(here / name / part) for name in ("usual", "windows") for part in ("images", "labels")]
    assert same[:2] == same[2:]
    capsys.readouterr()
    assert convert("nothing") == 2 and not (here / "nothing").exists()
    assert "no image of 2 can be read; DOTA/train/images/P0000.png: 400x300 pixels" in capsys.readouterr().err


def test_a_system_without_links_gets_copies(here, monkeypatch):
    def refuse(self, target):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert convert() == 0
    copy = here / "out/images/val/P1000.png"
    assert not copy.is_symlink() and copy.read_bytes() == (here / "DOTA/val/images/P1000.png").read_bytes()


def test_tiles_show_their_objects(here):
    """The middle of each row of a label file has the colour in which its class was painted."""
    assert convert("out", "tile=160", "overlap=0.2", "rates=0.5,1") == 0
    data = load_data("out")
    colours = {list(data.names.values()).index(name.replace("-", " ")): rgb for name, (*_, rgb) in SHAPES.items()}
    seen = {}
    for split in ("train", "val", "test"):
        for sample in scan(data, split, read=read_obb).samples:
            name = read_tile_name(sample.image.stem)
            side = int(sample.image.stem.rpartition("___")[0].split("__")[1])
            picture = np.asarray(Image.open(sample.image)).astype(int)
            original = np.asarray(Image.open(here / f"DOTA/{split}/images/{name.stem}.png")).astype(int)
            part = original[name.y : name.y + side, name.x : name.x + side]
            assert sample.image.suffix == ".jpg" and part.shape == picture.shape
            assert abs(part - picture).mean() < 6  # JPEG
            if not len(sample.labels):
                continue
            for cls, ring in zip(sample.labels.classes.tolist(), sample.pixel_labels().polygons.points.view(-1, 4, 2)):
                x, y = ring.mean(0).int().tolist()
                hit = abs(picture[y, x] - colours[cls]).max() < 70
                seen.setdefault(side, []).append(hit)
    assert seen.keys() == {160, 320} and all(len(hits) > 20 for hits in seen.values())
    assert all(np.mean(hits) > 0.8 for hits in seen.values())  # the others are covered by an object painted later
    assert (here / "out/labels/val").is_dir() and not (here / "out/labels/test").exists()


def test_backgrounds_are_kept(here, capsys):
    (here / "DOTA/train/labelTxt/P0000.txt").write_text("gsd:1\n")
    assert convert("out", "tile=256") == 0
    empty = [path for path in (here / "out/labels/train").glob("P0000__*") if not path.read_text()]
    assert len(empty) == len(list((here / "out/images/train").glob("P0000__*"))) == 4
    assert "2 images, 8 tiles" in capsys.readouterr().out


def test_an_object_larger_than_its_tile_is_cut(tmp_path, monkeypatch, capsys):
    """A row whose hull is larger than the image would be refused when the dataset is read."""
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "D/train/images/a.png", (200, 100))
    (tmp_path / "D/train/labelTxt").mkdir()
    (tmp_path / "D/train/labelTxt/a.txt").write_text(
        "2 20 128 20 128 80 2 80 harbor 0\n30 30 60 30 60 50 30 50 ship 0\n95 10 105 10 105 20 95 20 ship 0\n"
    )
    assert convert("out", "tile=100", "overlap=0", data="D") == 0
    output = capsys.readouterr()
    assert "1 objects too large for their picture, cut at its border" in output.out
    assert "1 objects of which no tile shows 70 % left out" in output.out
    assert "there is no split val: data.yaml names that of train in its place" in output.err
    rows = (tmp_path / "out/labels/train/a__100__0___0.txt").read_text().splitlines()
    assert rows[1] == "1 0.3 0.3 0.6 0.3 0.6 0.5 0.3 0.5"
    values = torch.tensor(list(map(float, rows[0].split()[1:]))).view(-1, 2)
    assert values.amin(0).tolist() == pytest.approx([0.02, 0.2]) and values.amax(0).tolist() == pytest.approx([1, 0.8])
    assert [len(sample.labels) for sample in scan(load_data("out"), "val", read=read_obb).samples] == [2, 0]


def test_boxes_and_outlines_are_cut_to_their_tiles(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels = "0 0.25 0.5 0.5 0.5\n1 0.1 0.1 0.6 0.1 0.6 0.4 0.35 0.5 0.1 0.4\n"
    folder = dataset(tmp_path / "boxes", {"a": labels.splitlines()[0]}, {**MINIMAL, "settings": {"degrees": 180.0}})
    image(tmp_path / "boxes/images/train/a.png", (100, 60))
    assert convert("one", "tile=60", "overlap=0", data=str(folder), format="yolo") == 0  # windows at 0 and 40
    assert (tmp_path / "one/labels/train/a__60__0___0.txt").read_text() == "0 0.416666667 0.5 0.833333333 0.5\n"
    assert (tmp_path / "one/labels/train/a__60__40___0.txt").read_text() == ""
    assert load_data("one").settings == {"degrees": 180.0} and load_data("one").names == {0: "cat", 1: "dog"}
    folder = dataset(tmp_path / "outlines", {"a": labels})
    image(tmp_path / "outlines/images/train/a.png", (100, 60))
    assert convert("two", "tile=50", "overlap=0", data=str(folder), format="yolo") == 0
    box, outline = (tmp_path / "two/labels/train/a__50__0___0.txt").read_text().splitlines()
    assert box == "0 0.5 0.6 1 0.6"
    values = np.array(list(map(float, outline.split()))[1:]).reshape(-1, 2)
    assert outline[0] == "1" and values.max(0).tolist() == [1, 0.6] and values.min(0).tolist() == [0.2, 0.12]
    assert "taken as oriented boxes" not in capsys.readouterr().err


@pytest.mark.parametrize("make, task", [(lay_out, "detect"), (outlined.lay_out, "segment")])
def test_datasets_of_other_tasks(tmp_path, monkeypatch, make, task, capsys):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    assert convert("out", "tile=40", f"task={task}", data="data/data.yaml", format="yolo") == 0
    assert f"task={task}" in capsys.readouterr().out
    assert len(scan(load_data("out"), "train").samples) > len(scan(load_data("data/data.yaml"), "train").samples)


def test_a_converted_dataset_is_cut_later(here, capsys):
    assert convert("plain") == 0 and convert("tiles", "tile=256") == 0
    assert convert("later", "tile=256", data="plain", format="yolo") == 0
    assert "every row has four corners: taken as oriented boxes" in capsys.readouterr().err
    tiles, later = here / "tiles/labels", here / "later/labels"
    names = sorted(path.relative_to(tiles) for path in tiles.rglob("*.txt"))
    assert names == sorted(path.relative_to(later) for path in later.rglob("*.txt")) and len(names) == 16
    for name in names:
        one, two = (
            [list(map(float, row.split())) for row in (top / name).read_text().splitlines()] for top in (tiles, later)
        )
        assert np.allclose(np.array(one), np.array(two), atol=5e-6) and len(one) == len(two)


def test_a_killed_conversion_leaves_nothing(here, monkeypatch, capsys):
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    original = write._write_labels
    monkeypatch.setattr(write, "_write_labels", interrupted)
    assert convert() == 130 and sorted(os.listdir(here)) == ["DOTA"]
    monkeypatch.undo()
    os.chdir(here)
    old, new = here / ".out-abcdefgh", here / ".out-abcdefg0"  # what kills without a chance to clean up leave
    for folder in (old, new):
        (folder / "images").mkdir(parents=True)
    os.utime(old, (time.time() - STALE_SECONDS - 9,) * 2)
    assert convert() == 0 and sorted(os.listdir(here)) == [new.name, "DOTA", "out"]


def test_an_error_while_a_dataset_is_replaced(here, monkeypatch):
    assert convert("out", "tile=256") == 0
    rename = Path.rename

    def fail(self, target):
        if self.name == "labels":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    assert convert("out", "exist_ok=True") == 2
    assert not (here / "out/data.yaml").exists()
    monkeypatch.undo()
    os.chdir(here)
    assert convert("out", "exist_ok=True") == 0
    assert sorted(os.listdir("out")) == ["data.yaml", "images", "labels"] and len(os.listdir("out/images/train")) == 2


def test_places_that_are_taken(here, capsys):
    (here / "empty").mkdir()
    assert convert("empty") == 0 and convert("empty", "tile=256", "exist_ok=True") == 0
    assert len(os.listdir("empty/labels/train")) == 8  # nothing of the first one is left
    (here / "notes").mkdir()
    (here / "notes/readme.txt").write_text("mine")
    assert convert("notes") == 2 and "out=" in capsys.readouterr().err
    assert convert("notes", "exist_ok=True") == 0 and (here / "notes/readme.txt").read_text() == "mine"
    (here / "foreign/images").mkdir(parents=True)
    assert convert("foreign", "exist_ok=True") == 2
    assert "holds images that this command did not write" in capsys.readouterr().err
    for place, text in (
        ("DOTA", "holds the dataset that is read"),
        (".", "holds the dataset"),
        ("notes/readme.txt", "is a file"),
    ):
        assert convert(place, "exist_ok=True") == 2 and text in capsys.readouterr().err
    assert convert("DOTA/yolo") == 0


@pytest.mark.parametrize(
    "line, text",
    [
        ("data", "data needs to=, data=, out=: for example bitfalcon data to=coco data=data.yaml"),
        ("data to=yolo format=dota data=DOTA", "data needs out=:"),
        ("data to=yolo format=dota data=DOTA out=none", "data needs out=:"),
        ("data to=turbo format=dota data=DOTA out=o", "to=turbo: data writes yolo"),
        (
            "data to=yolo format=dotta data=DOTA out=o",
            "data reads dota, dota-v1.0, dota-v1.5, dota-v2.0, yolo, coco, voc; supervision",
        ),
        ("data to=yolo format=yolo data=DOTA out=o", "give tile=1024"),
        (
            "data to=yolo format=dota data=DOTA out=o rates=0",
            "rates=0: expected a number or a list of numbers at least",
        ),
        ("data to=yolo format=dota data=DOTA out=o overlap=0.3", "overlap: for tiles alone"),
        (
            "data to=yolo format=yolo data=DOTA out=o tile=64 task=classify",
            "task=classify: data converts labels of detect",
        ),
        ("convert to=yolo best.pt", "best.pt"),
    ],
)
def test_wrong_settings(here, line, text, capsys):
    assert main(line.split()) == 2
    output = capsys.readouterr()
    assert text in output.err and output.out == "" and sorted(os.listdir(here)) == ["DOTA"]


def test_keypoints_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset(tmp_path / "pose", {"a": "0 .5 .5 .4 .4 .4 .4 2"}, {**MINIMAL, "kpt_shape": [1, 3]})
    assert convert("out", "tile=64", data="pose", format="yolo") == 2
    assert "has keypoints (kpt_shape:), of which no tiles are cut" in capsys.readouterr().err
    assert convert("out", "tile=64", "task=detect", data="pose", format="yolo") == 0


def test_settings_without_effect_are_told(here, capsys):
    assert convert("out", "epochs=3") == 0
    assert "data only converts; without effect here: epochs" in capsys.readouterr().err


def test_an_image_that_is_listed_twice_is_told_from_images_with_equal_names(tmp_path, capsys):
    names = ("a.png", "b.png", "b.jpg")
    for name in names:
        image(tmp_path / "images" / name)
    for name in "ab":
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    (tmp_path / "train.txt").write_text("".join(f"./images/{name}\n" for name in (*names, "a.png")))
    path = write_yaml(tmp_path / "data.yaml", {"train": "train.txt", "val": "train.txt", "names": ["x"]})
    assert main(["data", "to=voc", f"data={path}", f"out={tmp_path / 'out'}"]) == 2
    told = capsys.readouterr().err
    assert told.count("a.png: listed 2 times in this split; keep one entry") == 2  # in train and in val
    assert told.count("another image of this split is called 'b' too") == 4 and not (tmp_path / "out").exists()
