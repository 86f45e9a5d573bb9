"""Boxes and labels drawn on pictures with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..config.errors import UserError
from .fonts import writable

# Twenty colours at least 31 apart in CIELAB, neighbours at least 52; a class keeps its colour.
PALETTE = (
    "#042aff",
    "#f5261b",
    "#14c840",
    "#ff78d2",
    "#ffc400",
    "#00c3f0",
    "#870096",
    "#b45a00",
    "#1e7800",
    "#ff00ff",
    "#0f4b96",
    "#87c300",
    "#ff0f6e",
    "#4b4b00",
    "#0078ff",
    "#2dc39b",
    "#870f2d",
    "#ffa587",
    "#96a5ff",
    "#d2e196",
)
GREY = (114, 114, 114)
SMALLEST = 6  # px: text below this height is no text


@dataclass(frozen=True)
class Mark:
    """A box in pixels, the colour it is drawn in, and what stands at it: a name, and numbers before and after it."""

    box: tuple[float, float, float, float]  # x1, y1, x2, y2
    colour: str
    name: str = ""
    before: str = ""
    after: str = ""


def draw_boxes(
    picture: Image.Image,
    rows: Sequence[Sequence[float]],
    names: Mapping[int, str],
    *,
    labels: bool = True,
    conf: bool = True,
    line_width: float | None = None,
    text_size: float | None = None,
    font: str | None = None,
    instance: bool = False,
) -> Image.Image:
    """A copy of an RGB picture with boxes. rows: x1, y1, x2, y2 (pixels), [id,] score, class, best first: drawn last.

    line_width, text_size: pixels; by the size of the picture and of the boxes where they are not given. font: the
    file of a font, or its name in the system's folders; another is taken where it is not there or lacks a letter.
    instance: a colour for each id, or without ids for each box, instead of each class. Rows that are not finite are
    left out.
    """
    marks = []
    for index, row in enumerate(rows):
        if not all(map(math.isfinite, row)):
            continue
        cls, number = int(row[-1]), int(row[4]) if len(row) > 6 else None
        colour = PALETTE[((index if number is None else number) if instance else cls) % len(PALETTE)]
        text = _drawable(str(names.get(cls, cls)), cls, font)
        marks.append(
            Mark(
                tuple(map(float, row[:4])),
                colour,
                text,
                "" if number is None else f"id:{number} ",
                f" {row[-2]:.2f}" if conf else "",
            )
        )
    return draw_marks(picture, marks, labels=labels, line_width=line_width, text_size=text_size, font=font)


def draw_marks(
    picture: Image.Image,
    marks: Sequence[Mark],
    *,
    labels: bool = True,
    line_width: float | None = None,
    text_size: float | None = None,
    font: str | None = None,
) -> Image.Image:
    """Return a copy of an RGB picture with marks, the first on top; labels lie over all boxes, apart where possible.

    A label never leaves the picture: its name is cut, and where there is no room for text there is no label.
    """
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    width = max(round(line_width or (picture.width + picture.height + 3) / 2 * 0.003), 1 if line_width else 2)
    boxes = [_inside(mark.box, picture.size) for mark in marks]
    for mark, (x1, y1, x2, y2) in zip(reversed(marks), reversed(boxes)):
        # a line of an eighth of the shorter side leaves a small object to be seen
        thin = width if line_width else min(width, max((min(x2 - x1, y2 - y1) + 1) // 8, 1))
        draw.rectangle((x1, y1, x2, y2), outline=mark.colour, width=thin)
    if labels:
        size = max(round(text_size), 1) if text_size else _text_size(picture.size, boxes)
        _write(draw, picture.size, marks, boxes, min(size, picture.height * 3 // 5), font)
    return picture


def _inside(box: tuple[float, ...], page: tuple[int, int]) -> tuple[int, int, int, int]:
    # Whole pixels of the picture: an edge at the border or beyond is drawn on the border.
    x1, y1, x2, y2 = (min(max(round(side), 0), limit - 1) for side, limit in zip(box, (*page, *page)))
    return x1, y1, max(x2, x1), max(y2, y1)


def _text_size(page: tuple[int, int], boxes: Sequence[tuple[int, ...]]) -> int:
    # 0.9 % of width + height, less where most boxes are small beside their labels; 11 px can be read at any rate.
    usual = max(round(sum(page) * 0.009), 11)
    if not boxes:
        return usual
    side = float(np.median([max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes]))
    return round(min(max(side * 0.25, usual * 0.5, 11), usual))


def _write(
    draw: ImageDraw.ImageDraw,
    page: tuple[int, int],
    marks: Sequence[Mark],
    boxes: Sequence[tuple[int, ...]],
    size: int,
    name: str | None,
) -> None:
    # The first marks choose their places first and are drawn last.
    taken, planned, pad = np.zeros((len(marks), 4)), [], max(size // 6, 1)
    objects = np.asarray(boxes, float).reshape(-1, 4)
    areas = (objects[:, 2:] - objects[:, :2] + 1).prod(1)
    for mark, box in zip(marks, boxes):
        fitted = _fitted(mark, size, name, page[0] - 2 * pad)
        if fitted is None:
            continue
        text, font, (left, top, right, bottom) = fitted
        wide, high = math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad
        if not text.strip() or high > page[1]:
            continue
        x, y = _place(box, (wide, high), page, taken[: len(planned)], objects[areas < wide * high])
        taken[len(planned)] = x, y, x + wide, y + high
        planned.append((x, y, wide, high, x + pad - left, y + pad - top, text, font, mark.colour))
    for x, y, wide, high, text_x, text_y, text, font, colour in reversed(planned):
        draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
        draw.text((text_x, text_y), text, fill=ink(colour), font=font)


def _fitted(
    mark: Mark, size: int, name: str | None, room: int
) -> tuple[str, ImageFont.ImageFont, tuple[float, ...]] | None:
    """Return text, font and extent of a label of at most `room` px, its name cut or left out; None if too wide."""
    whole = " ".join(mark.name.split())[:200]
    if size < SMALLEST:
        return None
    for length in range(len(whole), -1, -1):
        kept = whole if length == len(whole) else whole[:length].rstrip() + ".." if length else ""
        text, font = writable(f"{mark.before}{kept}{mark.after}".strip(), size, name)
        left, top, right, bottom = font.getbbox(text)
        if right - left <= room:
            _, highest, _, lowest = font.getbbox("Ag")  # so that labels are of one height
            return text, font, (left, min(top, highest), right, max(bottom, lowest))
    return None


def _place(
    box: tuple[int, ...], size: tuple[int, int], page: tuple[int, int], labels: np.ndarray, small: np.ndarray
) -> tuple[int, int]:
    """Return the upper left corner of a label of `size`: above, in, below or beside the box, where it hides least.

    labels (n, 4): xyxy px of the labels placed so far. small (m, 4): boxes that a label could hide.
    """
    (x1, y1, x2, y2), (wide, high) = box, size
    best, least = None, math.inf
    for x, y in (
        (x1, y1 - high),
        (x1, y1),
        (x2 - wide + 1, y1 - high),
        (x1, y2 + 1),
        (x2 - wide + 1, y2 + 1),
        (x2 + 1, y1),
        (x1 - wide, y1),
        (x1, y2 - high + 1),
        (x2 - wide + 1, y1),
    ):
        if not 0 <= y <= page[1] - high:
            continue
        x = min(max(x, 0), page[0] - wide)
        corner = x, y, x + wide, y + high
        hidden = 2 * _shared(labels, corner) + _shared(small, corner)
        if hidden < least:
            best, least = (x, y), hidden
        if not hidden:
            break
    return best or (min(max(x1, 0), page[0] - wide), min(max(y1, 0), page[1] - high))


def _shared(boxes: np.ndarray, box: tuple[int, ...]) -> float:
    # Area that the boxes (n, 4) have in common with one, summed.
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])  # (n, 2)
    return float(sides.clip(min=0).prod(1).sum())


def ink(colour: str) -> str:
    """'black' or 'white', whichever has the higher contrast (WCAG 2) on the '#rrggbb' colour."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def _drawable(name: str, index: int, font: str | None) -> str:
    # A name of which no letter can be drawn would be a row of question marks, equal to that of other classes.
    text, _ = writable(name, 16, font)
    return f"class {index}" if text and not text.strip("? ") and name.strip("? ") else name


def picture_of(image: np.ndarray) -> Image.Image:
    """An RGB picture of a uint8 array: (H, W, 3) BGR, (H, W, 4) BGRA whose alpha is dropped, or (H, W) grey."""
    image = np.asarray(image)
    known = image.ndim == 2 or image.ndim == 3 and image.shape[2] in (1, 3, 4)
    if image.dtype != np.uint8 or not known or not image.size:
        raise UserError(
            f"The picture is an array of {image.dtype} and shape {image.shape}; expected uint8 and (H, W, 3) BGR, "
            "(H, W, 4) BGRA or (H, W) grey."
        )
    if image.ndim == 2 or image.shape[2] == 1:
        return Image.fromarray(np.ascontiguousarray(image.reshape(image.shape[:2]))).convert("RGB")
    return Image.fromarray(np.ascontiguousarray(image[..., 2::-1]))
