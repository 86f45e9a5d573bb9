"""Runs of every task over images that cannot be decoded: they go on, and resumed ones end with equal weights."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from tests.helpers import classed
from tests.helpers.bad_images import png_of_few_rows
from tests.helpers.small_runs import COMMON, GRAPHS, LAY_OUT, last, same, weights

SETTINGS = {**COMMON, "epochs": 2, "batch": 2, "close_mosaic": 0, "scale": "n"}


def damage(path: Path) -> None:
    """Make a file undecodable in a way that a scan does not see."""
    from PIL import Image

    with Image.open(path) as image:
        size = image.size
    path.write_bytes(png_of_few_rows(size))


@pytest.fixture(params=[*GRAPHS, "classify"])
def run(request, tmp_path, monkeypatch):
    """Arguments of a training whose dataset has a bad training image and a bad validation image."""
    monkeypatch.chdir(tmp_path)
    if request.param == "classify":
        classed.lay_out(tmp_path)
        damage(Path("data/train/green/green1.png"))
        damage(Path("data/val/red/red0.png"))
        return "small-cls.yaml", {**SETTINGS, "data": "data", "imgsz": 32}
    LAY_OUT[request.param](tmp_path)
    damage(Path("data/images/train/3.png"))
    damage(Path("data/images/val/1.png"))
    return GRAPHS[request.param], {**SETTINGS, "mixup": 0.5}


def test_a_run_goes_on_and_a_resumed_one_ends_with_the_same_weights(run, capsys):
    graph, settings = run
    YOLO(graph).train(name="whole", **settings)
    err = capsys.readouterr().err
    names = ("green1.png", "red0.png") if "cls" in graph else ("train/3.png", "val/1.png")
    for name in names:
        assert sum(name in line for line in err.splitlines()) == 1
    assert "training images could not be read" in err and "validation images could not be read" in err
    assert "Traceback" not in err
    cut = YOLO(graph)
    cut.add_callback(
        "on_train_batch_end",
        lambda trainer: os.kill(os.getpid(), signal.SIGTERM) if (trainer.epoch, trainer.batch) == (1, 2) else None,
    )
    with pytest.raises(SystemExit):
        cut.train(name="cut", **settings)
    assert main(["train", f"resume={last('cut')}"]) == 0
    assert same(weights("whole"), weights("cut"))


def test_val_leaves_a_bad_image_out_and_stops_where_it_is_told_to(run, capsys):
    graph, settings = run
    YOLO(graph).train(name="r", **{**settings, "epochs": 1})
    words = ["val", f"model={last('r')}", f"data={settings['data']}", f"imgsz={settings['imgsz']}", "batch=2"]
    words += ["plots=False", "device=cpu"]
    capsys.readouterr()
    bad = next(path for path in Path("data").rglob("*.png") if "val" in str(path) and path.stem in ("1", "red0"))
    shown = []
    for removed in (False, True):  # set aside when it is met, and not there at all
        if removed:
            bad.unlink()
        assert main(words) == 0
        captured = capsys.readouterr()
        shown.append([line for line in captured.out.splitlines() if line.split()[:1] == ["all"] or "0." in line])
        assert (bad.name in captured.err) is not removed
    numbers = [[line for line in lines if "Speed" not in line] for lines in shown]
    assert numbers[0] == numbers[1] and numbers[0]
    damage_another(settings)
    assert main([*words, "on_bad_image=stop"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def damage_another(settings: dict) -> None:
    damage(next(path for path in sorted(Path("data").rglob("*.png")) if "val" in str(path)))


def test_weights_follow_only_from_the_images_that_can_be_read(tmp_path, monkeypatch):
    """What the bad file holds changes nothing; that it is bad does."""
    monkeypatch.chdir(tmp_path)
    LAY_OUT["detect"](tmp_path)
    found = []
    for content in (None, png_of_few_rows((64, 48)), png_of_few_rows((64, 48))[:-4]):
        if content:
            Path("data/images/train/3.png").write_bytes(content)
        YOLO("small.yaml").train(name=f"r{len(found)}", **{**SETTINGS, "epochs": 1, "val": False})
        found.append(weights(f"r{len(found)}"))
    assert not same(found[0], found[1])
    assert torch.isfinite(found[1]["model.0.conv.weight"]).all()
