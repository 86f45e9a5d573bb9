"""The keypoints of the objects of one image as a public object. Written from spec/pose-obb.md 1.7."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..ops.keypoint_layout import KeypointLayout
from .parts import Array, Part


class Keypoints(Part):
    """K points of each object of one image. The length is the number of objects.

    keypoints (Tensor or ndarray [n, K, 3]): x and y in pixels of the original image, and the confidence in [0, 1] that
    the point is visible; or [n, K, 2] without it. A single object may be given as (K, 3) or (K, 2). orig_shape: (h, w)
    of the image. skeleton: the limbs that are drawn, as pairs of indices from 0; by default those of COCO for
    seventeen points, else none. Raises ValueError for data of another shape.
    """

    ndim = 3
    shown = ("conf", "data", "has_visible", "orig_shape", "shape", "xy", "xyn")

    def __init__(self, keypoints: Array, orig_shape: tuple[int, int], skeleton: Sequence[Sequence[int]] | None = None):
        super().__init__(keypoints, orig_shape)
        self.skeleton = skeleton

    def _problem(self, data: Array) -> str:
        return "" if data.ndim == 3 and data.shape[2] in (2, 3) else "(n, K, 3): x y confidence, or (n, K, 2): x y"

    def scaled(self, share: float) -> Keypoints:
        """Return the same points for a copy of the image whose sides are `share` of those of the image."""
        data = torch.as_tensor(self.data).clone()
        data[..., :2] *= share
        return Keypoints(data, tuple(round(side * share) for side in self.orig_shape), self.skeleton)

    @property
    def limbs(self) -> list[tuple[int, int]]:
        """The pairs of indices from 0 that are joined by a line: of `skeleton`, or of COCO. Raises ValueError."""
        count = self.data.shape[1]
        pairs = KeypointLayout(count, 2).limbs if self.skeleton is None else self.skeleton
        limbs = [(int(first), int(second)) for first, second in pairs]
        if wrong := [limb for limb in limbs if not all(0 <= index < count for index in limb)]:
            raise ValueError(f"skeleton={wrong}: expected pairs of 0 to {count - 1}, the indices of {count} points")
        return limbs

    @property
    def xy(self) -> Array:
        """(n, K, 2) points in pixels."""
        return self.data[..., :2]

    @property
    def xyn(self) -> Array:
        """(n, K, 2) points over the image's width and height."""
        return self._over_size(self.xy)

    @property
    def conf(self) -> Array | None:
        """(n, K) confidences that the points are visible; None where the points have two columns."""
        return self.data[..., 2] if self.has_visible else None

    @property
    def has_visible(self) -> bool:
        """Whether the points have a third column."""
        return self.data.shape[2] == 3
