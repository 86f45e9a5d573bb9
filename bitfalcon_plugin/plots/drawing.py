"""Boxes, upright and oriented, with labels, drawn on pictures with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ..config.errors import UserError
from .colours import row_colours
from .fonts import writable
from .labels import Mark, Point, text_size, write_labels


@dataclass(frozen=True)
class BoxStyle:
    """How boxes and their labels are drawn.

    labels: write names. conf: write scores too. line_width, font_size: pixels; by default they follow the size of the
    picture and of the boxes. font: the file of a font, or its name in the system's folders; another is used where it is
    missing or lacks a letter. instance: see colours.row_colours. text_colour: RGB of the labels' text, by default black
    or white.
    """

    labels: bool = True
    conf: bool = True
    line_width: float | None = None
    font_size: float | None = None
    font: str | None = None
    instance: bool | None = None
    text_colour: tuple[int, int, int] | None = None


def draw_boxes(
    picture: Image.Image,
    rows: Sequence[Sequence[float]],
    names: Mapping[int, str],
    style: BoxStyle = BoxStyle(),
    corners: Sequence[Sequence[Sequence[float]]] | None = None,
) -> Image.Image:
    """Return a copy of an RGB picture with boxes, the first on top; labels lie over all boxes, apart where possible.

    rows: x1, y1, x2, y2 (pixels), [id,] score, class; those that are not finite are left out. corners: for each row the
    four corners (x, y) of an oriented box, which is drawn instead of the upright one, with its label at the first
    corner.

    A label never leaves the picture: its name is cut, and where the text does not fit there is no label.
    """
    marks, shapes = [], []
    for index, (row, colour) in enumerate(zip(rows, row_colours(rows, style.instance))):
        if not all(map(math.isfinite, row)):
            continue
        cls = int(row[-1])
        name = _drawable(str(names.get(cls, cls)), cls, style.font)
        before = f"id:{int(row[4])} " if len(row) > 6 else ""
        after = f" {row[-2]:.2f}" if style.conf else ""
        shape = None if corners is None else [(round(x), round(y)) for x, y in corners[index]]
        anchor = None if shape is None else shape[0]
        marks.append(Mark(_inside(row[:4], picture.size), colour, name, before, after, anchor))
        shapes.append(shape)
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    for mark, shape in zip(reversed(marks), reversed(shapes)):
        _outline(draw, mark, shape, style.line_width, picture.size)
    if style.labels:
        letters = sum(len(mark.before + mark.name + mark.after) for mark in marks)
        usual = text_size(picture.size, [mark.box for mark in marks], letters)
        size = max(round(style.font_size), 1) if style.font_size else usual
        write_labels(draw, picture.size, marks, min(size, picture.height * 3 // 5), style.font, style.text_colour)
    return picture


def line_width_of(page: tuple[int, int], given: float | None = None) -> int:
    """Return the width of a line in px: `given`, or 0.3 % of the mean side of a picture (width, height), at least 2."""
    return max(round(given or (sum(page) + 3) / 2 * 0.003), 1 if given else 2)


def oblique_width(width: int) -> int:
    """Return the width in px that makes an oblique line look `width` wide: Pillow draws those narrower."""
    return width + (width > 1)


def _outline(
    draw: ImageDraw.ImageDraw, mark: Mark, shape: list[Point] | None, line_width: float | None, page: tuple[int, int]
) -> None:
    """Draw a box, or the four corners of an oriented one. A given line_width is kept; else small boxes have less."""
    width = line_width_of(page, line_width)
    x1, y1, x2, y2 = mark.box
    sides = (x2 - x1, y2 - y1) if shape is None else [math.dist(*pair) for pair in (shape[:2], shape[1:3])]
    if not line_width:  # a line of an eighth of the shorter side leaves a small object visible
        width = min(width, max(int(min(sides) + 1) // 8, 1))
    if shape is None:
        draw.rectangle(mark.box, outline=mark.colour, width=width)
    else:
        draw.line([*shape, *shape[:2]], fill=mark.colour, width=oblique_width(width), joint="curve")


def _inside(box: Sequence[float], page: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return a box in whole pixels of a picture (width, height); edges beyond its border move onto the border."""
    x1, y1, x2, y2 = (min(max(round(side), 0), limit - 1) for side, limit in zip(box, (*page, *page)))
    return x1, y1, max(x2, x1), max(y2, y1)


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
