"""Sheets: several pictures in one, in a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .drawing import GREY, draw_boxes
from .fonts import writable


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 4, side: int = 320) -> Image.Image:
    """Pictures in a grid of at most `columns`, each fitted into side x side px on grey."""
    columns = max(min(columns, len(pictures)), 1)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, max(rows, 1) * side), GREY)
    for index, picture in enumerate(pictures):
        ratio = min(side / picture.width, side / picture.height)
        small = picture.resize((max(round(picture.width * ratio), 1), max(round(picture.height * ratio), 1)))
        x, y = index % columns * side, index // columns * side
        sheet.paste(small, (x + (side - small.width) // 2, y + (side - small.height) // 2))
    return sheet


def batch_sheet(
    images: np.ndarray,
    rows: Sequence[Sequence[Sequence[float]]],
    names: Mapping[int, str],
    *,
    conf: bool = True,
    captions: Sequence[str] = (),
    most: int = 16,
    limit: int = 1920,
    least: int = 320,
) -> Image.Image:
    """The first `most` images of a batch in a grid as square as can be, no side above `limit` px, with their boxes.

    images (n, 3, H, W): RGB uint8. rows: for each image its boxes as `draw_boxes` takes them, pixels of the image.
    Images are made smaller where needed, and larger only up to `least` px of the longer side, so that text can be
    read. captions: a line for each image, in its lower left corner.
    """
    images = images[:most]
    count, (height, width) = max(len(images), 1), images.shape[2:]
    columns = int(np.ceil(count**0.5))
    lines = -(-count // columns)
    ratio = min(limit / (columns * width), limit / (lines * height), max(least / max(width, height), 1))
    cell = max(int(width * ratio), 1), max(int(height * ratio), 1)
    sheet = Image.new("RGB", (columns * cell[0], lines * cell[1]), GREY)
    for index, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).resize(
            cell, Image.Resampling.BILINEAR
        )
        scaled = [(*(side * ratio for side in row[:4]), *row[4:6]) for row in rows[index]]
        picture = draw_boxes(
            picture, scaled, names, conf=conf, line_width=2, text_size=max(round(sum(cell) * 0.014), 10)
        )
        if index < len(captions):
            _caption(picture, captions[index])
        ImageDraw.Draw(picture).rectangle((0, 0, cell[0] - 1, cell[1] - 1), outline="white")
        sheet.paste(picture, (index % columns * cell[0], index // columns * cell[1]))
    return sheet


def _caption(picture: Image.Image, text: str) -> None:
    draw = ImageDraw.Draw(picture)
    text, font = writable(text, 11)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    y = picture.height - (bottom - top) - 7
    draw.rectangle((0, y, right - left + 7, picture.height), fill="black")
    draw.text((3 - left, y + 3 - top), text, fill="white", font=font)
