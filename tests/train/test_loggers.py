"""What loggers are told of a run, also of a resumed one and of two processes, and that no run ends by its logger."""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path

import pytest

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.train import loggers
from bitfalcon_plugin.train.launch import launch
from bitfalcon_plugin.train.run import run_train
from tests.helpers import recorder
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.small_runs import quick_launch

QUICK = {
    "model": "small.yaml",
    "data": "data/data.yaml",
    "imgsz": 64,
    "batch": 4,
    "epochs": 2,
    "device": "cpu",
    "workers": 0,
    "plots": False,
    "verbose": False,
    "project": "runs",
    "name": "x",
}


@pytest.fixture()
def records(place, monkeypatch, tmp_path_factory) -> Path:
    """The file of the recorder, which is installed."""
    return recorder.install(tmp_path_factory.mktemp("recorder"), monkeypatch)


def train(**settings):
    return run_train(load_settings({"mode": "train", **QUICK, **settings}), None)


def test_a_logger_is_told_parameters_epochs_figures_and_the_best_weights(records, capsys):
    result = train(loggers="recorder")
    (_, start, project, name, id, parameters), *epochs, end = recorder.read(records)
    assert (start, project, name, id) == ("start", "runs", "x", "")
    assert parameters["epochs"] == 2 and parameters["graph"] == "small.yaml" and parameters["classes"] == 3
    assert [record[2] for record in epochs] == [1, 2]
    with open("runs/x/results.csv") as file:
        rows = list(csv.DictReader(file))
    for row, (_, _, _, numbers) in zip(rows, epochs, strict=True):
        assert numbers["train/box_loss"] == pytest.approx(float(row["train/box_loss"]), rel=1e-4)
        assert numbers["metrics/mAP50"] == pytest.approx(float(row["metrics/mAP50(B)"]), abs=1e-5)
        assert "lr/pg0" in numbers and "time" not in numbers
    assert end[1] == "end" and end[4] == "best.pt" and end[2]["fitness"] == pytest.approx(result.metrics.fitness)
    assert "recorder" not in capsys.readouterr().err


def test_nothing_is_logged_unless_it_is_named(records):
    train(epochs=1)
    assert not records.exists() and not list(Path("runs/x").glob("logger-*"))


def test_a_script_gives_a_list_and_its_own_functions_stay(records):
    seen = []
    model = YOLO("small.yaml")
    model.add_callback("on_fit_epoch_end", seen.append)
    model.train(**{key: value for key, value in QUICK.items() if key != "model"}, loggers=["Recorder"])
    assert len(seen) == 3 and len(recorder.read(records)) == 4
    assert [len(functions) for functions in model.callbacks.values() if functions] == [1]


def test_figures_are_told(records):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    train(epochs=1, loggers="recorder", plots=True)
    assert {"results.png", "labels.jpg", "val_batch0_pred.jpg"} <= set(recorder.read(records)[-1][3])


class Stop(Exception):
    pass


