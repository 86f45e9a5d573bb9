"""A small dataset in the layout of DOTA: painted harbours, with ships and storage tanks at any angle."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from bitfalcon_plugin.ops.rotated import corners_of

HEADER = "imagesource:GoogleEarth\ngsd:0.146343590398\n"
SHAPES = {"ship": (48, 14, (200, 40, 40)), "storage-tank": (26, 26, (40, 200, 40)), "harbor": (90, 20, (60, 60, 220))}


def harbour(random: np.random.RandomState, size: tuple[int, int], count: int) -> tuple[Image.Image, list[str]]:
    """Paint a picture of `size` (w, h); return it with the lines of its label file, without header."""
    water = np.full((size[1], size[0], 3), (30, 50, 70)) + random.randint(-8, 9, (size[1], size[0], 1))
    picture, lines = Image.fromarray(water.astype(np.uint8)), []
    pen = ImageDraw.Draw(picture)
    for index in range(count):
        name = list(SHAPES)[index % len(SHAPES)]
        length, width, colour = SHAPES[name]
        x, y = (float(random.uniform(0.05 * side, 0.95 * side)) for side in size)
        box = torch.tensor([x, y, length, width, random.uniform(0, math.pi)], dtype=torch.float64)
        corners = corners_of(box).tolist()
        pen.polygon([tuple(corner) for corner in corners], fill=colour)
        lines.append(" ".join(f"{value:.1f}" for corner in corners for value in corner) + f" {name} {index % 2}")
    return picture, lines


def lay_out_dota(root: Path, count: int = 2, size: tuple[int, int] = (400, 300)) -> Path:
    """Write train, val and test as DOTA ships them: <split>/images and <split>/labelTxt, test without labels."""
    for code, split in enumerate(("train", "val", "test")):
        (root / split / "images").mkdir(parents=True)
        if split != "test":
            (root / split / "labelTxt").mkdir()
        for index in range(count):
            picture, lines = harbour(np.random.RandomState([code, index]), size, 12)
            picture.save(root / split / "images" / f"P{code}{index:03d}.png")
            if split != "test":
                text = HEADER + "\n".join(lines) + "\n"
                (root / split / "labelTxt" / f"P{code}{index:03d}.txt").write_text(text, encoding="utf-8")
    return root
