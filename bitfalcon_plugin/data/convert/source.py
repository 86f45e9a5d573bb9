"""What a dataset of any format holds, before it is written in another one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ...ops.instances import Instances
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

    task: detect (labels are boxes), segment (outlines, and boxes) or obb (the corners of oriented boxes). settings: the
    dataset's own defaults of settings.
    """

    names: Mapping[int, str]
    parts: Mapping[str, Part]
    task: str
    settings: Mapping[str, object] = field(default_factory=dict)


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


def same_stems(samples: Sequence[Sample]) -> list[str]:
    """Return a problem for each image whose name, without suffix, another image of the split has too."""
    counts = Counter(sample.image.stem.casefold() for sample in samples)
    return [
        f"{sample.image}: another image of this split is called {sample.image.stem!r} too; rename one, with its label"
        for sample in samples
        if counts[sample.image.stem.casefold()] > 1
    ]
