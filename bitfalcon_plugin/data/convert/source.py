"""What a dataset of any format holds, before it is written in another one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ...config.errors import raise_problems
from ...ops.instances import Instances
from ...ops.keypoint_layout import KeypointLayout
from ...ops.polygons import Polygons
from ..dataset import Sample


@dataclass(frozen=True, eq=False)
class Part:
    """The images of one split. labelled: False for a split of images alone, as a contest's test split.

    notes: lines for the user. left_out: how many objects the reader left out, by reason.
    """

    samples: Sequence[Sample]
    labelled: bool = True
    notes: Sequence[str] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Source:
    """A dataset: the names of its classes by index from 0, and its splits, train, val or test.

    task: detect (labels are boxes), segment (outlines, and boxes), pose (keypoints) or obb (the corners of oriented
    boxes). settings: the dataset's own defaults of settings. keypoints: of a dataset of poses. folders: split and image
    -> the folder that it and its label get, by default the split. divided: the splits were made anew, and list files
    name their images.
    """

    names: Mapping[int, str]
    parts: Mapping[str, Part]
    task: str
    settings: Mapping[str, object] = field(default_factory=dict)
    keypoints: KeypointLayout | None = None
    folders: Mapping[tuple[str, Path], str] = field(default_factory=dict)
    divided: bool = False

    def folder_of(self, sample: Sample, split: str) -> str:
        """The folder of an image and of its labels, below images/ and labels/."""
        return self.folders.get((split, sample.image), split)


def rings_of(labels: Instances, size: tuple[int, int]) -> Polygons:
    """Return the outline of each label, (n, k, 2) float64 in pixels of an image of `size` (h, w).

    labels: in shares of the image. A box without an outline has its four corners.
    """
    corners = labels.boxes.double()[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2)
    rings = list(corners)
    if labels.polygons is not None:
        rings = [ring if len(ring) else box for ring, box in zip(labels.polygons.split(), corners)]
    counts = torch.tensor([len(ring) for ring in rings], dtype=torch.int64)
    points = torch.cat(rings).double() if rings else torch.zeros(0, 2, dtype=torch.float64)
    return Polygons(points, counts).scaled(size[1], size[0])


def placed(source: Source) -> Source:
    """Return the source with a folder for each image: its split, and where names would clash its own folder below.

    Raises UserError for images of one folder whose names differ by the suffix or by case alone.
    """
    folders: dict[tuple[str, Path], str] = {}
    problems = []
    for split, part in source.parts.items():
        images = [sample.image for sample in part.samples]
        clash = len({image.stem.casefold() for image in images}) < len(images)
        top = os.path.commonpath([image.parent for image in images]) if clash else ""
        for image in images:
            below = Path(os.path.relpath(image.parent, top)).as_posix() if clash else "."
            folders[split, image] = split if below == "." else f"{split}/{below}"
        problems += _clashes(images, [folders[split, image] for image in images])
    raise_problems("The images cannot be put into one folder:", problems)
    return replace(source, folders=folders)


def same_stems(samples: Sequence[Sample]) -> list[str]:
    """Return a problem for each image whose name, without suffix, another image of the split has too."""
    images = [sample.image for sample in samples]
    return _clashes(images, [""] * len(images))


def _clashes(images: Sequence[Path], folders: Sequence[str]) -> list[str]:
    """Return a problem for each image of a split that would have the place of another one in its folder."""
    places = {image: (folder, image.stem.casefold()) for image, folder in zip(images, folders, strict=True)}
    entries, counts, problems = Counter(images), Counter(places.values()), []
    for image, place in places.items():
        if entries[image] > 1:
            problems.append(f"{image}: listed {entries[image]} times in this split; keep one entry")
        elif counts[place] > 1:
            problems.append(
                f"{image}: another image of this split is called {image.stem!r} too; rename one, with its label"
            )
    return problems
