"""YOLO txt labels: rows checked one by one, each problem with its file, line, value and what was expected.

A row is `class cx cy w h` or a polygon `class x1 y1 x2 y2 x3 y3 ...`, coordinates relative to the image, fields
separated by white space. Box and polygon rows may stand in one file; a polygon's box is its hull.
Written from interface.md 5.2 and families.md 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops.boxes import xyxy_from_xywh
from ...ops.instances import Instances
from ...ops.polygons import Polygons, clip
from ..ground_truth import GroundTruth
from .folders import some
from .keypoint_rows import REPAIR, Shape, count_visible_keypoints, has_keypoints
from .row_hints import with_hint

INT64 = 2**63 - 1  # larger class indices, where any index is taken, are held here
MANY = 2  # coordinates outside the image that are told one by one
TOLERANCE = 0.01  # how far a coordinate may lie outside the image, as a share of its side (families.md 3)


class Label(NamedTuple):
    """One row of a label file: class index, box (cx, cy, w, h), polygon (x1, y1, x2, y2, ...) in shares of the image.

    The polygon is empty for a row that is a box. keypoints: x, y and visibility of each, where the task reads them.
    note: what is odd in the row, or empty.
    """

    cls: int
    box: tuple[float, float, float, float]
    polygon: tuple[float, ...] = ()
    keypoints: tuple[float, ...] = ()
    note: str = ""


class LabelFile(NamedTuple):
    """The content of a label file: usable labels in file order, what makes the file unusable, what was repaired."""

    labels: Instances  # boxes (n, 4) xyxy, shares of the image, inside it
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    difficult: Tensor | None = None  # (n,) bool: labels that count neither as found nor as missed; None: none of them
    truth: GroundTruth | None = None  # what the file says exactly, where it has more than labels

    @property
    def is_difficult(self) -> Tensor:
        """(n,) bool: `difficult`, and zeros for None."""
        return torch.zeros(len(self.labels), dtype=torch.bool) if self.difficult is None else self.difficult


def label_path(image: Path) -> Path:
    """Where the labels of an image belong: its last `images` folder becomes `labels`, the suffix `.txt`.

    Without an `images` folder on the way: beside the image.
    """
    return swap_folder(image.parent, "images", "labels") / image.with_suffix(".txt").name


def swap_folder(folder: Path, old: str, new: str) -> Path:
    """Rename the last part `old` of a path to `new`; return the same path if no part has this name."""
    parts = list(folder.parts)
    if old in parts:
        parts[len(parts) - 1 - parts[::-1].index(old)] = new
    return Path(*parts)


def read_row(fields: list[str], nc: int | None, kpt_shape: Shape | None = None) -> Label | list[str]:
    """Read one row of a detection label, a box or a polygon; or say everything that is wrong with it.

    nc: the number of classes, or None to take any class index. A polygon's box is its hull. A polygon that reaches
    outside the image is cut, and a label says so if more than rounding explains. kpt_shape: of a dataset of poses; of a
    row with so many keypoints the box is read.
    """
    if kpt_shape and has_keypoints(fields, kpt_shape):
        fields = fields[:5]
    if problems := list(_problems(fields, nc)):
        return problems
    cls, *values = (float(field) for field in fields)
    if len(values) == 4:
        return Label(int(cls), tuple(values))
    beyond, note = max(-min(values), max(values) - 1), ""
    if beyond > TOLERANCE:
        points = Polygons(torch.tensor(values, dtype=torch.float64).view(-1, 2), torch.tensor([len(values) // 2]))
        values = clip(points, (1, 1)).points.flatten().tolist()
        note = f"the outline reaches {beyond:.3f} of a side beyond the image, cut"
    polygon = tuple(min(max(value, 0.0), 1.0) for value in values)
    return Label(int(cls), _hull(polygon or (0.0, 0.0)), polygon, note=note)


RowReader = Callable[..., "Label | list[str]"]  # (fields, nc), and kpt_shape= where the dataset has it; see read_row


def reader_for(read: RowReader, kpt_shape: Shape | None) -> RowReader:
    """The reader for the rows of a dataset with these keypoints, None for none."""
    return read if kpt_shape is None else partial(read, kpt_shape=kpt_shape)


@dataclass(frozen=True)
class TxtLabels:
    """Reads label files in text: a scan_cache.LabelReader. nc, read, dtype: as in read_labels."""

    nc: int | None
    read: RowReader = read_row
    dtype: torch.dtype = torch.float32

    @property
    def key(self) -> str:
        """The reader of a row, its options, the number of classes and the type of numbers."""
        reader, options = (self.read.func, self.read.keywords) if isinstance(self.read, partial) else (self.read, {})
        return f"{reader.__module__}.{reader.__qualname__}{options or ''} {self.nc} {self.dtype}"

    def path(self, image: Path) -> Path:
        """The label file of an image."""
        return label_path(image)

    def read_file(self, image: Path, size: tuple[int, int]) -> LabelFile | None:
        """The labels of an image, whatever its size is."""
        return read_labels(label_path(image), self.nc, self.read, self.dtype)


def read_labels(
    path: Path, nc: int | None, read: RowReader = read_row, dtype: torch.dtype = torch.float32
) -> LabelFile | None:
    """Read and check one label file; return None where there is no file.

    read: the task's reader of one row, called with its fields and `nc`. dtype: of boxes, outlines and keypoints.

    A row with a problem gives no label; every problem of every row is reported. Boxes are clipped to the image; boxes
    without area and repeated rows are left out with a note.
    """
    try:
        text, problem = read_text(path, "expected rows of `class cx cy w h`")
    except FileNotFoundError:
        return None
    if problem:
        return LabelFile(Instances.empty(), (problem,))

    labels: dict[tuple, tuple[int, Label]] = {}  # what a label holds -> line and label, in the order of the file
    problems: list[str] = []
    notes: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.split()
        if not fields:
            continue
        where = f"{path}:{number}"
        label = read(fields, nc)
        if isinstance(label, list):
            problems += [f"{where}: {problem}" for problem in with_hint(label, fields)]
            continue
        box, repair = _clip(*label.box)
        notes += [f"{where}: {note}" for note in (label.note, repair) if note]
        key = label.cls, box, label.polygon, label.keypoints
        if key in labels:
            notes.append(f"{where}: the same row as line {labels[key][0]}, left out")
        elif box:
            labels[key] = number, label._replace(box=box)
    return LabelFile(_instances([label for _, label in labels.values()], dtype), tuple(problems), tuple(notes))


def read_text(path: Path, expected: str) -> tuple[str, str]:
    """Return the text of a label file, lines ended by "\\n", and a problem in place of the text where it is no text.

    expected: the end of the problem. Raises FileNotFoundError.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return "", f"{path}: not UTF-8 text; {expected}"
    except FileNotFoundError:
        raise
    except OSError as error:
        return "", f"{path}: cannot be read ({error.strerror}); expected a text file"
    if "\0" in text:
        return "", f"{path}: binary data, not text; {expected}"
    return text.replace("\r\n", "\n").replace("\r", "\n"), ""


