"""Boxes and labels drawn on pictures with Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Twenty hues apart from one another, ordered so that neighbours differ; a class keeps its colour.
PALETTE = ("#e6194b", "#3cb44b", "#0082c8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324", "#800000", "#4363d8",
           "#808000", "#000075", "#d2691e", "#2e8b57", "#c71585", "#5f9ea0", "#b8860b", "#6a5acd", "#556b2f", "#ff4500")


def draw_boxes(picture: Image.Image, rows: Sequence[Sequence[float]], names: Mapping[int, str], *, labels: bool = True,
               conf: bool = True, line_width: int | None = None) -> Image.Image:
    """A copy of an RGB picture with boxes. rows: x1, y1, x2, y2 (pixels), score, class; the best is drawn last."""
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    width = line_width or max(round((picture.width + picture.height) * 0.0015), 2)
    font = ImageFont.load_default(max(round((picture.width + picture.height) * 0.009), 10))
    for x1, y1, x2, y2, score, cls in sorted((tuple(map(float, row[:6])) for row in rows), key=lambda row: row[4]):
        colour = PALETTE[int(cls) % len(PALETTE)]
        draw.rectangle((x1, y1, max(x2, x1), max(y2, y1)), outline=colour, width=width)
        if labels:
            text = str(names.get(int(cls), int(cls))) + (f" {score:.2f}" if conf else "")
            _label(draw, text, (x1, y1), font, colour, picture.size)
    return picture


def _label(draw: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], font, colour: str, size: tuple[int, int]) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = min(max(corner[0], 0), max(size[0] - wide, 0))
    y = corner[1] - high if corner[1] >= high else corner[1]  # above the box, or inside it at the upper edge
    y = min(max(y, 0), max(size[1] - high, 0))
    draw.rectangle((x, y, x + wide, y + high), fill=colour)
    draw.text((x + 2 - left, y + 2 - top), text, fill="white", font=font)


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 4, side: int = 320) -> Image.Image:
    """Pictures in a grid of at most `columns`, each fitted into side x side px on grey."""
    columns = max(min(columns, len(pictures)), 1)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, max(rows, 1) * side), (114, 114, 114))
    for index, picture in enumerate(pictures):
        ratio = min(side / picture.width, side / picture.height)
        small = picture.resize((max(round(picture.width * ratio), 1), max(round(picture.height * ratio), 1)))
        x, y = index % columns * side, index // columns * side
        sheet.paste(small, (x + (side - small.width) // 2, y + (side - small.height) // 2))
    return sheet


def picture_of(image: np.ndarray) -> Image.Image:
    """An RGB picture of a (H, W, 3) BGR uint8 array."""
    return Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
