"""A split of a dataset as checked samples: images found and looked at, labels read, problems told with file and line.

Written from interface.md 5.2 and families.md 3. The YAML itself is read in `spec`, label rows are checked in `labels`.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..config.errors import MissingFileError, UserError, nearest, raise_problems
from ..ops.boxes import xyxy_from_xywh
from ..ops.polygons import Outlines
from .formats.dataset_yaml import DataSpec, leaves
from .formats.keypoint_rows import keypoint_problems
from .formats.yolo import Row, label_path
from .images import IMAGE_SUFFIXES
from .scan_cache import NO_LABELS, look_at_all


@dataclass(frozen=True, eq=False)
class Sample:
    """One usable image and its labels; a background has no rows."""

    image: Path
    size: tuple[int, int]  # (h, w) in pixels of the upright image
    classes: Tensor  # (n,) int64
    boxes: Tensor  # (n, 4) float32: centre x, centre y, width, height relative to the image, inside it
    outlines: Outlines | None = None  # of the n objects, float32 relative to the image; None without a polygon


@dataclass(frozen=True, eq=False)
class Scan:
    """What a split holds. found + missing + empty == len(samples); unreadable images are not among the samples."""

    samples: tuple[Sample, ...]  # sorted by image path
    found: int  # images whose label file has at least one usable row
    missing: int  # backgrounds without a label file
    empty: int  # backgrounds whose label file has no usable row
    unreadable: int  # images set aside
    notes: tuple[str, ...]  # one line each, with file and line

    @property
    def polygons(self) -> int:
        """How many labels are polygons; the others are boxes alone."""
        return sum(int((sample.outlines.counts > 0).sum()) for sample in self.samples if sample.outlines)


def scan(
    data: DataSpec,
    split: str,
    *,
    single_cls: bool = False,
    classes: int | Sequence[int] | None = None,
    fraction: float = 1.0,
) -> Scan:
    """Find the images of a split, look at each one's header and end, and read its labels.

    Args:
        single_cls: every label becomes class 0; class indices are not checked against the names.
        classes: keep only labels of these classes (indices as in the files).
        fraction: keep the first round(n * fraction) images in sorted order, at least one.

    Raises MissingFileError where images are not there, UserError with all label problems of the split, and UserError
    where no image, or in train no label, is left. An image that cannot be used is set aside, counted and noted.
    """
    wanted = _wanted(classes, None if single_cls else data.nc)
    paths, notes = _images(data, split)
    paths = paths[: max(1, round(len(paths) * fraction))]
    nc = None if single_cls else data.nc
    looks = look_at_all(paths, nc)
    problems = [problem for look in looks for problem in look.labels.problems]
    problems += keypoint_problems(((label_path(look.image), look.labels.outlines) for look in looks), data.kpt_shape)
    raise_problems(f"Labels of split '{split}' of dataset '{data.path}' are wrong; correct these rows:", problems)
    samples = []
    for look in looks:
        notes += look.notes
        if look.size:
            rows = [row for row in look.labels.rows if wanted is None or row.cls in wanted]
            samples.append(_sample(look.image, look.size, rows, look.labels.outlines, single_cls))
    seen = [look for look in looks if look.size]
    found = sum(bool(look.labels.rows) for look in seen)
    missing = sum(look.labels is NO_LABELS for look in seen)
    result = Scan(tuple(samples), found, missing, len(seen) - found - missing, len(looks) - len(seen), tuple(notes))
    return _usable(result, data, split, paths, wanted)


def _sample(
    image: Path, size: tuple[int, int], rows: Sequence[Row], outlines: Mapping[Row, array], single_cls: bool
) -> Sample:
    boxes = torch.tensor([row[1:] for row in rows], dtype=torch.float32).reshape(-1, 4)
    classes = torch.tensor([0 if single_cls else row.cls for row in rows], dtype=torch.int64)
    points = array("f")
    for row in rows:
        points.extend(outlines.get(row, ()))
    if not points:
        return Sample(image, size, classes, boxes)
    counts = torch.tensor([len(outlines.get(row, ())) // 2 for row in rows])
    flat = torch.frombuffer(points, dtype=torch.float32).clone()
    return Sample(image, size, classes, boxes, Outlines(flat.view(-1, 2), counts))


def _wanted(classes: int | Sequence[int] | None, nc: int | None) -> frozenset[int] | None:
    """The `classes` filter as a set; indices that the dataset does not have are refused."""
    if classes is None:
        return None
    wanted = frozenset([classes] if isinstance(classes, int) else classes)
    if unknown := sorted(index for index in wanted if nc is not None and not 0 <= index < nc):
        raise UserError(f"classes={unknown}: not in this dataset; expected indices from 0 to {nc - 1}.")
    return wanted


def _usable(result: Scan, data: DataSpec, split: str, paths: Sequence[Path], wanted: frozenset[int] | None) -> Scan:
    """The scan itself, with a note where nothing is labelled; refused without images, and in train without labels."""
    title = f"Split '{split}' of dataset '{data.path}'"
    if not result.samples:
        if not any(path.exists() for path in paths):
            raise MissingFileError(_missing(data, split, paths[:1]))
        raise_problems(f"{title} has no usable image ({len(paths)} listed):", result.notes)
    if any(len(sample.classes) for sample in result.samples):
        return result
    kept = "" if wanted is None else f" of classes={sorted(wanted)}"
    text = (
        f"{title} has no usable label{kept}: {len(result.samples)} images, {result.missing} without a label file, "
        f"{result.empty} with an empty one. Labels are looked for in a folder 'labels' in place of the last 'images' "
        f"of an image's path, else beside it; the first at '{label_path(result.samples[0].image)}'."
    )
    if split == "train":
        raise UserError(text)
    return replace(result, notes=(*result.notes, text))


def _images(data: DataSpec, split: str) -> tuple[list[Path], list[str]]:
    """The image files of a split, sorted by path, and notes about lines of lists that name none."""
    if split not in data.splits:
        raise UserError(f"Dataset '{data.path}' has no split '{split}'; it has {', '.join(data.splits)}.")
    entries = [Path(entry) for entry in data.splits[split]]
    if absent := [entry for entry in entries if not entry.exists()]:
        raise MissingFileError(_missing(data, split, absent))
    found: list[Path] = []
    problems: list[str] = []
    notes: list[str] = []
    for entry in entries:
        if entry.is_dir():
            found += _walk(entry)
        elif entry.suffix.lower() == ".txt":
            found += _lines(entry, data, problems, notes)
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            found.append(entry)
        else:
            problems.append(f"'{entry}' is neither a folder, a .txt list nor an image")
    title = f"Split '{split}' of dataset '{data.path}'"
    raise_problems(f"{title} cannot be used:", problems)
    if not found:
        where = ", ".join(f"'{entry}'" for entry in entries)
        raise UserError(f"{title} is empty: no image in {where}; expected files {' '.join(sorted(IMAGE_SUFFIXES))}.")
    return sorted(found, key=str), notes


def _walk(folder: Path) -> Iterator[Path]:
    """The images in a folder and below, hidden files and folders left out; linked folders are followed, once each."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield Path(place, name)


