"""Colours of classes and of objects, and of text on them."""

from __future__ import annotations

from collections.abc import Sequence

# Twenty colours at least 31 apart in CIELAB, neighbours at least 52; a class keeps its colour.
PALETTE = tuple(
    "#042aff #f5261b #14c840 #ff78d2 #ffc400 #00c3f0 #870096 #b45a00 #1e7800 #ff00ff "
    "#0f4b96 #87c300 #ff0f6e #4b4b00 #0078ff #2dc39b #870f2d #ffa587 #96a5ff #d2e196".split()
)
GREY = (114, 114, 114)


def row_colours(rows: Sequence[Sequence[float]], instance: bool | None = None) -> list[str]:
    """Return the colour of each row of draw_boxes: x1, y1, x2, y2, [id,] score, class.

    instance: a colour for each id, or without ids for each row, instead of each class; by default where there are ids.
    Rows whose class or id is not finite get the first colour.
    """
    colours = []
    for index, row in enumerate(rows):
        has_id = len(row) > 6
        by_object = has_id if instance is None else instance
        number = (row[4] if has_id else index) if by_object else row[-1]
        colours.append(colour_of(number))
    return colours


def colour_of(number: float) -> str:
    """Return the colour '#rrggbb' of a class, a track or an object; the twenty colours repeat."""
    return PALETTE[int(number) % len(PALETTE)] if abs(number) < 2**53 else PALETTE[0]


def rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of a colour '#rrggbb'."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def ink(colour: str) -> str:
    """Return 'black' or 'white', whichever has the higher contrast (WCAG 2) on the '#rrggbb' colour."""
    parts = [part / 255 for part in rgb(colour)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"
