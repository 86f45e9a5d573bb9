"""Windows that cover a large image. Written from spec/pose-obb.md 2.12."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of an image in pixels: columns x1 to x2 and rows y1 to y2, without x2 and y2."""

    x1: int
    y1: int
    x2: int
    y2: int


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