def _lines(file: Path, data: DataSpec, problems: list[str], notes: list[str]) -> Iterable[Path]:
    """The images that a .txt lists: `./x` from the list's folder, others from the dataset's root."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"'{file}' is not UTF-8 text ({type(error).__name__}); expected one image path a line")
        return []
    found = []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if not (line := line.strip()):
            continue
        start = file.parent if line.startswith("./") else data.root
        path = Path(os.path.abspath(start / line))
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            notes.append(f"{file}:{number}: {line[:60]!r} has no image suffix, left out")
        elif not data.allow_outside and leaves(path, data.root):
            problems.append(
                f"{file}:{number}: '{line}' leads out of the dataset's folder '{data.root}'; set `path:` to a folder "
                "that holds all of it, or give allow_outside=True if that is meant"
            )
        else:
            found.append(path)
    return found


def _missing(data: DataSpec, split: str, absent: Sequence[Path]) -> str:
    """What is not there, what there is instead, and what the YAML asks to fetch."""
    lines = [f"Split '{split}' of dataset '{data.path}': images are not there."]
    for path in absent:
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, beside)
        lines.append(f"  - '{path}'" + (f"; nearest there: {', '.join(close)}" if close else ""))
    if not data.root.is_dir():
        lines.append(f"The dataset's folder '{data.root}' is missing (`path:`, looked for beside the YAML, then here).")
    if data.download:
        asked = data.download.strip()
        lines.append(f"The YAML's `download:` says: {asked if len(asked) <= 300 else asked[:297] + '...'}")
        lines.append(f"Nothing is fetched or executed here: fetch it and put it so that '{absent[0]}' is there.")
    return "\n".join(lines)


def pixel_boxes(sample: Sample) -> Tensor:
    """(n, 4) xyxy in pixels of the original image."""
    height, width = sample.size
    return xyxy_from_xywh(sample.boxes) * torch.tensor([width, height, width, height], dtype=torch.float32)
