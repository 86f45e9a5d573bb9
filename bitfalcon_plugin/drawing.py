"""Boxes and labels drawn on pictures with Pillow."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Twenty hues apart from one another, ordered so that neighbours differ; a class keeps its colour.
PALETTE = ("#e6194b", "#3cb44b", "#0082c8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324", "#800000", "#4363d8",
           "#808000", "#000075", "#d2691e", "#2e8b57", "#c71585", "#5f9ea0", "#b8860b", "#6a5acd", "#556b2f", "#ff4500")
GREY = (114, 114, 114)

# Pillow's own font knows ASCII only. Names of fonts with more, as systems have them; Pillow looks in their font folders.
WIDER = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial.ttf", "LiberationSans-Regular.ttf")
IDEOGRAPHS = ("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "SourceHanSans-Regular.ttc", "wqy-microhei.ttc",
              "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf", "msyh.ttc", "malgun.ttf", "PingFang.ttc",
              "Arial Unicode.ttf", "ArialUnicodeMS.ttf", "unifont.ttf")


def draw_boxes(picture: Image.Image, rows: Sequence[Sequence[float]], names: Mapping[int, str], *, labels: bool = True,
               conf: bool = True, line_width: int | None = None, text_size: int | None = None) -> Image.Image:
    """A copy of an RGB picture with boxes. rows: x1, y1, x2, y2 (pixels), score, class; the best is drawn last.

    line_width, text_size: pixels; by the size of the picture where they are not given.
    """
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    width = line_width or max(round((picture.width + picture.height) * 0.0015), 2)
    size = text_size or max(round((picture.width + picture.height) * 0.009), 10)
    for x1, y1, x2, y2, score, cls in sorted((tuple(map(float, row[:6])) for row in rows), key=lambda row: row[4]):
        colour = PALETTE[int(cls) % len(PALETTE)]
        draw.rectangle((x1, y1, max(x2, x1), max(y2, y1)), outline=colour, width=width)
        if labels:
            text = str(names.get(int(cls), int(cls))) + (f" {score:.2f}" if conf else "")
            _label(draw, text, (x1, y1), size, colour, picture.size)
    return picture


def _label(draw: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], size: int, colour: str,
           page: tuple[int, int]) -> None:
    text, font = writable(text, size)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = min(max(corner[0], 0), max(page[0] - wide, 0))
    y = corner[1] - high if corner[1] >= high else corner[1]  # above the box, or inside it at the upper edge
    y = min(max(y, 0), max(page[1] - high, 0))
    draw.rectangle((x, y, x + wide, y + high), fill=colour)
    draw.text((x + 2 - left, y + 2 - top), text, fill=ink(colour), font=font)


def ink(colour: str) -> str:
    """'black' or 'white', whichever is read better on the '#rrggbb' colour."""
    red, green, blue = (int(colour[place:place + 2], 16) for place in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "white"


def writable(text: str, size: int) -> tuple[str, ImageFont.ImageFont]:
    """The text on one line and a font of `size` px that can draw it: Pillow's own, or one of the system.

    Where no font of the system has all the letters, accents are left off and what still cannot be drawn becomes '?'.
    """
    text = " ".join(text.split())
    if text.isascii():
        return text, _font(None, size)
    wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    for name in (*(IDEOGRAPHS if wide else WIDER), *(WIDER if wide else IDEOGRAPHS)):
        font = _font(name, size)
        if font is not None and all(_has(name, letter) for letter in set(text)):
            return text, font
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() else "?" for letter in plain), _font(None, size)


@lru_cache(256)
def _font(name: str | None, size: int) -> ImageFont.ImageFont | None:
    # A font of the system by its file's name, None where it is not there; without a name Pillow's own.
    if name is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(4096)
def _has(name: str, letter: str) -> bool:
    # A letter that a font lacks is drawn as the same sign as a code point that is never a letter.
    font = _font(name, 16)
    sign, missing = font.getmask(letter), font.getmask("\uffff")
    return letter == " " or (sign.size, bytes(sign)) != (missing.size, bytes(missing))


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


def batch_sheet(images: np.ndarray, rows: Sequence[Sequence[Sequence[float]]], names: Mapping[int, str], *, conf: bool = True,
                captions: Sequence[str] = (), most: int = 16, limit: int = 1920, least: int = 320) -> Image.Image:
    """The first `most` images of a batch in a grid as square as can be, no side above `limit` px, with their boxes.

    images (n, 3, H, W): RGB uint8. rows: for each image its boxes as `draw_boxes` takes them, pixels of the image. Images are
    made smaller where needed, and larger only up to `least` px of the longer side, so that text can be read. captions: a
    line for each image, in its lower left corner.
    """
    images = images[:most]
    count, (height, width) = max(len(images), 1), images.shape[2:]
    columns = int(np.ceil(count**0.5))
    lines = -(-count // columns)
    ratio = min(limit / (columns * width), limit / (lines * height), max(least / max(width, height), 1))
    cell = max(int(width * ratio), 1), max(int(height * ratio), 1)
    sheet = Image.new("RGB", (columns * cell[0], lines * cell[1]), GREY)
    for index, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).resize(cell, Image.Resampling.BILINEAR)
        scaled = [(*(side * ratio for side in row[:4]), *row[4:6]) for row in rows[index]]
        picture = draw_boxes(picture, scaled, names, conf=conf, line_width=2,
                             text_size=max(round(sum(cell) * 0.014), 10))
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


def picture_of(image: np.ndarray) -> Image.Image:
    """An RGB picture of a (H, W, 3) BGR uint8 array."""
    return Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
