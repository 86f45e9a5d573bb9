"""The labels of an image as oriented boxes: what `doctor` judges in a dataset of these."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops.instances import Instances
from ...ops.polygons import Polygons
from ...ops.rotated import rectangles_of


class Rectangles(NamedTuple):
    """The n labels of an image as oriented boxes, in pixels of the image.

    boxes (n, 5): xywhr, see ops/rotated.py. filled (n,): the share of the box that the outline fills, in [0, 1].
    """

    boxes: Tensor
    filled: Tensor

    @classmethod
    def of(cls, labels: Instances, size: tuple[int, int]) -> Rectangles | None:
        """Take labels in shares of an image of `size` (h, w); None where no label has an outline."""
        if labels.polygons is None:
            return None
        polygons = labels.polygons.apply(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
        polygons = polygons.scaled(size[1], size[0])
        boxes = rectangles_of(polygons)
        return cls(boxes, _areas(polygons) / (boxes[:, 2] * boxes[:, 3]).clamp(min=1e-9))

    @property
    def degrees(self) -> Tensor:
        """The angles (n,) of the longer sides, clockwise from level, in [0, 180)."""
        turned = self.boxes[:, 4] + (self.boxes[:, 2] < self.boxes[:, 3]) * (math.pi / 2)
        return torch.rad2deg(turned) % 180


def _areas(polygons: Polygons) -> Tensor:
    """Return the area (n,) of each polygon by the shoelace formula: parts that turn the other way are taken off."""
    areas = []
    for points in polygons.split():
        following = points.roll(-1, 0)
        areas.append((points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]).sum().abs() / 2)
    return torch.stack(areas) if areas else torch.zeros(0, dtype=torch.float64)
