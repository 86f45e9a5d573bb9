"""Label files of Pascal VOC: one XML file for each image, with the boxes of its objects in pixels.

The format is that of the VOC development kits (Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV
2010), in which the first pixel has the number 1 and a box holds its last pixel. Most other programs write the same
elements with coordinates from 0. A file says that it is PASCAL's own by its <database>.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import torch

from ...config.errors import did_you_mean
from ...config.printable import short_repr
from ...ops.instances import Instances
from .coco_entries import has_controls
from .folders import some
from .xml_tree import read_xml
from .yolo import TOLERANCE, LabelFile, number_of

EXPECTED = "expected the elements of Pascal VOC: <annotation> with <size> and <object> with <name> and <bndbox>"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
PASCALS = "the voc20"  # begins the <database> of PASCAL's own files, in small letters


class VocObject(NamedTuple):
    """One object: its line, class, box x1, y1, x2, y2 in pixels from 0, and whether it is difficult."""

    line: str
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


def xml_path(image: Path) -> Path:
    """Where the labels of an image belong: its last folder JPEGImages or `images` becomes Annotations.

    Without such a folder, or where no such file is, beside the image.
    """
    parts = list(image.parent.parts)
    for place in range(len(parts) - 1, -1, -1):
        if parts[place].lower() in ("jpegimages", "images"):
            for name in ("Annotations", "annotations"):
                path = Path(*parts[:place], name, *parts[place + 1 :], f"{image.stem}.xml")
                if path.is_file():
                    return path
            break
    return image.with_suffix(".xml")


@dataclass(frozen=True)
class VocLabels:
    """Reads label files of Pascal VOC: a scan_cache.LabelReader.

    names: the classes in their order; None takes any class as class 0. first_pixel: the number of the first pixel, 0 or
    1; None: 1 in PASCAL's own files and 0 in others.
    """

    names: tuple[str, ...] | None
    first_pixel: int | None = None

    @property
    def key(self) -> str:
        """The classes, and where pixels begin."""
        return f"voc {self.names} {self.first_pixel}"

    def path(self, image: Path) -> Path:
        """The label file of an image."""
        return xml_path(image)

    def read_file(self, image: Path, size: tuple[int, int] | None) -> LabelFile | None:
        """The labels of an image of `size` (h, w) px, in float64; None without a label file.

        size: None for an image that cannot be used, whose size the file is asked for.
        """
        path = xml_path(image)
        try:
            objects, stated, problems = read_voc(path, self.first_pixel)
        except FileNotFoundError:
            return None
        if stated and size and stated != size:
            problems.append(f"{path}: {size_problem(stated, size)}")
        size = size or stated
        if problems or size is None:
            return LabelFile(Instances.empty(), tuple(problems))
        return self._labels(path, objects, size)

    def _labels(self, path: Path, objects: Sequence[VocObject], size: tuple[int, int]) -> LabelFile:
        """Objects as labels in shares of an image of `size`; boxes are cut to the image."""
        height, width = size
        rows, problems, notes = [], [], []
        for each in objects:
            where = f"{path}:{each.line}: object {short_repr(each.name)}"
            if self.names is not None and each.name not in self.names:
                hint = did_you_mean(each.name, self.names)
                problems.append(f"{where} is of an unknown class; expected one of {some(self.names, 20)}.{hint}")
                continue
            x1, y1, x2, y2 = (value / side for value, side in zip(each.box, (width, height) * 2))
            centre = (x1 + x2) / 2, (y1 + y2) / 2
            if not all(-TOLERANCE <= value <= 1 + TOLERANCE for value in (*centre, x2 - x1, y2 - y1)):
                place = ", ".join(f"{value:g}" for value in each.box)
                problems.append(
                    f"{where} lies outside its image: {place} in {width} x {height} pixels; expected pixels"
                )
                continue
            box = [min(max(value, 0.0), 1.0) for value in (x1, y1, x2, y2)]
            if box[0] >= box[2] or box[1] >= box[3]:
                notes.append(f"{where}: a box without area, left out")
                continue
            if (beyond := max(-x1, -y1, x2 - 1, y2 - 1)) > TOLERANCE:
                notes.append(f"{where}: the box reaches {beyond:.3f} of a side beyond the image, clipped")
            rows.append((box, 0 if self.names is None else self.names.index(each.name), each.difficult))
        boxes = torch.tensor([box for box, _, _ in rows], dtype=torch.float64).view(-1, 4)
        classes = torch.tensor([index for _, index, _ in rows], dtype=torch.int64)
        difficult = torch.tensor([flag for _, _, flag in rows], dtype=torch.bool)
        column = difficult if bool(difficult.any()) else None
        return LabelFile(Instances(boxes, classes), tuple(problems), tuple(notes), column)


def size_problem(stated: tuple[int, int], size: tuple[int, int]) -> str:
    """The problem of a label file that states another size than the picture has, both (h, w)."""
    hint = "; was the image resized after it was labelled?"
    if stated == size[::-1]:
        hint = ": exchanged, perhaps because the picture is turned by its EXIF orientation; save it upright"
    return f"the size is {stated[1]} x {stated[0]} pixels, the picture has {size[1]} x {size[0]}{hint}"


def read_voc(path: Path, first_pixel: int | None = None) -> tuple[list[VocObject], tuple[int, int] | None, list[str]]:
    """Read a label file: its objects, the size (h, w) that it states or None, and a problem for each mistake.

    Raises FileNotFoundError.
    """
    root, problem = read_xml(path)
    if root is None:
        return [], None, [problem]
    if root.tag != "annotation":
        return [], None, [f"{path}: its element is <{short_repr(root.tag)[1:-1]}>; {EXPECTED}"]
    problems: list[str] = []
    size = _size(root, path, problems)
    start = first_pixel
    if start is None:
        start = int((root.findtext("source/database") or "").strip().lower().startswith(PASCALS))
    objects = []
    for element in root.iterfind("object"):
        values, wrong = _object(element)
        problems += [f"{path}:{element.get('line')}: {text}" for text in wrong]
        if not wrong:
            name, (x1, y1, x2, y2), difficult = values
            objects.append(VocObject(element.get("line"), name, (x1 - start, y1 - start, x2, y2), difficult))
    return objects, size, problems


def _size(root: Element, path: Path, problems: list[str]) -> tuple[int, int] | None:
    """The size (h, w) that a file states; None without <size>."""
    element = root.find("size")
    if element is None:
        return None
    values = [number_of((element.findtext(key) or "").strip()) for key in ("height", "width")]
    if all(value is not None and value > 0 and value.is_integer() for value in values):
        return int(values[0]), int(values[1])
    texts = {key: element.findtext(key) for key in ("width", "height")}
    stated = ", ".join(f"{key} {short_repr(text)}" for key, text in texts.items())
    problems.append(f"{path}:{element.get('line')}: size with {stated}; expected the sides of the image in pixels")
    return None


def _object(element: Element) -> tuple[tuple[str, list[float], bool], list[str]]:
    """The name, the corners and the difficulty of an object, and what is wrong with it."""
    wrong = []
    name = (element.findtext("name") or "").strip()
    if not name or has_controls(name):
        wrong.append(f"name {short_repr(name)}; expected the name of a class")
    text = (element.findtext("difficult") or "0").strip()
    if text not in ("0", "1"):
        wrong.append(f"difficult {short_repr(text)}; expected 0 or 1")
    box = element.find("bndbox")
    if box is None:
        wrong.append(f"object {short_repr(name)} without <bndbox>; expected its corners {', '.join(CORNERS)}")
        return (name, [], False), wrong
    texts = {corner: (box.findtext(corner) or "").strip() for corner in CORNERS}
    numbers = {corner: number_of(text) for corner, text in texts.items()}
    bad = [f"{corner} {short_repr(texts[corner])}" for corner, value in numbers.items() if value is None]
    if bad:
        wrong.append(f"object {short_repr(name)} with {', '.join(bad)}; expected finite numbers of pixels")
        return (name, [], False), wrong
    for low, high in (("xmin", "xmax"), ("ymin", "ymax")):
        if numbers[low] > numbers[high]:
            stated = f"{low} = {numbers[low]:g} above {high} = {numbers[high]:g}"
            wrong.append(f"object {short_repr(name)} with {stated}; expected the left and upper corner first")
    return (name, list(numbers.values()), text == "1"), wrong


def voc_names(files: Iterable[Path]) -> tuple[dict[int, str], list[str]]:
    """Class index -> name of all classes that occur in label files, sorted, and a note that says so."""
    names: set[str] = set()
    count = 0
    for path in files:
        with suppress(FileNotFoundError):
            names.update(each.name for each in read_voc(path)[0])
            count += 1
    text = f"no names: the classes are those of {count} label files, sorted; with names: in the YAML wrong ones show"
    return dict(enumerate(sorted(names))), [text] if names else []


def voc_options(raw: Mapping[str, object], problems: list[str]) -> int | None:
    """The key `first_pixel:` of a dataset YAML."""
    value = raw.get("first_pixel")
    if value is not None and value not in (0, 1):
        problems.append(f"first_pixel: {value!r}; expected 0 or 1, the number of the first pixel in the label files")
        return None
    return value
