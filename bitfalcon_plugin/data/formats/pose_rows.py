"""Rows of pose labels: `class cx cy w h`, then the keypoints, each `x y` or `x y visibility`.

Written from spec/pose-obb.md 1.3; which rows are taken agrees with recorded verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .keypoint_rows import VISIBILITY, Shape, has_keypoints
from .yolo import TOLERANCE, Label, class_problem, number_of, numbers_problem, share_problems

FARTHEST = 2.0  # a box may lie partly or wholly outside the image, and is cut; a larger number is no share of its side


def read_pose(fields: list[str], nc: int | None, kpt_shape: Shape) -> Label | list[str]:
    """Read one row of a pose label, or say everything that is wrong with it (see yolo.read_row).

    The keypoints of the Label have three numbers each. Without a visibility in the row it is 1, and 0 where x or y is
    negative. A point counts as labelled where its visibility is not 0.
    """
    values = [number_of(field) for field in fields]
    if problems := list(_problems(fields, values, nc, kpt_shape)):
        return problems
    cls, *box = values[:5]
    if kpt_shape[1] == 3:
        keypoints = tuple(values[5:])
    else:
        pairs = zip(values[5::2], values[6::2])
        keypoints = tuple(value for x, y in pairs for value in (x, y, float(x >= 0 and y >= 0)))
    odd = sorted({value for value in keypoints[2::3] if value not in VISIBILITY})
    note = ""
    if odd:
        note = f"visibility {odd[0]:g}; expected 0 (not labelled), 1 (hidden) or 2 (visible). It counts as labelled"
    return Label(int(cls), tuple(box), keypoints=keypoints, note=note)


def _problems(fields: Sequence[str], values: Sequence[float | None], nc: int | None, kpt_shape: Shape) -> Iterator[str]:
    if not has_keypoints(fields, kpt_shape):
        yield _columns_problem(values, kpt_shape)
        return
    if problem := numbers_problem(fields, values):
        yield problem
        return
    if problem := class_problem(fields[0], values[0], nc):
        yield problem
    yield from share_problems(("cx", "cy", "w", "h"), fields[1:5], values[1:5], FARTHEST)
    points, columns = kpt_shape
    names = [f"{axis}{point}" for point in range(points) for axis in "xyv"[:columns]]
    of_points = list(zip(names, fields[5:], values[5:]))
    yield from _coordinate_problems([each for each in of_points if each[0][0] != "v"], columns)
    for name, field, value in of_points:
        if name[0] == "v" and value < -TOLERANCE:
            yield f"{name} = {field} is negative; expected 0 (not labelled), 1 (hidden) or 2 (visible)"


def _coordinate_problems(coordinates: Sequence[tuple[str, str, float]], columns: int) -> Iterator[str]:
    """What is wrong with the coordinates of keypoints, each its name, its field and its value."""
    hint = ""
    if min(value for _, _, value in coordinates) < -TOLERANCE:
        hint = ". A keypoint that is not labelled is written `0 0 0`"
        hint += ", which needs kpt_shape: [K, 3]" if columns == 2 else ""
    for problem in share_problems(*zip(*coordinates)):
        yield problem + hint


def _columns_problem(values: Sequence[float | None], kpt_shape: Shape) -> str:
    """What a row with another number of columns is, and what was expected."""
    count = len(values)
    points, columns = kpt_shape
    shape, form = f"kpt_shape: [{points}, {columns}]", "`x y visibility`" if columns == 3 else "`x y`"
    expected = f"expected {5 + points * columns}: `class cx cy w h` and {points} keypoints {form} ({shape})"
    zeros = " ".join("0" * columns)
    missing = f"`{zeros}` where one is not labelled" if columns == 3 else "missing ones need kpt_shape: [K, 3]"
    other = 5 - columns
    hint = ""
    if count == 5:
        hint = f"; this is a box alone, as for task=detect: add the keypoints ({missing})"
    elif count == 5 + points * other and columns == 3:
        hint = f"; these keypoints have no visibility: set kpt_shape: [{points}, 2], or put 2 behind each `x y`"
    elif count == 5 + points * other and all(value in VISIBILITY for value in values[7::3]):
        hint = f"; these keypoints have a visibility: set kpt_shape: [{points}, 3]"
    elif count == 6 + points * columns:
        hint = "; no score belongs in a label: it is the last column where save_conf=True wrote it"
    elif count == 1 + points * columns:
        hint = "; these keypoints have no box: put its `cx cy w h` before these"
    elif count > 5 and (count - 5) % columns == 0:
        found = (count - 5) // columns
        hint = f"; these would be {found} keypoint{'s' * (found > 1)}"
    elif count >= 7 and count % 2:
        hint = "; is it an outline, as for task=segment?"
    return f"{count} column{'s' * (count > 1)}; {expected}{hint}"
