"""`bitfalcon bit mode=scan`: the ranking, its files, and a scan that resumes."""

from __future__ import annotations

import json

import pytest

from bitfalcon_plugin.bit import scan
from bitfalcon_plugin.cli import main
from tests.bit.commands import read_csv, run_bit


@pytest.fixture()
def ranking(floats, capsys):
    """scan.json of a finished scan by block, and what it holds."""
    assert run_bit("scan", "model=float.pt", "by=block") == 0
    capsys.readouterr()
    path = floats / "runs/detect/bit/scan.json"
    return path, json.loads(path.read_text())


def test_a_scan_ranks_the_blocks(ranking):
    path, content = ranking
    losses = content["losses"]
    units = {loss["unit"]: loss for loss in losses}
    assert set(units) == {"model.1 (Conv)", "model.2 (C3k2)", "model.3 (Conv)", "model.4 (Conv)", "model.5 (Detect)"}
    layers = [name for loss in losses for name in loss["layers"]]
    assert len(set(layers)) == len(layers) and "model.0.conv" not in layers
    assert units["model.1 (Conv)"]["parameters"] == 8 * 16 * 9
    accuracies = [loss["ap_norms"] for loss in losses]
    assert accuracies == sorted(accuracies, reverse=True)
    records = read_csv(path.with_name("scan.csv"))
    assert [record["unit"] for record in records] == [loss["unit"] for loss in losses]
    for record in records:
        assert abs(float(record["lost raw"]) - (content["ap"] - units[record["unit"]]["ap_raw"])) < 1e-4


def test_an_interrupted_scan_resumes(ranking, capsys, monkeypatch):
    path, content = ranking
    path.write_text(json.dumps({**content, "losses": content["losses"][:3]}))  # as a kill leaves it
    measured, price = [], scan.price
    monkeypatch.setattr(scan, "price", lambda *arguments: measured.append(1) or price(*arguments))
    assert run_bit("scan", "model=float.pt", "by=block", "resume=runs/detect/bit") == 0
    assert len(measured) == 2 and "3 of 5 units already" in capsys.readouterr().out
    resumed = json.loads(path.read_text())
    assert {loss["unit"]: loss for loss in resumed["losses"]} == {loss["unit"]: loss for loss in content["losses"]}


def test_a_damaged_record_and_another_scan_are_refused(ranking, capsys):
    path, content = ranking
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "of"}))
    assert run_bit("scan", "model=float.pt", "resume=runs/detect/bit") == 2
    assert "scan.json' is damaged: of is 'None', expected dict" in capsys.readouterr().err
    path.write_text(json.dumps(content))
    other = ["model=float.pt", "imgsz=96", "resume=runs/detect/bit", "data=data/data.yaml", "device=cpu"]
    assert main(["bit", "scan", *other]) == 2
    assert "another scan: imgsz=96 (the scan: 64)" in capsys.readouterr().err
