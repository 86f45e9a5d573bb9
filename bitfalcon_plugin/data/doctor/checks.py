"""What can be wrong or odd in a dataset: one function for each kind of finding."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...ops.boxes import xywh_from_xyxy
from ..formats.keypoint_rows import refused_keypoints
from ..formats.yolo import label_path
from .survey import MAX_DECODED, Picture, Survey

STRIDE = 8  # px of the network input: a cell of the finest map of the shipped graphs
TINY_PIXELS, TINY_SHARE, GIANT_SHARE = 2, 1e-3, 0.9  # of a side, of a side, of the image
FEW_BOXES = 10  # of a class in train
MAX_EMPTY = 0.5  # share of images without a box from which a note becomes a warning
EQUAL = 0.95  # overlap of two labels that are one object
TWICE = ("warning", "object twice", "objects that nearly are another object of their class")
# Part of a message of the label reader, severity, kind, description. The first row whose part occurs counts.
LABEL_PROBLEMS = (
    ("columns look like class, box and", "error", "keypoints", "label rows of a pose dataset, with keypoints"),
    ("cx cy w h` and", "error", "keypoints", "label rows without the keypoints that kpt_shape announces"),
    ("is a box; a segmentation", "error", "box", "label rows that are boxes, where task=segment needs outlines"),
    ("is an upright box", "error", "box", "label rows that are upright boxes, where task=obb needs four corners"),
    ("look like a centre", "error", "centre and angle", "label rows of a centre and an angle, not of four corners"),
    ("is outside 0 to", "error", "class", "labels of a class that the dataset does not name"),
    ("lies outside its image", "error", "outside", "labels that lie outside their image"),
    ("the size is", "error", "size", "sizes in label files that are not those of the pictures"),
    ("of an unknown class", "error", "class", "labels of a class that the dataset does not name"),
    ("is none of the classes", "error", "class", "labels of a class that the dataset does not name"),
    ("no segmentation", "error", "box", "labels without outline, which task=segment needs"),
    ("no keypoints", "error", "keypoints", "labels without keypoints, which task=pose needs"),
    ("outside the image; expected", "error", "outside", "labels with coordinates outside the image"),
    ("", "error", "malformed", "label rows that cannot be read"),
)
LABEL_NOTES = (
    ("the same row", "warning", "repeated row", "label rows that stand twice in a file"),
    ("without area", "warning", "no area", "boxes without area, or wholly outside the image"),
    ("beyond its image", "warning", "reaches outside", "boxes that reach outside the image and are clipped"),
    ("beyond the image", "warning", "reaches outside", "boxes that reach outside the image and are clipped"),
    ("counts as labelled", "warning", "visibility", "keypoints with a visibility other than 0, 1 and 2"),
    ("", "note", "label note", "other remarks about labels"),
)
# Splits of equal images (train and another; val and test; one split) -> severity, kind, description.
LEAK = "groups of images that are the same file in train and in val or test: the numbers are too good"
SAME = {
    "leak": ("error", "leak", LEAK),
    "across": ("warning", "duplicate", "groups of images that are the same file in val and in test"),
    "within": ("warning", "duplicate", "groups of images of one split that are the same file"),
}
ALIKE = {
    "leak": ("warning", "look alike", "groups of images that look alike in train and in val or test: perhaps a leak"),
    "across": ("note", "look alike", "groups of images that look alike in val and in test"),
    "within": ("note", "look alike", "groups of images of one split that look alike"),
}


@dataclass(frozen=True)
class Finding:
    """A kind of problem. items: one line for each case; empty if `description` is a whole sentence."""

    severity: str  # error, warning or note
    kind: str  # a word or two, the same in every report
    description: str  # follows the number of items; a whole sentence if there are none
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """The input of the checks.

    boxes: split -> (n, 8): class, cx, cy, w, h (shares of the image), width and height of the image (px), index of the
    picture.
    """

    survey: Survey
    names: Mapping[int, str]
    boxes: Mapping[str, np.ndarray]
    imgsz: int

    def near(self, path: Path) -> str:
        """A path relative to the dataset's folder."""
        root = self.survey.data.root
        return str(path.relative_to(root)) if root in path.parents else str(path)

    def pictures(self) -> Iterator[tuple[str, Picture]]:
        for split, pictures in self.survey.splits.items():
            for picture in pictures:
                yield split, picture


