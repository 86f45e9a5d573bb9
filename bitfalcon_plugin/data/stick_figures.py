"""The embedded dataset of poses: dancing stick figures on cluttered pictures (see shapes), with eleven keypoints each.

The figures look at the camera, so that their left hand is on the right of the picture, and in a mirror it would not be:
flip_idx exchanges the two. Each image has its own random generator, seeded by split and number: the pictures are the
same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import RandomState
from PIL import Image, ImageDraw

from ..config.files import cache_dir
from .generated import ensure_files
from .shapes import background, random_colour

COUNTS = {"train": 160, "val": 40}
POINTS = (
    *("nose", "neck", "left_elbow", "right_elbow", "left_hand", "right_hand"),
    *("hip", "left_knee", "right_knee", "left_foot", "right_foot"),
)
FLIP = (0, 1, 3, 2, 5, 4, 6, 8, 7, 10, 9)
LIMBS = ((0, 1), (1, 6), (1, 2), (2, 4), (1, 3), (3, 5), (6, 7), (7, 9), (6, 8), (8, 10))
SIGMA = 0.05  # of every keypoint
HEIGHTS = (90.0, 230.0)  # px, of an upright figure
MAX_TURN = 0.35  # radians from upright
MIN_VISIBLE = 0.5  # share of a figure that later figures and the image border must leave uncovered
EMPTY = 16  # every 16th image of a split is without figures
_SUPERSAMPLE = 3  # pixels a side that are drawn for each pixel, for smooth outlines

_DATA_YAML = f"""\
# A dataset of poses as bitfalcon reads it. This one was drawn by the program; copy the folder to make your own.
#
# Images lie in a folder `images`, labels under the same names, with the suffix .txt, in a folder `labels` beside it:
#   images/train/0000.jpg    labels/train/0000.txt
# A label file has one row per object, numbers separated by spaces:
#   class cx cy w h x1 y1 v1 x2 y2 v2 ...
# class counts from 0 and means a line of `names` below; cx cy is the centre of the box and w h its size; x y are the
# keypoints. All are shares of the width and height of the image, 0 to 1. v is 2 for a keypoint that can be seen, 1 for
# one that is covered, and `0 0 0` stands for one that is not labelled.
path: .  # the folder all other paths start from; relative to this file
train: images/train  # a folder, a .txt with one image path a line, or a list of these
val: images/val
kpt_shape: [{len(POINTS)}, 3]  # keypoints of an object, and numbers for each: 3 (x y v), or 2 (x y)
# For each keypoint the one that takes its place in a mirror: left_elbow is number 2, right_elbow number 3.
flip_idx: {list(FLIP)}
# How far each keypoint may lie from its label, as a share of the object's size: for the loss and the AP of keypoints.
kpt_oks_sigmas: {[SIGMA] * len(POINTS)}
skeleton: {[list(limb) for limb in LIMBS]}  # the keypoints that pictures join by a line, counted from 0
kpt_names:
  0: [{", ".join(POINTS)}]
names:
  0: figure
