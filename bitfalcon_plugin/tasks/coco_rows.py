"""Detections in the form that COCO's files and programs take. Here nothing of pycocotools is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ..ops.instances import Instances

if TYPE_CHECKING:  # predicting needs no dataset
    from ..data.dataset import Sample


class FileIds(NamedTuple):
    """Ids in an annotation file: of each image, and class index -> id of the category."""

    images: list[int | str]
    categories: dict[int, int]


def file_ids(samples: Sequence[Sample], names: Mapping[int, str]) -> FileIds | None:
    """The ids that the annotation file of the samples gives; None where there is no such file.

    names: class index -> name. A class that is no category of the file gets an id above all others.
    """
    ids = [sample.truth and sample.truth.ids for sample in samples]
    if not ids or None in ids:
        return None
    categories = {index: identity for index, identity in ids[0].classes.items() if index in names}
    free = max(ids[0].classes.values(), default=0) + 1
    missing = [index for index in sorted(names) if index not in categories]
    return FileIds([each.image for each in ids], {**categories, **dict(zip(missing, range(free, free + len(missing))))})


def coco_rows(detections: Instances) -> np.ndarray:
    """Return detections as pycocotools takes them: (n, 7) float64 image, x, y, width, height, score, class."""
    boxes = detections.boxes
    columns = (detections.image[:, None], boxes[:, :2], boxes[:, 2:] - boxes[:, :2], detections.scores[:, None])
    return torch.cat([column.double() for column in (*columns, detections.classes[:, None])], dim=1).cpu().numpy()
