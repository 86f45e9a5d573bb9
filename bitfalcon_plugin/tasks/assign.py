"""Task-aligned assignment: which anchors are positives of which ground truth.

Paper: Feng et al., "TOOD: Task-aligned One-stage Object Detection" (ICCV 2021, section 3.3: alignment metric
t = s^alpha * u^beta, the best anchors per object, targets normalised to the best IoU of the object). An anchor that
several objects claim goes to the object with the highest overlap, as in Zhang et al., "ATSS" (CVPR 2020). Written from
these papers and from spec/interface.md 6.7, families.md 3 (small objects) and pose-obb.md 2.6 (oriented boxes);
checked with the recorded loss vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.boxes import ciou, xywh_from_xyxy
from ..ops.instances import Instances
from ..ops.rotated import rotated_to_distances
from ..ops.rotated_overlap import gaussian_overlap, gaussians_of

SMALLEST_SIDE = 16.0  # px; shorter sides of a ground truth are widened to this for the choice of its candidates
SMALLEST_ROTATED = 2.0  # px; an oriented ground truth with a shorter side has no candidates
# Pairs of a ground truth and an anchor computed at once: as many as fit a CPU's cache; 16 MiB a tensor on a GPU
PAIRS_AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 22}


@dataclass(frozen=True)
class Assignment:
    """The at most k anchors that each ground truth claims. An anchor is won by one ground truth at most.

    Row i belongs to target i. Anchors that no ground truth won are background. The shapes depend on the shapes of the
    input alone, so that the host never waits for the device.
    """

    anchor: Tensor  # (N, k) int64
    won: Tensor  # (N, k) bool: this anchor is a positive of this ground truth
    weight: Tensor  # (N, k) float32 in [0, 1]: soft target of the ground truth's class at the anchor; 0 where not won


@torch.no_grad()
def assign(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    targets: Instances,
    *,
    topk: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
) -> Assignment:
    """Assign anchors to ground truths by how well their predictions already agree.

    targets: boxes xyxy in pixels of the network input, with `image`, the index in the batch.
    scores: (B, A, nc) in [0, 1]. boxes: (B, A, 4) xyxy pixels of the network input. points: (A, 2) pixels.
    Candidates of a ground truth are the anchors whose point lies strictly inside it. The metric of a candidate is
    score^alpha * CIoU^beta (CIoU clamped at 0); the `topk` best are claimed. The target of a won anchor is its metric,
    scaled so that the best one of a ground truth gets that ground truth's best CIoU. All in float32.

    Targets with `xywhr` are oriented, and so are then the boxes (B, A, 5) xywhr: ProbIoU takes the place of CIoU, and a
    point on the edge of a ground truth counts as inside.
    """
    targets = replace(targets, classes=targets.classes.long(), image=targets.image.long())
    claims = _claims(scores, boxes.float(), points.float(), targets, min(topk, len(points)), alpha, beta)
    anchor, metric, overlap = claims  # (N, k) each
    won = _resolve(anchor, metric > 0, overlap, targets.image, boxes.shape[:2])
    metric, overlap = metric * won, overlap * won
    scale = overlap.amax(1, keepdim=True) / (metric.amax(1, keepdim=True) + 1e-9)  # (N, 1)
    return Assignment(anchor, won, metric * scale)


def _claims(
    scores: Tensor, boxes: Tensor, points: Tensor, targets: Instances, k: int, alpha: float, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k best candidates of each ground truth: index, metric (0: no candidate), overlap, (N, k) each.

    Every pair of a ground truth and an anchor of its image is computed, some ground truths at a time: a selection of
    pairs would make the host wait for the device.
    """
    rows = max(PAIRS_AT_ONCE.get(boxes.device.type, 1 << 20) // len(points), 1)
    kind, truths = (UPRIGHT, targets.boxes) if targets.xywhr is None else (ROTATED, targets.xywhr)
    truths = truths.float()
    planes = kind.prepare(boxes).movedim(-1, 0).contiguous()  # (4, B, A): in one piece, half the time of (B, A, 4)
    parts = []
    columns = (column.split(rows) for column in (truths, targets.classes, targets.image))
    for box, label, image in zip(*columns):
        overlap = kind.overlap(planes[:, image].movedim(0, -1), kind.prepare(box)[:, None])  # (4, n, A) -> (n, A)
        overlap = overlap.clamp(min=0) * kind.contains(points, box)
        metric = scores[image, :, label].float().pow(alpha) * overlap.pow(beta)  # (n, A)
        best, anchor = metric.topk(k, 1)  # (n, k)
        parts.append((anchor, best, overlap.gather(1, anchor)))
    return tuple(torch.cat(column) for column in zip(*parts))


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """(A, 2), (n, 4) -> (n, A): which points lie strictly inside which boxes, short sides widened about the centre."""
    centre, size = xywh_from_xyxy(boxes).split(2, -1)  # (n, 2) each
    half = size.clamp(min=SMALLEST_SIDE) / 2
    x, y = points.unbind(-1)  # (A,) each
    x1, y1 = (centre - half)[..., None].unbind(1)  # (n, 1) each
    x2, y2 = (centre + half)[..., None].unbind(1)
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


def _inside_rotated(points: Tensor, boxes: Tensor) -> Tensor:
    """(A, 2), (n, 5) xywhr -> (n, A): which points lie inside which boxes or on an edge; short sides are widened.

    Nothing lies inside a box with a side below SMALLEST_ROTATED.
    """
    sides = boxes[:, 2:4]
    widened = torch.cat((boxes[:, :2], sides.clamp(min=SMALLEST_SIDE), boxes[:, 4:]), 1)
    inside = (rotated_to_distances(points, widened[:, None]) >= 0).all(-1)
    return inside & (sides >= SMALLEST_ROTATED).all(1)[:, None]


class Kind(NamedTuple):
    """A kind of boxes. prepare: boxes (..., k) -> what overlap takes. overlap: of pairs that broadcast. contains:
    points (A, 2) and boxes (n, k) -> (n, A) bool, which points are candidates.
    """

    prepare: Callable[[Tensor], Tensor]
    overlap: Callable[[Tensor, Tensor], Tensor]
    contains: Callable[[Tensor, Tensor], Tensor]


UPRIGHT = Kind(lambda boxes: boxes, ciou, _inside)
ROTATED = Kind(gaussians_of, gaussian_overlap, _inside_rotated)


def _resolve(anchor: Tensor, claimed: Tensor, overlap: Tensor, image: Tensor, shape: tuple[int, int]) -> Tensor:
    """(N, k) claims -> (N, k) bool: of the claims to an anchor the highest overlap wins, of equal ones the first row.

    shape: (B, A). claimed: which of the k places hold a claim.
    """
    cells = shape[0] * shape[1]  # all anchors of the batch
    cell = (image[:, None] * shape[1] + anchor).flatten()  # (N * k,)
    row = torch.arange(len(image), device=image.device)[:, None].expand_as(anchor).flatten()
    overlap = torch.where(claimed, overlap, -1).flatten()
    highest = overlap.new_zeros(cells).scatter_reduce(0, cell, overlap, "amax")
    best_row = torch.where(overlap == highest[cell], row, len(image))
    winner = row.new_full((cells,), len(image)).scatter_reduce(0, cell, best_row, "amin")
    return (winner[cell] == row).view_as(claimed) & claimed
