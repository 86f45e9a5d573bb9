"""A graph and a dataset small enough to train in a second: red, green and blue rectangles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from tests.helpers.finder import painted

GRAPH = """
nc: 3
scales: {n: [0.33, 0.25, 256], s: [0.33, 0.5, 256]}
backbone:
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, C3k2, [64, False]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, Conv, [256, 3, 2]]
head:
  - [[3, 4], 1, Detect, [nc]]
"""


def save_example(folder: Path, split: str, index: int, picture: Image.Image, label: str) -> None:
    """Write an image of a split in `folder`, and its label file of one row."""
    images, labels = folder / "data/images" / split, folder / "data/labels" / split
    for parent in (images, labels):
        parent.mkdir(parents=True, exist_ok=True)
    picture.save(images / f"{index}.png")
    (labels / f"{index}.txt").write_text(f"{label}\n")


def lay_out(folder: Path) -> None:
    """Write small.yaml, and data/ with ten training and four validation images, into `folder`."""
    (folder / "small.yaml").write_text(GRAPH)
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", 10), ("val", 4)):
        for index in range(count):
            w, h = 64, 48
            x, y = (int(v) for v in torch.randint(2, 24, (2,), generator=draw))
            cls = index % 3
            painted(folder / f"data/images/{split}/{index}.png", (w, h), [(cls, x, y, x + 24, y + 20)])
            label = folder / f"data/labels/{split}/{index}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{cls} {(x + 12) / w} {(y + 10) / h} {24 / w} {20 / h}\n")
    (folder / "data/data.yaml").write_text(
        yaml.safe_dump({"train": "images/train", "val": "images/val", "names": ["red", "green", "blue"]})
    )


@pytest.fixture()
def place(tmp_path, monkeypatch):
    """A working directory with the small graph and the dataset."""
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    return tmp_path
