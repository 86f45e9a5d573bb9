"""What is wrong or odd in a dataset, told in one report: findings by severity, and tables of what it holds.

Sizes of objects are COCO's (Lin et al. 2014): small below 32 x 32 px, large from 96 x 96 px, in pixels of the image.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...config.errors import UserError
from ...config.files import write_text
from ...config.settings import Settings
from ..formats.keypoint_rows import refused_keypoints
from ..formats.yolo import label_path
from .survey import Picture, Survey, survey

SEVERITIES = ("error", "warning", "note")
READS = {"mode", "task", "data", "imgsz", "single_cls", "allow_outside", "out", "debug"}  # settings that matter to it
STRIDE = 8  # px of the network input: a cell of the finest map of the shipped graphs
TINY_PIXELS, TINY_SHARE, GIANT_SHARE = 2, 1e-3, 0.9  # of a side, of a side, of the image
FEW_BOXES = 10  # of a class in train
MOSTLY = 0.5  # share of images without a box from which it is more than a note
COMMON = 0.1  # share of images from which their size is told
SMALL, LARGE = 32**2, 96**2  # px
PER_IMAGE = ((0, 0), (1, 1), (2, 4), (5, 9), (10, 19), (20, 49), (50, None))

# What the label reader says -> (severity, kind, what it is). The first whose words occur in the message; "" is the rest.
LABEL_PROBLEMS = (
    ("columns look like class, box and", "error", "keypoints", "label rows of a pose dataset, with keypoints"),
    ("is outside 0 to", "error", "class", "labels of a class that the dataset does not name"),
    ("outside the image; expected", "error", "outside", "labels with coordinates outside the image"),
    ("", "error", "malformed", "label rows that cannot be read"),
)
LABEL_NOTES = (
    ("the same row", "warning", "repeated row", "label rows that stand twice in a file"),
    ("without area", "warning", "no area", "boxes without area, or wholly outside the image"),
    ("beyond the image", "warning", "reaches outside", "boxes that reach outside the image and are clipped"),
    ("", "note", "label note", "other remarks about labels"),
)
# Where equal images lie -> (severity, kind, what it is): in train and elsewhere, in val and test, in one split.
SAME = {
    "leak": (
        "error",
        "leak",
        "groups of images that are the same file in train and in val or test: the numbers are too good",
    ),
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
    """One kind of problem. items: where it is, one line each; empty where `what` says it all."""

    severity: str  # error, warning or note
    kind: str  # a word or two, the same in every report
    what: str  # continues "<count> "; a whole sentence where there are no items
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What `doctor` found. tables: split -> column -> text; classes: name -> split -> boxes."""

    data: str
    imgsz: int
    tables: Mapping[str, Mapping[str, object]]
    classes: Mapping[str, Mapping[str, int]]
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0 where nothing is wrong (notes are allowed), 1 with a warning or an error."""
        return int(any(finding.severity != "note" for finding in self.findings))

    def text(self, limit: int = 10) -> str:
        """The report to read; at most `limit` lines of each finding and 40 classes."""
        lines = [
            f"Dataset {self.data}: {len(self.classes)} classes",
            "",
            *_table("split", self.tables),
            "",
            *_table("class", dict(list(self.classes.items())[:40])),
        ]
        lines += [f"... and {len(self.classes) - 40} more"] if len(self.classes) > 40 else []
        for severity in SEVERITIES:
            found = [finding for finding in self.findings if finding.severity == severity]
            lines += ["", f"{severity.capitalize()}s"] if found else []
            for finding in found:
                count = f"{len(finding.items)} " if finding.items else ""
                lines.append(f"  {finding.kind}: {count}{finding.what}")
                lines += [f"    {item}" for item in finding.items[:limit]]
                lines += [f"    ... and {len(finding.items) - limit} more"] if len(finding.items) > limit else []
        counts = Counter(finding.severity for finding in self.findings)
        told = ", ".join(f"{counts[severity]} {severity}{'s' * (counts[severity] != 1)}" for severity in SEVERITIES)
        return "\n".join([*lines, "", f"{told}: " + ("look at the above" if self.exit_code else "nothing is wrong")])

    def as_dict(self) -> dict[str, object]:
        """Everything, unabridged, as plain values."""
        found = [
            {"severity": f.severity, "kind": f.kind, "what": f.what, "count": len(f.items), "items": list(f.items)}
            for f in self.findings
        ]
        return {
            "data": self.data,
            "imgsz": self.imgsz,
            "exit_code": self.exit_code,
            "findings": found,
            "splits": {split: dict(row) for split, row in self.tables.items()},
            "classes": {name: dict(row) for name, row in self.classes.items()},
        }


def run_doctor(settings: Settings) -> Report:
    """Examine the dataset of `settings.data`, print the report, and write it whole to `settings.out` as JSON if given."""
    if settings.data is None:
        raise UserError("doctor needs data=: a dataset YAML, for example bitfalcon doctor data=data.yaml .")
    if settings.out and Path(settings.out).is_dir():
        raise UserError(f"out={settings.out} is a folder; give the file to write, for example out=doctor.json .")
    if unread := sorted(settings.given - READS):
        print(f"note: doctor only looks; without effect here: {', '.join(unread)}", file=sys.stderr)
    imgsz = settings.imgsz if isinstance(settings.imgsz, int) else max(settings.imgsz)
    report = examine(
        survey(settings.data, allow_outside=settings.allow_outside, single_cls=settings.single_cls),
        imgsz,
        single_cls=settings.single_cls,
    )
    print(report.text())
    if settings.out:
        write_text(settings.out, json.dumps(report.as_dict(), indent=1) + "\n")
        print(f"Report with every item: {settings.out}")
    return report


def examine(found: Survey, imgsz: int, single_cls: bool = False) -> Report:
    """Judge what was seen. imgsz: side of the network input in px, for objects that are too small for it."""
    names = {0: "item"} if single_cls else found.data.names
    boxes = {split: _boxes(pictures, single_cls) for split, pictures in found.splits.items()}
    view = _View(found, names, boxes, imgsz)
    findings = [finding for check in CHECKS for finding in check(view)]
    findings.sort(
        key=lambda finding: SEVERITIES.index(finding.severity)
    )  # stable: otherwise in the order of the checks
    counts = {split: Counter(table[:, 0].tolist()) for split, table in boxes.items()}  # 1.0 and 1 are one key
    classes = {
        f"{index} {name}": {split: count[index] for split, count in counts.items()} for index, name in names.items()
    }
    tables = {split: _row(pictures, boxes[split]) for split, pictures in found.splits.items()}
    return Report(str(found.data.path), imgsz, tables, classes, tuple(findings))


@dataclass(frozen=True)
class _View:
    """What the checks look at. boxes: split -> (n, 8): class, cx, cy, w, h (shares), image width, height (px), picture."""

    found: Survey
    names: Mapping[int, str]
    boxes: Mapping[str, np.ndarray]
    imgsz: int

    def near(self, path: Path) -> str:
        """A path from the dataset's folder."""
        root = self.found.data.root
        return str(path.relative_to(root)) if root in path.parents else str(path)

    def pictures(self) -> Iterator[tuple[str, Picture]]:
        for split, pictures in self.found.splits.items():
            for picture in pictures:
                yield split, picture


