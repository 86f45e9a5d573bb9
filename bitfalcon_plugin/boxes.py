"""Box geometry: formats, overlap, anchors, how an image lies on the network input, and suppression of duplicates.

Papers: CIoU, Zheng et al., "Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression" (AAAI 2020,
equations 8 to 11, and the remark on the constant alpha); centre points with side distances, Tian et al., "FCOS"
(ICCV 2019, equation 1). Written from these and from spec/interface.md 4 (decode), 5.4 (letterbox), 6.7 (eps) and
8.2 (suppression).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

MAX_CANDIDATES = 30_000  # candidates of one image that reach suppression, best first (interface.md 8.2)
BLOCK = 2_048  # candidates that `_suppress` takes at once


def xyxy_from_xywh(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height -> (..., 4) corners x1, y1, x2, y2, in the same unit."""
    centre, size = boxes.chunk(2, -1)  # (..., 2) each
    half = size / 2
    return torch.cat((centre - half, centre + half), -1)  # (..., 4)


def xywh_from_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) corners x1, y1, x2, y2 -> (..., 4) centre x, centre y, width, height, in the same unit."""
    low, high = boxes.chunk(2, -1)  # (..., 2) each
    return torch.cat(((low + high) / 2, high - low), -1)  # (..., 4)


def ciou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Complete IoU of two broadcastable sets of boxes (..., 4) xyxy in one unit -> (...) in (-1.5, 1].

    IoU - (rho^2 / c^2 + alpha * v): rho the distance of the centres, c the diagonal of the hull, v the difference of
    the aspect ratios and alpha its weight, through which no gradient flows. Boxes of no area give finite values and
    gradients. Computed in the dtype of the input: give float32 or wider.
    """
    ax1, ay1, ax2, ay2 = a.unbind(-1)
    bx1, by1, bx2, by2 = b.unbind(-1)
    aw, ah, bw, bh = ax2 - ax1, ay2 - ay1, bx2 - bx1, by2 - by1
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    shared = width * height
    iou = shared / (aw * ah + bw * bh - shared + eps)
    hull_w = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_h = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    # (sum of corners)/2 are the centres, hence the quarter
    distance = ((bx1 + bx2 - ax1 - ax2).square() + (by1 + by2 - ay1 - ay2).square()) / 4
    v = (4 / math.pi**2) * (torch.atan(bw / (bh + eps)) - torch.atan(aw / (ah + eps))).square()
    with torch.no_grad():
        alpha = v / (v - iou + (1 + eps))
    return iou - distance / (hull_w.square() + hull_h.square() + eps) - alpha * v


