"""Counts the objects that wait in a polygon."""

from __future__ import annotations

from typing import Any

import numpy as np

from .region_counter import _polygon
from .solutions import BaseSolution, SolutionResults
from .zones import CountedPolygon, whole_frame


class QueueManager(BaseSolution):
    """region: the corners of a polygon; by default the whole frame. counts: the objects in it now."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.zone: CountedPolygon | None = None
        self.counts = 0

    def process(self, im0: np.ndarray) -> SolutionResults:
        result, detections = self.find(im0)
        if self.zone is None:
            self.region = whole_frame(im0.shape) if self.region is None else self.region
            self.zone = _polygon(self.region, "QueueManager: region")
        self.zone.update(detections)
        self.counts = self.zone.current
        picture = self.zone.label(self.draw(result), self.line_width, f"queue: {self.counts}")
        return self.summary(result, picture, queue_count=self.counts)

    def process_queue(self, im0: np.ndarray) -> np.ndarray:
        """Return the annotated frame, as older scripts call it."""
        return self(im0).plot_im
