"""Rows of pose labels: `class cx cy w h`, then the keypoints, each `x y` or `x y visibility`.

Written from spec/pose-obb.md 1.3; which rows are taken agrees with recorded verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .keypoint_rows import VISIBILITY, Shape, has_keypoints
from .yolo import TOLERANCE, Label, class_problem, number_of, numbers_problem, share_problem

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
        yield _columns_problem(len(fields), kpt_shape)
        return
    if problem := numbers_problem(fields, values):
        yield problem
        return
    if problem := class_problem(fields[0], values[0], nc):
        yield problem
    names = ["cx", "cy", "w", "h"] + [
        f"{axis}{point}" for point in range(kpt_shape[0]) for axis in "xyv"[: kpt_shape[1]]
    ]
    for name, field, value in zip(names, fields[1:], values[1:]):
        if name[0] == "v":
            problem = _visibility_problem(name, field, value)
        else:
            problem = share_problem(name, field, value, 1 + TOLERANCE if name[0] in "xy" else FARTHEST)
        if problem:
            yield problem


def _visibility_problem(name: str, field: str, value: float) -> str:
    if value >= -TOLERANCE:
        return ""
    return f"{name} = {field} is negative; expected 0 (not labelled), 1 (hidden) or 2 (visible)"


def _columns_problem(count: int, kpt_shape: Shape) -> str:
    """What a row with another number of columns is, and what was expected."""
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
    elif count == 5 + points * other:
        hint = f"; these keypoints have a visibility: set kpt_shape: [{points}, 3]"
    elif count > 5 and (count - 5) % columns == 0:
        hint = f"; these would be {(count - 5) // columns} keypoints"
    elif count >= 7 and count % 2:
        hint = "; is it an outline, as for task=segment?"
    return f"{count} column{'s' * (count > 1)}; {expected}{hint}"
