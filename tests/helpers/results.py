"""Boxes with and without tracks, and Results of a grey picture with these boxes."""

from __future__ import annotations

import numpy as np
import torch

from bitfalcon_plugin.predict.detections import Boxes
from bitfalcon_plugin.predict.results import Results

ROWS = torch.tensor(
    [[10.0, 20.0, 50.0, 80.0, 0.9, 0.0], [0.0, 0.0, 100.0, 200.0, 0.5, 1.0], [5.0, 5.0, 9.0, 9.0, 0.3, 1.0]]
)
TRACKED = torch.cat((ROWS[:, :4], torch.tensor([[7.0], [1234567.0], [9.0]]), ROWS[:, 4:]), 1)
NAMES = {0: "person", 1: "bus"}
SHAPE = (200, 100)
# What each attribute holds for ROWS on a picture of 200 x 100 (h, w).
VALUES = {
    "xyxy": [[10, 20, 50, 80], [0, 0, 100, 200], [5, 5, 9, 9]],
    "xywh": [[30, 50, 40, 60], [50, 100, 100, 200], [7, 7, 4, 4]],
    "xyxyn": [[0.1, 0.1, 0.5, 0.4], [0, 0, 1, 1], [0.05, 0.025, 0.09, 0.045]],
    "xywhn": [[0.3, 0.25, 0.4, 0.3], [0.5, 0.5, 1, 1], [0.07, 0.035, 0.04, 0.02]],
    "conf": [0.9, 0.5, 0.3],
    "cls": [0, 1, 1],
}


def result(rows=ROWS, **options) -> Results:
    return Results(np.full((*SHAPE, 3), 50, np.uint8), "pictures/street.png", NAMES, rows, **options)


def kinds(rows: torch.Tensor) -> tuple[Boxes, Boxes]:
    """The same boxes of torch and of numpy."""
    return Boxes(rows, SHAPE), Boxes(rows.numpy(), SHAPE)
