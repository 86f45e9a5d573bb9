"""The result of an image as a row of plain values, for JSON lines, Parquet files and Ray's datasets.

Every row has the same columns, whatever the task; those that a task does not have are None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config.errors import UserError
from ..ops.encoded_masks import EncodedMasks
from .results import Results

if TYPE_CHECKING:
    import pyarrow

DECIMALS = 5
TYPES = {  # column -> Arrow's type; all but the first four have an entry for each detection of the image
    "image": "string",  # its path
    "height": "int32",  # of the image in pixels
    "width": "int32",
    "error": "string",  # why the image could not be read
    "class": "list<int32>",
    "name": "list<string>",
    "confidence": "list<float>",
    "box": "list<list<float>>",  # x1, y1, x2, y2 in pixels
    "mask": "list<string>",  # COCO's compressed run lengths, of height x width
    "keypoints": "list<list<list<float>>>",  # x, y[, visibility] of each point, in pixels
    "xywhr": "list<list<float>>",  # of an oriented box: centre, width and height in pixels, angle in radians
}


def row_of(image: str, result: Results) -> dict[str, Any]:
    """Return the row of an image. Of a classifier it has the five most probable classes."""
    row: dict[str, Any] = dict.fromkeys(TYPES)
    row["image"], (row["height"], row["width"]) = image, result.orig_shape
    if result.probs is not None:
        classes, confidences = list(result.probs.top5), result.probs.top5conf
    else:
        detections = result.detections
        classes, confidences = [int(index) for index in detections.cls.tolist()], detections.conf
    row["class"], row["name"] = classes, [result.class_name(index) for index in classes]
    row["confidence"] = _rounded(confidences)
    if result.boxes is not None:
        row["box"] = _rounded(result.boxes.xyxy)
    if result.obb is not None:
        row["xywhr"] = _rounded(result.obb.xywhr)
    if result.masks is not None:
        codes = EncodedMasks.of(torch.as_tensor(result.masks.data).bool()).codes
        row["mask"] = [code["counts"].decode("ascii") for code in codes]
    if result.keypoints is not None:
        row["keypoints"] = _rounded(result.keypoints.data)
    return row


def row_of_unread(image: str, reason: str) -> dict[str, Any]:
    """Return the row of an image that could not be read."""
    return {**dict.fromkeys(TYPES), "image": image, "error": reason}


def _rounded(values: Tensor) -> list:
    return torch.as_tensor(values).double().cpu().mul(10**DECIMALS).round().div(10**DECIMALS).tolist()


def arrow_table(rows: Sequence[Mapping[str, Any]]) -> pyarrow.Table:
    """Return the rows as a table of TYPES. Raises UserError without pyarrow."""
    try:
        import pyarrow
    except ImportError as error:
        raise UserError("Tables of Arrow need pyarrow: pip install pyarrow") from error

    def type_of(text: str) -> pyarrow.DataType:
        if text.startswith("list<"):
            return pyarrow.list_(type_of(text[len("list<") : -1]))
        return pyarrow.type_for_alias(text)

    schema = pyarrow.schema([(name, type_of(text)) for name, text in TYPES.items()])
    return pyarrow.Table.from_pylist(list(rows), schema=schema)
