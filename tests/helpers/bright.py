"""A YOLO object that detects without training: its network is finder.BrightBoxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitfalcon_plugin import YOLO
from tests.helpers.coloured import GRAPH
from tests.helpers.finder import BrightBoxes


class Bright(BrightBoxes):
    """BrightBoxes with the methods that YOLO calls."""

    def fuse(self):
        return self


def untrained(folder: Path) -> YOLO:
    """A YOLO object of a small graph with three classes and random weights."""
    (folder / "bright.yaml").write_text(GRAPH)
    return YOLO(folder / "bright.yaml")


def bright(folder: Path, **settings) -> YOLO:
    """A YOLO object that detects the red (0), green (1) and blue (2) area of an image, one box each; imgsz is 64."""
    yolo = untrained(folder)
    yolo._working.built = Bright()
    yolo.overrides.update({"imgsz": 64, "device": "cpu", **settings})
    return yolo


def canvas(height: int, width: int, *boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """A grey BGR image with rectangles (class, x1, y1, x2, y2), ends outside."""
    image = np.full((height, width, 3), 114, np.uint8)
    for cls, x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = [[0, 0, 255], [0, 255, 0], [255, 0, 0]][cls]
    return image