def _instances(labels: list[Label], dtype: torch.dtype) -> Instances:
    """Labels as tensors; `polygons` is None where all labels are boxes, `keypoints` where none has keypoints."""
    boxes = torch.tensor([label.box for label in labels], dtype=dtype).view(-1, 4)
    classes = torch.tensor([min(max(label.cls, -INT64), INT64) for label in labels], dtype=torch.int64)
    polygons = None
    if any(label.polygon for label in labels):
        points = torch.tensor([value for label in labels for value in label.polygon], dtype=dtype)
        counts = torch.tensor([len(label.polygon) // 2 for label in labels])
        polygons = Polygons(points.view(-1, 2), counts)
    keypoints = None
    if any(label.keypoints for label in labels):
        keypoints = torch.tensor([label.keypoints for label in labels], dtype=dtype).view(len(labels), -1, 3)
    return Instances(xyxy_from_xywh(boxes), classes, polygons=polygons, keypoints=keypoints)


def _problems(fields: list[str], nc: int | None) -> Iterator[str]:
    """What is wrong with one row, in words."""
    count = len(fields)
    if keypoints := count_visible_keypoints([number_of(field) for field in fields[1:]]):
        yield f"{count} columns look like class, box and {keypoints} keypoints (x y visibility); {REPAIR}"
        return
    if count != 5 and (count < 7 or count % 2 == 0):
        hint = "; no confidence column belongs in a label" if count == 6 else ""
        yield (
            f"{count} column{'s' * (count > 1)} in {shortened(' '.join(fields))}; expected 5 (`class cx cy w h`) "
            f"or 7, 9, 11, ... (a polygon){hint}"
        )
        return
    values = [number_of(field) for field in fields]
    if problem := numbers_problem(fields, values):
        yield problem
        return
    if problem := class_problem(fields[0], values[0], nc):
        yield problem
    names = ("cx", "cy", "w", "h") if count == 5 else [f"{'xy'[at % 2]}{at // 2 + 1}" for at in range(count - 1)]
    if count > 5 and all(-TOLERANCE <= value <= 1 + TOLERANCE for value in _hull(values[1:])):
        return  # a box with this centre and this size is taken too
    yield from share_problems(names, fields[1:], values[1:])


def numbers_problem(fields: Sequence[str], values: Sequence[float | None]) -> str:
    """Which fields are no finite numbers, in words; empty where all are. values: `number_of` each field."""
    bad = [shortened(field) for field, value in zip(fields, values) if value is None]
    return f"{', '.join(bad)} where a finite number is expected" if bad else ""


def class_problem(field: str, value: float, nc: int | None) -> str:
    """What is wrong with the class of a row, in words; empty where nothing is."""
    if not value.is_integer():
        return f"class {field} is not a whole number"
    if nc is not None and not 0 <= value < nc:
        return f"class {field} is outside 0 to {nc - 1} (the dataset names {nc} class{'es' * (nc > 1)})"
    return ""


def share_problems(
    names: Sequence[str], fields: Sequence[str], values: Sequence[float], highest: float = 1 + TOLERANCE
) -> Iterator[str]:
    """Yield what is wrong with shares of the image's sides, at most `highest`, in words.

    names: of the shares; w and h must not be negative.
    """
    outside = []
    for name, field, value in zip(names, fields, values):
        if name in ("w", "h") and value < 0:
            yield f"{name} = {field} is negative; expected a share of the image side, 0 to 1"
        elif not -TOLERANCE <= value <= highest:
            outside.append(f"{name} = {field}")
    if len(outside) > MANY:
        expected = (
            "expected shares of its sides, 0 to 1; pixels of x are divided by its width, those of y by its height"
        )
        yield f"{some(outside, MANY)} are outside the image; {expected}"
    else:
        yield from (
            f"{each} is outside the image; expected a share of its side, 0 to 1, not pixels" for each in outside
        )


def number_of(field: str) -> float | None:
    """The finite number that a field holds, or None. Python's `1_000` is no number in a label file."""
    try:
        value = float(field)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in field else None


def _clip(cx: float, cy: float, w: float, h: float) -> tuple[tuple[float, float, float, float] | None, str]:
    """The part of a box inside the image, None without area; and what was done, if more than rounding explains."""
    left, right = cx - w / 2, cx + w / 2
    top, bottom = cy - h / 2, cy + h / 2
    beyond = max(-left, -top, right - 1, bottom - 1)
    if beyond > 0:  # only then: a box inside keeps its digits
        left, right = _clip_side(left, right)
        top, bottom = _clip_side(top, bottom)
        cx, cy, w, h = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    if w <= 0 or h <= 0:
        return None, "a box or an outline without area, left out"
    repair = f"the box reaches {beyond:.3f} of a side beyond the image, clipped" if beyond > TOLERANCE else ""
    return (cx, cy, w, h), repair


def _hull(polygon: Sequence[float]) -> tuple[float, float, float, float]:
    """The box (cx, cy, w, h) of a polygon (x1, y1, x2, y2, ...)."""
    (left, right), (top, bottom) = ((min(values), max(values)) for values in (polygon[0::2], polygon[1::2]))
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _clip_side(low: float, high: float) -> tuple[float, float]:
    return min(max(low, 0.0), 1.0), min(max(high, 0.0), 1.0)


def shortened(text: str) -> str:
    """The text in quotes, cut where it is too long for a message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
