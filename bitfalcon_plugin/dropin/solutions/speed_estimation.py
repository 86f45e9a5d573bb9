"""Estimates the speeds of objects from the paths of their centres."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from typing import Any

import numpy as np

from .solutions import BaseSolution, SolutionResults


class SpeedEstimator(BaseSolution):
    """km/h over the last max_hist frames in which an object was seen.

    meter_per_pixel: metres that a pixel is long on the ground. fps: frames a second. max_speed: km/h, nothing is
    quicker. spd: id -> km/h.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        length = max(int(self.CFG["max_hist"]), 2)
        self.frame_count = 0
        self.spd: dict[int, float] = {}
        self._paths: defaultdict[int, deque] = defaultdict(lambda: deque(maxlen=length))

    def process(self, im0: np.ndarray) -> SolutionResults:
        result, detections = self.find(im0)
        self.frame_count += 1
        ids = [] if detections.tracker_id is None else detections.tracker_id.tolist()
        for track, (x1, y1, x2, y2) in zip(ids, detections.xyxy.tolist()):
            path = self._paths[track]
            path.append((self.frame_count, (x1 + x2) / 2, (y1 + y2) / 2))
            if len(path) == path.maxlen:
                self.spd[track] = self._speed(path[0], path[-1])
        known = {track: self.spd[track] for track in ids if track in self.spd}
        return self.summary(result, self._draw(result, ids, detections), speed_dict=known)

    def _speed(self, first: tuple[float, ...], last: tuple[float, ...]) -> float:
        metres = math.dist(first[1:], last[1:]) * self.CFG["meter_per_pixel"]
        seconds = (last[0] - first[0]) / self.CFG["fps"]
        return min(metres / seconds * 3.6, float(self.CFG["max_speed"]))

    def _draw(self, result: Any, ids: list[int], detections: Any) -> np.ndarray:
        """The frame with boxes, and the speed of an object, or its class, in the place of the label."""
        import supervision as sv

        if not ids:
            return self.draw(result)
        names = [self.names[cls] for cls in detections.class_id.tolist()]
        labels = [f"{self.spd[track]:.0f} km/h" if track in self.spd else name for track, name in zip(ids, names)]
        picture = sv.BoxAnnotator(thickness=self.line_width).annotate(result.orig_img.copy(), detections)
        return sv.LabelAnnotator().annotate(picture, detections, labels)

    def estimate_speed(self, im0: np.ndarray) -> np.ndarray:
        """Return the annotated frame, as older scripts call it."""
        return self(im0).plot_im
