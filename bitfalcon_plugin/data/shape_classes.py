"""The embedded dataset of class folders: one textured shape on each small picture (see shapes).

Each image has its own random generator, seeded by split, class and number: the pictures are the same on every machine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.random import RandomState
from PIL import Image

from ..config.files import cache_dir
from .generated import ensure_files
from .shapes import NAMES, clouded, paint, placed, turned_outline

COUNTS = {"train": 150, "val": 25}  # images of each class
SIDES = (72, 113)  # px, of the pictures
SHARES = (0.6, 0.95)  # of the shorter side of a picture: the longer side of the shape's box


def ensure_shape_classes(folder: Path | None = None) -> Path:
    """Return the folder of the generated class folders (default: in the user's cache); draw what is missing.

    Raises UserError if they cannot be written.
    """
    target = Path(folder) if folder else cache_dir() / "shapes-cls-v1"
    ensure_files(target, _file_names(), _draw_dataset)
    return target


def draw_class(random: RandomState, kind: int) -> np.ndarray:
    """Draw one picture (H, W, 3) uint8 RGB of a shape of class `kind`, which lies wholly inside."""
    height, width = size = tuple(random.randint(*SIDES, 2))
    outline = turned_outline(random, kind)
    side = random.uniform(*SHARES) * min(size)
    margin = side / 2 / np.array([width, height])
    shape = placed(kind, outline, side, random.uniform(margin, 1 - margin) * (width, height))
    canvas = clouded(random, size)
    paint(canvas, shape, random)
    canvas += random.normal(0, random.uniform(1, 5), (*size, 1))  # sensor noise over everything
    return canvas.clip(0, 255).round().astype(np.uint8)


def _file_names() -> list[str]:
    return [
        f"{split}/{name}/{index:04d}.jpg" for split, count in COUNTS.items() for name in NAMES for index in range(count)
    ]


def _draw_dataset(folder: Path) -> None:
    """Draw all pictures into a new folder."""
    for code, (split, count) in enumerate(COUNTS.items()):
        for kind, name in enumerate(NAMES):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = draw_class(RandomState([2, code, kind, index]), kind)
                Image.fromarray(pixels).save(folder / split / name / f"{index:04d}.jpg", quality=90)