def _boxes(pictures: Sequence[Picture], single_cls: bool) -> np.ndarray:
    rows = [
        (0 if single_cls else row.cls, row.cx, row.cy, row.w, row.h, picture.size[1], picture.size[0], index)
        for index, picture in enumerate(pictures)
        if picture.size and picture.labels
        for row in picture.labels.rows
    ]
    return np.array(rows, dtype=float).reshape(-1, 8)


def _yaml(view: _View) -> Iterator[Finding]:
    found = view.found
    if found.problems:
        yield Finding("error", "dataset file", "problems of the dataset's YAML and its lists", found.problems)
    for severity, splits in (("error", ("train", "val")), ("warning", ("test",))):  # test is not needed to train
        if absent := tuple(f"{split}: {path}" for split, path in found.absent if split in splits):
            yield Finding(severity, "missing", "folders or files that the YAML names are not there", absent)
    for split, pictures in found.splits.items():
        if not pictures and not any(one == split for one, _ in found.absent):
            yield Finding("error", "no images", f"Split '{split}' has no image.")
    folded = Counter(name.strip().lower() for name in found.data.names.values())
    if twice := tuple(name for name in found.data.names.values() if folded[name.strip().lower()] > 1):
        yield Finding("warning", "names", "class names that stand more than once (case aside)", twice)
    if found.notes:
        yield Finding("note", "dataset file", "remarks about the dataset's YAML and its lists", found.notes)


def _images(view: _View) -> Iterator[Finding]:
    bad = tuple(f"{view.near(picture.path)}: {picture.problem}" for _, picture in view.pictures() if picture.problem)
    if bad:
        yield Finding(
            "error", "unreadable", "images that cannot be used (missing, corrupt, truncated or too small)", bad
        )
    kinds = defaultdict(list)
    for _, picture in view.pictures():
        for trait in picture.traits:
            kinds[trait].append(view.near(picture.path))
    for trait, paths in sorted(kinds.items()):
        yield Finding("note", "image kind", f"images are {trait}; they are read as upright 8-bit RGB", tuple(paths))


