"""doctor.py and survey.py: problems planted one by one in a sound dataset, each found, none stopping the rest."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data import large_pictures
from bitfalcon_plugin.data.doctor import survey as survey_module
from bitfalcon_plugin.data.doctor.checks import LABEL_NOTES, LABEL_PROBLEMS
from bitfalcon_plugin.data.doctor.report import examine, run_doctor
from bitfalcon_plugin.data.doctor.survey import difference_hash, survey
from bitfalcon_plugin.data.large_pictures import decode_in_turn
from tests.helpers.bad_images import png_of_few_rows
from tests.helpers.tiny_dataset import MINIMAL, write_yaml


def noise(seed, size=(64, 48)):
    """A picture of its own for every seed; coarse, so that it survives JPEG."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def put(folder, split, name, seed, label="0 0.5 0.5 0.4 0.4\n", suffix=".png", picture=None, **options):
    path = folder / "images" / split / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture or noise(seed)).save(path, **options)
    if label is not None:
        file = folder / "labels" / split / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(label)
    return path


@pytest.fixture
def sound(tmp_path):
    """Twelve images to train on and three to validate, with nothing to say about them."""
    folder = tmp_path / "data"
    for index in range(12):
        put(folder, "train", f"t{index:02d}", index, "0 0.5 0.5 0.4 0.4\n1 0.3 0.3 0.2 0.5\n")
    for index in range(3):
        put(folder, "val", f"v{index}", 100 + index)
    write_yaml(folder / "data.yaml", MINIMAL)
    return folder


def report(folder, imgsz=64, **options):
    return examine(survey(folder / "data.yaml", **options), imgsz, single_cls=options.get("single_cls", False))


def findings(folder, **options):
    return {(finding.severity, finding.kind): finding for finding in report(folder, **options).findings}


def only(folder, severity, kind, **options):
    """The one finding; the exit code must follow from it."""
    result = report(folder, **options)
    assert [(finding.severity, finding.kind) for finding in result.findings] == [(severity, kind)]
    assert result.exit_code == (0 if severity == "note" else 1)
    return result.findings[0]


def test_a_sound_dataset_has_no_findings_and_its_numbers_are_told(sound):
    result = report(sound)
    assert result.findings == () and result.exit_code == 0
    assert result.classes == {"0 cat": {"train": 12, "val": 3}, "1 dog": {"train": 12, "val": 0}}
    assert result.tables["train"] == {
        "images": 12,
        "unusable": 0,
        "boxes": 24,
        "empty": "0 (0%)",
        "box sizes": "100% small 0% medium 0% large",
        "boxes an image: images": "2-4: 12",
        "image sizes": "64x48",
        "width / height": "1.33 to 1.33, median 1.33",
    }
    assert "nothing is wrong" in result.text() and "1 dog" in result.text()


def test_sizes_are_cocos(sound):
    for name, side in (("s", 31), ("m", 32), ("n", 95), ("l", 96)):
        picture = noise(ord(name), (200, 200))
        put(sound, "val", name, ord(name), f"0 0.5 0.5 {side / 200} {side / 200}\n", picture=picture)
    row = report(sound).tables["val"]
    assert row["box sizes"] == "57% small 29% medium 14% large"  # 3 of the fixture (26 x 19 px) and s; m, n; l
    assert row["image sizes"] == "64x48 to 200x200, 2 kinds, mostly 200x200 (57%)"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"not a picture", "not a picture"),
        (b"", "not a picture"),
        (None, "there is no such file"),
        ("cut", "truncated"),
        ("small", "8x8 pixels"),
    ],
)
def test_images_that_cannot_be_used_are_named(sound, content, word):
    path = put(sound, "train", "bad", 50, suffix=".jpg")
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif content == "small":
        noise(50, (8, 8)).save(path)
    elif content is None:
        path.unlink()
        (sound / "list.txt").write_text("".join(f"images/train/{name}\n" for name in ("bad.jpg", "t00.png", "t01.png")))
        write_yaml(sound / "data.yaml", {**MINIMAL, "train": ["images/train", "list.txt"]})
    else:
        path.write_bytes(content)
    result = findings(sound)
    (item,) = result["error", "unreadable"].items
    assert item.startswith("images/train/bad.jpg: ") and word in item
    assert report(sound).tables["train"]["unusable"] == 1


def test_the_same_file_in_train_and_val_is_a_leak(sound):
    shutil.copy(sound / "images/train/t03.png", sound / "images/val/v1.png")
    result = only(sound, "error", "leak")
    assert result.items == ("train: images/train/t03.png = val: images/val/v1.png (their labels differ)",)


