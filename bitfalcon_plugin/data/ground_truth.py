"""What an annotation file says of the objects of one image, as exactly as it says it.

Labels for training are shares of the image in float32, without the objects that are neither right nor wrong. COCO's
numbers are computed from these values instead, so that they agree with another program's to the last digit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class CategoryIds:
    """The id of the image and those of the classes in an annotation file, for predictions.json.

    image: its id. classes: class index -> id of the category.
    """

    image: int | str
    classes: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The n objects of one image; arrays have one row an object, in the order of the file.

    classes (n,) int64. boxes (n, 4) float64: left, top, width, height in pixels. areas (n,) float64: pixels. crowd (n,)
    bool: groups of objects, as COCO treats them. difficult (n,) bool: objects that count neither as found nor as
    missed. annotations (n,) int64: ids in the file. masks: of each object its encoded mask, as pycocotools encodes it,
    or None where it has a box alone; None for a file of boxes. keypoints (n, K, 3) float64 in pixels, and labelled (n,)
    their number as the file says it; None for objects without keypoints. ids: None where the file has no ids. segments:
    the segmentations as the file has them, rings (k, 2) or run lengths, where exact labels were asked for.
    """

    classes: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    annotations: np.ndarray
    masks: Sequence[dict | None] | None = None
    keypoints: np.ndarray | None = None
    labelled: np.ndarray | None = None
    ids: CategoryIds | None = None
    segments: Sequence[Sequence[np.ndarray] | dict | None] | None = None

    def only(self, classes: frozenset[int] | None) -> GroundTruth:
        """The objects of some classes; None: of all."""
        if classes is None:
            return self
        keep = np.isin(self.classes, sorted(classes))
        names = ("classes", "boxes", "areas", "crowd", "difficult", "annotations", "keypoints", "labelled")
        columns = {name: getattr(self, name) for name in names}
        chosen = {name: None if column is None else column[keep] for name, column in columns.items()}
        masks = None if self.masks is None else [self.masks[row] for row in np.flatnonzero(keep)]
        segments = None if self.segments is None else [self.segments[row] for row in np.flatnonzero(keep)]
        return replace(self, **chosen, masks=masks, segments=segments)

    def renumbered(self, numbers: Mapping[int, int]) -> GroundTruth:
        """The same objects with other class indices: index -> new index."""
        classes = np.array([numbers[index] for index in self.classes.tolist()], dtype=np.int64)
        ids = self.ids and replace(self.ids, classes={numbers[i]: each for i, each in self.ids.classes.items()})
        return replace(self, classes=classes, ids=ids)
