"""Boxes and labels drawn on pictures with Pillow."""

from __future__ import annotations

import math
import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..config.errors import UserError

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

# Pillow's own font knows ASCII only. Names of fonts with more, as systems have them; Pillow looks in their font folders.
WIDER = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial.ttf", "LiberationSans-Regular.ttf")
IDEOGRAPHS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansCJK-VF.otf.ttc",
    "SourceHanSans-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "DroidSansFallback.ttf",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "Arial Unicode.ttf",
    "ArialUnicodeMS.ttf",
    "unifont.ttf",
)
FONT_FOLDERS = {
    "darwin": ("~/Library/Fonts", "/Library/Fonts", "/System/Library/Fonts"),
    "win32": ("%WINDIR%/fonts", "%LOCALAPPDATA%/Microsoft/Windows/Fonts"),
}
OTHER_FOLDERS = (
    "$XDG_DATA_HOME/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/usr/local/share/fonts",
    "/usr/share/fonts",
)


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

    line_width, text_size: pixels; by the size of the picture and of the boxes where they are not given. font: the file of
    a font, or its name in the system's folders; another is taken where it is not there or lacks a letter. instance: a
    colour for each id, or without ids for each box, instead of each class. Rows that are not finite are left out.
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
    """A copy of an RGB picture with marks, the first on top; labels lie over all boxes and away from one another if they can.

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
    """The label's text, font and extent, at most `room` px wide: its name is cut, then left out; None if that is too wide."""
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
    """Upper left corner of a label of `size`: above the box if it can be, else in it, below or beside it, where it hides least.

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


def writable(text: str, size: int, font: str | None = None) -> tuple[str, ImageFont.ImageFont]:
    """The text on one line and a font of `size` px that can draw it: `font`, Pillow's own, or one of the system.

    Where no font of the system has all the letters, accents are left off and what still cannot be drawn becomes '?'.
    """
    text = " ".join(text.split())
    name = _font_for("".join(sorted(set(text))), font)
    if name is not None:
        return text, _font(name, size)
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in plain), _font("", size)


def _drawable(name: str, index: int, font: str | None) -> str:
    # A name of which no letter can be drawn would be a row of question marks, equal to that of other classes.
    text, _ = writable(name, 16, font)
    return f"class {index}" if text and not text.strip("? ") and name.strip("? ") else name


@lru_cache(1024)
def _font_for(letters: str, first: str | None) -> str | None:
    """A font that has all the letters: `first`, "" for Pillow's own, the name or the file of one of the system; or None."""
    if first and _has_all(first, letters):
        return first
    if letters.isascii() and letters.isprintable() or _has_all("", letters):
        return ""
    wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in letters)
    named = (*(IDEOGRAPHS if wide else WIDER), *(WIDER if wide else IDEOGRAPHS))
    return next((name for name in (*named, *_system_fonts()) if _has_all(name, letters)), None)


@lru_cache(1)
def _system_fonts() -> tuple[str, ...]:
    """The files of the system's fonts; upright ones of ordinary weight first."""
    folders = [
        Path(os.path.expandvars(os.path.expanduser(name))) for name in FONT_FOLDERS.get(sys.platform, OTHER_FOLDERS)
    ]
    files = {
        str(path): path.stem.lower()
        for folder in dict.fromkeys(folders)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    }
    special = ("bold", "italic", "oblique", "black", "thin", "light", "mono", "serif")
    return tuple(sorted(files, key=lambda path: sum(word in files[path] for word in special)))


@lru_cache(256)
def _font(name: str, size: int) -> ImageFont.ImageFont | None:
    # A font of the system by its file's name, None where it is not there; without a name Pillow's own.
    if not name:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except (OSError, ValueError):
        return None


def _has_all(name: str, letters: str) -> bool:
    return _font(name, 16) is not None and all(_has(name, letter) for letter in letters)


@lru_cache(4096)
def _has(name: str, letter: str) -> bool:
    # A letter that a font lacks is drawn as the same sign as a code point that is never a letter.
    font = _font(name, 16)
    try:
        sign, missing = font.getmask(letter), font.getmask("\uffff")
    except (OSError, ValueError):  # a broken file, or one whose letters are of one size
        return False
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