def test_the_same_picture_in_another_format_looks_alike(sound):
    put(sound, "val", "again", 3, suffix=".bmp")  # the pixels of t03.png
    (item,) = only(sound, "warning", "look alike").items
    assert item.startswith("train: images/train/t03.png = val: images/val/again.bmp")
    (sound / "images/val/again.bmp").unlink()
    (sound / "labels/val/again.txt").unlink()
    put(sound, "train", "again", 3, suffix=".bmp")
    assert "again.bmp" in only(sound, "note", "look alike").items[0]


def test_duplicates_in_a_split_and_across_val_and_test(sound):
    shutil.copy(sound / "images/train/t03.png", sound / "images/train/t04.png")
    shutil.copytree(sound / "images/val", sound / "images/test")
    shutil.copytree(sound / "labels/val", sound / "labels/test")
    write_yaml(sound / "data.yaml", {**MINIMAL, "test": "images/test"})
    result = report(sound).findings
    kinds = [(finding.severity, finding.kind, len(finding.items)) for finding in result]
    assert kinds == [("warning", "duplicate", 1), ("warning", "duplicate", 3)]
    assert "one split" in result[0].description and "val and in test" in result[1].description


def test_plain_pictures_are_not_called_alike(sound):
    for name, grey in (("p", 90), ("q", 91)):
        put(sound, "val", name, 0, picture=Image.new("RGB", (64, 48), (grey, grey, grey)))
    assert report(sound).findings == ()


def test_the_difference_hash_against_a_slow_count():
    image = torch.randint(0, 256, (3, 32, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cells = [[image[1, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].double().mean() for x in range(9)] for y in range(8)]
    expected = sum((cells[y][x] < cells[y][x + 1]) << (8 * y + x) for y in range(8) for x in range(8))
    assert difference_hash(image) == int(expected)
    assert difference_hash(torch.full((3, 32, 36), 90, dtype=torch.uint8)) is None


@pytest.mark.parametrize(
    ("row", "severity", "kind"),
    [
        ("0 0.5 0.5 0.2", "error", "malformed"),
        ("cat 0.5 0.5 0.2 0.2", "error", "malformed"),
        ("0.5 0.5 0.5 0.2 0.2", "error", "malformed"),
        ("2 0.5 0.5 0.2 0.2", "error", "class"),
        ("-1 0.5 0.5 0.2 0.2", "error", "class"),
        ("0 1.5 0.5 0.2 0.2", "error", "outside"),
        ("0 32 24 20 20", "error", "outside"),
        ("0 0.95 0.5 0.2 0.2", "warning", "reaches outside"),
        ("0 0.5 0.5 0 0.2", "warning", "no area"),
        ("0 0.5 0.5 0.4 0.4", "warning", "repeated row"),
    ],
)
def test_label_rows_are_told_with_file_and_line(sound, row, severity, kind):
    (sound / "labels/train/t02.txt").write_text(f"0 0.5 0.5 0.4 0.4\n\n{row}\n")
    result = only(sound, severity, kind)
    assert all(item.startswith("labels/train/t02.txt:3: ") for item in result.items)


def test_every_kind_of_label_message_has_its_place():
    assert [row[0] for row in (*LABEL_PROBLEMS, *LABEL_NOTES)].count("") == 2
    assert {row[1] for row in LABEL_PROBLEMS} == {"error"}


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ("0 0.5 0.5 0.02 0.5", "tiny box", "cat, 1.3 x 24.0 px around (32, 24)"),
        ("1 0.5 0.5 0.96 0.96", "giant box", "dog, 61.4 x 46.1 px"),
    ],
)
def test_tiny_and_giant_boxes(sound, row, kind, words):
    (sound / "labels/train/t02.txt").write_text(row)
    result = findings(sound, imgsz=2048)
    (item,) = result["warning", kind].items
    assert len(result) == 1 and item.startswith("train: images/train/t02.png: ") and words in item


def test_boxes_under_one_cell_at_the_size_asked_for(sound):
    put(sound, "val", "small", 7000, "0 0.5 0.5 0.1 0.5\n")  # 6.4 x 24 px of 64 x 48
    assert report(sound, imgsz=96).findings == ()  # 9.6 px
    assert "1 of 4 boxes of val (25.0%)" in only(sound, "note", "small for imgsz", imgsz=64).description


