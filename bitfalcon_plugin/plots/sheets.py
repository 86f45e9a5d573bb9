"""Sheets: the images of a batch in one picture, in a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .colours import GREY, row_colours
from .drawing import draw_boxes
from .fonts import writable
from .overlays import draw_keypoints, draw_masks


def batch_sheet(
    images: np.ndarray,
    rows: Sequence[Sequence[Sequence[float]]],
    names: Mapping[int, str],
    *,
    conf: bool = True,
    captions: Sequence[str] = (),
    masks: Sequence[np.ndarray | None] = (),
    keypoints: Sequence[np.ndarray | None] = (),
    limbs: Sequence[tuple[int, int]] = (),
    corners: Sequence[np.ndarray | None] = (),
    max_images: int = 16,
    max_side: int = 1920,
    min_side: int = 320,
) -> Image.Image:
    """Return the first images of a batch with their boxes, in a grid as square as can be.

    images (n, 3, H, W): RGB uint8. rows: for each image its boxes as `draw_boxes` takes them, pixels of the image.
    captions: a line for each image, in its lower left corner. masks: for each image the masks (n, H, W) bool of its
    rows, or None. keypoints: for each image those of its rows, (n, K, 2 or 3) in pixels of the image, or None. limbs:
    pairs of keypoints that a line joins. corners: for each image those of its oriented rows, (n, 4, 2) in pixels of the
    image, or None. max_images: further ones are left out. max_side: of the sheet, px. min_side: a
    smaller image is enlarged until its longer side has so many px, so that text can be read.
    """
    images = images[:max_images]
    count, (height, width) = max(len(images), 1), images.shape[2:]
    columns = math.ceil(count**0.5)
    lines = math.ceil(count / columns)
    scale = min(max_side / (columns * width), max_side / (lines * height), max(min_side / max(width, height), 1))
    cell = max(int(width * scale), 1), max(int(height * scale), 1)
    text_size = max(round(sum(cell) * 0.014), 10)
    sheet = Image.new("RGB", (columns * cell[0], lines * cell[1]), GREY)
    for index, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        picture = picture.resize(cell, Image.Resampling.BILINEAR)
        if index < len(masks) and masks[index] is not None and len(masks[index]):
            picture = draw_masks(picture, masks[index], row_colours(rows[index], None), (0, 0, width, height))
        scaled = [(*(side * scale for side in row[:4]), *row[4:6]) for row in rows[index]]
        oriented = corners[index] if index < len(corners) else None
        shapes = None if oriented is None else (oriented * scale).tolist()
        picture = draw_boxes(picture, scaled, names, corners=shapes, conf=conf, line_width=2, font_size=text_size)
        if index < len(keypoints) and keypoints[index] is not None:
            points = np.array(keypoints[index], dtype=float)
            points[..., :2] *= scale
            picture = draw_keypoints(picture, points.tolist(), limbs)
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
