"""Rows of pose datasets among the labels of a detection dataset: recognised, so that they are not read as polygons.

A pose row is `class cx cy w h` and then k keypoints, each `x y` or `x y visibility`. With pairs it has as many columns
as a polygon of k + 2 points, and read as one it would give a wrong box without any error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...ops.instances import Instances

REPAIR = (
    "keep the first 5 columns for detection; keypoints are for a pose model and its dataset (`kpt_shape:` in the YAML)"
)
MAJORITY = 0.5  # share of a split's polygons that must look like keypoints before they are refused
INSIDE = 1.05  # keypoints lie within the box, its sides longer by this factor
SKEW = 0.05  # share of its longer side by which a corner of a parallelogram may lie aside
BEYOND = 0.002  # share of the image's side by which rounding may put a box outside
VISIBILITY = (0, 1, 2)  # not labelled, hidden, visible

Shape = tuple[int, int]  # `kpt_shape:` of a YAML: number of keypoints, and 2 (x y) or 3 (x y visibility)
Point = tuple[float, float]


def looks_like_keypoints(values: Sequence[float]) -> bool:
    """Whether the numbers behind the class of a row are more likely a box and keypoints than a polygon.

    values: 6 or more, relative to the image. The first four, read as `cx cy w h`, must be a box inside the image that
    holds all further points; (0, 0) stands for a keypoint without a label. If every point has a third number that is 0,
    1 or 2, this is enough. Small polygons fulfil it too, so that pairs must make a bad polygon as well: its second
    point (in truth a width and a height) lies outside the box and so far from all others, or a side that begins or ends
    in the first two points crosses another side. Four corners of a rectangle are an oriented box.
    """
    if _is_parallelogram(values):
        return False
    cx, cy, width, height = box = values[:4]
    beyond = max(width / 2 - cx, cx + width / 2 - 1, height / 2 - cy, cy + height / 2 - 1)
    if width <= 0 or height <= 0 or beyond > BEYOND:
        return False
    others = values[4:]
    if len(others) % 3 == 0 and all(value in VISIBILITY for value in others[2::3]):
        if _holds(box, zip(others[0::3], others[1::3])):
            return True
    if len(others) % 2 or not _holds(box, zip(others[0::2], others[1::2])):
        return False
    if abs(width - cx) > width / 2 or abs(height - cy) > height / 2:
        return True
    return _crosses_itself(list(zip(values[0::2], values[1::2])))


def count_visible_keypoints(values: Sequence[float]) -> int:
    """The number of keypoints `x y visibility` in a row that cannot be a polygon; 0 for any other row.

    values: the numbers behind the class.
    """
    keypoints, remainder = divmod(len(values) - 4, 3)
    visibility = values[6::3]
    if keypoints < 1 or remainder or not all(value in VISIBILITY for value in visibility):
        return 0
    return keypoints if len(values) % 2 or 2 in visibility else 0


def polygon_values(labels: Instances) -> list[list[float]]:
    """The coordinates x1, y1, x2, y2, ... of each polygon among the labels."""
    if labels.polygons is None:
        return []
    return [points.flatten().tolist() for points in labels.polygons.split() if len(points)]


def has_keypoints(fields: Sequence[str], kpt_shape: Shape) -> bool:
    """Whether a row has the number of columns of a class, a box and the keypoints of `kpt_shape`."""
    return len(fields) == 5 + kpt_shape[0] * kpt_shape[1]


def keypoint_rows(path: Path, polygons: Sequence[Sequence[float]]) -> list[str]:
    """One line of text, with file and line number, for each row of a label file that looks like keypoints.

    polygons: what was read from the file as polygons (see `polygon_values`).
    """
    if not any(map(looks_like_keypoints, polygons)):
        return []
    rows = []
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            try:
                values = [float(field) for field in fields[1:]]
            except ValueError:  # a problem of its own
                continue
            if len(values) > 4 and looks_like_keypoints(values):
                rows.append(f"{path}:{number}: {len(fields)} columns look like class, box and keypoints; {REPAIR}")
    return rows


def refused_keypoints(rows: Sequence[str], polygons: int) -> Sequence[str]:
    """The `keypoint_rows` of a whole split, or none of them where they are more likely polygons.

    A polygon looks like keypoints by chance: 1 triangle of 60, 1 outline of 12 points of 4000. Of rows with keypoints 9
    of 10 do. So they are refused only if half of the split's `polygons` look like it.
    """
    return rows if len(rows) >= MAJORITY * polygons else ()


def keypoint_problems(files: Iterable[tuple[Path, Sequence[Sequence[float]]]]) -> Sequence[str]:
    """The rows of a split that hold keypoints and are to be refused, one line of text each.

    files: each label file of the split and what was read from it as polygons.
    """
    files = [(path, polygons) for path, polygons in files if polygons]
    lengths = Counter(len(polygon) for _, polygons in files for polygon in polygons)
    total = lengths.total()
    # Rows with keypoints have the same number of columns, outlines of objects hardly ever: this saves the close look.
    if max(lengths.values(), default=0) < MAJORITY * total:
        return ()
    rows = [row for path, polygons in files for row in keypoint_rows(path, polygons)]
    return refused_keypoints(rows, total)


def _holds(box: Sequence[float], points: Iterable[Point]) -> bool:
    """Whether a box (cx, cy, w, h) holds all points; (0, 0) is no point."""
    cx, cy, width, height = box
    far_x, far_y = width / 2 * INSIDE, height / 2 * INSIDE
    return all((x == 0 and y == 0) or (abs(x - cx) <= far_x and abs(y - cy) <= far_y) for x, y in points)


def _is_parallelogram(values: Sequence[float]) -> bool:
    """Whether x1, y1, ..., y4 are the corners of a parallelogram, in any order: shares of a rectangle in pixels."""
    if len(values) != 8:
        return False
    columns = values[0::2], values[1::2]
    aside = SKEW * max(max(column) - min(column) for column in columns)
    sums = ([2 * (column[0] + column[other]) - sum(column) for column in columns] for other in (1, 2, 3))
    return any(max(map(abs, differences)) <= aside for differences in sums)


def _crosses_itself(points: Sequence[Point]) -> bool:
    """Whether one of the three sides of a polygon at its first two points crosses another side."""
    sides = list(zip(points, [*points[1:], points[0]]))
    suspects = (sides[0], sides[1], sides[-1])
    return any(_cross(*suspect, *side) for suspect in suspects for side in sides)


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments a-b and c-d cross in a point that is an end of neither."""
    return _turn(a, b, c) * _turn(a, b, d) < 0 and _turn(c, d, a) * _turn(c, d, b) < 0


def _turn(a: Point, b: Point, c: Point) -> float:
    """Twice the signed area of the triangle a b c."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
