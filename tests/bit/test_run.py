"""The verb bit on the command line: its words, packing, the report, and mistakes."""

from __future__ import annotations

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.bit import bitify, calibrate, run
from bitfalcon_plugin.bit.qat import as_checkpoint
from bitfalcon_plugin.bit.report import load_steps
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.command_line import parse_tokens
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.bitify import ternary_layers
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.bit.commands import COMMON, NAMES, run_bit


@pytest.mark.parametrize(
    "line", ["task=bit mode=scan", "bit mode=scan", "bit scan", "mode=scan task=bit", "mode=scan", "bit step=scan"]
)
def test_every_spelling_of_a_step(line):
    assert parse_tokens(line.split()) == ("bit", {"mode": "bit", "step": "scan"})


def test_a_step_is_no_verb():
    with pytest.raises(UserError, match="Did you mean 'bit scan'"):
        parse_tokens(["scan", "model=best.pt"])


def test_a_packed_file_predicts_and_validates_but_does_not_train(tuned):
    assert "its outputs are the same" in tuned.packing
    packed, floats = (tuned.folder / name for name in ("small-bit.pt", "float.pt"))
    assert packed.stat().st_size < floats.stat().st_size / 3
    assert len(YOLO("small-bit.pt").predict("data/images/val", imgsz=64)) == 4
    assert main(["val", "model=small-bit.pt", "plots=False", *COMMON]) == 0
    assert main(["train", "model=small-bit.pt", *COMMON]) == 2


def test_the_report_compares_float_tuned_and_packed_models(tuned):
    models = "model=float.pt,runs/tuned/weights/best.pt,small-bit.pt"
    assert run_bit("report", models, "name=table", "project=runs") == 0
    steps = {step.name: step for step in load_steps("runs/table")}
    assert list(steps) == ["fp32", "bf16", "head+backbone", "head+backbone'"]
    ternary, packed = steps["head+backbone"], steps["head+backbone'"]
    assert ternary.ap_tuned is not None and packed.ap_tuned is None
    assert ternary.ap_packed == packed.ap_packed and ternary.ap_raw == packed.ap_raw
    assert all(step.latency.count and step.x_nchw > 0 for step in steps.values())
    assert "| head+backbone |" in (tuned.folder / "runs/table/report.md").read_text()


def test_the_report_prices_the_options_that_a_model_has(floats, monkeypatch):
    checkpoint = load_checkpoint("float.pt")
    model = checkpoint.model()
    bitify(model, "head", rule="twn", dw="ternary")
    calibrate(model, [torch.rand(2, 3, 64, 64)])
    save_checkpoint("twn.pt", as_checkpoint(model, checkpoint))
    trials, price = [], run.price

    def options(network) -> dict[str, tuple[str, str]]:
        return {name: (layer.rule, layer.act) for name, layer in ternary_layers(network).items()}

    def recording_price(trial, *arguments):
        trials.append(options(trial))
        return price(trial, *arguments)

    monkeypatch.setattr(run, "price", recording_price)
    assert run_bit("report", "model=float.pt,twn.pt") == 0
    assert trials == [options(model)] and {rule for rule, _ in trials[0].values()} == {"twn"}


def test_the_report_refuses_a_model_of_another_graph(floats, capsys):
    other = build("yolov12-lite.yaml", "n", names=NAMES)
    bitify(other, "head")
    save_checkpoint("other.pt", Checkpoint(other.graph, other.state_dict()))
    assert run_bit("report", "model=float.pt,other.pt") == 2
    assert "different graphs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "bit needs mode="),
        (["mode=scan"], "starts from trained weights"),
        (["mode=scan", "model=small.yaml"], "starts from trained"),
        (["mode=qat", "model=small.yaml"], "starts from trained weights"),
        (["mode=pack"], "needs the checkpoint"),
        (["mode=pack", "model=float.pt"], "no ternary layer"),
        (["mode=report", "model=float.pt,x.yaml"], "compares checkpoints"),
        (["mode=scan", "model=float.pt", "by=rows"], "part, block, layer"),
        (["mode=report", "model=float.pt,float.pt"], "no ternary layer"),
        (["mode=pack", "model=float.pt", "out=x.onnx"], "ends in .pt"),
        (["mode=scan", "model=float.pt", "resume=nowhere"], "earlier scan"),
        (["mode=scan", "model=float.pt", "bit=tail"], "no layer"),
        (["mode=scan", "model=float.pt", "keep=."], "no layer is left"),
        (["mode=scan", "model=float.pt", "resume=True"], "which"),
        (["mode=scna", "model=float.pt"], "scan"),
    ],
)
def test_mistakes(floats, capsys, arguments, message):
    data = [] if "mode=pack" in arguments else COMMON
    assert main(["bit", *arguments, *data]) == 2
    assert message in capsys.readouterr().err
