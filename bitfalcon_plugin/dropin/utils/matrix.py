"""The confusion matrix in the forms of its two makers. Written from spec/dropin.md section 5."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops.boxes import pair_greedily
from ...tasks import confusion
from .guards import LOGGER
from .overlaps import box_iou
from .rotated import batch_probiou


class ConfusionMatrix(confusion.ConfusionMatrix):
    """How often each class was predicted for each true class, counted image by image.

    ConfusionMatrix(names=dict or list, task="detect") or ConfusionMatrix(nc, conf=0.25, iou_thres=0.45, task="detect").
    matrix: a row for each predicted class, a column for each true class; the last ones are the background, which
    task="classify" has not.
    """

    __setattr__ = object.__setattr__  # it counts: the base is frozen

    def __init__(
        self,
        names: Any = None,
        *options: Any,
        nc: int | None = None,
        conf: float = 0.25,
        iou_thres: float = 0.45,
        task: str = "detect",
        save_matches: bool = False,
    ):
        if isinstance(names, int):
            nc, names = names, None
        if options and not isinstance(options[0], str):  # nc, conf, iou_thres, task
            conf, iou_thres, task = (*options, *(conf, iou_thres, task)[len(options) :])
        elif options:  # names, task, save_matches
            task = options[0]
        count = len(names) if names is not None else nc or 0
        named = dict(names if isinstance(names, Mapping) else enumerate(names or map(str, range(count))))
        size = count if task == "classify" else count + 1
        conf = 0.25 if conf in (None, 0.001) else conf  # the threshold of a validation is none for a matrix
        super().__init__(np.zeros((size, size), np.int64), named, conf, iou_thres)
        self.nc, self.task, self.iou_threshold = count, task, iou_thres

    def process_batch(
        self, detections: Any, batch: Any, third: Any = None, iou_thres: float | None = None, conf: float | None = None
    ) -> None:
        """Count the detections of one image against its labels.

        Either two dicts of bboxes (xyxy), cls and, of the detections, conf; then conf and iou_thres may follow. Or rows
        of detections (n, 6), xyxy, score, class, or None, the boxes (m, 4) and the classes (m,) of the labels; or as
        second the labels (m, 5), class and xyxy. Oriented boxes: xywh with the angle last, (n, 7) and (m, 5).
        """
        if isinstance(batch, Mapping):
            conf = third if third is not None and conf is None else conf
            true_boxes, true_classes = batch["bboxes"], batch["cls"]
            rows = _rows(detections)
        else:
            true_boxes, true_classes = (batch, third) if third is not None else (batch[:, 1:], batch[:, 0])
            rows = torch.zeros(0, 6) if detections is None else torch.as_tensor(detections)
        rows = rows[rows[:, 4] > (self.conf if conf is None else conf)]
        found = rows[:, 5].long().cpu().numpy()
        truth = torch.as_tensor(true_classes).reshape(-1).long().cpu().numpy()
        true_boxes = torch.as_tensor(true_boxes).to(rows.device)
        if not len(truth) or not len(rows):
            overlap = torch.zeros(len(truth), len(rows))
        elif true_boxes.shape[-1] == 5:
            overlap = batch_probiou(true_boxes, torch.cat([rows[:, :4], rows[:, -1:]], 1))
        else:
            overlap = box_iou(true_boxes, rows[:, :4])
        pairs = pair_greedily(overlap.cpu(), self.iou if iou_thres is None else iou_thres).numpy()
        partner = np.full(len(found), self.nc)
        partner[pairs[:, 1]] = truth[pairs[:, 0]]
        np.add.at(self.matrix, (found, partner), 1)
        np.add.at(self.matrix, (self.nc, np.delete(truth, pairs[:, 0])), 1)

    def process_cls_preds(self, preds: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Count the first column of predicted classes (b, k) of each batch against the true classes (b,)."""
        predicted, truth = torch.cat(list(preds))[:, 0], torch.cat(list(targets))
        np.add.at(self.matrix, (predicted.long().cpu().numpy(), truth.long().cpu().numpy()), 1)

    def tp_fp(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the right and the wrong predictions (nc,) of each class."""
        right = self.matrix.diagonal()
        wrong = self.matrix.sum(1) - right
        return (right, wrong) if self.task == "classify" else (right[:-1], wrong[:-1])

    def plot(  # type: ignore[override]
        self,
        normalize: bool = True,
        save_dir: str | Path = "",
        names: Sequence[str] | Mapping[int, str] = (),
        on_plot: Callable[[Path], object] | None = None,
    ) -> None:
        """Draw confusion_matrix_normalized.png, or confusion_matrix.png, into save_dir."""
        path = super().plot(normalize, save_dir or ".", names)
        if on_plot:
            on_plot(path)

    def print(self) -> None:
        """Log the matrix, a line for each predicted class."""
        for row in self.matrix:
            LOGGER.info("%s", " ".join(map(str, row.tolist())))


def _rows(detections: Mapping[str, Any]) -> Tensor:
    """A dict of boxes, scores and classes as rows (n, 6), or (n, 7) for oriented boxes."""
    boxes = torch.as_tensor(detections["bboxes"])
    score, label = (torch.as_tensor(detections[key]).reshape(-1, 1).to(boxes) for key in ("conf", "cls"))
    return torch.cat([boxes[:, :4], score, label, boxes[:, 4:]], 1)
