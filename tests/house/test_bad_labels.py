"""Wrong keys and rows of datasets of poses and oriented boxes: exit code 2, one message, with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bitfalcon_plugin.cli import main
from tests.helpers.small_runs import LAY_OUT, command

KEYS = {
    "kpt_shape a number": ({"kpt_shape": 2}, "kpt_shape: 2; expected [number of keypoints, 2 (x y) or 3"),
    "kpt_shape of one": ({"kpt_shape": [2]}, "kpt_shape: [2]; expected"),
    "kpt_shape of four columns": ({"kpt_shape": [2, 4]}, "kpt_shape: [2, 4]; expected"),
    "kpt_shape of no point": ({"kpt_shape": [0, 3]}, "kpt_shape: [0, 3]; expected"),
    "kpt_shape of text": ({"kpt_shape": ["2", 3]}, "kpt_shape: ['2', 3]; expected"),
    "no kpt_shape": ({"kpt_shape": None}, "has no kpt_shape, and a model of task=pose needs one: how many keypoints"),
    "flip_idx too short": ({"flip_idx": [0]}, "flip_idx: [0] is 1 indices; expected the 2 indices 0 to 1"),
    "flip_idx twice": ({"flip_idx": [1, 1]}, "flip_idx: [1, 1] is not each of 0 to 1 once"),
    "flip_idx beyond": ({"flip_idx": [1, 2]}, "flip_idx: [1, 2] is not each of 0 to 1 once"),
    "flip_idx of names": ({"flip_idx": ["right", "left"]}, "is not a list of whole numbers"),
    "flip_idx a number": ({"flip_idx": 1}, "is not a list of whole numbers"),
    "too few names": (
        {"kpt_names": {0: ["left"]}},
        "kpt_names: {0: ['left']}; expected for each class, 0 to 1, a list",
    ),
    "a sigma of 0": ({"kpt_oks_sigmas": [0.1, 0]}, "kpt_oks_sigmas: [0.1, 0]; expected 2 numbers above 0"),
    "a limb beyond": ({"skeleton": [[0, 2]]}, "skeleton: [[0, 2]]; expected pairs of keypoints"),
}
POINTS = "0.4 0.5 2 0.6 0.5"  # without the last visibility
ROWS = {
    "pose": {
        "0 0.5 0.5 0.4 0.4": "5 columns; expected 11: `class cx cy w h` and 2 keypoints `x y visibility`",
        "0 0.5 0.5 0.4 0.4 0.4 0.5 0.6 0.5": "these keypoints have no visibility: set kpt_shape: [2, 2]",
        f"0 0.5 0.5 0.4 0.4 {POINTS} 2 0.5 0.5 2": "these would be 3 keypoints",
        f"0 0.5 0.5 0.4 0.4 {POINTS} x": "'x' where a finite number is expected",
        f"0 0.5 0.5 0.4 0.4 {POINTS} -1": "v1 = -1 is negative; expected 0 (not labelled), 1 (hidden) or 2 (visible)",
        "0 0.5 0.5 0.4 0.4 40 0.5 2 0.6 0.5 2": "x0 = 40 is outside the image; expected a share of its side, 0 to 1",
        f"2 0.5 0.5 0.4 0.4 {POINTS} 2": "class 2 is outside 0 to 1 (the dataset names 2 classes)",
        f"0 0.5 0.5 -0.4 0.4 {POINTS} 2": "w = -0.4 is negative",
    },
    "obb": {
        "0 0.5 0.5 0.4 0.4": "is an upright box; an oriented box is written as its four corners",
        "0 0.5 0.5 0.4 0.4 0.7": "look like a centre, a size and an angle; an oriented box is written as its four",
        "0 0.1 0.1 0.4 0.1 0.4 0.3 0.1": "8 columns in '0 0.1 0.1 0.4 0.1 0.4 0.3 0.1'; an oriented box is",
        "0 0.1 0.1": "3 columns in '0 0.1 0.1'; an oriented box is written as its four corners",
        "0 0.1 0.1 0.4 0.1 0.4 0.3 0.1 nan": "'nan' where a finite number is expected",
        "0 10 10 40 10 40 30 10 30": "x1 = 10, y1 = 10 and 6 more are outside the image; expected shares of its sides",
        "5 0.1 0.1 0.4 0.1 0.4 0.3 0.1 0.3": "class 5 is outside 0 to 2 (the dataset names 3 classes)",
        "0.5 0.1 0.1 0.4 0.1 0.4 0.3 0.1 0.3": "class 0.5 is not a whole number",
        "0,0.1,0.1,0.4,0.1,0.4,0.3,0.1,0.3": "1 column in '0,0.1,0.1,0.4,0.1,0.4,0.3,0.1,0.3'; an oriented box",
    },
}


def refused(capsys, task: str) -> str:
    """The message of a training that ends with exit code 2 before it began."""
    assert main([*command(task), "epochs=1"]) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1 and "Traceback" not in error and not list(Path("runs").rglob("*.pt"))
    return error


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", KEYS)
def test_keys_about_keypoints(place, capsys, case):
    keys, message = KEYS[case]
    LAY_OUT["pose"](place)
    path = Path("data/data.yaml")
    document = {**yaml.safe_load(path.read_text()), **keys}
    path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
    error = refused(capsys, "pose")
    assert message in error and "data.yaml" in error


@pytest.mark.parametrize(("task", "row"), [(task, row) for task, rows in ROWS.items() for row in rows])
def test_rows(place, capsys, task, row):
    LAY_OUT[task](place)
    with open("data/labels/train/3.txt", "a") as file:
        file.write(f"{row}\n")
    error = refused(capsys, task)
    assert f"{Path('labels/train/3.txt')}:2: " in error and ROWS[task][row] in error
