"""The verb bit through the command line: every step, its files, what a kill leaves, and mistakes."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.bit import bitify, calibrate, scan
from bitfalcon_plugin.bit import run as study
from bitfalcon_plugin.bit.qat import as_checkpoint
from bitfalcon_plugin.bit.report import load_steps, save_steps
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.command_line import parse_tokens
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.bitify import ternary_layers
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.coloured import place  # noqa: F401  the fixture

COMMON = ["data=data/data.yaml", "imgsz=64", "batch=4", "device=cpu"]


@pytest.fixture()
def floats(place):  # noqa: F811
    """A place with the weights of a float model."""
    torch.manual_seed(0)
    model = build("small.yaml", "n", names={0: "red", 1: "green", 2: "blue"})
    save_checkpoint("float.pt", Checkpoint(model.graph, model.state_dict(), settings={"epochs": 4}))
    return place


def test_the_words_of_the_verb():
    for words in (
        "task=bit mode=scan",
        "bit mode=scan",
        "bit scan",
        "mode=scan task=bit",
        "mode=scan",
        "bit step=scan",
    ):
        assert parse_tokens(words.split()) == ("bit", {"mode": "bit", "step": "scan"})
    with pytest.raises(UserError, match="Did you mean 'bit scan'"):
        parse_tokens(["scan", "model=best.pt"])


def test_scan_ranks_and_goes_on_where_it_was_ended(floats, capsys, monkeypatch):
    assert main(["bit", "scan", "model=float.pt", "by=block", *COMMON]) == 0
    folder = floats / "runs/detect/bit"
    found = json.loads((folder / "scan.json").read_text())
    units = {row["unit"]: row for row in found["losses"]}
    assert set(units) == {"model.1 (Conv)", "model.2 (C3k2)", "model.3 (Conv)", "model.4 (Conv)", "model.5 (Detect)"}
    layers = [name for row in units.values() for name in row["layers"]]
    assert (
        len(set(layers)) == len(layers)
        and "model.0.conv" not in layers
        and units["model.1 (Conv)"]["parameters"] == 8 * 16 * 9
    )
    assert [row["ap_norms"] for row in found["losses"]] == sorted(
        (row["ap_norms"] for row in found["losses"]), reverse=True
    )
    with open(folder / "scan.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["unit"] for row in rows] == [row["unit"] for row in found["losses"]]
    assert all(abs(float(row["lost raw"]) - (found["ap"] - units[row["unit"]]["ap_raw"])) < 1e-4 for row in rows)

    found["losses"] = found["losses"][:3]  # as a kill leaves it
    (folder / "scan.json").write_text(json.dumps(found))
    measured = []
    original = scan.price
    monkeypatch.setattr(
        scan, "price", lambda model, layers, *rest: measured.append(layers) or original(model, layers, *rest)
    )
    assert main(["bit", "scan", "model=float.pt", "by=block", "resume=runs/detect/bit", *COMMON]) == 0
    assert len(measured) == 2 and "3 of 5 units already" in capsys.readouterr().out
    again = json.loads((folder / "scan.json").read_text())
    assert {row["unit"]: row for row in again["losses"]} == units
    (folder / "scan.json").write_text(json.dumps({key: value for key, value in again.items() if key != "of"}))
    assert main(["bit", "scan", "model=float.pt", "resume=runs/detect/bit", *COMMON]) == 2
    assert "scan.json' is damaged: of is 'None', expected dict" in capsys.readouterr().err
    (folder / "scan.json").write_text(json.dumps(again))
    assert (
        main(
            ["bit", "scan", "model=float.pt", "imgsz=96", "resume=runs/detect/bit", "data=data/data.yaml", "device=cpu"]
        )
        == 2
    )
    assert "another scan: imgsz=96 (the scan: 64)" in capsys.readouterr().err


def test_replace_walks_to_its_budget(floats, capsys, monkeypatch):
    accuracies = iter(
        [
            0.50,
            0.5,
            0.5,  # the float model, and its halves
            0.1,
            0.30,
            0.1,
            0.49,  # backbone, head: raw and with norms anew (there is no neck here)
            0.1,
            0.48,
            0.1,
            0.30,
        ]
    )  # head; head and backbone
    names = ["backbone", "head"]
    monkeypatch.setattr("bitfalcon_plugin.bit.scan.accuracy", lambda *rest: type("M", (), {"ap": next(accuracies)}))
    assert main(["bit", "mode=replace", "by=part", "max_drop=5", "model=float.pt", *COMMON]) == 0
    out = capsys.readouterr().out
    steps = load_steps(floats / "runs/detect/bit")
    assert [step.name for step in steps] == ["fp32", "1 units", "2 units"] and steps[1].replaced == ("head",)
    assert steps[2].replaced == ("head", "backbone") and set(names) == set(steps[2].replaced)
    assert steps[1].ap_norms == 0.48 and "max_drop=5: stopped; 1 units stay within it" in out
    assert (
        0 < steps[1].ternary_share < steps[2].ternary_share < 1
        and steps[2].bytes_packed < steps[1].bytes_packed < steps[1].bytes_fp32
    )
    kept = load_checkpoint("runs/detect/bit/replaced.pt").model()
    assert {name.split(".")[1] for name in ternary_layers(kept)} == {"5"}
    assert (floats / "runs/detect/bit/report.md").read_text().startswith("| step")


def test_replace_goes_on_where_it_was_ended(floats, capsys, monkeypatch):
    walk = ["bit", "mode=replace", "by=part", "max_drop=100", "model=float.pt", *COMMON]
    assert main(walk) == 0
    folder = floats / "runs/detect/bit"
    whole, kept = load_steps(folder), load_checkpoint(folder / "replaced.pt")
    measured, original = [], scan.price
    monkeypatch.setattr(study, "price", lambda *given: measured.append(1) or original(*given))
    monkeypatch.setattr(scan, "price", None)  # no unit is measured again
    for left, again in ((2, 1), (3, 0)):  # a kill in the last step, and after it
        save_steps(folder, whole[:left])
        (folder / "replaced.pt").unlink()
        measured.clear()
        assert main([*walk, "resume=runs/detect/bit"]) == 0 and len(measured) == again
        assert load_steps(folder) == whole
        state = load_checkpoint(folder / "replaced.pt").state
        assert (
            all(torch.equal(value, kept.state[name]) for name, value in state.items())
            and state.keys() == kept.state.keys()
        )
    monkeypatch.setattr(scan, "price", original)
    assert main([*walk, "resume=runs/detect/bit", "keep=model.1"]) == 0  # other units: all of it is measured anew
    assert load_steps(folder)[-1].ternary_share < whole[-1].ternary_share


def test_the_report_prices_the_options_that_a_model_has(floats, capsys, monkeypatch):
    checkpoint = load_checkpoint("float.pt")
    model = checkpoint.model()
    bitify(model, "head", rule="twn", dw="ternary")
    calibrate(model, [torch.rand(2, 3, 64, 64)])
    save_checkpoint("twn.pt", as_checkpoint(model, checkpoint))
    seen, original = [], scan.price
    monkeypatch.setattr(
        study,
        "price",
        lambda trial, *rest: (
            seen.append({n: (m.rule, m.act) for n, m in ternary_layers(trial).items()}) or original(trial, *rest)
        ),
    )
    assert main(["bit", "report", "model=float.pt,twn.pt", *COMMON]) == 0
    assert seen == [{name: (layer.rule, layer.act) for name, layer in ternary_layers(model).items()}]
    assert {rule for rule, _ in seen[0].values()} == {"twn"}
    other = build("yolov12-lite.yaml", "n", names={0: "red", 1: "green", 2: "blue"})
    bitify(other, "head")
    save_checkpoint("other.pt", Checkpoint(other.graph, other.state_dict()))
    assert main(["bit", "report", "model=float.pt,other.pt", *COMMON]) == 2
    assert "different graphs" in capsys.readouterr().err


def test_fine_tuning_packing_and_the_report(floats, capsys):
    assert (
        main(
            [
                "bit",
                "mode=qat",
                "model=float.pt",
                "bit=all",
                "epochs=3",
                "name=tuned",
                "project=runs",
                "plots=False",
                *COMMON,
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "bit=all:" in out and "measured over" in out and "norms measured anew" in out and "<- best.pt" in out
    run = floats / "runs/tuned"
    args = load_checkpoint(run / "weights/last.pt").settings
    assert (
        args["lrf"] == 0.02
        and args["cos_lr"]
        and args["close_mosaic"] == 1
        and args["nbs"] == 4
        and args["optimizer"] == "AdamW"
    )
    assert args["lr0"] == pytest.approx(0.5 * 0.002 * 5 / 7, rel=1e-3)
    with open(run / "codes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    best = load_checkpoint(run / "weights/best.pt")
    assert {row["layer"] for row in rows} == set(ternary_layers(best.model())) and {row["epoch"] for row in rows} == {
        "1",
        "2",
        "3",
    }
    assert all(0 <= float(row["changed"]) <= 1 and 0 <= float(row["zeros"]) <= 1 for row in rows)

    assert main(["bit", "pack", f"model={run / 'weights/best.pt'}", "out=small-bit.pt"]) == 0
    assert "its outputs are the same" in capsys.readouterr().out
    assert (floats / "small-bit.pt").stat().st_size < (floats / "float.pt").stat().st_size / 3
    assert len(YOLO("small-bit.pt").predict("data/images/val", imgsz=64)) == 4
    assert main(["val", "model=small-bit.pt", "plots=False", *COMMON]) == 0
    assert main(["train", "model=small-bit.pt", *COMMON]) == 2
    capsys.readouterr()

    assert (
        main(
            [
                "bit",
                "report",
                f"model=float.pt,{run / 'weights/best.pt'},small-bit.pt",
                "name=table",
                "project=runs",
                *COMMON,
            ]
        )
        == 0
    )
    steps = {step.name: step for step in load_steps(floats / "runs/table")}
    assert list(steps) == ["fp32", "bf16", "head+backbone", "head+backbone'"]
    one, two = steps["head+backbone"], steps["head+backbone'"]
    assert (
        one.ap_tuned is not None
        and two.ap_tuned is None
        and one.ap_packed == two.ap_packed
        and one.ap_raw == two.ap_raw
    )
    assert all(step.latency.count and step.x_nchw > 0 for step in (one, two, steps["fp32"], steps["bf16"]))
    assert "| head+backbone |" in (floats / "runs/table/report.md").read_text()


def test_fine_tuning_goes_on_after_its_end(floats, capsys):
    assert (
        main(["bit", "qat", "model=float.pt", "bit=head", "epochs=2", "project=runs", "name=q", "plots=False", *COMMON])
        == 0
    )
    best = load_checkpoint("runs/q/weights/best.pt")
    capsys.readouterr()
    assert main(["bit", "qat", "resume=runs/q"]) == 0  # ended after its last epoch, before the weights were compared
    assert (
        "norms measured anew" in capsys.readouterr().out
        and load_checkpoint("runs/q/weights/best.pt").epoch == best.epoch
    )
    assert main(["bit", "qat", "resume=runs/q/weights/last.pt", "epochs=3"]) == 0
    last = load_checkpoint("runs/q/weights/last.pt")
    assert last.epoch == 2 and ternary_layers(last.model())
    with open("runs/q/codes.csv", newline="") as file:
        assert {row["epoch"] for row in csv.DictReader(file)} == {"1", "2", "3"}


def test_rates_of_optimizers_and_refusals(floats, capsys):
    for optimizer, rate in (("auto", 0.5 * 0.002 * 5 / 7), ("SGD", 0.005)):
        assert (
            main(
                [
                    "bit",
                    "qat",
                    "model=float.pt",
                    f"optimizer={optimizer}",
                    "epochs=1",
                    "project=runs",
                    f"name={optimizer}",
                    "plots=False",
                    *COMMON,
                ]
            )
            == 0
        )
        args = load_checkpoint(f"runs/{optimizer}/weights/last.pt").settings
        assert args["lr0"] == pytest.approx(rate, rel=1e-3) and args["optimizer"] == {"auto": "AdamW"}.get(
            optimizer, optimizer
        )
    assert main(["bit", "qat", "model=float.pt", "data=data/data.yaml", "imgsz=64", "device=cpu", "batch=-1"]) == 2
    assert "a step follows each batch" in capsys.readouterr().err


def test_null_is_not_none(floats):
    (floats / "bit.yaml").write_text((floats / "small.yaml").read_text().replace("Detect", "BitDetect"))
    (floats / "args.yaml").write_text("bit: null\nkeep: null\n")
    assert (
        main(
            [
                "train",
                "model=bit.yaml",
                "scale=n",
                "cfg=args.yaml",
                "epochs=1",
                "project=runs",
                "name=a",
                "plots=False",
                *COMMON,
            ]
        )
        == 0
    )
    assert ternary_layers(load_checkpoint("runs/a/weights/best.pt").model())
    assert parse_tokens(["train", "bit=head", "keep=None"])[1]["keep"] == "none"
    assert (
        main(
            [
                "train",
                "model=small.yaml",
                "scale=n",
                "bit=head",
                "keep=none",
                "epochs=1",
                "project=runs",
                "name=b",
                "plots=False",
                *COMMON,
            ]
        )
        == 0
    )
    assert "model.5.cv2.0.2" in ternary_layers(load_checkpoint("runs/b/weights/best.pt").model())


def test_the_same_schedule_without_ternary_layers(floats, capsys):
    assert (
        main(["bit", "qat", "model=float.pt", "bit=none", "epochs=1", "project=runs", "name=f", "plots=False", *COMMON])
        == 0
    )
    assert (
        not ternary_layers(load_checkpoint("runs/f/weights/best.pt").model())
        and load_checkpoint("runs/f/weights/last.pt").settings["lrf"] == 0.02
    )


def test_training_from_nothing_and_from_weights(floats, capsys):
    assert (
        main(
            [
                "train",
                "model=small.yaml",
                "scale=n",
                "bit=head",
                "epochs=1",
                "project=runs",
                "name=fresh",
                "plots=False",
                *COMMON,
            ]
        )
        == 0
    )
    assert (
        "bit=head: " in capsys.readouterr().out
        and len(ternary_layers(load_checkpoint("runs/fresh/weights/best.pt").model())) > 4
    )
    assert (
        main(
            [
                "train",
                "model=float.pt",
                "bit=all",
                "keep=model.4",
                "epochs=1",
                "project=runs",
                "name=warm",
                "plots=False",
                *COMMON,
            ]
        )
        == 0
    )
    assert not any(
        name.startswith("model.4.") for name in ternary_layers(load_checkpoint("runs/warm/weights/best.pt").model())
    )
    (floats / "bit.yaml").write_text((floats / "small.yaml").read_text().replace("Detect", "BitDetect"))
    assert (
        main(
            [
                "train",
                "model=bit.yaml",
                "scale=n",
                "bit=none",
                "epochs=1",
                "project=runs",
                "name=plain",
                "plots=False",
                *COMMON,
            ]
        )
        == 0
    )
    assert not ternary_layers(load_checkpoint("runs/plain/weights/best.pt").model())
    capsys.readouterr()
    assert main(["train", "model=small.yaml", "bit=tail", "epochs=1", *COMMON]) == 2
    assert "bit=tail" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "part"),
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
def test_mistakes(floats, capsys, words, part):
    data = [] if words and "pack" in words[0] else COMMON
    assert main(["bit", *words, *data]) == 2
    assert part in capsys.readouterr().err
