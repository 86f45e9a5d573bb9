"""The self-test: its settings, what it refuses, its verdict. The training itself, which takes minutes, is replaced."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from bitfalcon_plugin.benchmark import selftest
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.files import cfg_dir
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data import shape_classes, shapes
from bitfalcon_plugin.tasks import TASKS

SMALL = """nc: 4
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[2, 3], 1, Detect, [nc]]
"""


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Replace the training by a stub that records its settings and returns `numbers`; set a temporary folder."""
    seen = SimpleNamespace(settings=None, images=0, numbers={"AP50": 0.7, "Masks AP50": 0.7, "top-1": 0.9})

    def train(settings, checkpoint):
        assert checkpoint is None
        seen.settings, data = settings, Path(settings.data)
        folder = data.parent / "images/train" if data.is_file() else data / "train"
        seen.images = len([path for path in folder.rglob("*") if path.is_file()])
        Path(settings.project, settings.name).mkdir(parents=True)
        return SimpleNamespace(metrics=SimpleNamespace(headline=seen.numbers))

    monkeypatch.setattr(selftest, "run_train", train)
    monkeypatch.setattr(shapes, "COUNTS", {"train": 2, "val": 1})  # drawing all of them takes seconds
    monkeypatch.setattr(shape_classes, "COUNTS", {"train": 2, "val": 1})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    return seen


@pytest.mark.parametrize(
    "task, model, data, images, imgsz",
    [
        ("detect", "yolov12.yaml", "shapes.yaml", 2, 320),
        ("segment", "yolov12-seg.yaml", "shapes-seg.yaml", 2, 320),
        ("classify", "yolov12-cls.yaml", "shapes-cls.yaml", 8, 64),
    ],
)
def test_what_is_trained(trained, task, model, data, images, imgsz):
    selftest.run_selftest(load_settings({"mode": "selftest", "task": task}))
    settings = trained.settings
    assert (settings.model, settings.model_scale, settings.imgsz, settings.epochs, settings.mode) == (
        model,
        "n",
        imgsz,
        45,
        "train",
    )
    suited = yaml.safe_load((cfg_dir() / "datasets" / data).read_text())["settings"]
    assert {key: getattr(settings, key) for key in suited} == {**suited, "epochs": 45}
    assert trained.images == images and settings.pretrained is True and not settings.resume


@pytest.mark.parametrize("name", ["detect", "segment", "classify", "pose", "obb"])
def test_a_task_has_numbers_to_reach(name):
    """The runs of one real epoch below show that these are numbers of its metrics."""
    assert TASKS[name].expected and all(0 < least < 1 for least in TASKS[name].expected.values())


def test_a_task_without_numbers_to_reach_has_no_self_test(trained, monkeypatch):
    monkeypatch.setitem(TASKS, "segment", replace(TASKS["segment"], expected={}))
    with pytest.raises(UserError, match="task=segment has no self-test; .*detect"):
        selftest.run_selftest(load_settings({"task": "segment"}))


@pytest.mark.parametrize(
    ("ap50", "code", "word"),
    [(0.65, 0, "PASS"), (0.9, 0, "PASS"), (0.6499, 1, "FAIL"), (0.0, 1, "FAIL"), (float("nan"), 1, "FAIL")],
)
def test_the_verdict_is_the_exit_code(trained, capsys, ap50, code, word):
    trained.numbers["AP50"] = ap50
    assert main(["selftest", "device=cpu", "epochs=7", "seed=3"]) == code
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{word}: AP50 {ap50:.3f} (at least 0.65 is expected); ")
    assert "yolov12 n at 320 px on shapes, 7 epochs from scratch, on cpu (" in line and line.endswith(" s")
    assert (trained.settings.epochs, trained.settings.seed, trained.settings.device) == (7, 3, "cpu")


def test_one_number_that_is_not_reached_is_enough_to_fail(trained, capsys):
    assert main(["selftest", "task=segment", "device=cpu"]) == 0
    trained.numbers["Masks AP50"] = 0.5
    assert main(["selftest", "task=segment", "device=cpu"]) == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("FAIL: AP50 0.700 (at least 0.65 is expected), Masks AP50 0.500 (at least 0.6 is")
    assert "yolov12-seg n at 320 px" in line


def test_nothing_is_left_behind_unless_asked_for(trained, tmp_path):
    selftest.run_selftest(load_settings({}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["temporary"]  # no cache either
    assert list((tmp_path / "temporary").iterdir()) == []
    selftest.run_selftest(load_settings({"project": str(tmp_path / "kept"), "name": "here"}))
    assert (tmp_path / "kept/here").is_dir() and list((tmp_path / "temporary").iterdir()) == []


def test_the_folder_goes_when_the_training_fails(trained, monkeypatch, tmp_path):
    def fail(settings, checkpoint):
        raise MemoryError

    monkeypatch.setattr(selftest, "run_train", fail)
    with pytest.raises(MemoryError):
        selftest.run_selftest(load_settings({}))
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_would_make_it_another_test_is_refused(trained):
    with pytest.raises(UserError, match="epochs=, device=.* but not batch=, data="):
        selftest.run_selftest(load_settings({"data": "x.yaml", "batch": 2, "epochs": 3}))
    assert trained.settings is None


def test_a_script_gets_the_verdict(trained):
    assert selftest.run_selftest(load_settings({})).passed


@pytest.mark.parametrize(
    "task, head", [("detect", "Detect, [nc]"), ("segment", "Segment, [nc, 8, 16]"), ("classify", "Classify, [nc]")]
)
def test_one_real_epoch(monkeypatch, tmp_path, capsys, task, head):
    """The whole path with a small graph and a handful of small images; far from enough to pass."""
    graph = SMALL.replace("Detect, [nc]", head)
    graph = graph.replace("[[2, 3], 1, Classify", "[-1, 1, Classify")
    (tmp_path / "small.yaml").write_text(graph)
    monkeypatch.setattr(selftest, "model_for_task", lambda model, name: str(tmp_path / "small.yaml"))
    monkeypatch.setattr(selftest, "RUN", {key: selftest.RUN[key] for key in selftest.RUN if key != "model_scale"})
    monkeypatch.setattr(shapes, "COUNTS", {"train": 4, "val": 2})
    monkeypatch.setattr(shape_classes, "COUNTS", {"train": 2, "val": 1})
    monkeypatch.chdir(tmp_path)
    assert main(["selftest", f"task={task}", "device=cpu", "epochs=1", f"project={tmp_path / 'kept'}"]) == 1
    assert f"FAIL: {next(iter(TASKS[task].expected))} 0." in capsys.readouterr().out
    assert (tmp_path / "kept/selftest/weights/best.pt").is_file()
    assert yaml.safe_load((tmp_path / "kept/selftest/args.yaml").read_text())["epochs"] == 1
