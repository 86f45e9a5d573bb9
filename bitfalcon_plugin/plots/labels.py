"""Labels beside boxes: their text, their size, and a place for each where it hides least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw, ImageFont

from .colours import ink
from .fonts import writable

SMALLEST_USUAL, SMALLEST = 12, 8  # px of text on small pictures, and where labels are crowded
CROWDED = 0.2  # share of a picture that labels may hide at the usual size
LETTER_AREA = 0.75  # of a letter with its ground, in squares of the text's size
MIN_TEXT = 6  # px; smaller text cannot be read and is left out
Point = tuple[int, int]


@dataclass(frozen=True)
class Mark:
    """A box, its colour and its label: a name that may be cut, and numbers before and after it."""

    box: tuple[int, int, int, int]  # x1, y1, x2, y2, whole pixels inside the picture
    colour: str
    name: str
    before: str
    after: str
    anchor: Point | None = None  # x, y of the corner where the label of an oriented box is to stand


def text_size(page: tuple[int, int], boxes: Sequence[tuple[int, ...]], letters: int = 0) -> int:
    """Return 3.5 % of the mean side in px, less where most boxes are small beside their labels, but at least 12.

    letters: of all labels together. Labels that would hide more than CROWDED of the page are smaller, down to 8 px.
    """
    size = usual = max(round(sum(page) / 2 * 0.035), SMALLEST_USUAL)
    if boxes:
        side = float(np.median([max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes]))
        size = min(max(side * 0.25, usual * 0.5, SMALLEST_USUAL), usual)
    if letters:
        enough = math.sqrt(CROWDED * page[0] * page[1] / (letters * LETTER_AREA))
        size = min(size, max(enough, SMALLEST))
    return round(size)


def write_labels(
    draw: ImageDraw.ImageDraw,
    page: tuple[int, int],
    marks: Sequence[Mark],
    size: int,
    font_name: str | None,
    text_colour: tuple[int, int, int] | None = None,
) -> None:
    """Write the labels in px of `size`. The first marks choose a position first and are drawn last.

    text_colour: RGB; by default black or white, whichever can be read better.
    """
    occupied, planned, pad = np.zeros((len(marks), 4)), [], max(size // 6, 1)
    objects = np.asarray([mark.box for mark in marks], float).reshape(-1, 4)
    areas = (objects[:, 2:] - objects[:, :2] + 1).prod(1)
    for mark in marks:
        fitted = _fitted(mark, size, font_name, page[0] - 2 * pad)
        if fitted is None:
            continue
        text, font, (left, top, right, bottom) = fitted
        width, height = math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad
        if not text.strip() or height > page[1]:
            continue
        small = objects[areas < width * height]
        x, y = _label_corner(mark, (width, height), page, occupied[: len(planned)], small)
        occupied[len(planned)] = x, y, x + width, y + height
        ground, start = (x, y, x + width - 1, y + height - 1), (x + pad - left, y + pad - top)
        planned.append((ground, start, text, font, mark.colour))
    for ground, start, text, font, colour in reversed(planned):
        draw.rectangle(ground, fill=colour)
        draw.text(start, text, fill=text_colour or ink(colour), font=font)


def _fitted(
    mark: Mark, size: int, font_name: str | None, width: int
) -> tuple[str, ImageFont.ImageFont, tuple[float, ...]] | None:
    """Return text, font and extent of a label of at most `width` px, its name cut or left out; None if too wide."""
    whole = " ".join(mark.name.split())[:200]
    if size < MIN_TEXT:
        return None
    for length in range(len(whole), -1, -1):
        cut = whole[:length].rstrip() + ".." if length else ""
        name = whole if length == len(whole) else cut
        text, font = writable(f"{mark.before}{name}{mark.after}".strip(), size, font_name)
        left, top, right, bottom = font.getbbox(text)
        if right - left <= width:
            _, highest, _, lowest = font.getbbox("Ag")  # so that labels are of one height
            return text, font, (left, min(top, highest), right, max(bottom, lowest))
    return None


def _label_corner(
    mark: Mark, size: tuple[int, int], page: tuple[int, int], labels: np.ndarray, small: np.ndarray
) -> Point:
    """Return the upper left corner of a label of `size`: above, in, below or beside the box, where it hides least.

    At the anchor of an oriented box, if it has one, rather than at its hull.

    labels (n, 4): xyxy px of the labels placed so far. small (m, 4): boxes that a label could hide.
    """
    (x1, y1, x2, y2), (width, height) = mark.box, size
    best, least_hidden = None, math.inf
    left, right, above, below = x1, x2 - width + 1, y1 - height, y2 + 1
    beside = [(x2 + 1, y1), (x1 - width, y1), (x1, y2 - height + 1), (right, y1)]
    places = [(left, above), (left, y1), (right, above), (left, below), (right, below), *beside]
    if mark.anchor is not None:
        x, y = mark.anchor
        places = [(x + dx, y + dy) for dx in (0, 1 - width) for dy in (-height, 1)] + places
    for x, y in places:
        if not 0 <= y <= page[1] - height:
            continue
        x = min(max(x, 0), page[0] - width)
        corners = x, y, x + width, y + height
        hidden = 2 * _common_area(labels, corners) + _common_area(small, corners)
        if hidden < least_hidden:
            best, least_hidden = (x, y), hidden
        if not hidden:
            break
    return best or (min(max(x1, 0), page[0] - width), min(max(y1, 0), page[1] - height))


def _common_area(boxes: np.ndarray, box: tuple[int, ...]) -> float:
    """Return the areas that `box` has in common with each of the boxes (n, 4), summed."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])  # (n, 2)
    return float(sides.clip(min=0).prod(1).sum())
