"""Sheets: the images of a batch in one picture, in a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .colours import GREY, row_colours
from .drawing import BoxStyle, draw_boxes
from .fonts import writable
from .overlays import draw_keypoints, draw_masks


@dataclass(frozen=True)
class Overlay:
    """What is drawn on an image beside its boxes. Each array has a row for each box, or is None.

    masks (n, H, W) bool. keypoints (n, K, 2 or 3): x, y and visibility, in pixels of the image. limbs: pairs of
    keypoints that a line joins. corners (n, 4, 2): of oriented boxes, in pixels of the image.
    """

    masks: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    limbs: Sequence[tuple[int, int]] = ()
    corners: np.ndarray | None = None


def batch_sheet(
    images: np.ndarray,
    rows: Sequence[Sequence[Sequence[float]]],
    names: Mapping[int, str],
    *,
    conf: bool = True,
    captions: Sequence[str] = (),
    overlays: Sequence[Overlay] = (),
    max_images: int = 16,
    max_side: int = 1920,
    min_side: int = 320,
) -> Image.Image:
    """Return the first images of a batch with their boxes, in a grid as square as can be.

    images (n, 3, H, W): RGB uint8. rows: for each image its boxes as `draw_boxes` takes them, pixels of the image.
    captions: a line for each image, in its lower left corner. overlays: what else is drawn on each image. max_images:
    further ones are left out. max_side: of the sheet, px. min_side: a smaller image is enlarged until its longer side
    has so many px, so that text can be read.
    """
    images = images[:max_images]
    count, (height, width) = max(len(images), 1), images.shape[2:]
    columns = math.ceil(count**0.5)
    lines = math.ceil(count / columns)
    scale = min(max_side / (columns * width), max_side / (lines * height), max(min_side / max(width, height), 1))
    cell = max(int(width * scale), 1), max(int(height * scale), 1)
    style = BoxStyle(conf=conf, line_width=2, font_size=max(round(sum(cell) * 0.014), 10))
    sheet = Image.new("RGB", (columns * cell[0], lines * cell[1]), GREY)
    for index, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        picture = picture.resize(cell, Image.Resampling.BILINEAR)
        overlay = overlays[index] if index < len(overlays) else Overlay()
        if overlay.masks is not None and len(overlay.masks):
            picture = draw_masks(picture, overlay.masks, row_colours(rows[index], None), (0, 0, width, height))
        scaled = [(*(side * scale for side in row[:4]), *row[4:6]) for row in rows[index]]
        shapes = None if overlay.corners is None else (overlay.corners * scale).tolist()
        picture = draw_boxes(picture, scaled, names, style, shapes)
        if overlay.keypoints is not None:
            points = np.array(overlay.keypoints, dtype=float)
            points[..., :2] *= scale
            picture = draw_keypoints(picture, points.tolist(), overlay.limbs)
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