def anchor_points(
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Centres of the grid cells of all levels, row-major, in the order given (fine to coarse).

    sizes: (h, w) of each level in cells; strides: pixels per cell of each level.
    Returns points (A, 2) as x, y in cells of their own level (0.5, 1.5, ...), and stride (A,).
    """
    points, steps = [], []
    for (h, w), stride in zip(sizes, strides, strict=True):
        y = torch.arange(h, device=device, dtype=dtype) + 0.5
        x = torch.arange(w, device=device, dtype=dtype) + 0.5
        points.append(torch.stack((x.repeat(h), y.repeat_interleave(w)), -1))  # (h * w, 2)
        steps.append(torch.full((h * w,), float(stride), device=device, dtype=dtype))
    return torch.cat(points), torch.cat(steps)


def distances_to_boxes(points: Tensor, ltrb: Tensor) -> Tensor:
    """Points (A, 2) or (..., A, 2) and distances to the sides (..., A, 4) -> boxes (..., A, 4) xyxy, in one unit."""
    left_top, right_bottom = ltrb.chunk(2, -1)  # (..., A, 2) each
    return torch.cat((points - left_top, points + right_bottom), -1)  # (..., A, 4)


def boxes_to_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Inverse of `distances_to_boxes`: (..., A, 4) left, top, right, bottom; negative where a point lies outside."""
    low, high = boxes.chunk(2, -1)  # (..., A, 2) each
    return torch.cat((points - low, high - points), -1)  # (..., A, 4)


@dataclass(frozen=True)
class Fit:
    """How one image was resized and placed on the network input; all in pixels."""

    original: tuple[int, int]  # (h, w)
    resized: tuple[int, int]  # (h, w) after the resize
    canvas: tuple[int, int]  # (H, W)
    pad: tuple[int, int]  # (top, left)

    def to_original(self, boxes: Tensor) -> Tensor:
        """(n, 4) xyxy pixels of the canvas -> pixels of the original image, clipped to it.

        x and y are divided by their own ratio, resized / original: rounding to whole pixels makes the two differ.
        """
        boxes, gain, shift = self._map(boxes)
        h, w = self.original
        return torch.minimum(((boxes - shift) / gain).clamp(min=0), boxes.new_tensor([w, h, w, h]))

    def to_canvas(self, boxes: Tensor) -> Tensor:
        """(n, 4) xyxy pixels of the original image -> pixels of the canvas, not clipped."""
        boxes, gain, shift = self._map(boxes)
        return boxes * gain + shift

    def _map(self, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes in float32 or wider, and the factors and shifts (4,) from the original to the canvas."""
        boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
        gain_y, gain_x = (new / old for new, old in zip(self.resized, self.original))
        top, left = self.pad
        return boxes, boxes.new_tensor([gain_x, gain_y, gain_x, gain_y]), boxes.new_tensor([left, top, left, top])


def letterbox_fit(size: tuple[int, int], canvas: tuple[int, int], *, scaleup: bool = True) -> Fit:
    """The largest copy of an image of `size` (h, w) px, proportions kept, in the middle of `canvas` (H, W) px.

    With scaleup False the image is never enlarged. An odd pixel of padding goes to the bottom or the right
    (interface.md 5.4).
    """
    ratio = min(canvas[0] / size[0], canvas[1] / size[1])
    if not scaleup:
        ratio = min(ratio, 1.0)
    resized = _scaled(size, ratio)
    top, left = (round((outer - inner) / 2 - 0.1) for outer, inner in zip(canvas, resized))
    return Fit(original=tuple(size), resized=resized, canvas=tuple(canvas), pad=(top, left))


def minimal_canvas(size: tuple[int, int], imgsz: int | tuple[int, int], stride: int) -> tuple[int, int]:
    """The smallest canvas (H, W) px, multiples of `stride`, for an image of `size` (h, w) px fitted into `imgsz`.

    `imgsz` is a side, or (H, W); it is rounded up to a multiple of `stride`.
    """
    limit = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    limit = tuple(_ceil_to(side, stride) for side in limit)
    resized = _scaled(size, min(limit[0] / size[0], limit[1] / size[1]))
    return _ceil_to(resized[0], stride), _ceil_to(resized[1], stride)


def _scaled(size: tuple[int, int], ratio: float) -> tuple[int, int]:
    """Whole pixels, at least one: an image of 5000 x 3 px still has a height on a canvas of 640 px."""
    return max(round(size[0] * ratio), 1), max(round(size[1] * ratio), 1)


def _ceil_to(side: int, stride: int) -> int:
    return math.ceil(side / stride) * stride


def non_max_suppression(
    prediction: Tensor,
    *,
    conf: float,
    iou: float,
    max_det: int = 300,
    multi_label: bool = False,
    agnostic: bool = False,
    classes: Sequence[int] | None = None,
) -> list[Tensor]:
    """Decoded predictions -> the detections of each image, best first (interface.md 8.2, without its time limit).

    prediction: (B, 4+nc, A), xywh pixels and class probabilities. Returns per image (n, 6) float32: x1, y1, x2, y2,
    score, class; of equal scores the earlier anchor is first, then the lower class. conf: scores must exceed it. iou: a
    box is dropped when it overlaps a better one of its class (of any class when `agnostic`) by more than this.
    multi_label: every class above `conf` is a detection of its own, instead of the best one only. classes: the classes
    to keep. Boxes that are not finite and scores that are NaN are no detections.
    Raises ValueError where the shape cannot be a prediction.
    """
    if prediction.dim() != 3 or prediction.shape[1] < 5:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)}, expected (B, 4 + classes, A)")
    nc = prediction.shape[1] - 4
    wanted = torch.ones(nc, dtype=torch.bool, device=prediction.device)
    if classes is not None:
        wanted = torch.isin(torch.arange(nc, device=wanted.device), wanted.new_tensor(list(classes), dtype=torch.long))
    output = []
    for image in prediction.detach():  # (4 + nc, A)
        rows = _candidates(image.float(), conf, multi_label, wanted)  # (n, 6), best first
        output.append(rows[_suppress(rows, iou, max_det, agnostic)])
    return output


def _candidates(image: Tensor, conf: float, multi_label: bool, wanted: Tensor) -> Tensor:
    """(4 + nc, A) -> the at most MAX_CANDIDATES best (n, 6) rows x1, y1, x2, y2, score, class, by falling score.

    wanted: (nc,) bool. A class that is not wanted can still be an anchor's best one, and then hides the others.
    """
    boxes, scores = image[:4].t(), image[4:]  # (A, 4), (nc, A)
    finite = boxes.isfinite().all(1)  # (A,)
    if multi_label:
        label = None
        scores = scores.t().contiguous()  # (A, nc): places in it are in the order that ties keep
        place = ((scores > conf) & finite[:, None] & wanted).flatten().nonzero().squeeze(1)  # (n,)
    else:
        best, label = scores.max(0)  # (A,)
        if best.isnan().any():  # the best of the others
            best, label = scores.nan_to_num(-1.0, torch.inf).max(0)
        scores = best
        place = ((best > conf) & finite & wanted[label]).nonzero().squeeze(1)
    score = scores.flatten()[place]
    order = _ranked(score, MAX_CANDIDATES)
    score, place = score[order], place[order]
    anchor, label = (place, label[place]) if label is not None else (place // len(wanted), place % len(wanted))
    return torch.cat((xyxy_from_xywh(boxes[anchor]), score[:, None], label[:, None].float()), 1)  # (n, 6)


def _ranked(score: Tensor, limit: int) -> Tensor:
    """Indices of the `limit` highest scores (n,), falling; of equal ones the first come first, also at the limit."""
    if len(score) <= limit:
        return score.sort(descending=True, stable=True).indices
    last = score.topk(limit, sorted=False).values.min()
    ahead, level = (score > last).nonzero().squeeze(1), (score == last).nonzero().squeeze(1)
    return torch.cat((ahead[score[ahead].sort(descending=True, stable=True).indices], level[: limit - len(ahead)]))


def _suppress(rows: Tensor, iou: float, max_det: int, agnostic: bool) -> Tensor:
    """Indices of the kept rows (n, 6), at most `max_det`, by falling score.

    A greedy decision depends on the better boxes that were kept and on nothing else. So the rows are taken in blocks,
    each behind what is kept so far, until `max_det` are kept: the cost stays linear in the number of rows.
    Classes are moved apart by more than the extent of all boxes, in float64 and by powers of two, which changes no bit
    of a coordinate above 2^-10 px: in float32 80 classes at 1280 px leave 1/128 px. Apple's GPUs have no float64.
    """
    boxes = rows[:, :4].to("cpu" if rows.device.type == "mps" else rows.device).double()
    if len(rows) and not agnostic:
        extent = 2.0 ** math.ceil(math.log2(float(boxes.max() - boxes.min()) + 1))
        boxes = boxes + rows[:, 5:].to(boxes) * extent
    nms, block = _kernel(), max(BLOCK, 2 * max_det)
    ranks = torch.arange(len(rows), 0, -1, dtype=boxes.dtype, device=boxes.device)  # the order, without ties
    keep = ranks.new_zeros(0, dtype=torch.long)
    for start in range(0, len(rows), block):
        tried = torch.cat((keep, torch.arange(start, min(start + block, len(rows)), device=keep.device)))
        keep = tried[nms(boxes[tried], ranks[tried], iou)]
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
            except (OSError, AttributeError, RuntimeError):  # not laid out as it was
                continue
    from torchvision.ops import nms

    return nms
