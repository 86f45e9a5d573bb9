"""`--json`: stdout is exactly one JSON document, and what is said besides goes to stderr."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import bitfalcon_plugin.benchmark.run as benchmark
from bitfalcon_plugin.benchmark.trial import Trial
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.json_output import plain
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.exports import tiny_classify
from tests.helpers.foreign import write
from tests.helpers.paths import ROOT
from tests.helpers.small_yolo import save_weights
from tests.models.test_conformance import VECTORS, foreign_state


def strict(text: str) -> object:
    """A document of standard JSON: without NaN, and nothing before or after it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(name))


def document(capsys, line: str, code: int = 0) -> dict:
    capsys.readouterr()
    assert main(line.split()) == code
    return strict(capsys.readouterr().out)


VAL = "data=data/data.yaml imgsz=64 device=cpu workers=0 plots=False"


@pytest.mark.parametrize("switch", ["--json", "json=True", "json"])
def test_val(place, capsys, switch):
    save_weights(place, "best.pt")
    content = document(capsys, f"val best.pt {VAL} {switch}")
    assert 0 <= content["metrics"]["metrics/mAP50-95(B)"] <= 1 and set(content["speed_ms"])
    assert content["coco"]["AP"] == pytest.approx(content["metrics"]["metrics/mAP50-95(B)"])
    assert content["images"] == 4 and content["per_class"] and content["save_dir"] is None


def test_info_of_a_graph_our_weights_and_those_of_others(place, capsys):
    save_weights(place, "best.pt", license="CC0", metrics={"a": math.nan})
    ours = document(capsys, "info best.pt --json")
    assert (ours["kind"], ours["licence"], ours["task"], ours["classes"]) == ("checkpoint", "CC0", "detect", 3)
    assert ours["parameters"] == sum(row["parameters"] for row in ours["rows"]) and ours["metrics"] == {"a": None}
    graph = document(capsys, "info small.yaml scale=s --json")
    assert graph["kind"] == "graph" and graph["scale"] == "s" and graph["parameters"] > ours["parameters"]
    state = foreign_state(VECTORS["checkpoint-v1-n-released-layout"], True)
    theirs = document(capsys, f"info {write(place / 'theirs.pt', state, license='AGPL-3.0')} --json")
    assert (theirs["family"], theirs["scale"], theirs["licence"]) == ("v1", "n", "AGPL-3.0")


def test_info_of_an_export(place, capsys):
    save_weights(place, "best.pt")
    assert main("export best.pt format=torchscript imgsz=64 device=cpu".split()) == 0
    content = document(capsys, "info best.torchscript --json")
    assert content["format"] == "torchscript" and content["imgsz"] == [64, 64] and content["task"] == "detect"


def test_doctor(place, capsys):
    content = document(capsys, "doctor data=data/data.yaml --json")
    assert content["exit_code"] == 0 and set(content["splits"]) == {"train", "val"} and "findings" in content
    (place / "data/labels/train/0.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    assert document(capsys, "doctor data=data/data.yaml --json", 1)["exit_code"] == 1


def test_benchmark(place, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "ROUNDS", 2)
    monkeypatch.setattr(benchmark, "WARMUP", 0)
    monkeypatch.setattr(benchmark, "run_trial", lambda *_: Trial(1.0, 0.5, 0.25, 0.1, 123_000_000))
    save_weights(place, "best.pt")
    content = document(capsys, "benchmark best.pt format=torch imgsz=64 device=cpu batch=1 plots=False --json")
    assert content["rows"][0]["name"].startswith("torch") and content["rows"][0]["latency"]


def test_checks_and_commands_without_settings(capsys):
    content = document(capsys, "checks --json")
    assert content["bitfalcon"] and content["unmet"] == 0 and "Python" in content


@pytest.mark.parametrize("line", ["val none.pt --json", "info --json mdel=x", "doctor --json", "--json info x y=z"])
def test_an_error_is_a_document_too(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    content = document(capsys, line, 2)
    assert content["exit_code"] == 2 and content["error"]


def test_the_lines_of_predict_stay_those_of_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main("predict none.pt source=x.jpg --json".split()) == 2 and capsys.readouterr().out == ""


def test_what_is_written_below_python_goes_to_stderr(tmp_path):
    """Libraries and processes write to the file descriptor itself."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom bitfalcon_plugin import cli\n"
        "class Result:\n    def as_dict(self):\n        return {'a': float('nan')}\n"
        "def verb(settings):\n    print('said'); os.write(1, b'low\\n'); os.system('echo child'); return Result()\n"
        "cli.VERBS['info'] = verb\nprint(cli.main(['info', '--json']))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert done.stdout.splitlines() == ['{"a": null}', "0"], done.stderr
    assert {"said", "low", "child"} <= set(done.stderr.splitlines())


@dataclass
class Point:
    x: float
    path: Path


def test_values_as_json_has_them():
    value = {1: Point(math.inf, Path("a")), "b": (np.float32(0.5), np.arange(2)), "c": {True}, "d": None}
    assert plain(value) == {"1": {"x": None, "path": "a"}, "b": [0.5, [0, 1]], "c": [True], "d": None}


def test_a_classifier(tmp_path, capsys, monkeypatch):
    from tests.helpers.class_folders import class_folders

    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "animals")
    from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint

    save_checkpoint("cls.pt", Checkpoint((model := tiny_classify(("cat", "dog"))).graph, model.state_dict()))
    content = document(capsys, "val cls.pt data=animals imgsz=64 device=cpu workers=0 plots=False --json")
    assert "metrics/accuracy_top1" in content["metrics"]