def _duplicates(view: _View) -> Iterator[Finding]:
    same, alike = defaultdict(list), defaultdict(list)
    for split, picture in view.pictures():
        if picture.digest:
            same[picture.digest].append((split, picture))
            if picture.look is not None:
                alike[picture.size, picture.look].append((split, picture))
    yield from _repeats(view, SAME, [group for group in same.values() if len(group) > 1])
    yield from _repeats(
        view, ALIKE, [group for group in alike.values() if len({picture.digest for _, picture in group}) > 1]
    )


def _repeats(view: _View, table: Mapping[str, tuple[str, str, str]], groups: Sequence[list]) -> Iterator[Finding]:
    sorted_out = defaultdict(list)
    for group in groups:
        splits = {split for split, _ in group}
        place = "within" if len(splits) == 1 else "leak" if "train" in splits else "across"
        labels = {picture.labels.rows if picture.labels else () for _, picture in group}
        members = " = ".join(f"{split}: {view.near(picture.path)}" for split, picture in group)
        sorted_out[place].append(members + (" (their labels differ)" if len(labels) > 1 else ""))
    for place, items in sorted_out.items():
        yield Finding(*table[place], tuple(items))


def _label_files(view: _View) -> Iterator[Finding]:
    read = [picture.labels for _, picture in view.pictures() if picture.labels]
    problems = [text for labels in read for text in labels.problems]
    for pictures in view.found.splits.values():
        rows = [row for picture in pictures for row in picture.keypoints]
        polygons = sum(picture.polygons for picture in pictures)
        problems += refused_keypoints(rows, polygons, view.found.data.kpt_shape)
    for table, messages in (
        (LABEL_PROBLEMS, problems),
        (LABEL_NOTES, [text for labels in read for text in labels.notes]),
    ):
        sorted_out = defaultdict(list)
        for text in dict.fromkeys(messages):  # an image in two splits is read twice
            sorted_out[next(row for row in table if row[0] in text)].append(
                text.replace(f"{view.found.data.root}/", "")
            )
        for (_, severity, kind, what), items in sorted_out.items():
            yield Finding(severity, kind, what, tuple(items))
    if view.found.orphans:
        yield Finding(
            "warning", "label without image", "label files without an image", tuple(map(view.near, view.found.orphans))
        )
    for split, pictures in view.found.splits.items():
        usable = [picture for picture in pictures if picture.size]
        missing = [view.near(picture.path) for picture in usable if picture.labels is None]
        empty = [
            view.near(picture.path) for picture in usable if picture.labels is not None and not any(picture.labels)
        ]
        for kind, items in (("image without label", missing), ("empty label file", empty)):
            if items:
                severity = "warning" if len(items) > MOSTLY * len(usable) else "note"
                yield Finding(severity, kind, f"of {len(usable)} images of {split} count as backgrounds", tuple(items))


def _classes(view: _View) -> Iterator[Finding]:
    train = Counter(view.boxes["train"][:, 0].tolist()) if "train" in view.boxes else Counter()
    if "train" in view.boxes and not train:
        first = next((picture.path for picture in view.found.splits["train"]), None)
        looked = f" Labels are looked for at such as '{label_path(first)}'." if first else ""
        yield Finding("error", "no labels", f"Split 'train' has no usable label: nothing can be learned.{looked}")
        return
    never, only, few = [], [], []
    for index, name in view.names.items():
        others = [split for split, table in view.boxes.items() if split != "train" and (table[:, 0] == index).any()]
        if not train[index]:
            (only if others else never).append(f"{index} {name}" + (f": in {', '.join(others)}" if others else ""))
        elif train[index] < FEW_BOXES:
            few.append(f"{index} {name}: {train[index]}")
    if only:
        yield Finding("warning", "class not in train", "classes occur in other splits, never in train", tuple(only))
    if never:
        yield Finding("warning", "class never used", "classes never occur", tuple(never))
    if few:
        yield Finding("note", "rare class", f"classes with fewer than {FEW_BOXES} boxes in train", tuple(few))


