"""predictions.json: detections in the format of COCO's results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..config.files import atomic
from ..ops.rotated import corners_of

if TYPE_CHECKING:  # predicting needs no dataset
    from ..data.formats.dataset_yaml import DataSpec

# The ids that COCO's annotations give to its 80 classes: 1 to 90 without ten numbers.
COCO_IDS = tuple(sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}))
COCO_SPLITS = ("train2017", "val2017", "test2017", "test-dev2017")


def is_coco(data: DataSpec, split: str) -> bool:
    """Whether a split is one of COCO 2017: 80 classes, and lists or folders with COCO's names below a folder "coco"."""
    paths = [Path(entry) for entry in data.splits.get(split, ())]
    if not paths or data.nc != len(COCO_IDS):
        return False
    return all(
        "coco" in str(path).lower() and path.stem in COCO_SPLITS and path.suffix in ("", ".txt") for path in paths
    )


class CocoJson:
    """A list of detections that is written record by record; a context. The file appears when the context ends.

    categories: class index -> category_id; None: index + 1. exact: all digits, otherwise thousandths of a pixel and
    five digits of scores.
    """

    def __init__(
        self, path: Path, categories: Mapping[int, int] | Sequence[int] | None = None, exact: bool = False
    ) -> None:
        self._categories, self._exact = categories, exact
        self._stack = contextlib.ExitStack()
        self._file = self._stack.enter_context(open(self._stack.enter_context(atomic(path)), "w", encoding="utf-8"))
        self._separator = "[\n"

    def add(
        self,
        image_id: int | str,
        xywh: Sequence[float] | None,
        score: float,
        cls: float,
        file_name: str | None = None,
        mask: Mapping[str, object] | None = None,
        keypoints: Sequence[Sequence[float]] | None = None,
        xywhr: Sequence[float] | None = None,
    ) -> None:
        """Write a detection. xywh: left, top, width, height in pixels of the original image; None for the class of a
        whole image, and for an oriented box. file_name: the image's.

        mask: {"size": [h, w], "counts": bytes} as pycocotools encodes it, in the size of the original image. keypoints:
        x, y in pixels of the original image and the confidence, 1 where there is none. xywhr: of an oriented box, which
        is "rbox" in the file, with its corners as "poly".
        """
        record = {
            "image_id": image_id,
            **({"file_name": file_name} if file_name else {}),
            "category_id": int(cls) + 1 if self._categories is None else self._categories[int(cls)],
            **({} if xywh is None else {"bbox": self._rounded(xywh)}),
            "score": self._rounded([score], 5)[0],
        }
        if xywhr is not None:
            corners = corners_of(torch.tensor(xywhr, dtype=torch.float64)).flatten().tolist()
            record["rbox"] = self._rounded(xywhr)
            record["poly"] = self._rounded(corners)
        if mask is not None:
            record["segmentation"] = {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}
        if keypoints is not None:
            triples = (value for x, y, *conf in keypoints for value in (x, y, *(conf or [1.0])))
            record["keypoints"] = self._rounded(triples)
        self._file.write(self._separator + json.dumps(record, ensure_ascii=False))
        self._separator = ",\n"

    def _rounded(self, values: Iterable[float], digits: int = 3) -> list[float]:
        return [value if self._exact else round(value, digits) for value in values]

    def close(self) -> None:
        """Complete the file."""
        self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self._stack.close()

    def __enter__(self) -> CocoJson:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        if error is None:
            self.close()
        else:
            self._stack.__exit__(kind, error, traceback)  # removes the incomplete file
