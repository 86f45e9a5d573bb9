"""Short forms of the commands that the tests of this folder run, on the small graph and the coloured dataset."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

COMMON = ("data=data/data.yaml", "imgsz=64", "batch=4", "device=cpu")
NAMES = {0: "red", 1: "green", 2: "blue"}


def save_float_model() -> None:
    """Write float.pt, an untrained model of small.yaml that says it was trained for four epochs."""
    torch.manual_seed(0)
    model = build("small.yaml", "n", names=NAMES)
    save_checkpoint("float.pt", Checkpoint(model.graph, model.state_dict(), settings={"epochs": 4}))


def run_bit(*arguments: str) -> int:
    """Run a step of the verb bit on the coloured dataset; return its exit code."""
    return main(["bit", *arguments, *COMMON])


def run_training(name: str, *arguments: str) -> Path:
    """Run a command that trains; return the folder of its weights, runs/<name>/weights."""
    assert main([*arguments, "project=runs", f"name={name}", "plots=False", *COMMON]) == 0
    return Path("runs", name, "weights")


def best_model(weights: Path) -> Detector:
    """Return the model of best.pt."""
    return load_checkpoint(weights / "best.pt").model()


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the records of a CSV file."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
