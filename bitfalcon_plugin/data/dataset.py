"""Scan a split of a dataset: list its images, check them, read their labels, report problems with file and line.

Written from interface.md 5.2 and families.md 3. `formats.dataset_yaml` reads the YAML, `formats.yolo` the label rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch

from ..config.errors import MissingFileError, UserError, nearest, raise_problems
from ..ops.instances import Instances
from ..ops.keypoint_layout import KeypointLayout
from .formats.coco_labels import Wish
from .formats.dataset_yaml import DataSpec
from .formats.keypoint_rows import keypoint_problems, polygon_values
from .formats.listing import Listing
from .formats.voc import xml_path
from .formats.yolo import RowReader, label_path, read_row
from .ground_truth import GroundTruth
from .images import IMAGE_SUFFIXES
from .label_sources import read_labelled
from .loading.packed_lists import PackedPaths, PackedSizes
from .scan_cache import NO_LABELS, ScannedImage

MAX_PROBLEMS = 500  # label rows that an error lists; doctor lists all


@dataclass(frozen=True, eq=False)
class Sample:
    """One usable image and its labels; a background has no labels."""

    image: Path
    size: tuple[int, int]  # (h, w) in pixels of the upright image
    labels: Instances  # boxes xyxy float32 in shares of the image, inside it; polygons None where all labels are boxes
    layout: KeypointLayout | None = None  # of the dataset's keypoints
    truth: GroundTruth | None = None  # of annotation files, for COCO's numbers

    def pixel_labels(self) -> Instances:
        """The labels in pixels of the original image."""
        height, width = self.size
        return self.labels.scaled(width, height)


class PackedSamples(Sequence[Sample]):
    """Samples whose paths, sizes and labels lie in a few large tensors; a Sample is made each time it is asked for.

    A million small objects take gigabytes, and a loader process that is forked copies the memory around them bit by
    bit. samples: the labels of all have the same fields, but for polygons, and keypoints where there is no label.
    """

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        samples = list(samples)
        labels = [sample.labels for sample in samples]
        self._images = PackedPaths([str(sample.image) for sample in samples])
        self._sizes = PackedSizes([sample.size for sample in samples])
        self._layout = samples[0].layout if samples else None
        has_truth = any(sample.truth is not None for sample in samples)
        self._truths = [sample.truth for sample in samples] if has_truth else None
        self._labels = Instances.cat(labels or [Instances.empty()])
        self._ends = _ends([len(each) for each in labels])
        self._point_ends = _ends([0 if each.polygons is None else len(each.polygons.points) for each in labels])

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Sample, ...]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        index = range(len(self))[index]
        truth = self._truths and self._truths[index]
        return Sample(Path(self._images[index]), self._sizes[index], self._labels_of(index), self._layout, truth)

    def _labels_of(self, index: int) -> Instances:
        labels, rows = self._labels, slice(*self._ends[index : index + 2].tolist())
        fields = {"boxes": labels.boxes[rows], "classes": labels.classes[rows]}
        if labels.keypoints is not None and rows.start < rows.stop:
            fields["keypoints"] = labels.keypoints[rows]
        points = slice(*self._point_ends[index : index + 2].tolist())
        if points.start < points.stop:
            polygons = labels.polygons
            fields["polygons"] = replace(polygons, points=polygons.points[points], counts=polygons.counts[rows])
        return Instances(**fields)


def _ends(counts: Sequence[int]) -> np.ndarray:
    """(n + 1,) int64: 0, and the sum of the first 1, 2, ... counts."""
    return np.cumsum([0, *counts], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Scan:
    """The content of a split. labelled + missing + empty == len(samples): unreadable images are not among them."""

    samples: Sequence[Sample]  # sorted by image path
    labelled: int  # images whose label file has at least one usable row
    missing: int  # backgrounds without a label file
    empty: int  # backgrounds whose label file has no usable row
    unreadable: int  # images left out
    notes: tuple[str, ...]  # one line each, with file and line

    @property
    def polygons(self) -> int:
        """The number of labels that are polygons."""
        return sum(int(sample.labels.has_polygon.sum()) for sample in self.samples)


def scan(
    data: DataSpec,
    split: str,
    *,
    single_cls: bool = False,
    classes: int | Sequence[int] | None = None,
    fraction: float = 1.0,
    read: RowReader = read_row,
    large: bool = False,
    wish: Wish = Wish(),
) -> Scan:
    """List the images of a split, check the header and the end of each file, and read the labels.

    Args:
        single_cls: every label becomes class 0; class indices are not checked against the names.
        classes: keep only labels of these classes (indices as in the files).
        fraction: keep the first round(n * fraction) images in sorted order, at least one.
        read: the task's reader of one row of a label file.
        wish: what the task needs of labels in other formats than such files.
        large: large images are read by windows later, so that any size will do.

    An image that cannot be used is left out, counted and noted. Raises MissingFileError if images are missing, and
    UserError with all label problems of the split, or if no image, or in train no label, is left.
    """
    class_filter = indices_of(classes, None if single_cls else data.nc)
    listing = _require_images(data, split)
    paths = listing.paths[: max(1, round(len(listing.paths) * fraction))]
    images = read_labelled(data, listing, paths, read, wish, single_cls=single_cls, large=large)
    problems = [problem for image in images for problem in image.labels.problems]
    if data.format == "yolo":
        polygons = ((label_path(image.path), polygon_values(image.labels.labels)) for image in images)
        problems += keypoint_problems(polygons)
    title = f"Labels of split '{split}' of dataset '{data.path}' are wrong; correct these rows:"
    raise_problems(title, problems, limit=MAX_PROBLEMS)
    usable = [image for image in images if image.size]
    labels = [_filtered(image.labels.labels, class_filter, single_cls) for image in usable]
    notes = [*listing.notes, *_notes(data, labels, usable)]
    truths = [truth and truth.only(class_filter) for truth in (image.labels.truth for image in usable)]
    result = Scan(
        PackedSamples(Sample(image.path, image.size, each, data.keypoints, truth)
                      for image, each, truth in zip(usable, labels, truths, strict=True)),
        labelled=sum(len(image.labels.labels) > 0 for image in usable),
        missing=sum(image.labels is NO_LABELS for image in usable),
        empty=sum(image.labels is not NO_LABELS and not len(image.labels.labels) for image in usable),
        unreadable=len(images) - len(usable),
        notes=(*notes, *(note for image in images for note in image.notes)),
    )  # fmt: skip
    return _require_labels(result, data, split, paths, class_filter)


def _notes(data: DataSpec, labels: Sequence[Instances], images: Sequence[ScannedImage]) -> Iterator[str]:
    """Yield what is told of the labels of a split as a whole. labels: of each of the images."""
    if data.keypoints is not None and all(each.keypoints is None for each in labels) and any(map(len, labels)):
        shape = list(data.keypoints.shape)
        yield f"kpt_shape: {shape}: only the boxes of the labels are used, no keypoints; task=pose uses these"
    truths = [image.labels.truth for image in images if image.labels.truth is not None]
    crowds, difficult = (sum(int(getattr(each, name).sum()) for each in truths) for name in ("crowd", "difficult"))
    if crowds:
        yield f"{crowds} groups of objects (iscrowd): what is found in these is neither right nor wrong, as COCO has it"
    if difficult:
        yield f"{difficult} difficult objects: these count neither as found nor as missed"
    if any((each.annotations == 0).any() for each in truths):
        yield "an annotation has the id 0: pycocotools counts what finds it as wrong; number annotations from 1"


def _filtered(labels: Instances, class_filter: frozenset[int] | None, single_cls: bool) -> Instances:
    """The labels of the chosen classes; with `single_cls` all of them get class 0."""
    if class_filter is not None:
        labels = labels.only(torch.isin(labels.classes, torch.tensor(sorted(class_filter), dtype=torch.int64)))
        if not bool(labels.has_polygon.any()):
            labels = replace(labels, polygons=None)
    return replace(labels, classes=torch.zeros_like(labels.classes)) if single_cls else labels


def indices_of(classes: int | Sequence[int] | None, nc: int | None) -> frozenset[int] | None:
    """The setting `classes` as a set; None: all. Raises UserError for indices that the dataset does not have."""
    if classes is None:
        return None
    indices = frozenset([classes] if isinstance(classes, int) else classes)
    if unknown := sorted(index for index in indices if nc is not None and not 0 <= index < nc):
        raise UserError(f"classes={unknown}: not in this dataset; expected indices from 0 to {nc - 1}.")
    return indices


def _require_labels(
    result: Scan, data: DataSpec, split: str, paths: Sequence[Path], class_filter: frozenset[int] | None
) -> Scan:
    """The scan, with a note if no image has a label. Raises UserError without images, and in train without labels."""
    title = f"Split '{split}' of dataset '{data.path}'"
    if not result.samples:
        if not any(path.exists() for path in paths):
            raise MissingFileError(_missing_message(data, split, paths[:1]))
        raise_problems(f"{title} has no usable image ({len(paths)} listed):", result.notes)
    if any(len(sample.labels) for sample in result.samples):
        return result
    classes = "" if class_filter is None else f" of classes={sorted(class_filter)}"
    first = result.samples[0].image
    text = f"{title} has no usable label{classes}: {len(result.samples)} images, "
    if data.format == "coco":
        text += f"none with a label in {', '.join(data.splits[split])}."
    else:
        path, place = label_path(first), "'labels' in place of the last 'images'"
        if data.format == "voc":
            path, place = xml_path(first), "'Annotations' in place of the last 'JPEGImages' or 'images'"
        text += (
            f"{result.missing} without a label file, {result.empty} with an empty one. Labels are looked for in a "
            f"folder {place} of an image's path, else beside it; the first at '{path}'."
        )
    if left_out := [note for note in result.notes if note.endswith("left out")]:
        text += f" {len(left_out)} row{'s are' if len(left_out) > 1 else ' is'} left out: {left_out[0]}."
    folders = set(data.names.values())
    if all(folders.intersection(sample.image.parent.parts) for sample in result.samples):
        text += " The images lie in folders that are named like the classes: task=classify reads such data."
    if split == "train":
        raise UserError(text)
    return replace(result, notes=(*result.notes, text))


def _require_images(data: DataSpec, split: str) -> Listing:
    """The image files of a split. Raises the problems of the listing, or that it is empty."""
    if split not in data.splits:
        raise UserError(f"Dataset '{data.path}' has no split '{split}'; it has {', '.join(data.splits)}.")
    listing = list_images(data, split)
    if listing.absent:
        raise MissingFileError(_missing_message(data, split, listing.absent))
    title = f"Split '{split}' of dataset '{data.path}'"
    raise_problems(f"{title} cannot be used:", listing.problems, limit=MAX_PROBLEMS)
    if not listing.paths:
        entries = ", ".join(f"'{entry}'" for entry in data.splits[split])
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"{title} is empty: no image in {entries}; expected files {suffixes}.")
    return listing


def list_images(data: DataSpec, split: str) -> Listing:
    """List the image files of a split; problems are collected, not raised."""
    return data.listing(split)


def _missing_message(data: DataSpec, split: str, absent: Sequence[Path]) -> str:
    """The message about images that are missing: similar names in their folders, and the YAML's `download:`."""
    lines = [f"Split '{split}' of dataset '{data.path}': images are not there."]
    for path in absent:
        neighbours = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, neighbours)
        lines.append(f"  - '{path}'" + (f"; nearest there: {', '.join(close)}" if close else ""))
    if not data.root.is_dir():
        lines.append(f"The dataset's folder '{data.root}' is missing (`path:`, looked for beside the YAML, then here).")
    elif data.format == "coco" and absent[0].suffix.lower() != ".json":
        lines.append("`images:` in the YAML names the folder of the images, or one for train, val and test each.")
    if data.download:
        download = data.download.strip()
        lines.append(f"The YAML's `download:` says: {download if len(download) <= 300 else download[:297] + '...'}")
        lines.append(f"Nothing is fetched or executed here: fetch it and put it so that '{absent[0]}' is there.")
    return "\n".join(lines)
