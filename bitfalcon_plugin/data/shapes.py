"""The embedded dataset: textured shapes on cluttered pictures, drawn once into the user's cache folder.

It has ordinary JPEG images, txt labels and a commented data.yaml, and so is also an example to copy. Each image has its
own random generator, seeded by split and number: the pictures are the same on every machine. No outside source.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.random import RandomState
from PIL import Image, ImageDraw

from ..config.files import cache_dir
from ..ops.polygons import Polygons, clip
from .generated import ensure_files

NAMES = ("circle", "square", "triangle", "star")
COUNTS = {"train": 160, "val": 40}
SIZES = (14.0, 180.0)  # px, the longer side of a shape's box
MAX_TURN = math.pi / 5  # radians from upright
RIM = 0.88  # size of the textured part as a share of the shape's size
MIN_VISIBLE = 0.4  # share of a shape that later shapes and the image border must leave uncovered
EMPTY = 16  # every 16th image of a split is without objects
_SUPERSAMPLE = 4  # pixels a side that are drawn for each pixel, for smooth outlines

DATA_YAML = """\
# A dataset as bitfalcon reads it. This one was drawn by the program; copy the folder to make your own.
#
# Images lie in a folder `images`, labels under the same names, with the suffix .txt, in a folder `labels` beside it:
#   images/train/0000.jpg    labels/train/0000.txt
# A label file has one row per object, five numbers separated by spaces:
#   class cx cy w h
# class counts from 0 and means a line of `names` below; cx cy is the centre of the box and w h its size, as a share of
# the width and height of the image, 0 to 1. An empty or missing label file means: nothing to find in this image.
path: .  # the folder all other paths start from; relative to this file
train: images/train  # a folder, a .txt with one image path a line, or a list of these
val: images/val
names:
"""

# The lines about labels in DATA_YAML, and the lines that take their place for another task.
BOX_ROWS = """\
# A label file has one row per object, five numbers separated by spaces:
#   class cx cy w h
# class counts from 0 and means a line of `names` below; cx cy is the centre of the box and w h its size, as a share of
# the width and height of the image, 0 to 1. An empty or missing label file means: nothing to find in this image.
"""
_OUTLINE_ROWS = """\
# A label file has one row per object, numbers separated by spaces:
#   class x1 y1 x2 y2 x3 y3 ...
# class counts from 0 and means a line of `names` below; the points are the corners of the outline, as shares of the
# width and height of the image, 0 to 1. An empty or missing label file means: nothing to find in this image.
"""


@dataclass(frozen=True)
class Shape:
    """One object: an outline in pixels, which may reach over the border of the image."""

    kind: int  # index of the class
    outline: np.ndarray  # (k, 2) float64 x, y in px

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The box (x1, y1, x2, y2) in px of the part inside an image of `size` (h, w), covered or not; or zeros.

        The extremes of that part lie on the outline, because no shape is wide enough to hold a whole side of the image.
        """
        start, limit = self.outline, np.array([size[1], size[0]], dtype=float)
        along = np.roll(start, -1, axis=0) - start  # (k, 2) edges
        with np.errstate(divide="ignore", invalid="ignore"):  # an edge along an axis crosses at infinity
            crossings = np.stack(((0 - start) / along, (limit - start) / along))  # (2, k, 2) in edge lengths
            enter = np.fmax(crossings.min(0).max(1), 0.0)  # (k,): the edge is inside from here
            leave = np.fmin(crossings.max(0).min(1), 1.0)  # to here
            ends = np.stack((start + enter[:, None] * along, start + leave[:, None] * along), 1)[enter <= leave]
        if not len(ends):
            return 0.0, 0.0, 0.0, 0.0
        (x1, y1), (x2, y2) = ends.min((0, 1)).clip(0, limit), ends.max((0, 1)).clip(0, limit)  # clip: rounding
        return float(x1), float(y1), float(x2), float(y2)


def ensure_shapes(folder: Path | None = None, outlines: bool = False) -> Path:
    """Return the data.yaml of the generated dataset in `folder` (default: the user's cache); draw what is missing.

    outlines: the rows of the labels are polygons, for segmentation, and not boxes.

    Files are put there as `generated.ensure_files` does it. Raises UserError if they cannot be written.
    """
    target = Path(folder) if folder else cache_dir() / ("shapes-seg-v1" if outlines else "shapes-v1")
    ensure_files(target, file_names(), partial(_draw_dataset, outlines=outlines))
    return target / "data.yaml"


