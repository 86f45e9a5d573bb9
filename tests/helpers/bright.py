"""A YOLO object that detects without training: its network is finder.BrightBoxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

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


class BrightMasks(Bright):
    """Bright with a mask for each box, from a prototype for each colour in a quarter of the input's size."""

    task = "segment"

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        others = torch.stack([images[:, [c for c in range(3) if c != channel]].amax(1) for channel in range(3)], 1)
        bright = ((images > 0.75) & (others < 0.4)).float()
        return {"images": images, "prototypes": torch.nn.functional.avg_pool2d(bright, 4) * 2 - 1}

    def decode(self, raw):
        """(B, 4+3+3, 3): the boxes of Bright, each with the coefficient 1 for the prototype of its colour."""
        images = raw["images"]
        return torch.cat([super().decode(images), torch.eye(3).expand(len(images), 3, 3)], 1)


def bright_masks(folder: Path, **settings) -> YOLO:
    """As `bright`, with masks."""
    yolo = bright(folder, **settings)
    yolo._working.built = BrightMasks()
    return yolo
