"""Rows of labels of oriented boxes: `class x1 y1 x2 y2 x3 y3 x4 y4`, the corners in any direction.

Any polygon is taken; it stands for the smallest rectangle around it in pixels of the image. Written from
spec/pose-obb.md 2.4; which rows are taken agrees with recorded verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from ...ops.instances import Instances
from ...ops.polygons import Polygons
from ...ops.rotated import corners_of, rectangles_of
from .keypoint_rows import Shape, looks_like_keypoints
from .yolo import Label, number_of, read_row, shortened

EXPECTED = "an oriented box is written as its four corners, `class x1 y1 x2 y2 x3 y3 x4 y4`, as shares of the image"
OUTSIDE = ". Corners may lie outside; the middle of their hull may not, nor may the hull be larger than the image"
NEAR = 2.0  # shares up to which a corner outside the image is one, and not a number of pixels
STRAIGHT = 1e-6  # shares of the image's side by which points may leave a line


def read_obb(fields: list[str], nc: int | None, kpt_shape: Shape | None = None) -> Label | list[str]:
    """Read one row of a label of an oriented box, or say everything that is wrong with it (see yolo.read_row).

    The hull must lie in the image, but for a hundredth; corners may lie outside, and stay there. kpt_shape: of a
    dataset of poses, whose rows are refused.
    """
    text = shortened(" ".join(fields))
    if kpt_shape:
        return [f"{text} is a row of a dataset of poses (kpt_shape: in its YAML); {EXPECTED}"]
    if len(fields) == 5:
        return [f"{text} is an upright box; {EXPECTED}. Or train the boxes of this dataset with task=detect"]
    if len(fields) == 6:
        return [f"6 columns in {text} look like a centre, a size and an angle; {EXPECTED}"]
    values = list(map(number_of, fields[1:]))
    is_pose = len(values) > 6 and None not in values and looks_like_keypoints(values)
    if (len(fields) < 7 or len(fields) % 2 == 0) and not is_pose:
        hint = {8: ". Is the class missing?", 10: ". No score belongs in a label"}.get(len(fields), "")
        return [f"{len(fields)} column{'s' * (len(fields) > 1)} in {text}; {EXPECTED}{hint}"]
    label = read_row(fields, nc)
    if isinstance(label, list):
        if any("outside the image" in problem for problem in label) and max(map(abs, values)) <= NEAR:
            label[-1] += OUTSIDE
        return label
    corners = tuple(float(field) for field in fields[1:])
    if is_straight(corners):
        return Label(label.cls, (*label.box[:2], 0.0, 0.0), corners)  # without area, which read_labels leaves out
    return Label(label.cls, label.box, corners)


def is_straight(corners: Sequence[float]) -> bool:
    """Whether all points x1, y1, x2, y2, ... lie on a line, as far as the six digits of a label file say."""
    (x, y), *others = zip(corners[0::2], corners[1::2])
    steps = [(other_x - x, other_y - y) for other_x, other_y in others]
    length, (along_x, along_y) = max((math.hypot(*step), step) for step in steps)
    return all(abs(along_x * step_y - along_y * step_x) <= STRAIGHT * length for step_x, step_y in steps)


def as_rectangles(labels: Instances, size: tuple[int, int]) -> Instances:
    """Return labels in shares of an image of `size` (h, w), whose polygons stand for rectangles and have four points.

    Polygons of four points stay as they are, unless others stand beside them.
    """
    polygons = labels.polygons
    if polygons is None:
        return labels
    if bool((polygons.counts != 4).any()):
        height, width = size
        corners = corners_of(rectangles_of(polygons.apply(_double).scaled(width, height)))  # (n, 4, 2)
        points = (corners / corners.new_tensor([width, height])).flatten(0, 1)
        polygons = Polygons(points.to(labels.boxes.dtype), torch.full_like(polygons.counts, 4))
    return replace(labels, polygons=replace(polygons, rectangles=True))


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
