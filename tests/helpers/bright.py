"""A YOLO object that needs no training: finder.BrightBoxes in the place of its network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitfalcon_plugin import YOLO
from tests.helpers.coloured import GRAPH
from tests.helpers.finder import BrightBoxes


class Bright(BrightBoxes):
    """BrightBoxes with what the facade asks of a network."""

    def fuse(self):
        return self


def bright(folder: Path, **settings) -> YOLO:
    """It finds the red (0), green (1) and blue (2) area of an image, one box a colour; imgsz is 64."""
    (folder / "bright.yaml").write_text(GRAPH)
    yolo = YOLO(folder / "bright.yaml")
    yolo._working.built = Bright()
    yolo.overrides.update({"imgsz": 64, "device": "cpu", **settings})
    return yolo


def canvas(height: int, width: int, *boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """A grey BGR image with rectangles (class, x1, y1, x2, y2), ends outside."""
    image = np.full((height, width, 3), 114, np.uint8)
    for cls, x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = [[0, 0, 255], [0, 255, 0], [255, 0, 0]][cls]
    return image
