"""Points and boxes through projective maps: 3x3 matrices that move pixels of one image onto another."""

from __future__ import annotations

import torch
from torch import Tensor

# Points whose homogeneous coordinate is not above this lie on or behind the horizon of a perspective map.
HORIZON = 1e-6


def move_points(points: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Move `points` (n, 2) through `maps` (n, 3, 3), one map for each point.

    Returns the moved points (n, 2), and (n,) bool: whether each lies in front of the horizon. A point that does not has
    no meaningful position.
    """
    warped = (maps[:, :, :2] @ points[:, :, None]).squeeze(2) + maps[:, :, 2]  # (n, 3)
    depth = warped[:, 2:]
    return warped[:, :2] / depth.clamp_min(HORIZON), (depth > HORIZON).squeeze(1)


def move_boxes(boxes: Tensor, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Move boxes (n, 4) xyxy through `maps` (n, 3, 3) and return their axis-aligned hulls, clipped to the output.

    `size` is the (height, width) of the output in pixels. Returns (n, 4) xyxy in pixels of the output. A box with a
    corner on or behind the horizon has no finite hull and comes back as zeros.
    """
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2)  # (n, 4 corners, 2)
    warped = corners @ maps[:, :, :2].transpose(1, 2) + maps[:, None, :, 2]  # (n, 4, 3)
    depth = warped[..., 2:]
    points = warped[..., :2] / depth.clamp_min(HORIZON)  # (n, 4, 2)
    hull = torch.cat([points.amin(dim=1), points.amax(dim=1)], dim=1).clamp_min_(0)  # (n, 4)
    limit = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float64)
    return torch.where((depth > HORIZON).all(dim=1), torch.minimum(hull, limit), 0.0)