def file_names() -> list[str]:
    """Every file of a dataset with COUNTS images. data.yaml comes last, so that all others are installed before it."""
    names = []
    for split, count in COUNTS.items():
        for index in range(count):
            names += [f"images/{split}/{index:04d}.jpg", f"labels/{split}/{index:04d}.txt"]
    return [*names, "data.yaml"]


def _draw_dataset(folder: Path, outlines: bool) -> None:
    """Draw the whole dataset into a new folder."""
    text = DATA_YAML.replace(BOX_ROWS, _OUTLINE_ROWS) if outlines else DATA_YAML
    write_dataset(folder, 1, draw, _outline_text if outlines else _label_text, text, NAMES)


def write_dataset(
    folder: Path, seed: int, draw: Callable, label_text: Callable, yaml_text: str, names: Sequence[str]
) -> None:
    """Write the files of a generated dataset into a new folder.

    draw: (RandomState, empty=) -> pixels and objects. label_text: objects and size (h, w) -> the rows of a label file.
    yaml_text: data.yaml without the names.
    """
    for code, (split, count) in enumerate(COUNTS.items()):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(count):
            pixels, shapes = draw(RandomState([seed, code, index]), empty=index % EMPTY == EMPTY - 1)
            Image.fromarray(pixels).save(images / f"{index:04d}.jpg", quality=90)
            text = label_text(shapes, pixels.shape[:2])
            (labels / f"{index:04d}.txt").write_text(text, encoding="utf-8", newline="\n")
    lines = "".join(f"  {index}: {name}\n" for index, name in enumerate(names))
    (folder / "data.yaml").write_text(yaml_text + lines, encoding="utf-8", newline="\n")


def _label_text(shapes: list[Shape], size: tuple[int, int]) -> str:
    height, width = size
    rows = []
    for shape in shapes:
        x1, y1, x2, y2 = shape.box(size)
        box = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
        rows.append(f"{shape.kind} " + " ".join(f"{value:.6f}" for value in box) + "\n")
    return "".join(rows)


def _outline_text(shapes: list[Shape], size: tuple[int, int]) -> str:
    """Rows `class x1 y1 x2 y2 ...`: the outlines cut to the image, covered or not."""
    height, width = size
    points = torch.from_numpy(np.concatenate([shape.outline for shape in shapes] or [np.zeros((0, 2))]))
    counts = torch.tensor([len(shape.outline) for shape in shapes], dtype=torch.int64)
    rows = []
    for shape, ring in zip(shapes, clip(Polygons(points, counts), size).split()):
        values = (ring / ring.new_tensor([width, height])).flatten().tolist()
        rows.append(f"{shape.kind} " + " ".join(f"{value:.6f}" for value in values) + "\n")
    return "".join(rows)


def draw(
    random: RandomState, empty: bool = False, make: Callable[..., Shape] | None = None
) -> tuple[np.ndarray, list[Shape]]:
    """Draw one picture, (H, W, 3) uint8 RGB sides of 230 to 336 px; return it with its objects, back to front.

    make: (RandomState, size) -> a random Shape, by default one of the classes NAMES.
    """
    long = random.randint(304, 337)
    short = int(long * random.uniform(0.75, 1.0))
    size = (long, short) if random.rand() < 0.35 else (short, long)  # (h, w)
    canvas = background(random, size)
    shapes = [] if empty else arrange(random, size, make)
    for shape in shapes:
        paint(canvas, shape, random)
    canvas += random.normal(0, random.uniform(1, 5), (*size, 1))  # sensor noise over everything
    return canvas.clip(0, 255).round().astype(np.uint8), shapes


def arrange(random: RandomState, size: tuple[int, int], make: Callable[..., Shape] | None = None) -> list[Shape]:
    """Arrange 1 to 8 shapes, back to front, so that a share of MIN_VISIBLE or more of each stays visible.

    A shape that would cover too much of an earlier shape, or lie too far outside, is drawn again, up to 12 times.
    """
    shapes: list[Shape] = []
    areas: list[float] = []  # whole area of each shape
    visible: list[np.ndarray] = []  # (H, W) bool
    for _ in range(random.randint(1, 9)):
        for _ in range(12):
            shape = (make or _random_shape)(random, size)
            cover = coverage(shape, size) > 0.5  # (H, W)
            uncovered = [mask & ~cover for mask in visible]
            area = _area(shape.outline)
            shares = [mask.sum() / whole for mask, whole in zip([*uncovered, cover], [*areas, area])]
            if min(shares) >= MIN_VISIBLE:
                shapes.append(shape)
                areas.append(area)
                visible = [*uncovered, cover]
                break
    return shapes


