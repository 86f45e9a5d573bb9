"""Label files of DOTA: `x1 y1 x2 y2 x3 y3 x4 y4 class difficulty`, the corners in pixels of the image.

DOTA: Xia et al., "DOTA: A Large-scale Dataset for Object Detection in Aerial Images" (arXiv:1711.10398). Written from
spec/pose-obb.md 2.12.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .yolo import number_of, read_text, shortened

CLASSES = (
    "plane",
    "ship",
    "storage tank",
    "baseball diamond",
    "tennis court",
    "basketball court",
    "ground track field",
    "harbor",
    "bridge",
    "large vehicle",
    "small vehicle",
    "helicopter",
    "roundabout",
    "soccer ball field",
    "swimming pool",
    "container crane",
    "airport",
    "helipad",
)
VERSIONS: Mapping[str, int] = {"v1.0": 15, "v1.5": 16, "v2.0": 18}  # version -> how many of CLASSES it has
CORNERS = 8  # numbers at the beginning of a line
EXPECTED = "expected `x1 y1 x2 y2 x3 y3 x4 y4 class difficulty`, the corners in pixels of the image"


class DotaObject(NamedTuple):
    """One line of a label file: its number from 1, the corners x1, y1, ... in pixels, the class, the difficulty."""

    line: int
    corners: tuple[float, ...]
    name: str
    difficult: bool


def same_class(name: str) -> str:
    """Return a class name in the spelling by which names are compared: small letters, spaces for hyphens."""
    return " ".join(name.lower().replace("-", " ").replace("_", " ").split())


def read_dota(path: Path) -> tuple[list[DotaObject], list[str]]:
    """Read a label file of DOTA: its objects, and a problem for each line that cannot be read.

    Lines of fewer than nine words whose first word is no number are headers ("imagesource:GoogleEarth", "gsd:0.146")
    and are skipped.
    """
    text, problem = read_text(path, EXPECTED)
    if problem:
        return [], [problem]
    objects: list[DotaObject] = []
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.split()
        if not words or len(words) <= CORNERS and number_of(words[0]) is None:
            continue
        wrong = list(_problems(words))
        problems += [f"{path}:{number}: {each}" for each in wrong]
        if not wrong:
            name, difficulty = _class_and_difficulty(words)
            objects.append(DotaObject(number, tuple(map(float, words[:CORNERS])), name, difficulty > 0))
    return objects, problems


def _class_and_difficulty(words: Sequence[str]) -> tuple[str, float]:
    """Return the class, whose words spaces may separate, and the difficulty; 0 where the line has none."""
    rest = list(words[CORNERS:])
    difficulty = number_of(rest[-1]) if len(rest) > 1 else None
    if difficulty is not None:
        rest.pop()
    return " ".join(rest), difficulty or 0.0


def _problems(words: Sequence[str]) -> Iterator[str]:
    """What is wrong with one line that is no header, in words."""
    text = shortened(" ".join(words))
    values = [number_of(word) for word in words]
    if None not in values:
        what = f"{len(words)} number{'s' * (len(words) > 1)} and no class"
        if len(words) in (5, CORNERS + 1) and values[0].is_integer() and max(map(abs, values[1:])) <= 2:
            what = "a row of YOLO labels, which format=yolo reads"
        yield f"{text} is {what}; {EXPECTED}"
    elif len(words) <= CORNERS:
        yield f"{len(words)} words in {text}; {EXPECTED}"
    elif wrong := [shortened(word) for word, value in zip(words[:CORNERS], values) if value is None]:
        yield f"{', '.join(wrong)} where a number is expected in {text}; {EXPECTED}"
    elif not _class_and_difficulty(words)[1].is_integer() or _class_and_difficulty(words)[1] < 0:
        yield f"difficulty {words[-1]}; expected 0 (not difficult) or 1 (difficult)"


def place_problem(corners: Sequence[float], size: tuple[int, int]) -> str:
    """Return what is wrong with the place of corners in an image of `size` (h, w) px, in words; empty where nothing."""
    height, width = size
    x, y = corners[0::2], corners[1::2]
    if max(x) > 0 and max(y) > 0 and min(x) < width and min(y) < height:
        return ""
    place = ", ".join(f"{value:g}" for value in (min(x), min(y), max(x), max(y)))
    return (
        f"the object lies outside its image ({place} in an image of {width} x {height} pixels); expected pixels of "
        "this image. Was the image resized after it was labelled?"
    )


def versions_with(names: Sequence[str]) -> str:
    """Return the first version of DOTA that has all of these of CLASSES."""
    last = max((CLASSES.index(name) for name in names), default=0)
    return next(version for version, count in VERSIONS.items() if last < count)
