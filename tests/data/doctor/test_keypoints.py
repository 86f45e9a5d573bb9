"""What doctor says of keypoints: problems planted one by one in a sound dataset of poses."""

from __future__ import annotations

import pytest

from bitfalcon_plugin.cli import main
from tests.data.doctor.test_doctor import findings, only, put
from tests.helpers.tiny_dataset import MINIMAL, write_yaml

POSE = {
    **MINIMAL,
    "kpt_shape": [2, 3],
    "flip_idx": [1, 0],
    "kpt_names": ["left", "right"],
    "kpt_oks_sigmas": [0.1, 0.1],
}
ROW = "0 .5 .5 .4 .4 .4 .5 2 .6 .5 1\n"
SIGMA = ("note", "sigma")


@pytest.fixture
def posed(tmp_path):
    """Twelve images to train on and one to validate, with an object of each class each."""
    for index in range(12):
        put(tmp_path, "train", f"t{index:02d}", index, ROW + "1 .3 .3 .2 .4 .25 .3 2 .35 .3 2\n")
    put(tmp_path, "val", "v", 99, ROW)
    write_yaml(tmp_path / "data.yaml", POSE)
    return tmp_path


def one(folder, severity, kind):
    """The one finding beside the sigmas."""
    result = findings(folder)
    assert result.keys() == {(severity, kind), SIGMA}
    return result[severity, kind].items


def test_sound_keypoints_have_their_sigmas_alone(posed):
    assert only(posed, *SIGMA).description == "sigma of the keypoints: 0.1, from kpt_oks_sigmas."


@pytest.mark.parametrize(
    ("row", "severity", "kind", "item"),
    [
        ("0 .5 .5 .2 .2 .5 .5 2 .95 .5 2", "warning", "keypoint outside", "cat: keypoint right of object 1"),
        ("1 .5 .5 .2 .2 .5 .5 2 .5 .5 1", "warning", "one place", "dog, object 1"),
        ("0 .5 .5 .2 .2 0 0 0 0 0 0", "note", "no keypoint", "cat, object 1"),
        ("0 .5 .5 .2 .2 .95 .5 0 .5 .5 2", None, None, None),  # not labelled: it may lie anywhere
        (ROW + "0 .5 .5 .401 .4 .4 .5 2 .6 .5 2", "warning", "object twice", "cat, object 2"),
        (ROW + "1 .5 .5 .401 .4 .4 .5 2 .6 .5 2", None, None, None),  # of another class
    ],
)
def test_odd_keypoints_and_objects(posed, row, severity, kind, item):
    (posed / "labels/val/v.txt").write_text(row)
    if kind is None:
        assert findings(posed).keys() == {SIGMA}
    else:
        assert one(posed, severity, kind) == (f"val: images/val/v.png: {item}",)


def test_most_objects_without_a_keypoint_are_a_warning(posed):
    for path in (posed / "labels").rglob("*.txt"):
        path.write_text("0 .5 .5 .4 .4 0 0 0 0 0 0\n1 .3 .3 .2 .4 0 0 0 0 0 0\n")
    assert len(findings(posed)["warning", "no keypoint"].items) == 26


@pytest.mark.parametrize(
    ("labelled", "severity", "kind", "items"),
    [(0, "warning", "keypoint not in train", ("right",)), (3, "note", "rare keypoint", ("right: 3",))],
)
def test_keypoints_that_train_lacks(posed, labelled, severity, kind, items):
    for index, path in enumerate(sorted((posed / "labels/train").iterdir())):
        path.write_text(
            f"0 .5 .5 .4 .4 .4 .5 2 {'.6 .5 2' if index < labelled else '0 0 0'}\n1 .3 .3 .2 .4 .25 .3 2 0 0 0"
        )
    assert one(posed, severity, kind) == items


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"flip_idx": [0, 1]}, "flip_idx mixes up left and right: in a mirror left stays, not right"),
        ({"flip_idx": None}, "no flip_idx: fliplr and flipud are off"),
    ],
)
def test_mirrors(posed, keys, text):
    write_yaml(posed / "data.yaml", {key: value for key, value in {**POSE, **keys}.items() if value is not None})
    assert text in one(posed, "warning", "flips")[0]


def test_zeros_without_visibility_are_a_place(posed):
    write_yaml(posed / "data.yaml", {**POSE, "kpt_shape": [2, 2]})
    for path in (posed / "labels").rglob("*.txt"):
        path.write_text("0 .5 .5 .4 .4 .4 .5 .6 .5\n1 .3 .3 .2 .4 .25 .3 .35 .3\n")
    (posed / "labels/val/v.txt").write_text("0 .5 .5 .4 .4 .4 .5 0 0\n")
    assert one(posed, "warning", "keypoint at 0 0") == ("val: images/val/v.png: cat: keypoint right of object 1",)


def test_rows_and_keys_that_cannot_be_read(posed, capsys):
    (posed / "labels/val/v.txt").write_text("0 .5 .5 .4 .4\n0 .5 .5 .4 .4 .4 .5 -3 .6 .5 1\n")
    write_yaml(posed / "data.yaml", {**POSE, "flip_idx": [1, 1]})
    assert main(["doctor", f"data={posed / 'data.yaml'}", "task=pose"]) == 1
    text = capsys.readouterr().out
    assert "flip_idx: [1, 1] is not each of 0 to 1 once" in text
    assert "labels/val/v.txt:1: 5 columns; expected 11" in text and "labels/val/v.txt:2: v0 = -3 is negative" in text
    assert "keypoints: 1 label rows without the keypoints that kpt_shape announces" in text


def test_a_dataset_without_keypoints_is_said_to_have_none(posed, capsys):
    write_yaml(posed / "data.yaml", MINIMAL)
    assert main(["doctor", f"data={posed / 'data.yaml'}", "task=pose"]) == 1
    assert "has no kpt_shape" in capsys.readouterr().out
    write_yaml(posed / "data.yaml", {**MINIMAL, "kpt_shape": [2, 4]})
    assert main(["doctor", f"data={posed / 'data.yaml'}", "task=pose"]) == 1
    shown = capsys.readouterr().out
    assert "kpt_shape: [2, 4]; expected" in shown and "has no kpt_shape" not in shown