def label_rows(picture: Picture) -> tuple[tuple[float, ...], ...]:
    """The labels of an image as rows: class, centre, width and height in shares of the image, rounded to six digits."""
    if not picture.labels:
        return ()
    labels = picture.labels.labels
    return tuple(
        (cls, *(round(share, 6) for share in box))
        for cls, box in zip(labels.classes.tolist(), xywh_from_xyxy(labels.boxes).tolist(), strict=True)
    )


def dataset_problems(view: View) -> Iterator[Finding]:
    """Yield what is wrong with the YAML, the lists and the folders."""
    survey = view.survey
    place = "the class folders" if survey.by_class else "the dataset's YAML and its lists"
    if survey.problems:
        yield Finding("error", "dataset file", f"problems of {place}", survey.problems)
    for severity, splits in (("error", ("train", "val")), ("warning", ("test",))):  # test is not needed to train
        if absent := tuple(f"{split}: {path}" for split, path in survey.absent if split in splits):
            yield Finding(severity, "missing", "folders or files that the YAML names are not there", absent)
    for split, pictures in survey.splits.items():
        if not pictures and split not in {name for name, _ in survey.absent}:
            yield Finding("error", "no images", f"Split '{split}' has no image.")
    folded = Counter(name.strip().lower() for name in survey.data.names.values())
    if twice := tuple(name for name in survey.data.names.values() if folded[name.strip().lower()] > 1):
        yield Finding("warning", "names", "class names that stand more than once (case aside)", twice)
    if survey.notes:
        yield Finding("note", "dataset file", f"remarks about {place}", survey.notes)


def unusual_images(view: View) -> Iterator[Finding]:
    """Yield images that cannot be used, and unusual kinds of files."""
    bad = tuple(f"{view.near(picture.path)}: {picture.problem}" for _, picture in view.pictures() if picture.problem)
    if bad:
        description = "images that cannot be used (missing, corrupt, truncated or too small)"
        yield Finding("error", "unreadable", description, bad)
    large = tuple(
        f"{view.near(picture.path)}: {picture.size[1]}x{picture.size[0]}"
        for _, picture in view.pictures()
        if not picture.decoded
    )
    if large:
        description = f"images have more than {MAX_DECODED} pixels: only their headers were read, they may be broken"
        yield Finding("note", "not decoded", description, large)
    kinds = defaultdict(list)
    for _, picture in view.pictures():
        for trait in picture.traits:
            kinds[trait].append(view.near(picture.path))
    for trait, paths in sorted(kinds.items()):
        yield Finding("note", "image kind", f"images are {trait}; they are read as upright 8-bit RGB", tuple(paths))


def duplicates(view: View) -> Iterator[Finding]:
    """Yield groups of images that are the same file or look alike."""
    same, alike = defaultdict(list), defaultdict(list)
    for split, picture in view.pictures():
        if picture.digest:
            same[picture.digest].append((split, picture))
            if picture.hash is not None:
                alike[picture.size, picture.hash].append((split, picture))
    different = [group for group in alike.values() if len({picture.digest for _, picture in group}) > 1]
    yield from _repeats(view, SAME, [group for group in same.values() if len(group) > 1])
    yield from _repeats(view, ALIKE, different)


def _repeats(view: View, table: Mapping[str, tuple[str, str, str]], groups: Sequence[list]) -> Iterator[Finding]:
    items_of = defaultdict(list)
    for group in groups:
        splits = {split for split, _ in group}
        across = "leak" if "train" in splits else "across"
        relation = "within" if len(splits) == 1 else across
        labels = {label_rows(picture) for _, picture in group}
        members = " = ".join(f"{split}: {view.near(picture.path)}" for split, picture in group)
        items_of[relation].append(members + (" (their labels differ)" if len(labels) > 1 else ""))
    for relation, items in items_of.items():
        yield Finding(*table[relation], tuple(items))


