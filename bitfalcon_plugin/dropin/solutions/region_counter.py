"""Counts the objects that are in each of several polygons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...config.errors import UserError
from .solutions import BaseSolution, SolutionResults
from .zones import CountedPolygon, whole_frame, zone_of


class RegionCounter(BaseSolution):
    """region: the corners of a polygon (named Region#01), or name -> corners; by default the whole frame."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.zones: dict[str, CountedPolygon] = {}
        self.region_counts: dict[str, int] = {}

    def process(self, im0: np.ndarray) -> SolutionResults:
        result, detections = self.find(im0)
        if not self.zones:
            self.region = whole_frame(im0.shape) if self.region is None else self.region
            regions = self.region if isinstance(self.region, Mapping) else {"Region#01": self.region}
            self.zones = {str(name): _polygon(points, f"region {name}") for name, points in regions.items()}
        picture = self.draw(result)
        for name, zone in self.zones.items():
            zone.update(detections)
            self.region_counts[name] = zone.current
            picture = zone.label(picture, self.line_width, f"{name}: {zone.current}")
        return self.summary(result, picture, region_counts=dict(self.region_counts))

    def count(self, im0: np.ndarray) -> np.ndarray:
        """Return the annotated frame, as older scripts call it."""
        return self(im0).plot_im


def _polygon(points: object, what: str) -> CountedPolygon:
    zone = zone_of(points, what)
    if not isinstance(zone, CountedPolygon):
        raise UserError(f"{what}={points!r}: expected a polygon, three points (x, y) or more.")
    return zone