def _box_sizes(view: _View) -> Iterator[Finding]:
    sizes = {split: (table[:, 3:5], table[:, 3:5] * table[:, 5:7]) for split, table in view.boxes.items()}  # shares, px
    tiny = {split: ((px < TINY_PIXELS) | (share < TINY_SHARE)).any(1) for split, (share, px) in sizes.items()}
    giant = {split: share.prod(1) > GIANT_SHARE for split, (share, _) in sizes.items()}
    for kind, masks, what in (
        ("tiny", tiny, f"boxes with a side under {TINY_PIXELS} px or {TINY_SHARE:g} of the image's"),
        ("giant", giant, f"boxes that cover more than {GIANT_SHARE:.0%} of their image"),
    ):
        if any(mask.any() for mask in masks.values()):
            yield Finding("warning", f"{kind} box", what, tuple(_where(view, masks)))
    for split, (_, px) in sizes.items():
        scale = view.imgsz / np.maximum(view.boxes[split][:, 5:7].max(1, initial=1), 1)
        small = int(((px * scale[:, None]).min(1, initial=np.inf) < STRIDE).sum())
        if small:
            yield Finding(
                "note",
                "small for imgsz",
                f"{small} of {len(px)} boxes of {split} ({small / len(px):.1%}) have a side "
                f"under {STRIDE} px, one cell, at imgsz={view.imgsz}: hard to learn; a larger imgsz= helps.",
            )


def _where(view: _View, masks: Mapping[str, np.ndarray]) -> Iterator[str]:
    for split, mask in masks.items():
        for cls, cx, cy, w, h, width, height, index in view.boxes[split][mask].tolist():
            picture = view.found.splits[split][int(index)]
            name = view.names.get(int(cls), "?")
            yield (
                f"{split}: {view.near(picture.path)}: {name}, {w * width:.1f} x {h * height:.1f} px around "
                f"({cx * width:.0f}, {cy * height:.0f})"
            )


CHECKS: Sequence[Callable[[_View], Iterator[Finding]]] = (
    _yaml,
    _images,
    _duplicates,
    _label_files,
    _classes,
    _box_sizes,
)


def _row(pictures: Sequence[Picture], boxes: np.ndarray) -> dict[str, object]:
    """A split's line of the table."""
    usable = [picture for picture in pictures if picture.size]
    counts = [len(picture.labels.rows) if picture.labels else 0 for picture in usable]
    sizes = Counter(f"{picture.size[1]}x{picture.size[0]}" for picture in usable)
    aspects = sorted(picture.size[1] / picture.size[0] for picture in usable)
    areas = (boxes[:, 3:5] * boxes[:, 5:7]).prod(1)  # px
    shares = (
        [
            ((areas < SMALL).mean(), "small"),
            (((areas >= SMALL) & (areas < LARGE)).mean(), "medium"),
            ((areas >= LARGE).mean(), "large"),
        ]
        if len(boxes)
        else []
    )
    row = {
        "images": len(pictures),
        "unusable": len(pictures) - len(usable),
        "boxes": len(boxes),
        "empty": f"{counts.count(0)} ({counts.count(0) / max(len(usable), 1):.0%})",
    }
    row["box sizes"] = " ".join(f"{share:.0%} {word}" for share, word in shares) or "-"
    row["boxes an image: images"] = ", ".join(
        f"{low if high == low else f'{low}+' if high is None else f'{low}-{high}'}: {number}"
        for low, high in PER_IMAGE
        if (number := sum(low <= count and (high is None or count <= high) for count in counts))
    )
    ((often, number),) = sizes.most_common(1) or [("-", 0)]
    areas_of = sorted((picture.size[0] * picture.size[1], f"{picture.size[1]}x{picture.size[0]}") for picture in usable)
    mostly = f", mostly {often} ({number / len(usable):.0%})" if number > COMMON * len(usable) else ""
    row["image sizes"] = (
        often if len(sizes) < 2 else f"{areas_of[0][1]} to {areas_of[-1][1]}, {len(sizes)} kinds{mostly}"
    )
    row["width / height"] = (
        "-" if not aspects else f"{aspects[0]:.2f} to {aspects[-1]:.2f}, median {aspects[len(aspects) // 2]:.2f}"
    )
    return row


def _table(corner: str, rows: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Rows of one kind as aligned columns: numbers to the right, text to the left."""
    if not rows:
        return []
    heads = [corner, *next(iter(rows.values()))]
    cells = [heads, *([name, *map(str, row.values())] for name, row in rows.items())]
    widths = [max(map(len, column)) for column in zip(*cells)]
    right = [False, *(isinstance(value, int) for value in next(iter(rows.values())).values())]
    return [
        "  ".join(
            cell.rjust(width) if at_right else cell.ljust(width) for cell, width, at_right in zip(line, widths, right)
        ).rstrip()
        for line in cells
    ]
