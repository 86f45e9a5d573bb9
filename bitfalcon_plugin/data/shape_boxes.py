"""The embedded dataset of oriented boxes: textured objects at any angle on cluttered pictures (see shapes).

Each image has its own random generator, seeded by split and number: the pictures are the same on every machine.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.random import RandomState

from ..config.files import cache_dir
from .generated import ensure_files
from .shapes import BOX_ROWS, DATA_YAML, SIZES, Shape, draw, file_names, write_dataset

ASPECTS = {"rod": 6.0, "brick": 2.0, "tile": 1.0, "lens": 2.5}  # class -> length over width
SHORTEST = 8.0  # px, of the shorter side

_CORNER_ROWS = """\
# A label file has one row per object, nine numbers separated by spaces:
#   class x1 y1 x2 y2 x3 y3 x4 y4
# class counts from 0 and means a line of `names` below; the points are the corners of the object's rectangle, in either
# direction, as shares of the width and height of the image. Corners of an object that the image's border cuts off may
# lie outside 0 to 1. An empty or missing label file means: nothing to find in this image.
"""


def ensure_shape_boxes(folder: Path | None = None) -> Path:
    """Return the data.yaml of the generated dataset in `folder` (default: the user's cache); draw what is missing.

    Raises UserError if the files cannot be written.
    """
    target = Path(folder) if folder else cache_dir() / "shapes-obb-v1"
    ensure_files(target, file_names(), _draw_dataset)
    return target / "data.yaml"


def draw_boxes(random: RandomState, empty: bool = False) -> tuple[np.ndarray, list[Shape]]:
    """Draw one picture; see shapes.draw."""
    return draw(random, empty, _random_object)


def corners_of_object(shape: Shape) -> np.ndarray:
    """The corners (4, 2) x, y in px of the rectangle around an object, whose first and middle points are its ends."""
    outline = shape.outline
    if len(outline) == 4:
        return outline
    middle, along = outline.mean(0), outline[0] - outline.mean(0)
    across = np.array([-along[1], along[0]]) / list(ASPECTS.values())[shape.kind]
    return np.stack(
        [middle + along + across, middle + along - across, middle - along - across, middle - along + across]
    )


def _random_object(random: RandomState, size: tuple[int, int]) -> Shape:
    """An object of random class, size (on a log scale), angle and position."""
    kind = random.randint(len(ASPECTS))
    aspect = list(ASPECTS.values())[kind]
    low, high = np.log((SHORTEST * aspect, SIZES[1]))
    length = math.exp(random.uniform(low, high))
    angle = random.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    outline = _unit_outline(list(ASPECTS)[kind]) * (length / 2, length / aspect / 2) @ turn
    return Shape(kind, outline + random.uniform(0, 1, 2) * (size[1], size[0]))


def _unit_outline(name: str) -> np.ndarray:
    """The corners (k, 2) of a class in a square from -1 to 1."""
    if name != "lens":
        return np.array([[1.0, 1], [1, -1], [-1, -1], [-1, 1]])
    angles = np.arange(48) * (2 * math.pi / 48)
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


def _draw_dataset(folder: Path) -> None:
    write_dataset(folder, 3, draw_boxes, _label_text, DATA_YAML.replace(BOX_ROWS, _CORNER_ROWS), list(ASPECTS))


def _label_text(shapes: list[Shape], size: tuple[int, int]) -> str:
    rows = []
    for shape in shapes:
        shares = (corners_of_object(shape) / (size[1], size[0])).ravel()
        rows.append(f"{shape.kind} " + " ".join(f"{value:.6f}" for value in shares) + "\n")
    return "".join(rows)
