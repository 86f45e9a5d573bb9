"""Validation in tiles: painted scenes whose objects lie across the borders of tiles, for each task with objects."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec

import pytest
import torch
import yaml
from PIL import Image

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data import large
from bitfalcon_plugin.data.from_settings import find_data
from bitfalcon_plugin.ops.rotated import corners_of
from bitfalcon_plugin.predict import reader
from bitfalcon_plugin.tasks import TASKS
from bitfalcon_plugin.val.run import run_val, validate_samples
from tests.helpers.bad_images import CHANGES
from tests.helpers.coloured import save_example
from tests.helpers.components import Components
from tests.predict.test_tiled import BARS, OBJECTS, SIZE, harbour, scene

QUIET = {"verbose": False, "batch": 3, "data": "data/data.yaml", "task": "detect"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bitfalcon_plugin.plots.figure.DPI", 40)
    return tmp_path


def label(task: str, cls: int, x1: float, y1: float, x2: float, y2: float) -> str:
    """The label of a rectangle whose pixels begin at x1, y1 and end before x2, y2."""
    h, w = SIZE
    if task == "segment":
        return f"{cls} {x1 / w} {y1 / h} {x2 / w} {y1 / h} {x2 / w} {y2 / h} {x1 / w} {y2 / h}"
    box = f"{cls} {(x1 + x2) / 2 / w} {(y1 + y2) / 2 / h} {(x2 - x1) / w} {(y2 - y1) / h}"
    return f"{box} {x1 / w} {y1 / h} 2 {(x2 - 1) / w} {y1 / h} 2" if task == "pose" else box


def lay_out(folder, task: str, small: int = 0) -> None:
    """Write data/ with a scene, and `small` images of one tile."""
    if task == "obb":
        rows = []
        for number, (x, y, w, h, angle) in enumerate(BARS):
            corners = corners_of(torch.tensor([x, y, w + 1, h + 1, angle])).tolist()  # Pillow draws the border too
            rows.append(f"{number % 3} " + " ".join(f"{a / SIZE[1]} {b / SIZE[0]}" for a, b in corners))
        text, image = "\n".join(rows), harbour()
    else:
        text, image = "\n".join(label(task, *each) for each in OBJECTS), scene()
    save_example(folder, "val", 0, Image.fromarray(image[..., ::-1]), text)
    for index in range(small):
        patch = Image.new("RGB", (96, 64), (114, 114, 114))
        patch.paste((255, 0, 0), (10, 10, 50, 40))
        save_example(folder, "val", index + 1, patch, f"0 {30 / 96} {25 / 64} {40 / 96} {30 / 64}")
    keys = {"kpt_shape": [2, 3], "flip_idx": [1, 0], "kpt_oks_sigmas": [0.1, 0.1]} if task == "pose" else {}
    names = {"train": "images/val", "val": "images/val", "names": ["red", "green", "blue"]}
    (folder / "data/data.yaml").write_text(yaml.safe_dump({**names, **keys}))


def val(task: str = "detect", model=None, **keys):
    given = {**QUIET, "mode": "val", "task": task, "imgsz": 128, "tile": 128, "overlap": 0.4, **keys}
    return run_val(model or Components(task), load_settings(given))


@pytest.mark.parametrize("task, least", [("detect", 0.99), ("segment", 0.99), ("pose", 0.99), ("obb", 0.7)])
def test_scenes_are_measured_in_tiles(folder, capsys, task, least):
    lay_out(folder, task)
    metrics = val(task, plots=True, save_json=True)
    assert metrics.ap50 > 0.99 and metrics.ap >= least and metrics.losses is None
    run = next((folder / f"runs/{task}").iterdir())
    records = json.loads((run / "predictions.json").read_text())
    assert len(records) == (len(BARS) if task == "obb" else len(OBJECTS))
    charts = {"confusion_matrix.png"} if find_spec("matplotlib") else set()
    assert {"worst.csv", "val_batch0_pred.jpg", *charts} <= {path.name for path in run.iterdir()}
    assert min(metrics.speed[stage] for stage in ("preprocess", "inference", "postprocess")) > 0
    if task == "segment":
        assert metrics.mask_stats["AP50"] > 0.99 and {tuple(each["segmentation"]["size"]) for each in records} == {SIZE}
    matrix = metrics.confusion_matrix.matrix
    assert matrix[:3, :3].diagonal().sum() == matrix.sum()


def test_images_of_one_tile_are_measured_as_without_tiles(folder):
    lay_out(folder, "detect", small=3)
    (folder / "data/images/val/0.png").unlink()
    tiled, plain = val(plots=False), val(plots=False, tile=None, model=WithoutLosses())
    assert str(tiled.stats) == str(plain.stats)  # some are nan
    assert (tiled.confusion_matrix.matrix == plain.confusion_matrix.matrix).all()


def test_masks_are_drawn_where_the_objects_are(folder, monkeypatch):
    lay_out(folder, "segment")
    sheets = []

    def sheet(pixels, *arguments, overlays, **keys):
        sheets.append((pixels, overlays[0].masks))
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("bitfalcon_plugin.val.pictures.batch_sheet", sheet)
    val("segment", plots=True)
    (pixels, labels), (_, found) = sheets
    assert found.shape == labels.shape == (len(OBJECTS), 1280, 1280)
    together = found.any(0) & labels.any(0)
    assert together.sum() > 0.98 * labels.any(0).sum() and together.sum() > 0.98 * found.any(0).sum()


class WithoutLosses(Components):
    """Says that it was exported, so that no losses are computed."""

    exported = True


def test_small_images_are_measured_beside_large_ones(folder):
    lay_out(folder, "detect", small=2)
    model = Components()
    metrics = val(model=model, plots=True)
    assert metrics.images == 3 and metrics.instances == len(OBJECTS) + 2 and metrics.ap50 > 0.99
    assert {shape[0] for shape in model.seen} == {3, 2}  # 20 tiles, three at once; both small images


@pytest.mark.parametrize("change", ["PNG of few rows", "removed", "another size"])
def test_an_image_that_breaks_is_left_out(folder, capsys, change):
    lay_out(folder, "detect", small=3)
    (folder / "data/images/val/0.png").unlink()
    others = val(plots=False)
    lay_out(folder, "detect", small=3)
    form = TASKS["detect"].data
    samples = form.scan(*find_data(load_settings({**QUIET, "mode": "val"}), form)[:1], "val", load_settings(QUIET))
    CHANGES[change](folder / "data/images/val/0.png")
    settings = load_settings({**QUIET, "mode": "val", "imgsz": 128, "tile": 128, "overlap": 0.4})
    validator, found = validate_samples(Components("detect"), samples.samples, settings)
    assert str(validator.metrics.stats) == str(others.stats) and len(found.samples) == 3
    assert "0.png" in (err := capsys.readouterr().err) and "1 of 4 validation images" in err


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_large_files_are_read_by_windows(folder, monkeypatch, task):
    lay_out(folder, task)
    before = val(task, plots=False)
    picture = folder / "data/images/val/0.png"
    Image.open(picture).save(picture.with_suffix(".bmp"))
    picture.unlink()
    for module in (large, reader):
        monkeypatch.setattr(module, "LARGE", 1000)
    monkeypatch.setattr("bitfalcon_plugin.data.images.MAX_PIXELS", 1000)
    monkeypatch.setattr(large, "read_upright", None)
    after = val(task, plots=True)
    assert str(after.stats) == str(before.stats)  # some are nan


def test_what_tiles_do_not_go_with_is_said(folder, capsys):
    lay_out(folder, "detect")
    metrics = val(letterbox_ap=True, plots=False)
    assert "letterbox_ap=True has no effect with tile=128" in capsys.readouterr().err and math.isfinite(metrics.ap)
    assert metrics.letterbox is None


def test_one_class_for_all(folder):
    lay_out(folder, "detect")
    assert val(single_cls=True, plots=False).ap50 > 0.99
