"""The trackers of the package `trackers` (Apache-2.0): detections of a frame in, the number of each one's track out."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..config.errors import UserError
from .options import TrackerOptions

# Without a handler Python prints a line a frame where the motion of the camera cannot be measured.
logging.getLogger("trackers").addHandler(logging.NullHandler())

NONE = 0  # the id of a detection without a track; ids count from 1


class Engine(Protocol):
    """What assigns ids: an object of the library, or a small one of a test."""

    def update(self, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Return the ids (n,) of the detections of the next frame, NONE for those without a track."""

    def alive(self) -> dict[int, np.ndarray]:
        """Id -> xyxy (4,) where the object is, or is expected to be; also of objects that are out of sight."""


class Kind(NamedTuple):
    """A tracker of the library.

    class_name: its class there. channels: order in the frames that it looks at, "" where it looks at none. activates:
    whether it has the parameter instant_first_frame_activation itself.
    """

    class_name: str
    channels: str = ""
    activates: bool = False


KINDS = {
    "bytetrack": Kind("ByteTrackTracker"),
    "sort": Kind("SORTTracker"),
    "ocsort": Kind("OCSORTTracker"),
    "botsort": Kind("BoTSORTTracker", "BGR", activates=True),
    "cbiou": Kind("CBIoUTracker", activates=True),
    "mcbyte": Kind("McByteTracker", "RGB", activates=True),
}
OVERLAPS = {"iou": "IoU", "giou": "GIoU", "diou": "DIoU", "ciou": "CIoU"}
FIRST = "instant_first_frame_activation"
OURS = ("minimum_score", FIRST, "iou")  # parameters that the classes do not take, or not as text


def need_library() -> None:
    """Import the package, which takes a second, before anything is timed. Raises UserError if it is missing."""
    try:
        import trackers  # noqa: F401
    except ImportError as error:
        text = "" if error.name == "trackers" else f" ({error})"
        raise UserError(f"track needs the package trackers: pip install 'bitfalcon[track]'.{text}") from error


class LibraryEngine:
    """A tracker of the library with the parameters of `options`. Raises UserError for parameters that do not agree."""

    def __init__(self, options: TrackerOptions):
        need_library()
        import trackers

        self._kind, self._first = KINDS[options.name], True
        values = dict(options.parameters)
        self._minimum_score = float(values["minimum_score"])
        arguments: dict[str, Any] = {key: value for key, value in values.items() if key not in OURS}
        self._activates_first = bool(values[FIRST])
        if self._kind.activates:
            arguments[FIRST], self._activates_first = self._activates_first, False
        if "iou" in values:
            arguments["iou"] = getattr(trackers, OVERLAPS[str(values["iou"])])()
        try:
            self._tracker = getattr(trackers, self._kind.class_name)(**arguments)
        except ValueError as error:
            raise UserError(f"tracker {options.name}: {error}.") from error

    def update(self, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Return the ids (n,) int64 of the detections of the next frame, NONE for those without a track.

        boxes (n, 4): xyxy pixels. scores (n,): in [0, 1]. classes (n,): not looked at. frame (H, W, 3): BGR uint8.
        """
        import supervision

        ids = np.full(len(boxes), NONE, np.int64)
        sides = boxes[:, 2:] - boxes[:, :2]
        # Boxes without an area and numbers that are not finite would break the filters.
        usable = np.isfinite(boxes).all(1) & (sides > 0).all(1) & (scores >= self._minimum_score)
        rows = usable.nonzero()[0]
        detections = supervision.Detections(
            xyxy=boxes[rows].astype(np.float64), confidence=scores[rows].astype(np.float64), data={"row": rows}
        )
        view = {"": None, "BGR": frame, "RGB": frame[..., ::-1]}[self._kind.channels]
        tracked = self._tracker.update(detections, None if view is None else np.ascontiguousarray(view))
        if len(tracked):
            ids[tracked.data["row"]] = np.asarray(tracked.tracker_id) + 1  # the library's begin at 0; -1 is none
        if self._first and self._activates_first:
            self._activate(boxes, ids)
        self._first = False
        return ids

    def alive(self) -> dict[int, np.ndarray]:
        """Id -> xyxy (4,) where the object is, or is expected to be; also of objects that are out of sight."""
        known = [track for track in self._tracker.tracks if track.tracker_id >= 0]
        return {int(track.tracker_id) + 1: np.asarray(track.get_state_bbox()) for track in known}

    def _activate(self, boxes: np.ndarray, ids: np.ndarray) -> None:
        """Give the tracks that the first frame began their ids, in the order of the detections."""
        allocate = getattr(self._tracker, "_allocate_tracker_id", None)
        if allocate is None:  # a version of the library without it: ids come in the second frame
            return
        starts = {}  # row of the detection -> its track, whose box is still the detection's
        for track in self._tracker.tracks:
            if track.tracker_id < 0:
                distances = np.abs(boxes - np.asarray(track.get_state_bbox())).sum(1)
                starts[int(np.where(np.isfinite(distances), distances, np.inf).argmin())] = track
        for row in sorted(starts):
            starts[row].tracker_id = allocate()
            ids[row] = starts[row].tracker_id + 1
