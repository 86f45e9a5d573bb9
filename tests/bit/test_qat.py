"""`bitfalcon bit mode=qat`: the schedule, the choice of the weights, the log of codes, and a run that resumes."""

from __future__ import annotations

import pytest

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.models.bitify import ternary_layers
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from tests.bit.commands import best_model, read_csv, run_training

FLOAT_RATE = 0.002 * 5 / 7  # AdamW's learning rate of a float run with three classes
QAT = ("bit", "qat", "model=float.pt")


def test_fine_tuning_follows_its_schedule(tuned):
    settings = load_checkpoint("runs/tuned/weights/last.pt").settings
    expected = {"lrf": 0.02, "cos_lr": True, "close_mosaic": 1, "nbs": 4, "optimizer": "AdamW"}
    assert {key: settings[key] for key in expected} == expected
    assert settings["lr0"] == pytest.approx(0.5 * FLOAT_RATE, rel=1e-3)
    for text in ("bit=all:", "measured over", "norms measured anew", "<- best.pt"):
        assert text in tuned.tuning


def test_the_log_of_codes_has_every_layer_and_epoch(tuned):
    records = read_csv("runs/tuned/codes.csv")
    assert {record["layer"] for record in records} == set(
        ternary_layers(best_model(tuned.folder / "runs/tuned/weights"))
    )
    assert {record["epoch"] for record in records} == {"1", "2", "3"}
    assert all(0 <= float(record[key]) <= 1 for record in records for key in ("changed", "zeros"))


def test_fine_tuning_resumes_after_its_end(floats, capsys):
    weights = run_training("q", *QAT, "bit=head", "epochs=2")
    epoch = load_checkpoint(weights / "best.pt").epoch
    capsys.readouterr()
    assert main(["bit", "qat", "resume=runs/q"]) == 0  # ended after its last epoch, before the weights were compared
    assert "norms measured anew" in capsys.readouterr().out and load_checkpoint(weights / "best.pt").epoch == epoch
    assert main(["bit", "qat", "resume=runs/q/weights/last.pt", "epochs=3"]) == 0
    last = load_checkpoint(weights / "last.pt")
    assert last.epoch == 2 and ternary_layers(last.model())
    assert {record["epoch"] for record in read_csv("runs/q/codes.csv")} == {"1", "2", "3"}


@pytest.mark.parametrize(("optimizer", "name", "rate"), [("auto", "AdamW", 0.5 * FLOAT_RATE), ("SGD", "SGD", 0.005)])
def test_rates_of_optimizers(floats, optimizer, name, rate):
    weights = run_training("run", *QAT, f"optimizer={optimizer}", "epochs=1")
    settings = load_checkpoint(weights / "last.pt").settings
    assert settings["lr0"] == pytest.approx(rate, rel=1e-3) and settings["optimizer"] == name


def test_a_batch_of_automatic_size_is_refused(floats, capsys):
    assert main([*QAT, "data=data/data.yaml", "imgsz=64", "device=cpu", "batch=-1"]) == 2
    assert "a step follows each batch" in capsys.readouterr().err


def test_the_same_schedule_without_ternary_layers(floats):
    weights = run_training("run", *QAT, "bit=none", "epochs=1")
    assert not ternary_layers(best_model(weights)) and load_checkpoint(weights / "last.pt").settings["lrf"] == 0.02
