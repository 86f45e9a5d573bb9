"""Detections and labels of one image of a script's batch."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...config.errors import UserError
from ...ops.boxes import xyxy_from_xywh
from ...ops.letterbox import Fit, letterbox_fit
from ...tasks import DETECT, TASKS
from ...tasks.detect import Decoded

PARTS = {"bboxes": slice(0, 4), "conf": 4, "cls": 5, "extra": slice(6, None)}  # name -> columns


class Detections(Tensor):
    """The detections of one image (n, 6): x1, y1, x2, y2, score, class, in pixels of the input.

    A name in brackets gives the columns, as newer scripts read them: bboxes (n, 4), conf (n,), cls (n,), extra.
    """

    @classmethod
    def of(cls, rows: Tensor) -> Detections:
        """Return rows (n, 6) as Detections."""
        return rows.as_subclass(cls)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.as_subclass(Tensor)[:, PARTS[key]]
        return super().__getitem__(key)

    def __contains__(self, key: Any) -> bool:
        return key in PARTS if isinstance(key, str) else super().__contains__(key)

    def keys(self) -> KeysView:
        """The names that brackets take."""
        return PARTS.keys()

    def items(self) -> ItemsView:
        """The columns by name."""
        return {name: self[name] for name in PARTS}.items()

    def get(self, key: str, default: object = None) -> Any:
        """The columns of a name."""
        return self[key] if key in PARTS else default


def decoded_of(preds: Any, nc: int) -> Decoded:
    """Return outputs as scripts have them, decoded (B, 4+nc, A) alone or before the raw ones, for suppression."""
    candidates = preds[0] if isinstance(preds, (tuple, list)) else preds
    return Decoded(candidates, nc or candidates.shape[1] - 4)


def boxes_only(task: str, what: str) -> None:
    """Raise UserError for a task of which `what`, which a script does by itself, knows the boxes only."""
    if TASKS[task].objects and task != DETECT.name:
        raise UserError(
            f"task {task}: {what} by a script's own methods is supported for the tasks detect and classify only."
        )


def without_masks(task: str, what: str) -> None:
    """Raise UserError for a task of which `what`, which a script does by itself, has no masks."""
    if TASKS[task].maps:
        raise UserError(f"task {task}: {what} by a script's own methods is supported for tasks without masks only.")


def rows_of(detections: Any) -> Tensor:
    """Return detections as rows (n, 6), also those of a dict with bboxes, conf and cls."""
    if isinstance(detections, Mapping):
        parts = detections["bboxes"].reshape(-1, 4), detections["conf"].reshape(-1, 1), detections["cls"].reshape(-1, 1)
        return torch.cat([part.to(parts[0].dtype) for part in parts], 1)
    return detections.as_subclass(Tensor)[:, :6]


def label_rows(batch: Mapping[str, Any], index: int) -> tuple[Tensor, Tensor]:
    """Return the labels of image `index`: classes (n,), and boxes (n, 4) xyxy in pixels of the input."""
    height, width = batch["img"].shape[2:]
    if "bboxes" not in batch:  # the class of the whole image
        return batch["cls"].flatten()[index : index + 1], batch["img"].new_tensor([[0, 0, width, height]]).float()
    mine = batch["batch_idx"].flatten().long() == index
    boxes = xyxy_from_xywh(batch["bboxes"][mine].float())
    return batch["cls"].flatten()[mine], boxes * boxes.new_tensor([width, height] * 2)


def place_of(batch: Mapping[str, Any], index: int) -> Fit:
    """Return how image `index` lies on the input."""
    original, ratio_pad = (batch[key][index] if batch.get(key) else None for key in ("ori_shape", "ratio_pad"))
    return place(batch["img"].shape[2:], original, ratio_pad)


def place(canvas: Sequence[int], original: Sequence[int] | None, ratio_pad: Any) -> Fit:
    """Return how an image (h, w) lies on the input (H, W): by its ratio_pad, or as a letterbox in the middle."""
    height, width = (int(side) for side in canvas)
    size = (height, width) if original is None else (int(original[0]), int(original[1]))
    if not ratio_pad:
        return letterbox_fit(size, (height, width))
    (gain_y, gain_x), (left, top) = ratio_pad
    resized = max(round(size[0] * float(gain_y)), 1), max(round(size[1] * float(gain_x)), 1)
    return Fit(size, resized, (height, width), (top, left))
