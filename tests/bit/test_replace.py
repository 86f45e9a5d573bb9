"""`bitfalcon bit mode=replace`: the walk to max_drop=, its files, and a walk that resumes."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from bitfalcon_plugin.bit import run, scan
from bitfalcon_plugin.bit.report import load_steps, save_steps
from bitfalcon_plugin.models.bitify import ternary_layers
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from tests.bit.commands import run_bit

WALK = ("mode=replace", "by=part", "model=float.pt")


def test_a_walk_stops_at_its_budget(floats, capsys, monkeypatch):
    # mAP of: the float model and its halves; backbone and head, raw and with norms anew (there is no neck here);
    # then of the walk: head, and head with backbone
    accuracies = iter([0.50, 0.5, 0.5, 0.1, 0.30, 0.1, 0.49, 0.1, 0.48, 0.1, 0.30])
    monkeypatch.setattr(scan, "accuracy", lambda *arguments: SimpleNamespace(main=next(accuracies)))
    assert run_bit(*WALK, "max_drop=5") == 0
    printed = capsys.readouterr().out
    steps = load_steps(floats / "runs/detect/bit")
    assert [step.name for step in steps] == ["fp32", "1 units", "2 units"]
    assert steps[1].replaced == ("head",) and steps[2].replaced == ("head", "backbone")
    assert steps[1].ap_norms == 0.48 and "max_drop=5: stopped; 1 units stay within it" in printed
    assert 0 < steps[1].ternary_share < steps[2].ternary_share < 1
    assert steps[2].bytes_packed < steps[1].bytes_packed < steps[1].bytes_fp32
    model = load_checkpoint("runs/detect/bit/replaced.pt").model()
    assert {name.split(".")[1] for name in ternary_layers(model)} == {"5"}
    assert (floats / "runs/detect/bit/report.md").read_text().startswith("| step")


def test_an_interrupted_walk_resumes(floats, monkeypatch):
    walk = (*WALK, "max_drop=100")
    assert run_bit(*walk) == 0
    folder = floats / "runs/detect/bit"
    steps, state = load_steps(folder), load_checkpoint(folder / "replaced.pt").state
    measured, price = [], scan.price
    monkeypatch.setattr(run, "price", lambda *arguments: measured.append(1) or price(*arguments))
    monkeypatch.setattr(scan, "price", None)  # no unit is measured again
    for written, count in ((2, 1), (3, 0)):  # a kill in the last step, and after it
        save_steps(folder, steps[:written])
        (folder / "replaced.pt").unlink()
        measured.clear()
        assert run_bit(*walk, "resume=runs/detect/bit") == 0 and len(measured) == count
        assert load_steps(folder) == steps
        resumed = load_checkpoint(folder / "replaced.pt").state
        assert resumed.keys() == state.keys() and all(map(torch.equal, resumed.values(), state.values()))
    monkeypatch.setattr(scan, "price", price)
    assert run_bit(*walk, "resume=runs/detect/bit", "keep=model.1") == 0  # other units: all of it is measured anew
    assert load_steps(folder)[-1].ternary_share < steps[-1].ternary_share