def test_labels_without_image_and_images_without_label(sound):
    (sound / "labels/train/lost.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (sound / "labels/train/classes.txt").write_text("cat\ndog\n")
    (sound / "labels/train/t05.txt").unlink()
    (sound / "labels/train/t06.txt").write_text("\n")
    result = findings(sound)
    assert result["warning", "label without image"].items == ("labels/train/lost.txt",)
    assert result["note", "image without label"].items == ("images/train/t05.png",)
    assert result["note", "empty label file"].items == ("images/train/t06.png",) and len(result) == 3
    for index in range(1, 9):
        (sound / f"labels/train/t{index:02d}.txt").unlink(missing_ok=True)
    assert ("warning", "image without label") in findings(sound)  # most of the split
    shutil.rmtree(sound / "labels/train")
    assert "Labels are looked for" in findings(sound)["error", "no labels"].description


def test_a_list_that_takes_some_images_makes_no_orphans_of_the_others(sound):
    (sound / "list.txt").write_text("".join(f"./images/train/t{index:02d}.png\n" for index in range(11)))
    write_yaml(sound / "data.yaml", {**MINIMAL, "train": "list.txt"})
    assert report(sound).findings == () and report(sound).tables["train"]["images"] == 11


def test_classes_that_train_lacks(sound):
    write_yaml(sound / "data.yaml", {**MINIMAL, "names": ["cat", "dog", "Cat ", "cow", "hen"]})
    put(sound, "val", "cow", 7000, "3 0.5 0.5 0.4 0.4\n")
    put(sound, "train", "hen", 7001, "4 0.5 0.5 0.4 0.4\n")
    result = findings(sound)
    assert result["warning", "class not in train"].items == ("3 cow: in val",)
    assert result["warning", "class never used"].items == ("2 Cat ",)
    assert result["note", "rare class"].items == ("4 hen: 1",)
    assert result["warning", "names"].items == ("cat", "Cat ") and len(result) == 4
    assert findings(sound, single_cls=True).keys() == {("warning", "names")}


def test_how_images_are_stored(sound):
    exif = Image.Exif()
    exif[0x0112] = 6
    put(sound, "val", "turned", 7000, suffix=".jpg", exif=exif)
    put(sound, "val", "cmyk", 7001, suffix=".jpg", picture=noise(7001).convert("CMYK"))
    put(sound, "val", "grey", 7002, picture=noise(7002).convert("L"))
    put(sound, "val", "alpha", 7003, picture=noise(7003).convert("RGBA"))
    deep = Image.fromarray(np.asarray(noise(7004).convert("L")).astype(np.uint16) * 256)
    put(sound, "val", "deep", 7004, picture=deep)
    put(sound, "val", "named", 7005).rename(sound / "images/val/named.jpg")
    output = {finding.description.split(";")[0]: finding.items for finding in report(sound).findings}
    assert output.pop("images are EXIF-rotated") == ("images/val/turned.jpg",)
    assert output.pop("images are CMYK") == ("images/val/cmyk.jpg",)
    assert output.pop("images are grey") == ("images/val/grey.png",)
    assert output.pop("images are alpha") == ("images/val/alpha.png",)
    assert output.pop("images are 16-bit") == ("images/val/deep.png",)
    assert output.pop("images are PNG named .jpg") == ("images/val/named.jpg",)
    assert report(sound).exit_code == 0
    assert report(sound).tables["val"]["width / height"].startswith("0.75 to 1.33")  # the turned one, upright


def test_problems_of_the_yaml_do_not_hide_those_of_the_files(sound):
    (sound / "labels/train/t02.txt").write_text("0 0.5\n")
    keys = {"train": "images/train", "val": "images/vla", "test": "/", "names": ["cat", "dog"], "nc": 3}
    write_yaml(sound / "data.yaml", keys)
    result = findings(sound)
    output = " ".join(result["error", "dataset file"].items)
    assert "nc: 3, but names has 2" in output and "'/' leads out of the dataset's folder" in output
    assert result["error", "missing"].items == (f"val: {sound / 'images/vla'}",)
    assert result["error", "malformed"].items[0].startswith("labels/train/t02.txt:1: 2 columns")
    assert report(sound).tables.keys() == {"train", "val", "test"} and report(sound).tables["test"]["images"] == 0


def test_class_names_that_cannot_be_read_leave_any_class_to_be(sound, recwarn):
    write_yaml(sound / "data.yaml", {**MINIMAL, "names": {0: "cat", 5: "dog"}})
    (sound / "labels/train/t02.txt").write_text("1e300 0.5 0.5 0.4 0.4\n-7 0.5 0.5 0.001 0.4\n")
    result = findings(sound)
    assert result.keys() == {("error", "dataset file"), ("warning", "tiny box"), ("note", "small for imgsz")}
    assert not recwarn.list
    assert report(sound).tables["train"]["boxes"] == 24


def test_ctrl_c_does_not_wait_for_the_images(sound, monkeypatch):
    paths = []

    def look(path, *options):
        paths.append(path)
        if len(paths) == 1:
            raise KeyboardInterrupt
        time.sleep(0.01)

    monkeypatch.setattr("bitfalcon_plugin.data.doctor.survey._examine", look)
    monkeypatch.setattr("bitfalcon_plugin.data.doctor.survey.THREADS", 1)
    for index in range(300):
        (sound / f"images/train/more{index}.png").touch()
    with pytest.raises(KeyboardInterrupt):
        survey(sound / "data.yaml")
    assert 1 <= len(paths) < 312  # the rest was never begun


def test_a_missing_test_split_is_only_a_warning(sound):
    write_yaml(sound / "data.yaml", {**MINIMAL, "test": "images/test"})
    assert only(sound, "warning", "missing").items == (f"test: {sound / 'images/test'}",)


def test_a_yaml_that_is_none_is_the_users_mistake(tmp_path):
    with pytest.raises(MissingFileError):
        survey(tmp_path / "none.yaml")
    (tmp_path / "data.yaml").write_text("names: [a\n")
    with pytest.raises(UserError, match="line 2"):
        survey(tmp_path / "data.yaml")


def test_everything_at_once_through_the_command(sound, tmp_path, capsys):
    shutil.copy(sound / "images/train/t03.png", sound / "images/val/v1.png")
    (sound / "images/train/t04.png").write_bytes(b"x")
    (sound / "labels/train/t05.txt").write_text("9 0.5 0.5 0.2 0.2\n" * 30)
    out = tmp_path / "reports" / "doctor.json"
    assert main(["doctor", str(sound / "data.yaml"), f"out={out}", "epochs=3"]) == 1
    output = capsys.readouterr()
    assert "3 errors, 0 warnings, 0 notes: look at the above" in output.out and "... and 20 more" in output.out
    assert "without effect here: epochs" in output.err
    content = json.loads(out.read_text())
    counts = [(finding["kind"], finding["count"]) for finding in content["findings"]]
    assert counts == [("unreadable", 1), ("leak", 1), ("class", 30)]
    assert len(content["findings"][2]["items"]) == 30 and content["exit_code"] == 1
    assert content["splits"]["train"]["unusable"] == 1 and content["classes"]["0 cat"]["val"] == 3


def test_the_commands_exit_codes(sound, capsys):
    assert main(["doctor", f"data={sound / 'data.yaml'}"]) == 0
    assert main(["doctor", "data=no_such.yaml"]) == 2
    assert main(["doctor"]) == 2
    assert "doctor needs data=" in capsys.readouterr().err
    assert main(["doctor", f"data={sound / 'data.yaml'}", f"out={sound}"]) == 2


def test_a_script_gets_the_report(sound, capsys):
    result = run_doctor(load_settings({"data": str(sound / "data.yaml"), "mode": "doctor"}))
    assert result.exit_code == 0 and "nothing is wrong" in capsys.readouterr().out


def test_larger_images_are_counted_and_not_decoded(sound, monkeypatch):
    monkeypatch.setattr("bitfalcon_plugin.data.doctor.survey.MAX_DECODED", 64 * 48)
    read = []
    original = survey_module.read_interleaved
    monkeypatch.setattr(survey_module, "read_interleaved", lambda path: read.append(path.stem) or original(path))
    put(sound, "train", "large", 77, picture=noise(77, (65, 48)))
    (sound / "images/train/few.png").write_bytes(png_of_few_rows((50000, 3000)))
    put(sound, "train", "pixel", 78, picture=noise(78, (64, 48)))
    found = findings(sound)
    assert sorted(found["note", "not decoded"].items) == [
        "images/train/few.png: 50000x3000",
        "images/train/large.png: 65x48",
    ]
    assert "pixel" in read and not {"large", "few"} & {*read}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are of POSIX")
def test_a_pipe_is_an_unusable_image(sound):
    os.remove(sound / "images/train/t00.png")
    os.mkfifo(sound / "images/train/t00.png")
    found = findings(sound)
    assert any("t00.png: not a file" in item for item in found["error", "unreadable"].items)


def test_large_pictures_are_decoded_one_at_a_time_by_one_thread(monkeypatch):
    monkeypatch.setattr(large_pictures, "LARGE", 50)
    threads = {False: set(), True: set()}

    def decode(is_large):
        threads[is_large].add(threading.get_ident())
        time.sleep(0.002)
        return is_large

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pixels: decode_in_turn(pixels, decode, pixels > 50), [10, 51, 50, 1000] * 10))
    assert found == [False, True, False, True] * 10
    assert len(threads[True]) == 1 and threads[True].isdisjoint(threads[False])
    with pytest.raises(ZeroDivisionError):
        decode_in_turn(51, lambda: 1 // 0)
