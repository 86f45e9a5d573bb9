"""The detections of one image as public objects, in pixels of the image: upright boxes and oriented ones.

Written from spec/interface.md 8.3 and spec/pose-obb.md 2.2 and 2.11.
"""

from __future__ import annotations

from typing import TypeVar

import torch

from ..ops.boxes import xywh_from_xyxy
from ..ops.rotated import canonical, corners_of, hulls_of
from .parts import Array, Part

R = TypeVar("R", bound="Rows")


class Rows(Part):
    """Detections with a score and a class: the last columns of data are [id,] score, class.

    `width` of a class is the number of columns before them.
    """

    width: int

    def _problem(self, data: Array) -> str:
        if data.ndim == 2 and data.shape[1] - self.width in (2, 3):
            return ""
        box = " ".join(self.columns)
        return f"(n, {self.width + 2}): {box} score class, or (n, {self.width + 3}): {box} id score class"

    def scaled(self: R, share: float) -> R:
        """Return the same rows for a copy of the image whose sides are `share` of those of the image."""
        data = torch.as_tensor(self.data).clone()
        data[:, :4] *= share
        return type(self)(data, tuple(round(side * share) for side in self.orig_shape))

    @property
    def conf(self) -> Array:
        """(n,) scores in [0, 1]."""
        return self.data[:, -2]

    @property
    def cls(self) -> Array:
        """(n,) class indices, as floats."""
        return self.data[:, -1]

    @property
    def id(self) -> Array | None:
        """(n,) numbers of the tracks, as floats; None where nothing was tracked."""
        return self.data[:, -3] if self.is_track else None

    @property
    def is_track(self) -> bool:
        """Whether the rows carry the numbers of tracks."""
        return self.data.shape[1] == self.width + 3


class Boxes(Rows):
    """Detections of one image, one a row. The length is the number of rows; Boxes without rows are false.

    boxes (Tensor or ndarray [n, 6]): x1, y1, x2, y2 in pixels of the original image, score in [0, 1], class; or [n, 7]
    with the number of a track before the score. A single row may be given as (6,) or (7,). orig_shape: (h, w) of the
    image. Raises ValueError for data of another shape.
    """

    width, columns = 4, ("x1", "y1", "x2", "y2")
    shown = (*"cls conf data id is_track orig_shape shape xywh xywhn xyxy xyxyn".split(),)

    def __init__(self, boxes: Array, orig_shape: tuple[int, int]):
        super().__init__(boxes, orig_shape)

    @property
    def boxes(self) -> Array:
        """data, by its name in old scripts."""
        return self.data

    @property
    def xyxy(self) -> Array:
        """(n, 4) corners in pixels."""
        return self.data[:, :4]

    @property
    def xywh(self) -> Array:
        """(n, 4) centre and size in pixels."""
        return self._through(xywh_from_xyxy, self.xyxy)

    @property
    def xyxyn(self) -> Array:
        """(n, 4) corners over the image's width and height."""
        return self._over_size(self.xyxy)

    @property
    def xywhn(self) -> Array:
        """(n, 4) centre and size over the image's width and height."""
        return self._over_size(self.xywh)


class OBB(Rows):
    """Oriented detections of one image, one a row. The length is the number of rows; an OBB without rows is false.

    boxes (Tensor or ndarray [n, 7]): centre x, centre y, width, height in pixels of the original image, angle in
    radians, score in [0, 1], class; or [n, 8] with the number of a track before the score. The width's axis points
    along (cos, sin) of the angle, so that a positive angle turns clockwise on the screen. Boxes may reach beyond the
    image. An angle and the angle plus pi are the same box: it has no front. The width may be the shorter side; see
    `canonical`. Raises ValueError for data of another shape.
    """

    width, columns = 5, ("x", "y", "w", "h", "angle")
    shown = (*"cls conf data id is_track orig_shape shape xywhr xyxy xyxyxyxy xyxyxyxyn".split(),)

    def __init__(self, boxes: Array, orig_shape: tuple[int, int]):
        super().__init__(boxes, orig_shape)

    @property
    def xywhr(self) -> Array:
        """(n, 5) centre and size in pixels, and angle in radians."""
        return self.data[:, :5]

    @property
    def degrees(self) -> Array:
        """(n,) the angles of xywhr in degrees, for people."""
        return self._through(torch.rad2deg, self.data[:, 4])

    def canonical(self) -> OBB:
        """Return the same rectangles with width >= height and angles in [-pi/4, 3 pi/4), -45 to 135 degrees.

        The angle of a square stays known up to a right angle.
        """
        return self._of(self._through(lambda data: torch.cat((canonical(data[:, :5]), data[:, 5:]), 1), self.data))

    @property
    def xyxyxyxy(self) -> Array:
        """(n, 4, 2) corners in pixels, around the box; their order is that of ops.rotated.corners_of."""
        return self._through(corners_of, self.xywhr)

    @property
    def xyxyxyxyn(self) -> Array:
        """(n, 4, 2) corners over the image's width and height."""
        return self._over_size(self.xyxyxyxy)

    @property
    def xyxy(self) -> Array:
        """(n, 4) the upright boxes around the corners, in pixels."""
        return self._through(lambda boxes: hulls_of(corners_of(boxes)), self.xywhr)
