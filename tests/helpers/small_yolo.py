"""YOLO objects of small.yaml (see coloured.py): their weights, their predictions, and settings of a quick training."""

from __future__ import annotations

from pathlib import Path

import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint

QUICK_TRAINING = {
    "data": "data/data.yaml",
    "imgsz": 64,
    "batch": 5,
    "nbs": 5,
    "epochs": 1,
    "device": "cpu",
    "workers": 0,
    "plots": False,
    "verbose": False,
}


def save_weights(folder: Path, name: str, seed: int = 0, **entries) -> Path:
    """Write a checkpoint of small.yaml with random weights, whose scores are high enough for detections."""
    torch.manual_seed(seed)
    model = YOLO(folder / "small.yaml").model
    with torch.no_grad():
        for branch in model.head.cv3:
            branch[-1].bias.normal_(-1)
    save_checkpoint(folder / name, Checkpoint(model.graph, model.state_dict(), **entries))
    return folder / name


def predict_boxes(yolo: YOLO, **settings) -> list[torch.Tensor]:
    """Predict the four validation images; boxes (n, 6) for each."""
    settings = {"imgsz": 64, "device": "cpu", **settings}
    return [result.boxes.data for result in yolo.predict("data/images/val", **settings)]


def same_boxes(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Whether two predictions of the four images are equal, with a box at least on each."""
    return len(a) == len(b) == 4 and all(len(x) and torch.equal(x, y) for x, y in zip(a, b))


def same_state(a: YOLO, b: YOLO) -> bool:
    """Whether two objects have equal weights."""
    return all(torch.equal(x, b.model.state_dict()[name]) for name, x in a.model.state_dict().items())
