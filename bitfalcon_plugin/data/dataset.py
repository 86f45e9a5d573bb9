"""A split of a dataset as checked samples: images found and looked at, labels read, problems told with file and line.

Written from interface.md 5.2 and families.md 3. The YAML itself is read in `spec`, label rows are checked in `labels`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config.errors import MissingFileError, UserError, nearest, raise_problems
from ..ops.instances import Instances
from .formats.dataset_yaml import DataSpec, leaves
from .formats.keypoint_rows import keypoint_problems, polygon_values
from .formats.yolo import RowReader, label_path, read_row
from .images import IMAGE_SUFFIXES
from .scan_cache import NO_LABELS, look_at_all


@dataclass(frozen=True, eq=False)
class Sample:
    """One usable image and its labels; a background has no labels."""

    image: Path
    size: tuple[int, int]  # (h, w) in pixels of the upright image
    labels: Instances  # boxes xyxy float32 in shares of the image, inside it; polygons None where all labels are boxes

    def pixel_labels(self) -> Instances:
        """The labels in pixels of the original image."""
        height, width = self.size
        return self.labels.scaled(width, height)


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
        return sum(int(sample.labels.has_polygon.sum()) for sample in self.samples)


def scan(
    data: DataSpec,
    split: str,
    *,
    single_cls: bool = False,
    classes: int | Sequence[int] | None = None,
    fraction: float = 1.0,
    read: RowReader = read_row,
) -> Scan:
    """Find the images of a split, look at each one's header and end, and read its labels.

    Args:
        single_cls: every label becomes class 0; class indices are not checked against the names.
        classes: keep only labels of these classes (indices as in the files).
        read: the task's reader of one row of a label file.
        fraction: keep the first round(n * fraction) images in sorted order, at least one.

    Raises MissingFileError where images are not there, UserError with all label problems of the split, and UserError
    where no image, or in train no label, is left. An image that cannot be used is set aside, counted and noted.
    """
    wanted = _wanted(classes, None if single_cls else data.nc)
    paths, notes = _images(data, split)
    paths = paths[: max(1, round(len(paths) * fraction))]
    nc = None if single_cls else data.nc
    looks = look_at_all(paths, nc, read)
    problems = [problem for look in looks for problem in look.labels.problems]
    problems += keypoint_problems(
        ((label_path(look.image), polygon_values(look.labels.labels)) for look in looks), data.kpt_shape
    )
    raise_problems(f"Labels of split '{split}' of dataset '{data.path}' are wrong; correct these rows:", problems)
    samples = []
    for look in looks:
        notes += look.notes
        if look.size:
            samples.append(Sample(look.image, look.size, _chosen(look.labels.labels, wanted, single_cls)))
    seen = [look for look in looks if look.size]
    found = sum(len(look.labels.labels) > 0 for look in seen)
    missing = sum(look.labels is NO_LABELS for look in seen)
    result = Scan(tuple(samples), found, missing, len(seen) - found - missing, len(looks) - len(seen), tuple(notes))
    return _usable(result, data, split, paths, wanted)


def _chosen(labels: Instances, classes: frozenset[int] | None, single_cls: bool) -> Instances:
    """The labels of the chosen classes; with `single_cls` all of them are of class 0."""
    if classes is not None:
        labels = labels.only(torch.isin(labels.classes, torch.tensor(sorted(classes), dtype=torch.int64)))
        if not bool(labels.has_polygon.any()):
            labels = replace(labels, polygons=None)
    return replace(labels, classes=torch.zeros_like(labels.classes)) if single_cls else labels


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
    if any(len(sample.labels) for sample in result.samples):
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