"""


@dataclass(frozen=True)
class Figure:
    """One figure: keypoints (11, 2) in the order of POINTS, radius of the head and width of the limbs, all in px."""

    points: np.ndarray
    head: float
    width: float


def ensure_figures(folder: Path | None = None) -> Path:
    """Return the data.yaml of the generated dataset in `folder` (default: the user's cache); draw what is missing.

    Raises UserError if it cannot be written.
    """
    target = Path(folder) if folder else cache_dir() / "figures-v1"
    ensure_files(target, _file_names(), _draw_dataset)
    return target / "data.yaml"


def _file_names() -> list[str]:
    """Every file of the dataset. data.yaml comes last, so that all others are installed before it."""
    names = []
    for split, count in COUNTS.items():
        for index in range(count):
            names += [f"images/{split}/{index:04d}.jpg", f"labels/{split}/{index:04d}.txt"]
    return [*names, "data.yaml"]


def _draw_dataset(folder: Path) -> None:
    """Draw the whole dataset into a new folder."""
    for code, (split, count) in enumerate(COUNTS.items()):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(count):
            pixels, rows = draw(RandomState([3, code, index]), empty=index % EMPTY == EMPTY - 1)
            Image.fromarray(pixels).save(images / f"{index:04d}.jpg", quality=90)
            (labels / f"{index:04d}.txt").write_text("".join(rows), encoding="utf-8", newline="\n")
    (folder / "data.yaml").write_text(_DATA_YAML, encoding="utf-8", newline="\n")


def draw(random: RandomState, empty: bool = False) -> tuple[np.ndarray, list[str]]:
    """Draw one picture, (H, W, 3) uint8 RGB sides of 230 to 336 px; return it with the rows of its labels."""
    long = random.randint(304, 337)
    short = int(long * random.uniform(0.75, 1.0))
    size = (long, short) if random.rand() < 0.35 else (short, long)  # (h, w)
    canvas = background(random, size)
    figures, visible = ([], []) if empty else _arrange(random, size)
    for figure in figures:
        _paint(canvas, figure, random)
    canvas += random.normal(0, random.uniform(1, 5), (*size, 1))  # sensor noise over everything
    rows = [label_row(figure, mask, size) for figure, mask in zip(figures, visible)]
    return canvas.clip(0, 255).round().astype(np.uint8), rows


def _arrange(random: RandomState, size: tuple[int, int]) -> tuple[list[Figure], list[np.ndarray]]:
    """One to three figures, back to front, and the pixels (H, W) bool that are seen of each, at least MIN_VISIBLE.

    A figure that would cover too much of an earlier one, or lie too far outside, is drawn again, up to 12 times.
    """
    figures: list[Figure] = []
    areas: list[int] = []
    visible: list[np.ndarray] = []
    for _ in range(random.randint(1, 4)):
        for _ in range(12):
            figure = random_figure(random, size)
            cover = coverage(figure, size) > 0.5
            uncovered = [mask & ~cover for mask in visible]
            area = _whole_area(figure)
            shares = [mask.sum() / whole for mask, whole in zip([*uncovered, cover], [*areas, area])]
            if min(shares) >= MIN_VISIBLE:
                figures, areas, visible = [*figures, figure], [*areas, area], [*uncovered, cover]
                break
    return figures, visible


def random_figure(random: RandomState, size: tuple[int, int]) -> Figure:
    """A dancing figure of random height (on a log scale), turn and place in an image of `size` (h, w)."""
    height = math.exp(random.uniform(*np.log(HEIGHTS)))
    hip, neck, nose = np.zeros(2), np.array([0.0, -0.31]), np.array([0.0, -0.43])
    lean = random.uniform(-0.2, 0.2)
    points = {"hip": hip, "neck": neck @ _turn(lean), "nose": nose @ _turn(lean)}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        arm, leg = random.uniform(0.15, 2.7), random.uniform(0.05, 1.1)  # radians from hanging down
        for first, second, start, angle, lengths, bend in (
            ("elbow", "hand", "neck", arm, (0.17, 0.17), (-0.6, 1.4)),
            ("knee", "foot", "hip", leg, (0.24, 0.24), (-0.9, 0.2)),
        ):
            points[f"{side}_{first}"] = points[start] + _along(sign * angle, lengths[0])
            bent = sign * (angle + random.uniform(*bend))
            points[f"{side}_{second}"] = points[f"{side}_{first}"] + _along(bent, lengths[1])
    body = np.stack([points[name] for name in POINTS]) @ _turn(random.uniform(-MAX_TURN, MAX_TURN)) * height
    centre = random.uniform(0.1, 0.9, 2) * (size[1], size[0])
    return Figure(body - (body.min(0) + body.max(0)) / 2 + centre, 0.1 * height, max(0.05 * height, 4.0))


def _along(angle: float, length: float) -> np.ndarray:
    """A step (x, y) of a length; angle 0 points down, positive ones to the right."""
    return np.array([math.sin(angle), math.cos(angle)]) * length


def _turn(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def _whole_area(figure: Figure) -> int:
    """The number of pixels of the figure where no border cuts it."""
    low = figure.points.min(0) - figure.head - figure.width
    extent = np.ceil(figure.points.max(0) + figure.head + figure.width - low).astype(int)
    moved = Figure(figure.points - low, figure.head, figure.width)
    return int((coverage(moved, (extent[1], extent[0])) > 0.5).sum())


def coverage(figure: Figure, size: tuple[int, int]) -> np.ndarray:
    """The share of each pixel that the figure fills: (H, W) float32 in [0, 1] for an image of `size` (h, w)."""
    share = np.zeros(size, dtype=np.float32)
    sheet = _Sheet(figure, size)
    sheet.draw_limbs(figure)
    sheet.draw_disc(figure.points[0], figure.head)
    share[sheet.window] = sheet.shares()
    return share


class _Sheet:
    """The part of an image of `size` (h, w) around a figure, empty at first, to be drawn on with smooth outlines."""

    def __init__(self, figure: Figure, size: tuple[int, int]):
        reach = figure.head + figure.width
        low = np.floor(figure.points.min(0) - reach).astype(int).clip(0, (size[1] - 1, size[0] - 1))
        high = np.ceil(figure.points.max(0) + reach).astype(int).clip(low + 1, (size[1], size[0]))
        self.window = slice(low[1], high[1]), slice(low[0], high[0])
        self._corner = low
        self._fine = Image.new("L", tuple((high - low) * _SUPERSAMPLE))
        self._pen = ImageDraw.Draw(self._fine)

    def draw_limbs(self, figure: Figure) -> None:
        """Draw lines with round ends between the keypoints."""
        for start, end in (figure.points[list(limb)] for limb in LIMBS):
            along = end - start
            across = np.array([-along[1], along[0]]) / max(np.linalg.norm(along), 1e-9) * figure.width / 2
            corners = [start + across, end + across, end - across, start - across]
            self._pen.polygon([tuple(self._place(corner)) for corner in corners], fill=255)
            for place in (start, end):
                self.draw_disc(place, figure.width / 2)

    def draw_disc(self, place: np.ndarray, radius: float) -> None:
        """Draw a filled circle around a place of the image."""
        (x, y), radius = self._place(place), radius * _SUPERSAMPLE
        self._pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)

    def _place(self, point: np.ndarray) -> np.ndarray:
        return (point - self._corner) * _SUPERSAMPLE - 0.5  # Pillow counts from pixel centres

    def shares(self) -> np.ndarray:
        """The share of each pixel of the window that is filled, float32 in [0, 1]."""
        return np.asarray(self._fine.reduce(_SUPERSAMPLE), dtype=np.float32) / 255


def _paint(canvas: np.ndarray, figure: Figure, random: RandomState) -> None:
    """Draw a figure over `canvas` (H, W, 3) float RGB, in place: a body and a head that looks at the camera."""
    body = random_colour(random, (0.5, 1.0), (0.75, 1.0) if random.rand() < 0.5 else (0.15, 0.45))
    skin, ink = random_colour(random, (0.1, 0.5), (0.8, 1.0)), random_colour(random, (0.2, 0.8), (0.0, 0.25))
    nose, head = figure.points[0], figure.head
    up = (nose - figure.points[1]) / np.linalg.norm(nose - figure.points[1])
    right = np.array([-up[1], up[0]])
    ends = [(figure.points[index], 0.8 * figure.width) for index in (4, 5, 9, 10)]
    eyes = [(nose + head * (0.25 * up + side * right), 0.14 * head) for side in (-0.38, 0.38)]
    for colour, discs in ((skin, ends), (body, None), (skin, [(nose, head)]), (ink, [*eyes, (nose, 0.12 * head)])):
        sheet = _Sheet(figure, canvas.shape[:2])
        if discs is None:
            sheet.draw_limbs(figure)
        for place, radius in discs or ():
            sheet.draw_disc(place, radius)
        part = canvas[sheet.window]  # a view
        part += sheet.shares()[..., None] * (colour - part)


def label_row(figure: Figure, visible: np.ndarray, size: tuple[int, int]) -> str:
    """The row of a label file. visible (H, W) bool: pixels that are seen of the figure.

    The box is that of the figure's part inside the image, covered or not. Keypoints outside are not labelled, and those
    that another figure covers are hidden.
    """
    height, width = size
    rows, columns = (np.nonzero((coverage(figure, size) > 0.5).any(axis))[0] for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    values: list[float] = [(left + right) / 2 / width, (top + bottom) / 2 / height]
    values += [(right - left) / width, (bottom - top) / height]
    fields = ["0", *(f"{value:.6f}" for value in values)]
    for x, y in figure.points:
        fields += _point_fields(x, y, visible, size)
    return " ".join(fields) + "\n"


def _point_fields(x: float, y: float, visible: np.ndarray, size: tuple[int, int]) -> Sequence[str]:
    height, width = size
    if not (0 <= x < width and 0 <= y < height):
        return "0", "0", "0"
    return f"{x / width:.6f}", f"{y / height:.6f}", "2" if visible[int(y), int(x)] else "1"
