"""Counts the objects that cross a line, or come into a polygon and leave it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .solutions import BaseSolution, SolutionResults
from .zones import CountedLine, CountedPolygon, middle_line, zone_of


class ObjectCounter(BaseSolution):
    """Counts at the centres of boxes. region: two points or a polygon; by default the line across the middle.

    in_count of a line: downwards, or to the right where the line is steep. in_count of a polygon: came in.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.zone: CountedLine | CountedPolygon | None = None
        self.in_count = self.out_count = 0
        self.classwise_count: dict[str, dict[str, int]] = {}

    def process(self, im0: np.ndarray) -> SolutionResults:
        result, detections = self.find(im0)
        return self.summary(result, self.count_in(detections, self.draw(result)), **self.counts)

    def count_in(self, detections: Any, picture: np.ndarray) -> np.ndarray:
        """Count the crossings of a frame, and return the picture with the zone."""
        if self.zone is None:
            self.region = middle_line(picture.shape) if self.region is None else self.region
            self.zone = zone_of(self.region, f"{type(self).__name__}: region")
        self.zone.update(detections)
        self.in_count, self.out_count = self.zone.in_count, self.zone.out_count
        by_class = self.zone.by_class().items()
        self.classwise_count = {self.names[cls]: {"IN": entered, "OUT": left} for cls, (entered, left) in by_class}
        return self.zone.annotate(picture, self.line_width, self.CFG["show_in"], self.CFG["show_out"])

    @property
    def counts(self) -> dict[str, Any]:
        """The counts so far, as keywords of SolutionResults."""
        return {"in_count": self.in_count, "out_count": self.out_count, "classwise_count": self.classwise_count}

    def count(self, im0: np.ndarray) -> np.ndarray:
        """Return the annotated frame, as older scripts call it."""
        return self(im0).plot_im
