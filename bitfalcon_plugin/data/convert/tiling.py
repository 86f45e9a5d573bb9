"""Which windows of a large image become tiles, and which objects a tile has: DOTA's practice, spec/pose-obb.md 2.12."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...config.errors import UserError
from ...config.settings import Settings
from ...ops.polygons import Polygons, areas, clip_to_boxes
from ...ops.tiles import Window, mostly_inside, windows

LEAST_OF_OBJECT = 0.7  # share of an object's area that a tile must show
USUAL_OVERLAP = 200 / 1024  # of neighbouring windows, as a share of their side: 200 px of DOTA's 1024
ROUNDING = 1e-9
SMALLEST = 32  # px, side of a window


@dataclass(frozen=True)
class Tiling:
    """How images are cut. grids: (side of a window, gap by which neighbours overlap) in pixels of the image."""

    grids: tuple[tuple[int, int], ...]

    def windows(self, size: tuple[int, int]) -> list[tuple[int, Window]]:
        """Return the windows of an image of `size` (h, w), cut at its border, each with the side of its grid.

        Windows with 60 % or less of their area in the image are left out, unless none has more.
        """
        height, width = size
        return [
            (side, Window(x1, y1, min(x2, width), min(y2, height)))
            for side, gap in self.grids
            for x1, y1, x2, y2 in mostly_inside(size, windows(size, side, side - gap))
        ]


def tiling_of(settings: Settings) -> Tiling | None:
    """Return how settings.tile, overlap and rates say to cut images; None without tile=.

    A rate divides side and gap: by 0.5 windows are twice as large, as if the image had half its size. Raises UserError
    for a window that is not square or is too small.
    """
    if settings.tile is None:
        if given := sorted({"overlap", "rates"} & settings.given):
            raise UserError(f"{', '.join(given)}: for tiles alone; give tile=1024 too.")
        return None
    if not isinstance(settings.tile, int):
        raise UserError(f"tile={list(settings.tile)}: tiles for training are squares; expected one number of pixels.")
    overlap = settings.overlap if "overlap" in settings.given else USUAL_OVERLAP
    grids = []
    for rate in settings.rates:
        side, gap = int(settings.tile / rate), int(round(settings.tile * overlap) / rate)
        if side < SMALLEST or gap >= side:
            raise UserError(
                f"tile={settings.tile} overlap={overlap:g} with rate {rate:g} makes windows of {side} px that overlap "
                f"by {gap} px; expected windows of {SMALLEST} px or more, and less overlap than that."
            )
        grids.append((side, gap))
    return Tiling(tuple(dict.fromkeys(grids)))


def objects_of(rings: Polygons, window: Window, least: float = LEAST_OF_OBJECT) -> tuple[Tensor, Polygons]:
    """Return which objects a window has, (n,) int64 ascending, and the parts of these inside it.

    rings: outlines in pixels of the image. An object belongs to every window that shows `least` of its area or more,
    and a part of it.
    """
    visible = clip_to_boxes(rings, torch.tensor(window, dtype=rings.points.dtype).expand(len(rings), 4))
    whole = areas(rings)
    part = areas(visible)
    kept = (part > 0) & (part >= whole * (least - ROUNDING))
    numbers = kept.nonzero().flatten()
    return numbers, visible[numbers]


def in_order(rings: Polygons) -> Polygons:
    """Return rings of four points as convex ones, so that corners that were given crosswise have their area too."""
    if not len(rings) or bool((rings.counts != 4).any()):
        return rings
    corners = rings.points.view(-1, 4, 2)
    from_middle = corners - corners.mean(1, keepdim=True)
    order = torch.atan2(from_middle[..., 1], from_middle[..., 0]).argsort(1)
    return Polygons(corners.gather(1, order[..., None].expand(-1, -1, 2)).flatten(0, 1), rings.counts)
