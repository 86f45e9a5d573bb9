"""A tracker of a dozen lines that stands in for the package `trackers`, and a clip of coloured rectangles for both."""

from __future__ import annotations

import numpy as np
import pytest

import bitfalcon_plugin.track.run as run
import bitfalcon_plugin.track.tracker as tracker
from tests.helpers.bright import canvas

SIZE = 96, 128  # (h, w) of the frames
GONE = range(6, 9)  # frames in which the green object is out of sight
LATE = 10  # the first frame of the blue object


class NearestCentre:
    """Gives a detection the id of the nearest object of its class; an object has an id from its second frame on.

    Those of the first frame have theirs at once. An object is waited for during 30 frames.
    """

    def __init__(self, options) -> None:
        self.options, self.frame, self.last_id = options, 0, 0
        self.objects: list[dict] = []

    def update(self, boxes, scores, classes, frame):
        self.frame += 1
        ids = np.zeros(len(boxes), np.int64)
        for row, (box, cls) in enumerate(zip(boxes, classes)):
            centre = (box[:2] + box[2:]) / 2
            near = [o for o in self.objects if o["cls"] == cls and abs(o["centre"] - centre).sum() < 40]
            seen = near[0] if near else {"cls": cls, "id": 0, "count": 0}
            if not near:
                self.objects.append(seen)
            seen |= {"centre": centre, "box": box, "frame": self.frame, "count": seen["count"] + 1}
            if not seen["id"] and (self.frame == 1 or seen["count"] > 1):
                self.last_id += 1
                seen["id"] = self.last_id
            ids[row] = seen["id"]
        self.objects = [o for o in self.objects if self.frame - o["frame"] <= 30]
        return ids

    def alive(self):
        return {o["id"]: o["box"] for o in self.objects if o["id"]}


@pytest.fixture()
def fake(monkeypatch):
    """Tracking without the package `trackers`."""
    monkeypatch.setattr(tracker, "LibraryEngine", NearestCentre)
    monkeypatch.setattr(run, "need_library", lambda: None)
    return NearestCentre


def scene(index: int) -> list[tuple[int, int, int, int, int]]:
    """The rectangles (class, x1, y1, x2, y2) of a frame: red goes right, green goes left and hides, blue comes late."""
    objects = [(0, 4 + 3 * index, 6, 24 + 3 * index, 30)]
    if index not in GONE:
        objects.append((1, 100 - 2 * index, 50, 120 - 2 * index, 80))
    return objects + ([(2, 60, 40, 76, 60)] if index >= LATE else [])


def clip(count: int = 14) -> list[np.ndarray]:
    """The frames of the scene, (96, 128, 3) BGR uint8."""
    return [canvas(*SIZE, *scene(index)) for index in range(count)]


def ids_of(results) -> list[list[int] | None]:
    """The ids of each frame, None where there are none."""
    return [None if result.boxes.id is None else result.boxes.id.int().tolist() for result in results]


def library_allocates_ids() -> bool:
    """Whether the trackers of the package, where it is installed, have the method that gives the next id."""
    try:
        from trackers import ByteTrackTracker
    except ImportError:
        return True
    return ByteTrackTracker()._allocate_tracker_id() == 0