def _random_shape(random: RandomState, size: tuple[int, int]) -> Shape:
    """A shape of random class, size (on a log scale, large ones more often), slight turn and position."""
    kind = random.randint(len(NAMES))
    outline = turned_outline(random, kind)
    low, high = np.log(SIZES)
    side = math.exp(low + (high - low) * random.rand() ** 0.7)
    centre = random.uniform(0, 1, 2) * (size[1], size[0])
    return placed(kind, outline, side, centre)


def turned_outline(random: RandomState, kind: int) -> np.ndarray:
    """The corners (k, 2) x, y of a class around (0, 0), slightly turned and foreshortened."""
    outline = _unit_outline(kind)
    turn = random.uniform(-MAX_TURN, MAX_TURN)
    squeeze = random.uniform(0.85, 1.0)  # a slight foreshortening
    return outline * (1.0, squeeze) @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])


def placed(kind: int, outline: np.ndarray, side: float, centre: np.ndarray) -> Shape:
    """The shape whose outline has a longer side of `side` px around `centre` (x, y)."""
    return Shape(kind, outline * (side / np.ptp(outline, axis=0).max()) + centre)


def _unit_outline(kind: int) -> np.ndarray:
    """The corners (k, 2) x, y of a class, upright, on or within the unit circle."""
    corners = {"circle": 72, "square": 4, "triangle": 3, "star": 10}[NAMES[kind]]
    first = -math.pi / 4 if NAMES[kind] == "square" else -math.pi / 2  # a square lies flat, the others point up
    angles = np.arange(corners) * (2 * math.pi / corners) + first
    radius = np.where(np.arange(corners) % 2 == 0, 1.0, 0.42) if NAMES[kind] == "star" else 1.0
    return np.stack((np.cos(angles) * radius, np.sin(angles) * radius), axis=1)


