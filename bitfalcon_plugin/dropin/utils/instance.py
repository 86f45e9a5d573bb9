"""The objects of one image as arrays, which scripts read and change: boxes, outlines and keypoints.

Our own code has ops.instances.Instances for the same thing; transforms of `data.augment` go from one to the other.
Facts: spec/dropin-helpers.md section 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import ops

FORMATS = ("xyxy", "xywh", "ltwh")
# (from, to) -> the function that turns boxes of one format into the other
CONVERSIONS = {
    ("xyxy", "xywh"): ops.xyxy2xywh,
    ("xyxy", "ltwh"): ops.xyxy2ltwh,
    ("xywh", "xyxy"): ops.xywh2xyxy,
    ("xywh", "ltwh"): ops.xywh2ltwh,
    ("ltwh", "xyxy"): ops.ltwh2xyxy,
    ("ltwh", "xywh"): ops.ltwh2xywh,
}


def _four(value: float | Sequence[float]) -> np.ndarray:
    """A number for all four columns of boxes, or one for each, as (4,)."""
    numbers = np.asarray(value, dtype=np.float32).reshape(-1)
    if numbers.size not in (1, 4):
        raise ValueError(f"{value!r} has {numbers.size} numbers; expected 1 or 4, for the columns of boxes")
    return np.broadcast_to(numbers, (4,))


class Bboxes:
    """Boxes (n, 4) of a format: "xyxy", "xywh" (centre and size) or "ltwh" (upper left corner and size)."""

    def __init__(self, bboxes: np.ndarray, format: str = "xyxy") -> None:
        assert format in FORMATS, f"format={format!r}; expected one of {', '.join(FORMATS)}"
        boxes = bboxes[None] if bboxes.ndim == 1 else bboxes
        assert boxes.ndim == 2 and boxes.shape[1] == 4, f"boxes have shape {bboxes.shape}; expected (n, 4)"
        self.bboxes, self.format = boxes, format

    def convert(self, format: str) -> None:
        """Turn the boxes into another format."""
        assert format in FORMATS, f"format={format!r}; expected one of {', '.join(FORMATS)}"
        if format != self.format:
            self.bboxes = CONVERSIONS[self.format, format](self.bboxes)
            self.format = format

    def areas(self) -> np.ndarray:
        """Return width times height (n,)."""
        sides = self.bboxes[:, 2:] - self.bboxes[:, :2] if self.format == "xyxy" else self.bboxes[:, 2:]
        return sides.prod(axis=1)

    def mul(self, scale: float | Sequence[float]) -> None:
        """Multiply the columns by a number, or each by its own."""
        self.bboxes = self.bboxes * _four(scale).astype(self.bboxes.dtype)

    def add(self, offset: float | Sequence[float]) -> None:
        """Add a number to the columns, or to each its own."""
        self.bboxes = self.bboxes + _four(offset).astype(self.bboxes.dtype)

    def __len__(self) -> int:
        return len(self.bboxes)

    @classmethod
    def concatenate(cls, boxes_list: Sequence[Bboxes], axis: int = 0) -> Bboxes:
        """Put boxes behind one another; they have the format of the first ones."""
        if not boxes_list:
            return cls(np.empty((0, 4), np.float32))
        form = boxes_list[0].format
        return cls(np.concatenate([_in_format(boxes, form) for boxes in boxes_list], axis=axis), form)

    def __getitem__(self, index: Any) -> Bboxes:
        return Bboxes(self.bboxes[index].reshape(-1, 4), self.format)


def _in_format(boxes: Bboxes, form: str) -> np.ndarray:
    return boxes.bboxes if boxes.format == form else CONVERSIONS[boxes.format, form](boxes.bboxes)


class Instances:
    """The objects of one image.

    bboxes (n, 4): of `bbox_format`. segments: outlines (n, k, 2), or a list of (k, 2), of which shorter ones repeat
    their last point; no rows without outlines. keypoints (n, K, 2 or 3) or None. normalized: whether coordinates are
    shares of the image, and not pixels.
    """

    def __init__(
        self,
        bboxes: np.ndarray,
        segments: np.ndarray | Sequence[np.ndarray] | None = None,
        keypoints: np.ndarray | None = None,
        bbox_format: str = "xywh",
        normalized: bool = True,
    ) -> None:
        self._bboxes = Bboxes(bboxes, bbox_format)
        self.segments, self.keypoints, self.normalized = equal_lengths(segments), keypoints, normalized

    def convert_bbox(self, format: str) -> None:
        """Turn the boxes into another format."""
        self._bboxes.convert(format)

    @property
    def bboxes(self) -> np.ndarray:
        """The boxes (n, 4) in their format."""
        return self._bboxes.bboxes

    @property
    def bbox_areas(self) -> np.ndarray:
        """Width times height (n,)."""
        return self._bboxes.areas()

    def scale(self, scale_w: float, scale_h: float, bbox_only: bool = False) -> None:
        """Multiply x and widths by scale_w, y and heights by scale_h; with bbox_only those of the boxes alone."""
        self._bboxes.mul((scale_w, scale_h, scale_w, scale_h))
        if not bbox_only:
            self._points(lambda points: points * np.array([scale_w, scale_h], points.dtype))

    def denormalize(self, w: float, h: float) -> None:
        """Turn shares of an image of w x h pixels into pixels."""
        if self.normalized:
            self.scale(w, h)
            self.normalized = False

    def normalize(self, w: float, h: float) -> None:
        """Turn pixels of an image of w x h pixels into shares."""
        if not self.normalized:
            self.scale(1 / w, 1 / h)
            self.normalized = True

    def add_padding(self, padw: float, padh: float) -> None:
        """Move everything by padw to the right and padh down, in pixels."""
        assert not self.normalized, "padding is in pixels, and these coordinates are shares: denormalize first"
        moves_size = self._bboxes.format == "xyxy"
        self._bboxes.add((padw, padh, padw if moves_size else 0, padh if moves_size else 0))
        self._points(lambda points: points + np.array([padw, padh], points.dtype))

    def fliplr(self, w: float) -> None:
        """Mirror left to right; w: the width of the image, 1 for shares."""
        self._mirror(0, 1.0 if self.normalized else w)

    def flipud(self, h: float) -> None:
        """Mirror upside down; h: the height of the image, 1 for shares."""
        self._mirror(1, 1.0 if self.normalized else h)

    def _mirror(self, axis: int, side: float) -> None:
        form = self._bboxes.format
        self._bboxes.convert("xyxy")
        boxes = self._bboxes.bboxes.copy()
        boxes[:, [axis, axis + 2]] = side - boxes[:, [axis + 2, axis]]
        self._bboxes.bboxes = boxes
        self._bboxes.convert(form)

        def mirrored(points: np.ndarray) -> np.ndarray:
            points = points.copy()
            points[..., axis] = side - points[..., axis]
            return points

        self._points(mirrored)

    def clip(self, w: float, h: float) -> None:
        """Cut everything to the image of w x h pixels. A keypoint outside loses its visibility."""
        limit = np.array([1.0, 1.0] if self.normalized else [w, h], np.float32)
        form = self._bboxes.format
        self._bboxes.convert("xyxy")
        self._bboxes.bboxes = np.clip(self._bboxes.bboxes, 0, np.tile(limit, 2))
        self._bboxes.convert(form)
        if self.keypoints is not None and self.keypoints.shape[-1] == 3:
            xy = self.keypoints[..., :2]
            inside = ((xy >= 0) & (xy <= limit)).all(axis=-1)
            self.keypoints = np.concatenate([xy, np.where(inside, self.keypoints[..., 2], 0)[..., None]], axis=-1)
        self._points(lambda points: np.clip(points, 0, limit.astype(points.dtype)))

    def remove_zero_area_boxes(self) -> np.ndarray:
        """Leave out objects whose box has no area; return which are left (n,) bool."""
        good = self.bbox_areas > 0
        if not good.all():
            left = self[good]
            self._bboxes, self.segments, self.keypoints = left._bboxes, left.segments, left.keypoints
        return good

    def update(self, bboxes: np.ndarray, segments: Any = None, keypoints: np.ndarray | None = None) -> None:
        """Replace the boxes, in the same format, and the outlines and keypoints that are given."""
        self._bboxes = Bboxes(bboxes, self._bboxes.format)
        if segments is not None:
            self.segments = equal_lengths(segments)
        if keypoints is not None:
            self.keypoints = keypoints

    def __len__(self) -> int:
        return len(self.bboxes)

    def __getitem__(self, index: Any) -> Instances:
        segments = self.segments[index] if len(self.segments) else self.segments
        keypoints = None if self.keypoints is None else self.keypoints[index]
        if isinstance(index, (int, np.integer)):
            segments = segments[None] if len(self.segments) else segments
            keypoints = None if keypoints is None else keypoints[None]
        boxes = self._bboxes[index]
        return Instances(boxes.bboxes, segments, keypoints, boxes.format, self.normalized)

    @classmethod
    def concatenate(cls, instances_list: Sequence[Instances], axis: int = 0) -> Instances:
        """Put objects behind one another; all have shares, or all have pixels, and the format of the first ones."""
        if not instances_list:
            return cls(np.empty((0, 4), np.float32))
        first = instances_list[0]
        if any(each.normalized != first.normalized for each in instances_list):
            raise ValueError("some of these objects are in pixels and others in shares of their image")
        boxes = Bboxes.concatenate([each._bboxes for each in instances_list], axis=axis)
        with_outlines = [each for each in instances_list if len(each.segments)]
        segments = [ring for each in with_outlines for ring in each.segments]
        if with_outlines and len(segments) != len(boxes):  # some have boxes alone: the box is the outline
            segments = [ring for each in instances_list for ring in each.segments_or_corners()]
        columns = [each.keypoints for each in instances_list]
        keypoints = None if any(column is None for column in columns) else np.concatenate(columns, axis=axis)
        return cls(boxes.bboxes, segments, keypoints, boxes.format, first.normalized)

    def segments_or_corners(self) -> Sequence[np.ndarray]:
        """The outlines, and where there are none the corners of the boxes: n arrays (k, 2)."""
        if len(self.segments) == len(self):
            return list(self.segments)
        return list(_in_format(self._bboxes, "xyxy")[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2))

    def _points(self, function: Any) -> None:
        """Apply a function of points (..., 2) to outlines and keypoints."""
        if len(self.segments):
            self.segments = function(self.segments)
        if self.keypoints is not None:
            moved = function(self.keypoints[..., :2])
            self.keypoints = np.concatenate([moved, self.keypoints[..., 2:]], axis=-1)

    def __repr__(self) -> str:
        unit = "shares" if self.normalized else "pixels"
        outlines = f", {len(self.segments)} outlines" if len(self.segments) else ""
        keypoints = "" if self.keypoints is None else f", keypoints {self.keypoints.shape}"
        return f"Instances({len(self)} boxes {self._bboxes.format} in {unit}{outlines}{keypoints})"


def equal_lengths(segments: np.ndarray | Sequence[np.ndarray] | None) -> np.ndarray:
    """Return rings of points as one array (n, k, 2): shorter rings repeat their last point, which keeps their shape."""
    if segments is None or not len(segments):
        return np.zeros((0, 0, 2), np.float32)
    if isinstance(segments, np.ndarray) and segments.ndim == 3:
        return segments
    rings = [np.asarray(ring, np.float32).reshape(-1, 2) for ring in segments]
    longest = max(len(ring) for ring in rings)
    padded = np.zeros((len(rings), longest, 2), np.float32)
    for row, ring in zip(padded, rings, strict=True):
        row[: len(ring)] = ring
        row[len(ring) :] = ring[-1:] if len(ring) else 0
    return padded
