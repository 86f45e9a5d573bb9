"""A graph and class folders small enough to train in a second: reddish, greenish and bluish pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint

CLASSES = ("blue", "green", "red")  # in the order of their indices
CHANNEL = {"red": 0, "green": 1, "blue": 2}
CLASS_GRAPH = """
nc: 3
scales: {n: [0.33, 0.25, 256], s: [0.33, 0.5, 256]}
backbone:
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, C3k2, [64, False]]
  - [-1, 1, Conv, [128, 3, 2]]
head:
  - [-1, 1, Classify, [nc]]
"""


def picture(name: str, number: int) -> np.ndarray:
    """RGB noise (h, w, 3) that is brighter in the channel of a class; the size depends on the number."""
    draw = np.random.default_rng([CHANNEL[name], number])
    pixels = draw.integers(0, 140, (40 + 4 * (number % 3), 60 - 8 * (number % 2), 3))
    pixels[..., CHANNEL[name]] += 90
    return pixels.astype(np.uint8)


def lay_out(folder: Path, train: int = 4, val: int = 2) -> None:
    """Write small-cls.yaml, and data/ with so many training and validation pictures of each class, into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "small-cls.yaml").write_text(CLASS_GRAPH)
    for split, count in (("train", train), ("val", val)):
        for name in CLASSES:
            for index in range(count):
                path = folder / "data" / split / name / f"{name}{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture(name, index + 100 * (split == "val"))).save(path)


def save_classifier(folder: Path, name: str = "c.pt", seed: int = 0, **entries) -> Path:
    """Write a checkpoint of small-cls.yaml with random weights, for the classes of the folders."""
    torch.manual_seed(seed)
    model = YOLO(folder / "small-cls.yaml").model
    graph = model.graph.__class__(**{**vars(model.graph), "names": dict(enumerate(CLASSES))})
    save_checkpoint(folder / name, Checkpoint(graph, model.state_dict(), **entries))
    return folder / name


@pytest.fixture()
def classed(tmp_path, monkeypatch):
    """A working directory with the small graph and the class folders."""
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    return tmp_path