def _area(outline: np.ndarray) -> float:
    """The area of a polygon (k, 2), by the shoelace formula."""
    x, y = outline.T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def window(shape: Shape, size: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of the pixels that the shape's box touches."""
    x1, y1, x2, y2 = shape.box(size)
    return slice(int(y1), max(math.ceil(y2), int(y1))), slice(int(x1), max(math.ceil(x2), int(x1)))


def coverage(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """The share of each pixel that the shape fills: (H, W) float32 in [0, 1] for an image of `size` (h, w)."""
    share = np.zeros(size, dtype=np.float32)
    rows, columns = window(shape, size)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if height > 0 and width > 0:
        fine = Image.new("L", (width * _SUPERSAMPLE, height * _SUPERSAMPLE))
        # Pillow counts coordinates from pixel centres.
        corners = (shape.outline - (columns.start, rows.start)) * _SUPERSAMPLE - 0.5
        ImageDraw.Draw(fine).polygon([tuple(corner) for corner in corners], fill=255)
        share[rows, columns] = np.asarray(fine.reduce(_SUPERSAMPLE), dtype=np.float32) / 255
    return share


def paint(canvas: np.ndarray, shape: Shape, random: RandomState) -> None:
    """Draw the shape, a rim around a random texture, over `canvas` (H, W, 3) float RGB, in place."""
    rows, columns = window(shape, canvas.shape[:2])
    middle = shape.outline.mean(0)
    inner = Shape(shape.kind, middle + (shape.outline - middle) * RIM)
    part = canvas[rows, columns]  # (h, w, 3), a view
    brightness = (0.9, 1.0) if random.rand() < 0.5 else (0.0, 0.2)
    rim = random_colour(random, (0.0, 0.5), brightness)
    for layer, pixels in ((shape, rim), (inner, _texture(random, shape, rows, columns))):
        part += coverage(layer, canvas.shape[:2])[rows, columns, None] * (pixels - part)


def _texture(random: RandomState, shape: Shape, rows: slice, columns: slice) -> np.ndarray:
    """A pattern (h, w, 3), float RGB, for a window: a light and a dark colour of random hues, at a random angle."""
    light = random_colour(random, (0.4, 1.0), (0.8, 1.0))
    dark = random_colour(random, (0.5, 1.0), (0.25, 0.55))
    y, x = np.mgrid[rows, columns]
    angle, shift = random.uniform(0, math.pi), random.uniform(0, 1, 2)
    period = max(np.ptp(shape.outline, axis=0).max() * random.uniform(0.14, 0.3), 4.0)  # px
    u = (x * math.cos(angle) + y * math.sin(angle)) / period + shift[0]
    v = (y * math.cos(angle) - x * math.sin(angle)) / period + shift[1]
    pattern = _PATTERNS[random.randint(len(_PATTERNS))](u, v, period, random)[..., None]  # (h, w, 1)
    return dark + pattern * (light - dark)


def _band(u: np.ndarray, period: float, duty: float = 0.5) -> np.ndarray:
    """1 in a share `duty` of each unit of `u`, elsewhere 0, with edges one pixel wide."""
    return ((duty / 2 - abs(u % 1 - 0.5)) * period + 0.5).clip(0, 1)


def _stripes(u: np.ndarray, v: np.ndarray, period: float, random: RandomState) -> np.ndarray:
    return _band(u, period, random.uniform(0.35, 0.65))


def _checks(u: np.ndarray, v: np.ndarray, period: float, random: RandomState) -> np.ndarray:
    across, along = _band(u / 2, period * 2), _band(v / 2, period * 2)
    return across + along - 2 * across * along


def _dots(u: np.ndarray, v: np.ndarray, period: float, random: RandomState) -> np.ndarray:
    inside = ((random.uniform(0.27, 0.36) - np.hypot(u % 1 - 0.5, v % 1 - 0.5)) * period + 0.5).clip(0, 1)
    return inside if random.rand() < 0.5 else 1 - inside


def _grain(u: np.ndarray, v: np.ndarray, period: float, random: RandomState) -> np.ndarray:
    slope = (u - u.min()) / (np.ptp(u) + 1e-9)
    return (slope + random.normal(0, 0.2, u.shape)).clip(0, 1)


_PATTERNS = (_stripes, _checks, _dots, _grain)


def random_colour(random: RandomState, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """A colour (3,), float RGB in [0, 255], of a random hue."""
    return 255 * np.array(colorsys.hsv_to_rgb(random.rand(), random.uniform(*saturation), random.uniform(*value)))


def background(random: RandomState, size: tuple[int, int]) -> np.ndarray:
    """A background (H, W, 3), float RGB: a muted gradient, clouds, and clutter of ragged patches and crooked lines."""
    height, width = size
    fine = Image.fromarray(clouded(random, size).clip(0, 255).astype(np.uint8))
    fine = fine.resize((width * 2, height * 2), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(fine)
    for _ in range(random.randint(4, 12)):
        _patch(random, pen, fine.size)
    for _ in range(random.randint(4, 16)):
        _line(random, pen, fine.size)
    return np.asarray(fine.reduce(2), dtype=np.float64)


def clouded(random: RandomState, size: tuple[int, int]) -> np.ndarray:
    """A muted gradient with clouds (H, W, 3), float RGB, some values perhaps outside 0 to 255."""
    height, width = size
    first, second = (random_colour(random, (0.0, 0.4), (0.3, 0.8)) for _ in range(2))
    angle = random.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:height, 0:width]
    slope = x * math.cos(angle) + y * math.sin(angle)
    slope = ((slope - slope.min()) / np.ptp(slope))[..., None]  # (H, W, 1)
    clouds = Image.fromarray(random.randint(0, 256, (random.randint(4, 12), random.randint(4, 12), 3)).astype(np.uint8))
    clouds = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64) - 128
    return first + slope * (second - first) + clouds * random.uniform(0.1, 0.3)


def _patch(random: RandomState, pen: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    """Draw a ragged patch of a muted colour that resembles no class."""
    corners = random.randint(9, 15)
    angles = np.arange(corners) * (2 * math.pi / corners)
    radius = random.uniform(0.03, 0.16) * size[0] * random.uniform(0.45, 1.0, corners)
    outline = np.stack((np.cos(angles), np.sin(angles)), axis=1) * radius[:, None] + random.uniform(0, 1, 2) * size
    pen.polygon([tuple(corner) for corner in outline], fill=_muted(random))


def _line(random: RandomState, pen: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    """Draw a crooked line of two to four pieces."""
    turns = np.cumsum(random.normal(0, 0.2, (random.randint(3, 6), 2)), axis=0) + random.uniform(0, 1, 2)
    pen.line([tuple(turn) for turn in turns * size], fill=_muted(random), width=random.randint(2, 9))


def _muted(random: RandomState) -> tuple[int, int, int]:
    return tuple(int(value) for value in random_colour(random, (0.0, 0.5), (0.25, 0.85)))
