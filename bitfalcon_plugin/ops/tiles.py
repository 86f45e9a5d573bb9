"""Windows that cover a large image, and the names of pictures that show them. Written from spec/pose-obb.md 2.12."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..config.errors import UserError

LEAST_INSIDE = 0.6  # share of a window that must lie in the image
HIGHEST_RATE = 9.0
MAX_WINDOWS = 100_000  # of one image in a prediction
_TILE_NAME = re.compile(r"(.+)__(\d+(?:\.\d+)?)__(\d+)___(\d+)")


class Window(NamedTuple):
    """A rectangle of an image in pixels: columns x1 to x2 and rows y1 to y2, without x2 and y2."""

    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles.

    tile: the side of a tile in pixels of the image, or (h, w). overlap: how much of its side a tile shares with the
    next one, 0 or more and below 1.
    """

    tile: int | tuple[int, int]
    overlap: float = 0.2

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """Return the tiles of an image of `size` (h, w) px; an image that is no larger than a tile is one tile.

        Raises UserError for more than MAX_WINDOWS tiles.
        """
        sides = (self.tile, self.tile) if isinstance(self.tile, int) else self.tile
        steps = tuple(max(round(side * (1 - self.overlap)), 1) for side in sides)
        rows, columns = (-(-max(side - tile, 0) // step) + 1 for side, tile, step in zip(size, sides, steps))
        if rows * columns > MAX_WINDOWS:
            raise UserError(
                f"tile={self.tile} and overlap={self.overlap:g} cut an image of {size[1]}x{size[0]} pixels into "
                f"{rows * columns} tiles; expected at most {MAX_WINDOWS}. Give a larger tile, or less overlap."
            )
        return windows(size, sides, steps, cut=True)

    def divides(self, size: tuple[int, int]) -> bool:
        """Return whether an image of `size` (h, w) px is more than one tile."""
        return len(self.windows(size)) > 1


def windows(
    size: tuple[int, int], window: int | tuple[int, int], step: int | tuple[int, int], *, cut: bool = False
) -> list[Window]:
    """Cover an image of `size` (h, w) px with windows, row by row; in a row from left to right.

    window: the side of a window in pixels, or (h, w). step: the distance of the left or upper borders of neighbouring
    windows in pixels, or (y, x); 1 to the side of the window. The last window of a row or column ends at the border of
    the image, so that it overlaps the one before it more. Windows that are larger than the image begin at 0 and reach
    beyond it, with `cut` they end at its border.

    Raises ValueError for a side of the image or the window below 1, and for steps outside their range.
    """
    sides = (window, window) if isinstance(window, int) else tuple(window)
    steps = (step, step) if isinstance(step, int) else tuple(step)
    if min(size) < 1 or min(sides) < 1 or not all(1 <= step <= side for step, side in zip(steps, sides)):
        raise ValueError(
            f"windows of {sides} px with steps of {steps} px on an image of {size} px (h, w); expected sides of 1 or "
            "more, and steps of 1 to the side of the window"
        )
    rows, columns = (_starts(*each) for each in zip(size, sides, steps))
    covering = [Window(x, y, x + sides[1], y + sides[0]) for y in rows for x in columns]
    if cut:
        height, width = size
        covering = [Window(each.x1, each.y1, min(each.x2, width), min(each.y2, height)) for each in covering]
    return covering


def _starts(side: int, window: int, step: int) -> list[int]:
    """The first pixels of the windows along an image's side."""
    last = max(side - window, 0)
    return [*range(0, last, step), last]


def mostly_inside(size: tuple[int, int], covering: Sequence[Window]) -> list[Window]:
    """Return the windows of which more than LEAST_INSIDE lies in an image of `size` (h, w) px, in their order.

    Where there is none, those of which the largest share lies inside are returned.
    """
    height, width = size
    inside = [(min(each.x2, width) - each.x1) * (min(each.y2, height) - each.y1) for each in covering]
    shares = [part / ((each.x2 - each.x1) * (each.y2 - each.y1)) for part, each in zip(inside, covering)]
    least = max(shares)
    if least > LEAST_INSIDE:
        return [each for each, share in zip(covering, shares) if share > LEAST_INSIDE]
    return [each for each, share in zip(covering, shares) if share == least]


def tile_name(stem: str, side: int, window: Window) -> str:
    """Return the name, without suffix, of the picture that shows a window of the image `stem`.

    side: of the window, also where the window is cut at the border of the image.
    """
    return f"{stem}__{side}__{window.x1}___{window.y1}"


class TileName(NamedTuple):
    """What the name of a tile says: the image that it was cut from, and where its pixels lie in that image.

    A point (x, y) of the tile is ((x + self.x) / rate, (y + self.y) / rate) of the image.
    """

    stem: str
    x: int
    y: int
    rate: float


def read_tile_name(name: str) -> TileName:
    """Read the name of a picture, without suffix; one that names no tile is an image of its own.

    Between stem and position stands the side of the window in pixels of the image, as `tile_name` writes it. The DOTA
    development kit writes the factor there by which it resized the image before it cut the tiles: a number up to
    HIGHEST_RATE is such a factor, since no window is so small.
    """
    match = _TILE_NAME.fullmatch(name)
    if match is None:
        return TileName(name, 0, 0, 1.0)
    stem, number, x, y = match.groups()
    rate = float(number)
    return TileName(stem, int(x), int(y), rate if 0 < rate <= HIGHEST_RATE else 1.0)
