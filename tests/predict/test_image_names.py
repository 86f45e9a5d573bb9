"""Ids and file names of images: their rules, and that predict and val follow the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.predict.image_names import file_stems, image_ids, task1_images
from bitfalcon_plugin.predict.run import run_predict
from bitfalcon_plugin.val import run as measuring
from tests.helpers.finder import BrightBoxes, measure_without_losses, painted


@pytest.mark.parametrize(
    "paths, expected",
    [
        (["a/000000000139.jpg", "b/x.jpg", "a/1e3.jpg", "a/-5.jpg", "a/²3.jpg"], [139, "x", "1e3", "-5", "²3"]),
        (["d/a/1.jpg", "d/b/01.jpg", "d/b/2.jpg"], ["a/1", "b/01", 2]),  # 1 and 01 are the same number
        (["d/a/x.jpg", "d/a/x.png", "d/y.v1.jpg"], ["a/x.jpg", "a/x.png", "y.v1"]),
    ],
)
def test_image_ids(paths, expected, capsys):
    assert image_ids([Path(path) for path in paths]) == image_ids(paths) == expected
    assert ("same name" in capsys.readouterr().err) == (
        len({Path(path).stem.lstrip("0") for path in paths}) < len(paths)
    )


def test_file_stems_are_given_once():
    paths = ["1/a.png", "2/a-2.png", "3/a.jpg", "4/A.png", "5/b.png", "6/a.v.png", "7/a.png", "8/a-2.png"]
    stems = ["a", "a-2", "a-3", "A-4", "b", "a.v", "a-5", "a-2-2"]
    assert file_stems(paths) == stems
    assert file_stems(paths[::-1]) == stems[::-1]  # whatever the order of the images
    assert len({*file_stems(["x.png"] * 5000)}) == 5000


def test_a_path_that_is_given_twice_has_two_image_ids():
    assert image_ids(["d/5.png", "d/5.png", "d/5.jpg", "d/a.png"]) == ["5.png", "5.png-2", "5.jpg", "a"]
    assert image_ids([]) == []


def test_task1_files_have_the_names_of_the_images():
    paths = ["a/0001.png", "a/0002__640__0___0.png"]
    assert task1_images(paths, image_ids(paths)) == ["0001", "0002__640__0___0"]
    paths.append("b/0001.png")
    assert task1_images(paths, image_ids(paths)) == ["a/0001", "0002__640__0___0", "b/0001"]


def test_predict_and_val_name_images_alike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measure_without_losses(monkeypatch)
    for index, name in enumerate(("day/x", "day/7", "day/y", "night/X", "night/x", "night/07", "night/12")):
        painted(tmp_path / f"data/images/{name}.png", (64, 48), [(index % 3, 8, 8, 24 + 2 * index, 40)])
        label = tmp_path / f"data/labels/{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"{index % 3} 0.5 0.5 0.2 0.2\n")
    keys = {"train": "images", "val": "images", "names": ["red", "green", "blue"]}
    (tmp_path / "data/data.yaml").write_text(yaml.safe_dump(keys))
    given = {"imgsz": 64, "save_json": True, "save_txt": True, "plots": False, "verbose": False}
    measuring.run_val(BrightBoxes(), load_settings({"mode": "val", "data": "data/data.yaml", **given}))
    settings = load_settings({"mode": "predict", "save": False, **given})
    list(run_predict(BrightBoxes(), settings, ["data/images/night", "data/images/day"], False))

    runs = [Path("runs/detect/val"), Path("runs/detect/predict")]
    validated, predicted = (json.loads((run / "predictions.json").read_text()) for run in runs)
    validated, predicted = ({row["image_id"]: row for row in rows} for rows in (validated, predicted))
    assert validated.keys() == predicted.keys() == {"day/x", "night/x", "day/7", "night/07", "y", "X", 12}
    for key, row in validated.items():
        assert row["category_id"] == predicted[key]["category_id"] and predicted[key]["file_name"].endswith(".png")
        assert row["bbox"] == pytest.approx(predicted[key]["bbox"], abs=0.02)
    first, second = ({path.name: np.loadtxt(path) for path in (run / "labels").iterdir()} for run in runs)
    assert first.keys() == {"x.txt", "X-2.txt", "x-3.txt", "7.txt", "07.txt", "y.txt", "12.txt"}
    assert first.keys() == second.keys()
    for name, numbers in first.items():
        assert numbers == pytest.approx(second[name], abs=1e-4)
