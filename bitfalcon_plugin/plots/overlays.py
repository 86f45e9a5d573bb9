"""Masks, keypoints and lines of text drawn on pictures with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .colours import GREY, colour_of
from .drawing import line_width_of, oblique_width
from .fonts import writable
from .labels import text_size

SEEN = 0.25  # least confidence of a point that is drawn
USUAL_SIDE = 700  # px, mean side of a picture on which dots have the usual radius
ALPHA = 0.5  # of masks


def draw_masks(
    picture: Image.Image, planes: np.ndarray, colours: Sequence[str], content: tuple[int, int, int, int]
) -> Image.Image:
    """Return an RGB picture with masks blended in, half and half; the first lies on top.

    planes (n, h, w): above 0 is inside. content: left, top, right and bottom in px of the plane, where the picture lies
    on the plane. Planes of another size than the picture are interpolated, and what is above a half is inside.
    """
    return draw_regions(picture, [mask_region(plane, content, picture.size) for plane in planes], colours)


def draw_regions(
    picture: Image.Image, regions: Sequence[tuple[tuple[int, int], np.ndarray] | None], colours: Sequence[str]
) -> Image.Image:
    """Return an RGB picture with masks blended in, half and half; the first lies on top.

    regions: of each mask what `mask_region` returns.
    """
    picture = picture.copy()
    for region, colour in zip(regions[::-1], colours[: len(regions)][::-1]):
        if region is None:
            continue
        (left, top), inside = region
        height, width = inside.shape
        under = picture.crop((left, top, left + width, top + height))
        mixed = Image.blend(under, Image.new("RGB", under.size, colour), ALPHA)
        picture.paste(mixed, (left, top), Image.fromarray(inside))
    return picture


def mask_region(
    plane: np.ndarray, content: tuple[int, int, int, int], page: tuple[int, int]
) -> tuple[tuple[int, int], np.ndarray] | None:
    """Return the part of a mask that is not empty, in px of a picture: its left top corner, and (h, w) bool.

    plane, content: as for `draw_masks`. page: width and height of the picture. None for an empty mask.
    """
    plane = np.asarray(plane) > 0
    rows, columns = plane.any(1).nonzero()[0], plane.any(0).nonzero()[0]
    if not len(rows):
        return None
    left, top, right, bottom = content
    scale_x, scale_y = page[0] / (right - left), page[1] / (bottom - top)
    # the mask reaches a pixel of the plane further when it is interpolated
    x1, x2 = _span(columns[0] - 1 - left, columns[-1] + 2 - left, scale_x, page[0])
    y1, y2 = _span(rows[0] - 1 - top, rows[-1] + 2 - top, scale_y, page[1])
    if x1 >= x2 or y1 >= y2:
        return None
    if (scale_x, scale_y) == (1, 1):
        return (x1, y1), plane[y1 + top : y2 + top, x1 + left : x2 + left]
    box = (left + x1 / scale_x, top + y1 / scale_y, left + x2 / scale_x, top + y2 / scale_y)
    grey = Image.fromarray(plane.astype(np.uint8) * 255)
    part = grey.resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR, box=box)
    return (x1, y1), np.asarray(part) > 127


def _span(low: float, high: float, scale: float, limit: int) -> tuple[int, int]:
    return max(math.floor(low * scale), 0), min(math.ceil(high * scale), limit)


def draw_keypoints(
    picture: Image.Image,
    objects: Sequence[Sequence[Sequence[float]]],
    limbs: Sequence[tuple[int, int]],
    *,
    radius: float | None = None,
    line_width: float | None = None,
    lines: bool = True,
    colour: tuple[int, int, int] | None = None,
    least: float = SEEN,
) -> Image.Image:
    """Return an RGB picture with the keypoints of objects as dots, and limbs between them as lines; the first on top.

    objects: for each object its points (x, y[, confidence]) in px. Points with a confidence below `least` are left out;
    of those without confidence the point (0, 0), which stands for a missing one. limbs: pairs of indices from 0; both
    ends must be seen. radius: of dots, px, by default 5, less on small pictures and more on large ones. line_width: px
    of boxes and of limbs. lines: draw limbs. colour: RGB of all, by default a colour for each point, in
    which also the limb that ends there is drawn.
    """
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    radius = _radius_for(picture.size) if radius is None else radius
    width = line_width_of(picture.size, line_width)
    for points in reversed(objects):
        seen = {index: (point[0], point[1]) for index, point in enumerate(points) if _is_seen(point, least)}
        for first, second in limbs if lines else ():
            if first in seen and second in seen:
                draw.line([seen[first], seen[second]], fill=colour or colour_of(second), width=oblique_width(width))
        for index, (x, y) in seen.items():
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour or colour_of(index))
    return picture


def _is_seen(point: Sequence[float], least: float) -> bool:
    if not all(map(math.isfinite, point)) or max(abs(point[0]), abs(point[1])) > 1e6:
        return False
    return point[2] >= least if len(point) > 2 else bool(point[0] or point[1])


def _radius_for(page: tuple[int, int]) -> int:
    """Return 5 px, in proportion less on pictures with sides below 250 px and more above USUAL_SIDE."""
    return round(5 * max(min(min(page) / 250, 1), sum(page) / 2 / USUAL_SIDE))


def draw_text_lines(
    picture: Image.Image,
    lines: Sequence[str],
    *,
    font_size: float | None = None,
    font: str | None = None,
    colour: tuple[int, int, int] | None = None,
) -> Image.Image:
    """Return an RGB picture with lines of text in its upper left corner, on a grey ground that shines through.

    font_size: px, by default as labels of boxes. colour: RGB, by default white. Text that does not fit is cut off.
    """
    if not lines:
        return picture.copy()
    size = max(round(font_size), 1) if font_size else text_size(picture.size, [])
    texts = [writable(line, size, font) for line in lines]
    start, pad, step = round(0.03 * picture.height), max(size // 4, 1), math.ceil(size * 1.3)
    right = min(start + math.ceil(max(font.getlength(text) for text, font in texts)) + 2 * pad, picture.width)
    bottom = min(start + step * len(lines) + 2 * pad, picture.height)
    picture = picture.copy()
    if right > start and bottom > start:
        ground = picture.crop((start, start, right, bottom))
        dark = Image.new("RGB", ground.size, tuple(part // 3 for part in GREY))
        picture.paste(Image.blend(ground, dark, 0.6), (start, start))
    draw = ImageDraw.Draw(picture)
    for number, (text, face) in enumerate(texts):
        draw.text((start + pad, start + pad + number * step), text, fill=colour or "white", font=face)
    return picture
