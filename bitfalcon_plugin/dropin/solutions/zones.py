"""Lines and polygons that objects cross or are in, counted by supervision's zones at the centres of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...config.errors import UserError


class CountedLine:
    """A segment. in_count: centres that crossed it downwards, or to the right where it is steep; out_count: back."""

    def __init__(self, points: Sequence[Sequence[float]]):
        import supervision as sv

        (x1, y1), (x2, y2) = points
        # supervision counts by the direction of the line: from right to left, or downwards, in is as above.
        is_steep = abs(y2 - y1) > abs(x2 - x1)
        start, end = sorted([(x1, y1), (x2, y2)], key=lambda point: point[1] if is_steep else -point[0])
        self.zone = sv.LineZone(sv.Point(*start), sv.Point(*end), triggering_anchors=[sv.Position.CENTER])

    def update(self, detections: Any) -> None:
        """Count the crossings of the next frame."""
        self.zone.trigger(detections)

    @property
    def in_count(self) -> int:
        return self.zone.in_count

    @property
    def out_count(self) -> int:
        return self.zone.out_count

    def by_class(self) -> dict[int, tuple[int, int]]:
        """Class -> (in, out)."""
        entered, left = self.zone.in_count_per_class, self.zone.out_count_per_class
        return {int(cls): (entered.get(cls, 0), left.get(cls, 0)) for cls in sorted({*entered, *left})}

    def annotate(self, picture: np.ndarray, width: int, show_in: bool, show_out: bool) -> np.ndarray:
        import supervision as sv

        drawer = sv.LineZoneAnnotator(width, display_in_count=show_in, display_out_count=show_out)
        return drawer.annotate(picture, self.zone)


class CountedPolygon:
    """A polygon. in_count: objects whose centre came into it; out_count: objects that left it; current: inside now.

    An object that is first seen inside did not come in, but may leave.
    """

    def __init__(self, points: Sequence[Sequence[float]]):
        import supervision as sv

        corners = np.asarray(points, dtype=float).round().astype(np.int64)
        self.zone = sv.PolygonZone(corners, triggering_anchors=[sv.Position.CENTER])
        self.in_count = self.out_count = self.current = 0
        self._inside: dict[int, bool] = {}  # id -> whether it was inside when it was last seen
        self._counts: dict[int, list[int]] = {}

    def update(self, detections: Any) -> None:
        """Count who came in and who left in the next frame."""
        inside = self.zone.trigger(detections)
        self.current = int(inside.sum())
        if detections.tracker_id is None:
            return
        for track, cls, is_inside in zip(detections.tracker_id.tolist(), detections.class_id.tolist(), inside.tolist()):
            if is_inside != self._inside.setdefault(track, is_inside):
                self.in_count, self.out_count = self.in_count + is_inside, self.out_count + (not is_inside)
                self._counts.setdefault(cls, [0, 0])[0 if is_inside else 1] += 1
            self._inside[track] = is_inside

    def by_class(self) -> dict[int, tuple[int, int]]:
        """Class -> (in, out)."""
        return {cls: (entered, left) for cls, (entered, left) in sorted(self._counts.items())}

    def annotate(self, picture: np.ndarray, width: int, show_in: bool, show_out: bool) -> np.ndarray:
        texts = [f"in: {self.in_count}"] * show_in + [f"out: {self.out_count}"] * show_out
        return self.label(picture, width, " ".join(texts))

    def label(self, picture: np.ndarray, width: int, text: str) -> np.ndarray:
        """Draw the polygon with a text in its middle."""
        import supervision as sv

        return sv.PolygonZoneAnnotator(self.zone, thickness=width).annotate(picture, text or None)


def zone_of(points: object, what: str) -> CountedLine | CountedPolygon:
    """Return the zone of two points (a line) or more (a polygon). what: the beginning of messages."""
    try:
        corners = np.asarray(points, dtype=float)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 2:
        raise UserError(
            f"{what}={points!r}: expected points [(x, y), ...] in pixels, two for a line, more for a polygon."
        )
    return CountedLine(corners.tolist()) if len(corners) == 2 else CountedPolygon(corners.tolist())


def middle_line(size: tuple[int, ...]) -> list[tuple[int, int]]:
    """The line across the middle of a frame (h, w): where nobody says which."""
    return [(0, size[0] // 2), (size[1], size[0] // 2)]


def whole_frame(size: tuple[int, ...]) -> list[tuple[int, int]]:
    """The corners of a frame (h, w)."""
    height, width = size[0] - 1, size[1] - 1
    return [(0, 0), (width, 0), (width, height), (0, height)]
