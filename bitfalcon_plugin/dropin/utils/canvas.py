"""Drawing into the buffer of an array, and on a Pillow picture, with the same few methods.

No OpenCV: lines and patches are slices of the array, letters are Pillow's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...plots.fonts import writable

Colour = Sequence[int]
Corners = tuple[int, int, int, int]


class ArrayCanvas:
    """An array (H, W, 3) uint8 that is drawn on in place. Colours are in the order of its channels."""

    def __init__(self, image: np.ndarray):
        self.image = image

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.shape[1], self.image.shape[0]

    def patch(self, box: Corners, colour: Colour) -> None:
        """Fill a box, its right and lower edges included."""
        x1, y1, x2, y2 = box
        self.image[max(y1, 0) : max(y2 + 1, 0), max(x1, 0) : max(x2 + 1, 0)] = colour[:3]

    def frame(self, box: Corners, colour: Colour, width: int) -> None:
        """Draw the edges of a box with lines of `width` px about them."""
        x1, y1, x2, y2 = min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])
        before, after = width // 2, width - width // 2 - 1
        for y in (y1, y2):
            self.patch((x1 - before, y - before, x2 + after, y + after), colour)
        for x in (x1, x2):
            self.patch((x - before, y1 - before, x + after, y2 + after), colour)

    def shape(self, points: np.ndarray, margin: int, draw: Callable[[Any, list[tuple[int, int]]], object]) -> None:
        """Call draw(an ImageDraw, points) on the part of the image around points (k, 2), with a margin in px."""
        width, height = self.size
        low = np.clip(points.min(0) - margin, 0, (width, height)).astype(int)
        high = np.clip(points.max(0) + margin + 1, 0, (width, height)).astype(int)
        if (high <= low).any():
            return
        part = self.image[low[1] : high[1], low[0] : high[0]]
        picture = Image.fromarray(np.ascontiguousarray(part))
        draw(ImageDraw.Draw(picture), [tuple(point) for point in (points - low).tolist()])
        part[:] = np.asarray(picture)

    def write(self, corner: tuple[int, int], text: str, colour: Colour, size: int, font: str | None) -> None:
        """Write a line of text whose upper left corner is `corner`."""
        ink = letters(text, size, font)
        x, y = corner
        left, top = max(-x, 0), max(-y, 0)
        part = self.image[max(y, 0) : max(y + ink.shape[0], 0), max(x, 0) : max(x + ink.shape[1], 0)]
        ink = ink[top : top + part.shape[0], left : left + part.shape[1], None].astype(np.float32) / 255
        part[:] = np.rint(part + (np.asarray(colour[:3], np.float32) - part) * ink)

    def measure(self, text: str, size: int, font: str | None) -> tuple[int, int]:
        """Return (width, height) of a line of text in px."""
        height, width = letters(text, size, font).shape
        return width, height


class PillowCanvas(ArrayCanvas):
    """A Pillow picture that is drawn on, with the methods of ArrayCanvas."""

    def __init__(self, picture: Image.Image):
        self.picture, self.draw = picture, ImageDraw.Draw(picture)

    @property
    def size(self) -> tuple[int, int]:
        return self.picture.size

    def patch(self, box: Corners, colour: Colour) -> None:
        x1, y1, x2, y2 = box
        if x2 >= x1 and y2 >= y1:
            self.draw.rectangle(box, fill=tuple(colour[:3]))

    def shape(self, points: np.ndarray, margin: int, draw: Callable[[Any, list[tuple[int, int]]], object]) -> None:
        draw(self.draw, [tuple(point) for point in points.tolist()])

    def write(self, corner: tuple[int, int], text: str, colour: Colour, size: int, font: str | None) -> None:
        ink = Image.fromarray(letters(text, size, font))
        self.draw.bitmap(corner, ink, fill=tuple(colour[:3]))


@lru_cache(512)
def letters(text: str, size: int, font: str | None) -> np.ndarray:
    """Return a line of text as a mask (h, w) uint8 with a pixel of margin; h depends on the size alone."""
    text, face = writable(text, size, font)
    _, highest, _, lowest = face.getbbox("Agjy|")
    left, top, right, bottom = face.getbbox(text)
    top, bottom = min(top, highest), max(bottom, lowest)
    mask = Image.new("L", (max(math.ceil(right - left), 0) + 2, math.ceil(bottom - top) + 2))
    ImageDraw.Draw(mask).text((1 - left, 1 - top), text, fill=255, font=face)
    return np.asarray(mask)
