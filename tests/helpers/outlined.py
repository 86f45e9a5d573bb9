"""A graph and a dataset of outlines small enough to train in a second: red, green and blue diamonds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw

from tests.helpers.coloured import GRAPH, save_example

COLOURS, NAMES = ("red", "lime", "blue"), ("red", "green", "blue")
SEGMENT_GRAPH = GRAPH.replace("Detect, [nc]]", "Segment, [nc, 8, 64]]")


def diamond(x: float, y: float, w: float, h: float) -> list[tuple[float, float]]:
    """The corners of the diamond that fills the box at (x, y) of size (w, h)."""
    return [(x + w / 2, y), (x + w, y + h / 2), (x + w / 2, y + h), (x, y + h / 2)]


def lay_out(folder: Path, train: int = 10, val: int = 4) -> None:
    """Write small-seg.yaml, and data/ with training and validation images of one diamond each, into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "small-seg.yaml").write_text(SEGMENT_GRAPH)
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            w, h, cls = 64, 48, index % 3
            x, y = (int(v) for v in torch.randint(2, 24, (2,), generator=draw))
            corners = diamond(x, y, 24, 20)
            picture = Image.fromarray(np.full((h, w, 3), 40, np.uint8))
            ImageDraw.Draw(picture).polygon(corners, fill=COLOURS[cls])
            shares = " ".join(f"{px / w} {py / h}" for px, py in corners)
            save_example(folder, split, index, picture, f"{cls} {shares}")
    (folder / "data/data.yaml").write_text(
        yaml.safe_dump({"train": "images/train", "val": "images/val", "names": [*NAMES]})
    )


@pytest.fixture()
def outlined(tmp_path, monkeypatch):
    """A working directory with the small graph and the dataset."""
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    return tmp_path
