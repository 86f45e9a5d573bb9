"""A classifier by the steps of the verb bit: they rank and report top-1."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.models.bitify import ternary_layers
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from tests.helpers.classed import classed, save_classifier  # noqa: F401  the fixture

COMMON = ("data=data", "imgsz=32", "batch=4", "device=cpu", "workers=0", "plots=False", "project=runs")


def test_a_classifier_is_scanned_fine_tuned_packed_and_reported(classed, capsys):
    save_classifier(classed, settings={"epochs": 2})
    assert main(["bit", "mode=scan", "model=c.pt", "by=part", "name=scan", *COMMON[:-1]]) == 0  # without project=
    assert "float: top-1 0." in capsys.readouterr().out
    with open("runs/classify/scan/scan.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert "backbone" in [row["unit"] for row in rows] and all(0 <= float(row["top-1 raw"]) <= 1 for row in rows)
    assert main(["bit", "mode=qat", "model=c.pt", "bit=backbone", "epochs=1", "name=qat", *COMMON]) == 0
    tuned = load_checkpoint("runs/qat/weights/best.pt").model()
    assert ternary_layers(tuned) and tuned.task == "classify"
    assert main(["bit", "mode=pack", "model=runs/qat/weights/best.pt", "out=small.pt"]) == 0
    assert main(["predict", "model=small.pt", "source=data/val/red", "save=False"]) == 0
    capsys.readouterr()
    assert main(["bit", "mode=report", "model=c.pt,runs/qat/weights/best.pt", "name=report", *COMMON]) == 0
    report = Path("runs/report/report.md").read_text()
    assert "top-1 replaced" in report and "top-1 in points" in report and "mAP" not in report
    steps = json.loads(Path("runs/report/steps.json").read_text())
    assert "ap_packed" in json.dumps(steps)
