"""A graph and a dataset of oriented boxes small enough to train in seconds: red, green and blue bars at any angle."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw

from bitfalcon_plugin.ops.rotated import corners_of
from tests.helpers.coloured import GRAPH, save_example
from tests.helpers.outlined import COLOURS

OBB_GRAPH = GRAPH.replace("Detect, [nc]]", "OBB, [nc, 1]]")
SIZE = (48, 64)  # (h, w) of the images


def lay_out(folder: Path, train: int = 10, val: int = 4) -> None:
    """Write small-obb.yaml, and data/ with training and validation images of one bar each, into `folder`."""
    (folder / "small-obb.yaml").write_text(OBB_GRAPH)
    draw = torch.Generator().manual_seed(0)
    height, width = SIZE
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            x, y, angle = torch.rand(3, generator=draw).tolist()
            box = torch.tensor([18 + 28 * x, 16 + 16 * y, 28, 11, math.pi * angle])
            corners = corners_of(box).tolist()
            picture = Image.fromarray(np.full((height, width, 3), 40, np.uint8))
            ImageDraw.Draw(picture).polygon([tuple(corner) for corner in corners], fill=COLOURS[index % 3])
            shares = " ".join(f"{px / width} {py / height}" for px, py in corners)
            save_example(folder, split, index, picture, f"{index % 3} {shares}")
    (folder / "data/data.yaml").write_text(
        yaml.safe_dump({"train": "images/train", "val": "images/val", "names": ["red", "green", "blue"]})
    )
