"""A graph and a dataset of keypoints small enough to train in a second: red and blue bars with a dot at each end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw

from tests.helpers.coloured import GRAPH, save_example

POSE_GRAPH = GRAPH.replace("Detect, [nc]]", "Pose, [nc, kpt_shape]]") + "kpt_shape: [17, 3]\n"
COLOURS = ("red", "blue")
DOTS = ("white", "lime")  # at the left and at the right end
KEYS = {
    "train": "images/train",
    "val": "images/val",
    "names": ["red", "blue"],
    "kpt_shape": [2, 3],
    "flip_idx": [1, 0],
    "kpt_names": {0: ["left", "right"], 1: ["left", "right"]},
    "kpt_oks_sigmas": [0.1, 0.1],
    "skeleton": [["left", "right"]],
}


def lay_out(folder: Path, train: int = 10, val: int = 4, dots: tuple[str, str] = DOTS, **keys) -> None:
    """Write small-pose.yaml, and data/ with training and validation images of one bar each, into `folder`.

    dots: colours of the left and of the right end, of which every fourth is not labelled. keys: of the dataset's YAML,
    in the place of those of KEYS.
    """
    (folder / "small-pose.yaml").write_text(POSE_GRAPH)
    draw, w, h = torch.Generator().manual_seed(0), 64, 48
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            x, y = (int(v) for v in torch.randint(2, 24, (2,), generator=draw))
            picture = Image.fromarray(np.full((h, w, 3), 40, np.uint8))
            pen = ImageDraw.Draw(picture)
            pen.rectangle((x, y, x + 27, y + 19), fill=COLOURS[index % 2])
            ends = [(x + 5, y + 10), (x + 23, y + 10)]
            for (column, row), colour in zip(ends, dots):
                pen.ellipse((column - 4, row - 4, column + 4, row + 4), fill=colour)
            points = [f"{ends[0][0] / w} {ends[0][1] / h} 2", f"{ends[1][0] / w} {ends[1][1] / h} 2"]
            if index % 4 == 3:
                points[1] = "0 0 0"
            box = f"{(x + 14) / w} {(y + 10) / h} {28 / w} {20 / h}"
            save_example(folder, split, index, picture, f"{index % 2} {box} {' '.join(points)}")
    given = {key: value for key, value in {**KEYS, **keys}.items() if value is not None}
    (folder / "data/data.yaml").write_text(yaml.safe_dump(given))