def _label_files(view: View) -> Iterator[Finding]:
    read = [picture.labels for _, picture in view.pictures() if picture.labels]
    problems = [text for labels in read for text in labels.problems]
    for pictures in view.survey.splits.values():
        rows = [row for picture in pictures for row in picture.keypoints]
        polygons = sum(picture.polygons for picture in pictures)
        problems += refused_keypoints(rows, polygons)
    notes = [text for labels in read for text in labels.notes]
    for table, messages in ((LABEL_PROBLEMS, problems), (LABEL_NOTES, notes)):
        items_of = defaultdict(list)
        for text in dict.fromkeys(messages):  # an image in two splits is read twice
            items_of[next(row for row in table if row[0] in text)].append(text.replace(f"{view.survey.data.root}/", ""))
        for (_, severity, kind, description), items in items_of.items():
            yield Finding(severity, kind, description, tuple(items))
    mixed = tuple(
        f"{split}: {view.near(picture.path)}: {picture.polygons} of {len(picture.labels.labels)} labels are outlines"
        for split, picture in view.pictures()
        if picture.labels and 0 < picture.polygons < len(picture.labels.labels)
    )
    if mixed:
        yield Finding("note", "boxes and outlines", "images with both; task=segment takes outlines only", mixed)
    if view.survey.orphans:
        orphans = tuple(map(view.near, view.survey.orphans))
        yield Finding("warning", "label without image", "label files without an image", orphans)
    for split, pictures in view.survey.splits.items():
        usable = [picture for picture in pictures if picture.size]
        missing = [view.near(picture.path) for picture in usable if picture.labels is None]
        if view.survey.data.format == "coco":  # where nothing is written of an image, there is no object
            missing = []
        empty = [view.near(picture.path) for picture in usable if picture.labels and not any(picture.labels[:3])]
        nothing = "image without annotation" if view.survey.data.format == "coco" else "empty label file"
        for kind, items in (("image without label", missing), (nothing, empty)):
            if items:
                severity = "warning" if len(items) > MAX_EMPTY * len(usable) else "note"
                yield Finding(severity, kind, f"of {len(usable)} images of {split} count as backgrounds", tuple(items))


def _classes(view: View) -> Iterator[Finding]:
    train = Counter(view.boxes["train"][:, 0].tolist()) if "train" in view.boxes else Counter()
    if "train" in view.boxes and not train:
        first = next((picture.path for picture in view.survey.splits["train"]), None)
        of_text = first and view.survey.data.format == "yolo"
        example = f" Labels are looked for at such as '{label_path(first)}'." if of_text else ""
        yield Finding("error", "no labels", f"Split 'train' has no usable label: nothing can be learned.{example}")
        return
    never, only, few = [], [], []
    for index, name in view.names.items():
        splits = [split for split, table in view.boxes.items() if (table[:, 0] == index).any()]
        if not splits:
            never.append(f"{index} {name}")
        elif not train[index]:
            only.append(f"{index} {name}: in {', '.join(splits)}")
        elif train[index] < FEW_BOXES:
            few.append(f"{index} {name}: {train[index]}")
    if only:
        yield Finding("warning", "class not in train", "classes occur in other splits, never in train", tuple(only))
    if never:
        yield Finding("warning", "class never used", "classes never occur", tuple(never))
    if few:
        yield Finding("note", "rare class", f"classes with fewer than {FEW_BOXES} boxes in train", tuple(few))


def _box_sizes(view: View) -> Iterator[Finding]:
    sizes = {split: (table[:, 3:5], table[:, 3:5] * table[:, 5:7]) for split, table in view.boxes.items()}  # shares, px
    tiny = {split: ((px < TINY_PIXELS) | (share < TINY_SHARE)).any(1) for split, (share, px) in sizes.items()}
    giant = {split: share.prod(1) > GIANT_SHARE for split, (share, _) in sizes.items()}
    for kind, masks, description in (
        ("tiny", tiny, f"boxes with a side under {TINY_PIXELS} px or {TINY_SHARE:g} of the image's"),
        ("giant", giant, f"boxes that cover more than {GIANT_SHARE:.0%} of their image"),
    ):
        if any(mask.any() for mask in masks.values()):
            yield Finding("warning", f"{kind} box", description, tuple(_where(view, masks)))
    for split, (_, px) in sizes.items():
        scale = view.imgsz / np.maximum(view.boxes[split][:, 5:7].max(1, initial=1), 1)
        small = int(((px * scale[:, None]).min(1, initial=np.inf) < STRIDE).sum())
        if small:
            description = (
                f"{small} of {len(px)} boxes of {split} ({small / len(px):.1%}) have a side under {STRIDE} px, one "
                f"cell, at imgsz={view.imgsz}: hard to learn; a larger imgsz= helps."
            )
            yield Finding("note", "small for imgsz", description)


def _where(view: View, masks: Mapping[str, np.ndarray]) -> Iterator[str]:
    for split, mask in masks.items():
        for cls, cx, cy, w, h, width, height, index in view.boxes[split][mask].tolist():
            picture = view.survey.splits[split][int(index)]
            name = view.names.get(int(cls), "?")
            yield (
                f"{split}: {view.near(picture.path)}: {name}, {w * width:.1f} x {h * height:.1f} px around "
                f"({cx * width:.0f}, {cy * height:.0f})"
            )


CHECKS = (dataset_problems, unusual_images, duplicates, _label_files, _classes, _box_sizes)
