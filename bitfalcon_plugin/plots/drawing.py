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
PALETTE = tuple(
    "#042aff #f5261b #14c840 #ff78d2 #ffc400 #00c3f0 #870096 #b45a00 #1e7800 #ff00ff "
    "#0f4b96 #87c300 #ff0f6e #4b4b00 #0078ff #2dc39b #870f2d #ffa587 #96a5ff #d2e196".split()
)
GREY = (114, 114, 114)
MIN_TEXT = 6  # px; smaller text cannot be read and is left out


@dataclass(frozen=True)
class Mark:
    """A box, its colour and its label: a name that may be cut, and numbers before and after it."""

    box: tuple[int, int, int, int]  # x1, y1, x2, y2, whole pixels inside the picture
    colour: str
    name: str
    before: str
    after: str


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
    """Return a copy of an RGB picture with boxes, the first on top; labels lie over all boxes, apart where possible.

    rows: x1, y1, x2, y2 (pixels), [id,] score, class; those that are not finite are left out. labels: write names.
    conf: write scores too. line_width, text_size: pixels; by default they follow the size of the picture and of the
    boxes. font: the file of a font, or its name in the system's folders; another is used where it is missing or lacks
    a letter. instance: a colour for each id, or without ids for each box, instead of each class.

    A label never leaves the picture: its name is cut, and where the text does not fit there is no label.
    """
    marks = []
    for index, row in enumerate(rows):
        if not all(map(math.isfinite, row)):
            continue
        cls = int(row[-1])
        number = int(row[4]) if len(row) > 6 else None
        identity = index if number is None else number
        colour = PALETTE[(identity if instance else cls) % len(PALETTE)]
        name = _drawable(str(names.get(cls, cls)), cls, font)
        before = "" if number is None else f"id:{number} "
        after = f" {row[-2]:.2f}" if conf else ""
        marks.append(Mark(_inside(row[:4], picture.size), colour, name, before, after))
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    width = max(round(line_width or (picture.width + picture.height + 3) / 2 * 0.003), 1 if line_width else 2)
    for mark in reversed(marks):
        x1, y1, x2, y2 = mark.box
        # a line of an eighth of the shorter side leaves a small object visible
        thin = width if line_width else min(width, max((min(x2 - x1, y2 - y1) + 1) // 8, 1))
        draw.rectangle(mark.box, outline=mark.colour, width=thin)
    if labels:
        size = max(round(text_size), 1) if text_size else _text_size(picture.size, [mark.box for mark in marks])
        _write_labels(draw, picture.size, marks, min(size, picture.height * 3 // 5), font)
    return picture


def _inside(box: Sequence[float], page: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return a box in whole pixels of a picture (width, height); edges beyond its border move onto the border."""
    x1, y1, x2, y2 = (min(max(round(side), 0), limit - 1) for side, limit in zip(box, (*page, *page)))
    return x1, y1, max(x2, x1), max(y2, y1)


def _text_size(page: tuple[int, int], boxes: Sequence[tuple[int, ...]]) -> int:
    """Return 0.9 % of width + height in px, less where most boxes are small beside their labels, but at least 11."""
    usual = max(round(sum(page) * 0.009), 11)
    if not boxes:
        return usual
    side = float(np.median([max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes]))
    return round(min(max(side * 0.25, usual * 0.5, 11), usual))


def _write_labels(
    draw: ImageDraw.ImageDraw, page: tuple[int, int], marks: Sequence[Mark], size: int, font_name: str | None
) -> None:
    """Write the labels in px of `size`. The first marks choose a position first and are drawn last."""
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
        x, y = _label_corner(mark.box, (width, height), page, occupied[: len(planned)], small)
        occupied[len(planned)] = x, y, x + width, y + height
        ground, start = (x, y, x + width - 1, y + height - 1), (x + pad - left, y + pad - top)
        planned.append((ground, start, text, font, mark.colour))
    for ground, start, text, font, colour in reversed(planned):
        draw.rectangle(ground, fill=colour)
        draw.text(start, text, fill=ink(colour), font=font)


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
    box: tuple[int, ...], size: tuple[int, int], page: tuple[int, int], labels: np.ndarray, small: np.ndarray
) -> tuple[int, int]:
    """Return the upper left corner of a label of `size`: above, in, below or beside the box, where it hides least.

    labels (n, 4): xyxy px of the labels placed so far. small (m, 4): boxes that a label could hide.
    """
    (x1, y1, x2, y2), (width, height) = box, size
    best, least_hidden = None, math.inf
    left, right, above, below = x1, x2 - width + 1, y1 - height, y2 + 1
    beside = [(x2 + 1, y1), (x1 - width, y1), (x1, y2 - height + 1), (right, y1)]
    for x, y in [(left, above), (left, y1), (right, above), (left, below), (right, below), *beside]:
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


def ink(colour: str) -> str:
    """Return 'black' or 'white', whichever has the higher contrast (WCAG 2) on the '#rrggbb' colour."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def _drawable(name: str, index: int, font: str | None) -> str:
    """Return the name; "class <index>" where no letter can be drawn, since only question marks would be left of it."""
    text, _ = writable(name, 16, font)
    return f"class {index}" if text and not text.strip("? ") and name.strip("? ") else name


def picture_of(image: np.ndarray) -> Image.Image:
    """Return an RGB picture of a uint8 array: (H, W, 3) BGR, (H, W, 4) BGRA whose alpha is dropped, or (H, W) grey."""
    image = np.asarray(image)
    is_image = image.ndim == 2 or image.ndim == 3 and image.shape[2] in (1, 3, 4)
    if image.dtype != np.uint8 or not is_image or not image.size:
        raise UserError(
            f"The picture is an array of {image.dtype} and shape {image.shape}; expected uint8 and (H, W, 3) BGR, "
            "(H, W, 4) BGRA or (H, W) grey."
        )
    if image.ndim == 2 or image.shape[2] == 1:
        return Image.fromarray(np.ascontiguousarray(image.reshape(image.shape[:2]))).convert("RGB")
    return Image.fromarray(np.ascontiguousarray(image[..., 2::-1]))
