"""The entries of an annotation file of COCO's format, checked one by one: images, categories and annotations.

Each problem names the file, the entry, the value, what was expected and the repair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...config.printable import short_repr
from .coco_shapes import LARGEST, are_numbers, hull, keypoint_problem, polygon_problem, run_lengths, run_problem

INT64 = 2**63 - 1


@dataclass(eq=False)
class Entries:
    """The checked entries of a file as columns, in the order of the file; see coco_file.CocoFile.

    segmentations: of each annotation a list of rings, run lengths {"size", "counts"}, or None.
    """

    image_ids: list = field(default_factory=list)
    file_names: list = field(default_factory=list)
    sizes: list = field(default_factory=list)
    category_ids: list = field(default_factory=list)
    category_names: list = field(default_factory=list)
    keypoint_names: list = field(default_factory=list)
    skeletons: list = field(default_factory=list)
    labelled: bool = True
    entries: list = field(default_factory=list)
    ids: list = field(default_factory=list)
    images: list = field(default_factory=list)
    categories: list = field(default_factory=list)
    boxes: list = field(default_factory=list)
    areas: list = field(default_factory=list)
    crowd: list = field(default_factory=list)
    segmentations: list = field(default_factory=list)
    keypoints: list = field(default_factory=list)
    labelled_points: list = field(default_factory=list)


def read_entries(path: Path, document: Mapping[str, object]) -> tuple[Entries, list[str]]:
    """Return the entries of a parsed file, and a problem for each that cannot be used."""
    entries, problems = Entries(labelled="annotations" in document), []
    for key in ("images", "categories"):
        if key not in document:
            problems.append(f"{path}: the key {key!r} is missing; expected a list of {key}")
    for key in ("images", "categories", "annotations"):
        if not isinstance(document.get(key, []), list):
            problems.append(f"{path}: {key} is {short_repr(document[key])}; expected a list")
    if problems:
        return entries, problems
    rows_of_images = _read_each(path, document, "images", problems, _Images(entries))
    rows_of_categories = _read_each(path, document, "categories", problems, _Categories(entries))
    _read_each(path, document, "annotations", problems, _Annotations(entries, rows_of_images, rows_of_categories))
    return entries, problems


def _read_each(
    path: Path,
    document: Mapping[str, object],
    key: str,
    problems: list[str],
    reader: Callable[[int, Mapping[str, object]], Iterator[str]],
) -> dict[object, int]:
    """Read each entry of the list `key`; return id -> place in the columns of `reader`."""
    places: dict[object, int] = {}
    first: dict[object, int] = {}
    rows = document.get(key, [])
    for number, entry in enumerate(rows):
        rows[number] = None  # its memory is free as soon as it is read
        where = f"{path}: {key}[{number}]"
        if not isinstance(entry, dict):
            problems.append(f"{where} is {short_repr(entry)}; expected an object")
            continue
        identity = entry.get("id")
        if not reader.is_id(identity):
            state = f"id {short_repr(identity)}" if "id" in entry else "no id"
            problems.append(f"{where} has {state}; expected {reader.kind_of_id}")
            continue
        where += f" (id {short_repr(identity)})"
        if identity in first:
            problems.append(f"{where}: {key}[{first[identity]}] has this id too; expected another id for each of {key}")
            continue
        first[identity] = number
        wrong = list(reader(number, entry))
        problems += [f"{where}: {text}" for text in wrong]
        places[identity] = -1 if wrong else reader.count() - 1
    return places


def _is_whole(value: object) -> bool:
    return type(value) is int and 0 <= value <= INT64


def has_controls(text: str) -> bool:
    """Whether a text has a line break or another control character."""
    return any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)


def _name_problem(entry: Mapping[str, object], key: str, expected: str) -> str:
    """What is wrong with the text `key` of an entry, in words; empty where nothing is."""
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        found = f"{key} {short_repr(value)}" if key in entry else f"the key {key!r} is missing"
        return f"{found}; expected {expected}"
    if has_controls(value) or any(0xD800 <= ord(character) < 0xE000 for character in value):
        return f"{key} {short_repr(value)} has control characters; expected {expected}"
    return ""


class _Images:
    """Reads the entries of images."""

    kind_of_id = "a whole number, or text"

    def __init__(self, entries: Entries) -> None:
        self.entries, self.first = entries, {}

    def count(self) -> int:
        return len(self.entries.image_ids)

    @staticmethod
    def is_id(value: object) -> bool:
        return _is_whole(value) or isinstance(value, str) and bool(value) and not has_controls(value)

    def __call__(self, number: int, entry: Mapping[str, object]) -> Iterator[str]:
        if problem := _name_problem(entry, "file_name", "the path of the image"):
            yield problem
            return
        name = entry["file_name"].replace("\\", "/")
        sides = [entry.get("height"), entry.get("width")]
        if sides != [None, None] and not all(type(side) is int and 0 < side <= LARGEST for side in sides):
            stated = f"height {short_repr(sides[0])}, width {short_repr(sides[1])}"
            yield f"{stated}; expected the sides of the image in whole pixels"
            return
        if name in self.first:
            yield (
                f"file_name {short_repr(name)} is that of images[{self.first[name]}] too; expected one entry for each "
                "image: give its annotations one image_id"
            )
            return
        if self.entries.image_ids and type(self.entries.image_ids[0]) is not type(entry["id"]):
            yield f"ids are numbers and texts, the first is {short_repr(self.entries.image_ids[0])}; expected one kind"
            return
        self.first[name] = number
        self.entries.image_ids.append(entry["id"])
        self.entries.file_names.append(name)
        self.entries.sizes.append([-1, -1] if sides[0] is None else sides)


class _Categories:
    """Reads the entries of categories."""

    kind_of_id = "a whole number"
    is_id = staticmethod(_is_whole)

    def __init__(self, entries: Entries) -> None:
        self.entries, self.first = entries, {}

    def count(self) -> int:
        return len(self.entries.category_ids)

    def __call__(self, number: int, entry: Mapping[str, object]) -> Iterator[str]:
        if problem := _name_problem(entry, "name", "the name of the class"):
            yield problem
            return
        name, names, limbs = entry["name"], entry.get("keypoints"), entry.get("skeleton")
        if name in self.first:
            yield f"name {short_repr(name)} is that of categories[{self.first[name]}] too; expected another name"
        elif names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
            yield f"keypoints {short_repr(names)}; expected the names of the keypoints, a list of texts"
        else:
            self.first[name] = number
            self.entries.category_ids.append(entry["id"])
            self.entries.category_names.append(name)
            self.entries.keypoint_names.append(names or [])
            self.entries.skeletons.append(_limbs(limbs, len(names or [])))


def _limbs(value: object, count: int) -> list[list[int]]:
    """The pairs of keypoints from 1 of a skeleton; without those that are none, which pictures alone would show."""
    pairs = value if isinstance(value, list) else []
    return [
        pair
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and all(type(end) is int and 1 <= end <= count for end in pair)
    ]


class _Annotations:
    """Reads the entries of annotations. images, categories: id -> row, -1 for an entry that has a problem itself."""

    kind_of_id = "a whole number"
    is_id = staticmethod(_is_whole)

    def __init__(self, entries: Entries, images: Mapping[object, int], categories: Mapping[object, int]) -> None:
        self.entries, self.images, self.categories = entries, images, categories

    def count(self) -> int:
        return len(self.entries.ids)

    def __call__(self, number: int, entry: Mapping[str, object]) -> Iterator[str]:
        image, category = self._row(entry, "image_id", self.images), self._row(entry, "category_id", self.categories)
        wrong = [row for row in (image, category) if isinstance(row, str)]
        if wrong:
            yield from wrong
            return
        size = tuple(self.entries.sizes[image]) if image >= 0 and self.entries.sizes[image][0] > 0 else None
        names = self.entries.keypoint_names[category] if category >= 0 else []
        segmentation = entry.get("segmentation") or None
        wrong = [*_shape_problems(entry, segmentation, size, names), *_number_problems(entry, segmentation)]
        if wrong:
            yield from wrong
            return
        points = entry.get("keypoints") or []
        box = entry.get("bbox") or hull(segmentation)
        columns = self.entries
        columns.entries.append(number)
        columns.ids.append(entry["id"])
        columns.images.append(image)
        columns.categories.append(category)
        columns.boxes.append([float(value) for value in box])
        columns.areas.append(_area(entry, box, segmentation))
        columns.crowd.append(bool(entry.get("iscrowd", 0)))
        columns.segmentations.append(segmentation)
        columns.keypoints.append(points)
        labelled = entry.get("num_keypoints", sum(value > 0 for value in points[2::3]))
        columns.labelled_points.append(labelled if points else -1)

    @staticmethod
    def _row(entry: Mapping[str, object], key: str, rows: Mapping[object, int]) -> int | str:
        """The row that an id points to, or what is wrong with the id."""
        if key not in entry:
            return f"the key {key!r} is missing"
        value = entry[key]
        kind = "images" if key == "image_id" else "categories"
        if type(value) not in (int, str) or value not in rows:
            other = {str(each): each for each in rows} if len(rows) < 1000 else {}
            hint = f"; {short_repr(other[str(value)])} is one, of another type" if str(value) in other else ""
            return (
                f"{key} {short_repr(value)} is the id of none of the {len(rows)} {kind}{hint}; expected the id of one"
            )
        return rows[value]


def _shape_problems(
    entry: Mapping[str, object], segmentation: object, size: tuple[int, int] | None, names: list[str]
) -> Iterator[str]:
    """What is wrong with the box, the segmentation and the keypoints of an annotation."""
    box, points = entry.get("bbox"), entry.get("keypoints")
    if not box and not isinstance(segmentation, list):
        yield "no bbox; expected [x, y, width, height] in pixels"
    elif box and not (isinstance(box, list) and len(box) == 4 and are_numbers(box)):
        yield f"bbox {short_repr(box)}; expected [x, y, width, height], four finite numbers in pixels"
    elif box and min(box[2:]) < 0:
        yield f"bbox {short_repr(box)} has a negative side; expected [x, y, width, height], not the corners"
    if isinstance(segmentation, dict):
        problem = run_problem(segmentation, size)
    elif isinstance(segmentation, list):
        problem = polygon_problem(segmentation)
    else:
        problem = (
            "" if segmentation is None else f"segmentation {short_repr(segmentation)}; expected polygons or run lengths"
        )
    if problem:
        yield problem
    if points and names and (problem := keypoint_problem(points, len(names))):
        yield problem
    elif points and not names:
        yield "there are keypoints, but its category names none; expected `keypoints`, a list of names, there"


def _number_problems(entry: Mapping[str, object], segmentation: object) -> Iterator[str]:
    """What is wrong with area, iscrowd and num_keypoints of an annotation."""
    area, crowd, labelled = entry.get("area", 0), entry.get("iscrowd", 0), entry.get("num_keypoints", 0)
    if not (type(area) in (int, float) and 0 <= area <= LARGEST**2):
        yield f"area {short_repr(area)}; expected a number of pixels, 0 or more"
    if crowd not in (0, 1):
        yield f"iscrowd {short_repr(crowd)}; expected 0 (an object) or 1 (a group)"
    if type(labelled) is not int or not 0 <= labelled <= LARGEST:
        yield f"num_keypoints {short_repr(labelled)}; expected the number of labelled keypoints"


def _area(entry: Mapping[str, object], box: list[float], segmentation: object) -> float:
    """The area of an annotation in pixels: the file's, else that of its run lengths or of its box."""
    if "area" in entry:
        return float(entry["area"])
    if isinstance(segmentation, dict):
        return float(sum(run_lengths(segmentation["counts"])[1::2]))
    return float(box[2]) * float(box[3])
