"""Scripts as tutorials have them, in which only the import was changed: run whole, in a folder with a small dataset."""

from __future__ import annotations

import csv
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.coloured import lay_out
from tests.helpers.paths import TESTS

SCRIPTS = TESTS / "scripts"
UNTYPED = sorted(path for path in SCRIPTS.glob("*.py") if path.stem != "typed_client")
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder in which train_and_plot.py has run, and what it left in its variables."""
    folder = tmp_path_factory.mktemp("scripts")
    lay_out(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, runpy.run_path(str(SCRIPTS / "train_and_plot.py"))


@pytest.fixture()
def here(trained, tmp_path, monkeypatch):
    """A folder with its best weights as best.pt, and all pictures of the dataset as images/."""
    folder, _ = trained
    shutil.copy(folder / "runs/detect/shapes/weights/best.pt", tmp_path / "best.pt")
    (tmp_path / "images").mkdir()
    for split in ("train", "val"):
        for path in (folder / f"data/images/{split}").iterdir():
            shutil.copy(path, tmp_path / f"images/{split}{path.name}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def truth(folder: Path, image: str) -> tuple[int, list[float]]:
    """Class and corners in pixels of the one object of a picture such as val0.png, from its label file."""
    split, number = re.fullmatch(r"(train|val)(\d+)\.png", image).groups()
    cls, cx, cy, w, h = map(float, (folder / f"data/labels/{split}/{number}.txt").read_text().split())
    return int(cls), [(cx - w / 2) * 64, (cy - h / 2) * 48, (cx + w / 2) * 64, (cy + h / 2) * 48]


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    sides = [min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1)]
    inner = max(sides[0], 0) * max(sides[1], 0)
    return inner / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - inner)


def test_train_and_plot(trained):
    folder, left = trained
    map50 = left["results"].box.map50
    assert map50 > 0.5 and left["metrics"].box.map50 == pytest.approx(map50, abs=1e-6)
    assert [row["epoch"] for row in left["rows"]] == list(range(1, 41)) and max(left["curve"]) > 0.5
    assert left["model"].names == dict(enumerate(COLOURS))
    for index in range(4):
        with (
            Image.open(folder / f"results{index}.jpg") as picture,
            Image.open(folder / f"data/images/val/{index}.png") as plain,
        ):
            assert picture.size == plain.size
            changed = np.abs(np.asarray(picture, int) - np.asarray(plain.convert("RGB"), int)).max(2) > 60
            assert changed.sum() > 20  # a box is drawn in


def test_batch_to_csv(trained, here):
    runpy.run_path(str(SCRIPTS / "batch_to_csv.py"))
    with open("detections.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    detections: dict[str, list] = {}
    for row in rows:
        assert row["class"] in COLOURS and 0.25 < float(row["confidence"]) <= 1
        assert (row["width"], row["height"]) == ("64", "48")
        detections.setdefault(row["image"], []).append(
            (row["class"], [float(row[key]) for key in ("x1", "y1", "x2", "y2")])
        )
    hits = 0
    for image in sorted(path.name for path in Path("images").iterdir()):
        cls, box = truth(trained[0], image)
        hits += any(name == COLOURS[cls] and overlap(box, other) > 0.5 for name, other in detections.get(image, ()))
    assert hits >= 9  # of 14


def test_stream_loop(here):
    left = runpy.run_path(str(SCRIPTS / "stream_loop.py"))
    assert left["frames"] == 12 and sum(left["counts"].values()) >= 9 and set(left["counts"]) == set(COLOURS)
    pictures = sorted(Path("frames").glob("*.jpg"))
    assert 7 <= len(pictures) <= 12 and left["frame"].shape == (48, 64, 3)
    lines = [line.split() for line in Path("frames/labels.txt").read_text().splitlines()]
    assert len(lines) == sum(left["counts"].values())
    assert all(len(line) == 6 and 0 <= float(line[5]) <= 1 for line in lines)


@pytest.mark.parametrize("path", sorted((TESTS / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_measurements_import_names_that_exist(path, monkeypatch):
    """Nothing is measured: measurements are run by hand."""
    monkeypatch.chdir(TESTS.parent)
    runpy.run_path(str(path), run_name="imported")


@pytest.mark.parametrize("path", UNTYPED, ids=lambda path: path.stem)
def test_scripts_import_nothing_of_ours_but_the_model(path):
    lines = path.read_text().splitlines()
    assert [line for line in lines if "bitfalcon" in line] == ["from bitfalcon_plugin import YOLO"]
