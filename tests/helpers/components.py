"""A detector without training that finds every bright object of an image, for each task that finds objects.

It stands in for a network in tests of tiles: where a border cuts an object, the part that is left is an object too,
and one with a higher score than the whole, which is the hard case for merging.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bitfalcon_plugin.ops.keypoint_layout import KeypointLayout
from bitfalcon_plugin.ops.outlines import rings_of
from bitfalcon_plugin.ops.rotated import smallest_rectangles

WHOLE, PART = 0.8, 0.9  # scores of objects inside of an image, and of those that touch its border


class Components(nn.Module):
    """Finds the connected areas of each channel: red is class 0, green class 1, blue class 2. task: what is found.

    Keypoints are the leftmost and the rightmost pixel. seen: shapes of the network inputs so far.
    """

    multiple, strides, names, nc = 32, (32.0,), {0: "red", 1: "green", 2: "blue"}, 3
    exported, fixed = False, None

    def __init__(self, task: str = "detect"):
        super().__init__()
        self.task, self.seen = task, []
        self.weight = nn.Parameter(torch.zeros(1))
        self.keypoints = KeypointLayout(2, 3) if task == "pose" else None

    def fuse(self):
        return self

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        others = torch.stack([images[:, [c for c in range(3) if c != channel]].amax(1) for channel in range(3)], 1)
        bright = (images > 0.75) & (others < 0.4)
        if self.task != "segment":
            return {"bright": bright}
        prototypes = torch.nn.functional.avg_pool2d(bright.float(), 4) * 2 - 1
        return {"bright": bright, "prototypes": prototypes}

    def decode(self, raw):
        """Return candidates (B, 4 + 3 + k, A): every connected area is one, and the rest has the score 0."""
        images = [self._rows(image.numpy()) for image in raw["bright"]]
        width = 7 + {"detect": 0, "segment": 3, "pose": 6, "obb": 1}[self.task]
        out = torch.zeros(len(images), width, max(map(len, images), default=0))
        for index, rows in enumerate(images):
            if rows:
                out[index, :, : len(rows)] = torch.tensor(rows).T
        return out

    def _rows(self, bright: np.ndarray) -> list[list[float]]:
        rows = []
        for channel, plane in enumerate(bright):
            for ring in rings_of(plane):
                if len(ring) < 3:
                    continue
                (x1, y1), (x2, y2) = ring.min(0), ring.max(0) + 1
                height, width = plane.shape
                score = PART if x1 == 0 or y1 == 0 or x2 == width or y2 == height else WHOLE
                scores = [score * (channel == cls) for cls in range(3)]
                box = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
                rows.append([*self._box(ring, box), *scores, *self._further(ring, box, channel)])
        return rows

    def _box(self, ring: np.ndarray, box: list[float]) -> list[float]:
        return self._rectangle(ring)[:4] if self.task == "obb" else box

    def _rectangle(self, ring: np.ndarray) -> list[float]:
        (rectangle,) = smallest_rectangles(torch.from_numpy(ring)[None].float() + 0.5).tolist()
        return [*rectangle[:2], rectangle[2] + 1, rectangle[3] + 1, rectangle[4]]

    def _further(self, ring: np.ndarray, box: list[float], channel: int) -> list[float]:
        if self.task == "obb":
            return self._rectangle(ring)[4:]
        if self.task == "segment":
            return [float(channel == index) for index in range(3)]
        if self.task == "pose":
            ends = ring[ring[:, 0].argmin()], ring[ring[:, 0].argmax()]
            return [value for x, y in ends for value in (float(x), float(y), 0.9)]
        return []
