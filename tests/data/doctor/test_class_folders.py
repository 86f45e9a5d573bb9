"""doctor on class folders: what it reports, problems planted one by one, and which data it takes for class folders."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.data.doctor.class_folders import survey_class_folders
from bitfalcon_plugin.data.doctor.report import examine
from bitfalcon_plugin.data.formats.class_folders import holds_class_folders
from tests.helpers.class_folders import class_folders
from tests.helpers.tiny_dataset import dataset, image, write_yaml

SOUND = {"train": {"cat": 12, "dog": 15}, "val": {"cat": 3, "dog": 3}}


@pytest.fixture
def sound(tmp_path):
    """Class folders with nothing to say about them."""
    return class_folders(tmp_path / "data", SOUND, size=(40, 36))


def report(folder, **options):
    return examine(survey_class_folders(folder, **options), imgsz=64)


def only(folder, severity, kind):
    """The one finding; the exit code must follow from it."""
    result = report(folder)
    assert [(finding.severity, finding.kind) for finding in result.findings] == [(severity, kind)]
    assert result.exit_code == (0 if severity == "note" else 1)
    return result.findings[0]


def test_sound_folders_have_no_findings_and_their_numbers_are_told(sound):
    result = report(sound)
    assert result.findings == () and result.exit_code == 0
    assert result.classes == {"0 cat": {"train": 12, "val": 3}, "1 dog": {"train": 15, "val": 3}}
    assert result.tables["train"] == {
        "images": 27,
        "unusable": 0,
        "classes": 2,
        "images a class": "12 to 15",
        "image sizes": "40x36",
        "width / height": "1.11 to 1.11, median 1.11",
    }
    assert result.tables["val"]["images a class"] == "3" and "nothing is wrong" in result.text()


def test_corrupt_files(sound):
    (sound / "train" / "dog" / "000.png").write_bytes(b"hello")
    image(sound / "val" / "dog" / "tiny.png", (5, 5))
    finding = only(sound, "error", "unreadable")
    assert [item.split(":")[0] for item in finding.items] == ["train/dog/000.png", "val/dog/tiny.png"]
    assert report(sound).tables["train"]["unusable"] == 1 and report(sound).classes["1 dog"]["train"] == 14


def test_images_in_two_splits_and_in_two_classes(sound):
    shutil.copy(sound / "train" / "cat" / "000.png", sound / "val" / "cat" / "again.png")
    assert only(sound, "error", "leak").items == ("train: train/cat/000.png = val: val/cat/again.png",)
    (sound / "val" / "cat" / "again.png").unlink()
    shutil.copy(sound / "train" / "cat" / "000.png", sound / "train" / "dog" / "again.png")
    assert only(sound, "warning", "duplicate").items[0].endswith("(their labels differ)")


def test_classes_that_a_split_lacks_or_has_more(sound):
    shutil.rmtree(sound / "val" / "dog")
    kinds = {(finding.severity, finding.kind): finding for finding in report(sound).findings}
    assert kinds["warning", "missing class"].items == ("dog",)
    assert "dog" in kinds["note", "dataset file"].items[0]
    (sound / "val" / "bird").mkdir()
    kinds = {(finding.severity, finding.kind): finding for finding in report(sound).findings}
    assert "unknown classes: bird; the classes are cat, dog" in kinds["error", "dataset file"].items[0]


def test_imbalance_and_rare_classes(sound):
    for path in list((sound / "train" / "cat").iterdir())[1:]:
        path.unlink()
    kinds = {(finding.severity, finding.kind): finding for finding in report(sound).findings}
    assert set(kinds) == {("warning", "imbalance"), ("note", "rare class")}
    assert "'dog' there are 15 images in train, of 'cat' 1" in kinds["warning", "imbalance"].description
    assert kinds["note", "rare class"].items == ("cat: 1",)


def test_small_and_long_images(sound):
    image(sound / "val" / "dog" / "small.png", (20, 30))
    assert (
        "1 of 34 images have a shorter side under 32 px (the least 20)"
        in only(sound, "note", "small for imgsz").description
    )
    Image.effect_noise((100, 40), 60).convert("RGB").save(sound / "val" / "dog" / "small.png")
    kinds = {finding.kind: finding for finding in report(sound).findings}
    assert kinds["long image"].items == ("val: val/dog/small.png: 100x40",)


def test_folders_that_are_not_split(tmp_path):
    class_folders(tmp_path, {"": {"a": 12, "b": 12}}, size=(40, 36))
    finding = only(tmp_path, "error", "dataset file")
    assert "split=0.8" in finding.items[0] and report(tmp_path).classes["0 a"] == {"train": 12}
    assert report(tmp_path, share=0.75).classes == {"0 a": {"train": 9, "val": 3}, "1 b": {"train": 9, "val": 3}}


def test_the_command_finds_out_what_the_data_are(sound, tmp_path, capsys):
    assert main(["doctor", f"data={sound}", f"out={tmp_path / 'out.json'}"]) == 0
    output = capsys.readouterr().out
    assert "images a class" in output and "half of imgsz=224" in output
    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["classes"]["0 cat"] == {"train": 12, "val": 3} and saved["imgsz"] == 224
    assert main(["doctor", f"data={class_folders(tmp_path / 'flat', {'': {'a': 20, 'b': 20}})}", "split=0.5"]) == 0
    assert capsys.readouterr().out.count("10") >= 4
    assert main(["doctor", f"data={tmp_path / 'nothing'}"]) == 2
    dataset(tmp_path / "labels")
    assert main(["doctor", f"data={tmp_path / 'labels'}", "split=test"]) == 1
    output = capsys.readouterr()
    assert "boxes an image" in output.out and "without effect here: split" in output.out + output.err


def test_what_holds_class_folders(sound, tmp_path):
    keys = {"path": "data", "train": "train", "val": "val"}
    assert all(holds_class_folders(data) for data in (sound, "shapes-cls", write_yaml(tmp_path / "a.yaml", keys)))
    for number, part in enumerate(("images", "labels")):
        image(tmp_path / "export" / "train" / part / f"{number}.png")
    others = (dataset(tmp_path / "plain"), tmp_path / "export", "shapes", "coco", tmp_path / "absent", 3, "")
    assert not any(map(holds_class_folders, others))