def test_a_resumed_run_goes_on_with_its_record_and_misses_no_epoch(records):
    def stop(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    model = YOLO("small.yaml")
    model.add_callback("on_train_epoch_start", stop)
    settings = {key: value for key, value in QUICK.items() if key != "model"}
    with pytest.raises(KeyboardInterrupt):
        model.train(**{**settings, "epochs": 4, "loggers": "recorder"})
    assert [record[1] for record in recorder.read(records)] == ["start", "epoch", "epoch", "end"]
    assert recorder.read(records)[-1][2:] == [{}, [], None]  # ended early
    Path("runs/x/logger-recorder.json").write_text('{"id": "number-1", "epochs": 1}')  # killed before it was told
    assert main(["train", "resume=runs/x"]) == 0
    after = recorder.read(records)[4:]
    assert after[0][1] == "start" and after[0][4] == "number-1"
    assert [record[2] for record in after[1:-1]] == [2, 3, 4] and after[-1][4] == "best.pt"


@pytest.mark.parametrize("method", ["start", "epoch", "end"])
@pytest.mark.parametrize("error", ["ConnectionError", "SystemExit"])
def test_a_logger_that_fails_is_one_line_and_the_run_goes_on(records, monkeypatch, capsys, method, error):
    monkeypatch.setenv("RECORDER_FAILS", method)
    monkeypatch.setenv("RECORDER_RAISES", error)
    assert train(loggers="recorder").best.is_file()
    lines = [line for line in capsys.readouterr().err.splitlines() if "recorder" in line]
    assert lines == [f"note: loggers=recorder failed and is left out: {error}: no server"]
    assert [record[1] for record in recorder.read(records)].count(method) == 1


@pytest.mark.parametrize("method", ["start", "end"])
def test_a_server_that_hangs_holds_no_run_up(records, monkeypatch, capsys, method):
    monkeypatch.setenv("RECORDER_FAILS", f"hang {method}")
    monkeypatch.setattr(loggers, "WAIT", 0.1)
    monkeypatch.setattr(loggers, "PATIENCE", 0.2)
    begin = time.perf_counter()
    assert train(epochs=1, loggers="recorder").best.is_file()
    assert time.perf_counter() - begin < 60
    lines = [line for line in capsys.readouterr().err.splitlines() if "recorder" in line]
    assert lines == [
        "note: loggers=recorder has not answered for 0 s: the run does not wait for it any more.",
        "note: loggers=recorder has not ended after 0 s: its record may be incomplete.",
    ]


@pytest.mark.parametrize(
    "value, message",
    [
        ("wandbb", "loggers=wandbb: there is no such logger; known are tensorboard, wandb, mlflow, clearml, comet"),
        ("mlflow,nothing", "loggers=nothing"),
        ("x y", "expected words with commas"),
        (3, "expected words with commas"),
    ],
)
def test_a_logger_that_does_not_exist_is_told_before_anything(place, capsys, value, message):
    assert main(["train", f"loggers={value}", "model=small.yaml", "data=data/data.yaml"]) == 2
    assert message in capsys.readouterr().err and not Path("runs").exists()


@pytest.mark.parametrize("name", loggers.PACKAGES)
def test_a_missing_package_is_one_line_before_anything(place, monkeypatch, capsys, name):
    spec = loggers.importlib.util.find_spec
    package = loggers.PACKAGES[name]
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda x, *a: None if x == package else spec(x, *a))
    assert main(["train", f"loggers={name}", "model=small.yaml", "data=data/data.yaml"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert lines == [f"error: loggers={name} needs the package {package}: pip install {package}"]
    assert not Path("runs").exists()


def test_an_entry_point_that_leads_nowhere_is_a_note(records, capsys):
    train(epochs=1, loggers="broken,recorder")
    assert "loggers=broken failed and is left out: AttributeError" in capsys.readouterr().err
    assert len(recorder.read(records)) == 3


def test_a_run_that_is_resumed_without_the_package_goes_on(records, monkeypatch, capsys):
    train(epochs=1, loggers="recorder")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "recorder" not in path])
    assert main(["train", "resume=runs/x", "epochs=2"]) == 0
    assert "there is no such logger" in capsys.readouterr().err


def train_in_two(folder: str, file: str) -> list[str]:
    """Train in this process, which launch() started; the recorder writes into `file`."""
    os.chdir(folder)
    os.environ["RECORDER_FILE"] = file
    run_train(load_settings({"mode": "train", **QUICK, "loggers": "recorder", "epochs": 1}), None)
    return []


def test_of_two_processes_the_first_one_logs(records, place):
    with quick_launch():
        launch(2, train_in_two, str(place), str(records))
    found = recorder.read(records)
    assert [record[0] for record in found] == ["0"] * 3 and [record[1] for record in found] == ["start", "epoch", "end"]
