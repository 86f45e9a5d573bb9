"""Non-maximum suppression."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from .boxes import xyxy_from_xywh

MAX_CANDIDATES = 30_000  # candidates of one image that reach suppression, best first (interface.md 8.2)
BLOCK = 2_048  # candidates that `suppress` takes at once


@dataclass(frozen=True)
class Suppression:
    """Which candidates become detections: the arguments of `non_max_suppression`."""

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    multi_label: bool = False
    agnostic: bool = False
    classes: Sequence[int] | None = None


def non_max_suppression(
    prediction: Tensor,
    *,
    conf: float,
    iou: float,
    max_det: int = 300,
    multi_label: bool = False,
    agnostic: bool = False,
    classes: Sequence[int] | None = None,
    nc: int | None = None,
) -> list[Tensor]:
    """Decoded predictions -> the detections of each image, best first (interface.md 8.2, without its time limit).

    prediction: (B, 4+nc+k, A), xywh pixels, class probabilities, and k further values; nc None: all are classes.
    Returns per image (n, 6+k) float32: x1, y1, x2, y2, score, class, and the further values; of equal scores the
    earlier anchor is first, then the lower class. conf: scores must exceed it. iou: a box is dropped when it overlaps a
    better one of its class (of any class when `agnostic`) by more than this. multi_label: every class above `conf` is a
    detection of its own, instead of the best one only. classes: the classes to keep. Boxes that are not finite and
    scores that are NaN are no detections.
    Raises ValueError where the shape cannot be a prediction.
    """
    output = []
    for rows in candidates(prediction, conf=conf, multi_label=multi_label, classes=classes, nc=nc):
        rows[:, :4] = xyxy_from_xywh(rows[:, :4])
        output.append(rows[suppress(rows, iou, max_det, agnostic)])
    return output


def candidates(
    prediction: Tensor,
    *,
    conf: float,
    multi_label: bool = False,
    classes: Sequence[int] | None = None,
    nc: int | None = None,
) -> Iterator[Tensor]:
    """Yield for each image the at most MAX_CANDIDATES best candidates (n, 6+k) float32, best first.

    A row is x, y, width, height, score, class and the further values. The arguments are those of
    `non_max_suppression`, as are its order of equal scores, what is no detection, and the ValueError.
    """
    if prediction.dim() != 3 or prediction.shape[1] < 5 or nc is not None and prediction.shape[1] < 4 + nc:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)}, expected (B, 4 + classes, A)")
    nc = prediction.shape[1] - 4 if nc is None else nc
    mask = torch.ones(nc, dtype=torch.bool, device=prediction.device)
    if classes is not None:
        mask = torch.isin(torch.arange(nc, device=mask.device), mask.new_tensor(list(classes), dtype=torch.long))
    for image in prediction.detach():  # (4 + nc + k, A)
        yield _candidates(image.float(), conf, multi_label, mask)


def _candidates(image: Tensor, conf: float, multi_label: bool, class_mask: Tensor) -> Tensor:
    """(4 + nc + k, A) -> the at most MAX_CANDIDATES best rows (n, 6 + k), by falling score.

    class_mask: (nc,) bool, classes to keep. Another class can still be an anchor's best one; it then hides the rest.
    """
    boxes, scores, further = image[:4].t(), image[4 : 4 + len(class_mask)], image[4 + len(class_mask) :]
    finite = boxes.isfinite().all(1)  # (A,)
    if multi_label:
        scores = scores.t().contiguous()  # (A, nc): flat positions are in the order that ties keep
        position = ((scores > conf) & finite[:, None] & class_mask).flatten().nonzero().squeeze(1)  # (n,)
    else:
        best, label = scores.max(0)  # (A,)
        if best.isnan().any():  # the best of the others
            best, label = scores.nan_to_num(-1.0, torch.inf).max(0)
        scores = best
        position = ((best > conf) & finite & class_mask[label]).nonzero().squeeze(1)
    score = scores.flatten()[position]
    order = _ranked(score, MAX_CANDIDATES)
    score, position = score[order], position[order]
    if multi_label:
        anchor, label = position // len(class_mask), position % len(class_mask)
    else:
        anchor, label = position, label[position]
    columns = (boxes[anchor], score[:, None], label[:, None].float(), further[:, anchor].t())
    return torch.cat(columns, 1)  # (n, 6 + k)


def _ranked(score: Tensor, limit: int) -> Tensor:
    """Indices of the `limit` highest scores (n,), falling; of equal scores the first comes first, also at the limit."""
    if len(score) <= limit:
        return score.sort(descending=True, stable=True).indices
    last = score.topk(limit, sorted=False).values.min()
    above, equal = (score > last).nonzero().squeeze(1), (score == last).nonzero().squeeze(1)
    return torch.cat((above[score[above].sort(descending=True, stable=True).indices], equal[: limit - len(above)]))


def suppress(rows: Tensor, iou: float, max_det: int, agnostic: bool) -> Tensor:
    """Indices of the kept rows (n, 6 + k), at most `max_det`, by falling score.

    A greedy decision depends on the better boxes that were kept and on nothing else. So the rows are taken in blocks,
    each behind what is kept so far, until `max_det` are kept: the cost stays linear in the number of rows.
    Classes are moved apart by more than the extent of all boxes, in float64 and by powers of two, which changes no bit
    of a coordinate above 2^-10 px: in float32 80 classes at 1280 px leave 1/128 px. Apple's GPUs have no float64.
    """
    boxes = rows[:, :4].to("cpu" if rows.device.type == "mps" else rows.device).double()
    if len(rows) and not agnostic:
        extent = 2.0 ** math.ceil(math.log2(float(boxes.max() - boxes.min()) + 1))
        boxes = boxes + rows[:, 5:6].to(boxes) * extent
    nms, block = _kernel(), max(BLOCK, 2 * max_det)
    ranks = torch.arange(len(rows), 0, -1, dtype=boxes.dtype, device=boxes.device)  # the order, without ties
    keep = ranks.new_zeros(0, dtype=torch.long)
    for start in range(0, len(rows), block):
        candidates = torch.cat((keep, torch.arange(start, min(start + block, len(rows)), device=keep.device)))
        keep = candidates[nms(boxes[candidates], ranks[candidates], iou)]
        if len(keep) >= max_det:
            break
    return keep[:max_det].to(rows.device)


@lru_cache(1)
def _kernel() -> Callable[[Tensor, Tensor, float], Tensor]:
    """torchvision's suppression. Its library is loaded alone: `import torchvision` costs 1.7 s for torch's compiler."""
    package = importlib.util.find_spec("torchvision")
    for folder in package.submodule_search_locations or () if package else ():
        for library in sorted(Path(folder).glob("_C*")):
            try:
                torch.ops.load_library(str(library))
                return torch.ops.torchvision.nms.default
            except (OSError, AttributeError, RuntimeError):  # another layout of the package
                continue
    from torchvision.ops import nms

    return nms
