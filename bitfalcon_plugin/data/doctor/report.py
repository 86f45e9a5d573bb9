"""The verb doctor: one report of a dataset, with findings by severity and tables of its images and boxes.

Sizes of objects are COCO's (Lin et al. 2014): small below 32 x 32 px, large from 96 x 96 px, in pixels of the image.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...config.errors import UserError
from ...config.files import write_text
from ...config.notes import print_note
from ...config.printable import one_line, say
from ...config.settings import Settings
from ..formats.class_folders import holds_class_folders
from ..formats.coco_labels import Wish
from ..formats.yolo import RowReader
from .checks import CHECKS, Finding, View, label_rows
from .class_folders import CLASS_CHECKS, USUAL_SIDE, row_of_split, survey_class_folders
from .keypoint_checks import check_keypoints
from .rectangle_checks import angles_of_split, check_rectangles
from .survey import Picture, Survey, survey

SEVERITIES = ("error", "warning", "note")
COMMON = 0.1  # share of images from which the most frequent size is reported
SMALL, LARGE = 32**2, 96**2  # px
SIZES = ("small", "medium", "large")
PER_IMAGE = (("0", 0, 0), ("1", 1, 1), ("2-4", 2, 4), ("5-9", 5, 9), ("10-19", 10, 19), ("20-49", 20, 49),
             ("50+", 50, float("inf")))  # fmt: skip


@dataclass(frozen=True)
class Report:
    """The result of doctor. tables: split -> column -> text or number; classes: name -> split -> number of boxes."""

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
        lines = [f"Dataset {one_line(self.data)}: {len(self.classes)} classes", "", *_table("split", self.tables), ""]
        lines += _table("class", {one_line(name): row for name, row in list(self.classes.items())[:40]})
        lines += [f"... and {len(self.classes) - 40} more"] if len(self.classes) > 40 else []
        for severity in SEVERITIES:
            findings = [finding for finding in self.findings if finding.severity == severity]
            lines += ["", f"{severity.capitalize()}s"] if findings else []
            for finding in findings:
                count = f"{len(finding.items)} " if finding.items else ""
                lines.append(f"  {finding.kind}: {count}{finding.description}")
                lines += [f"    {one_line(item)}" for item in finding.items[:limit]]
                lines += [f"    ... and {len(finding.items) - limit} more"] if len(finding.items) > limit else []
        counts = Counter(finding.severity for finding in self.findings)
        total = ", ".join(f"{counts[severity]} {severity}{'s' * (counts[severity] != 1)}" for severity in SEVERITIES)
        return "\n".join([*lines, "", f"{total}: " + ("look at the above" if self.exit_code else "nothing is wrong")])

    def as_dict(self) -> dict[str, object]:
        """The whole report as plain values."""
        findings = [
            {
                "severity": f.severity,
                "kind": f.kind,
                "what": f.description,
                "count": len(f.items),
                "items": list(f.items),
            }
            for f in self.findings
        ]
        return {
            "data": self.data,
            "imgsz": self.imgsz,
            "exit_code": self.exit_code,
            "findings": findings,
            "splits": {split: dict(row) for split, row in self.tables.items()},
            "classes": {name: dict(row) for name, row in self.classes.items()},
        }


def run_doctor(
    settings: Settings, read: RowReader | None = None, oriented: bool = False, wish: Wish | None = None
) -> Report:
    """Examine the dataset `settings.data`, print the report, and write it as JSON to `settings.out` if given.

    read: the reader of one row of a label file, where a task is given. oriented: it reads outlines that stand for
    oriented boxes. wish: what the task needs of labels in other formats.
    """
    if settings.data is None:
        raise UserError("doctor needs data=: a dataset YAML, for example bitfalcon doctor data=data.yaml .")
    if settings.out and Path(settings.out).is_dir():
        raise UserError(f"out={settings.out} is a folder; give the file to write, for example out=doctor.json .")
    by_class = holds_class_folders(settings.data)
    of_classes = {"split"} & settings.given if not by_class else set()
    if unread := sorted({*settings.unused_by("doctor"), *of_classes}):
        print_note(f"doctor only looks; without effect here: {', '.join(unread)}")
    imgsz = settings.imgsz if isinstance(settings.imgsz, int) else max(settings.imgsz)
    if by_class:
        share = None if isinstance(settings.split, str) else settings.split
        content = survey_class_folders(settings.data, share=share, allow_outside=settings.allow_outside)
        imgsz = imgsz if "imgsz" in settings.given else USUAL_SIDE
    else:
        options = {"allow_outside": settings.allow_outside, "single_cls": settings.single_cls}
        content = survey(settings.data, **options, read=read, oriented=oriented, wish=wish)
    report = examine(content, imgsz, single_cls=settings.single_cls)
    say(report.text())
    if settings.out:
        write_text(settings.out, json.dumps(report.as_dict(), indent=1) + "\n")
        say(f"Report with every item: {settings.out}")
    return report


def examine(content: Survey, imgsz: int, single_cls: bool = False) -> Report:
    """Run all checks. imgsz: side of the network input in px, for the check of objects that are too small."""
    names = {0: "item"} if single_cls else content.data.names
    boxes = {split: _boxes(pictures, single_cls) for split, pictures in content.splits.items()}
    view = View(content, names, boxes, imgsz)
    checks = CLASS_CHECKS if content.by_class else (*CHECKS, check_keypoints, check_rectangles)
    findings = [finding for check in checks for finding in check(view)]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))  # stable: then in the order of the checks
    counts = {split: Counter(table[:, 0].tolist()) for split, table in boxes.items()}  # 1.0 and 1 are one key
    classes = {
        f"{index} {name}": {split: count[index] for split, count in counts.items()} for index, name in names.items()
    }
    tables = {split: _row(pictures, boxes[split]) for split, pictures in content.splits.items()}
    if any(picture.rectangles is not None for _, picture in view.pictures()):
        for split, pictures in content.splits.items():
            tables[split]["angles (degrees)"] = angles_of_split(pictures)
    if content.by_class:
        tables = {split: row_of_split(content.splits[split], row) for split, row in tables.items()}
    return Report(str(content.data.path), imgsz, tables, classes, tuple(findings))


def _boxes(pictures: Sequence[Picture], single_cls: bool) -> np.ndarray:
    rows = [
        (0 if single_cls else cls, *box, picture.size[1], picture.size[0], index)
        for index, picture in enumerate(pictures)
        if picture.size and picture.labels
        for cls, *box in label_rows(picture)
    ]
    return np.array(rows, dtype=float).reshape(-1, 8)


def _row(pictures: Sequence[Picture], boxes: np.ndarray) -> dict[str, object]:
    """The table's row of a split, column -> value."""
    usable = [picture for picture in pictures if picture.size]
    counts = [len(picture.labels.labels) if picture.labels else 0 for picture in usable]
    sizes = Counter(f"{picture.size[1]}x{picture.size[0]}" for picture in usable)
    aspects = sorted(picture.size[1] / picture.size[0] for picture in usable)
    areas = (boxes[:, 3:5] * boxes[:, 5:7]).prod(1)  # px
    classes = np.searchsorted([SMALL, LARGE], areas, side="right")  # 0 small, 1 medium, 2 large
    shares = [f"{(classes == index).mean():.0%} {name}" for index, name in enumerate(SIZES) if len(boxes)]
    per_image = Counter(name for count in counts for name, low, high in PER_IMAGE if low <= count <= high)
    ((frequent, number),) = sizes.most_common(1) or [("-", 0)]
    by_area = sorted((picture.size[0] * picture.size[1], f"{picture.size[1]}x{picture.size[0]}") for picture in usable)
    if len(sizes) > 1:
        mostly = f", mostly {frequent} ({number / len(usable):.0%})" if number > COMMON * len(usable) else ""
        frequent = f"{by_area[0][1]} to {by_area[-1][1]}, {len(sizes)} kinds{mostly}"
    middle = len(aspects) // 2
    return {
        "images": len(pictures),
        "unusable": len(pictures) - len(usable),
        "boxes": len(boxes),
        "empty": f"{counts.count(0)} ({counts.count(0) / max(len(usable), 1):.0%})",
        "box sizes": " ".join(shares) or "-",
        "boxes an image: images": ", ".join(f"{name}: {per_image[name]}" for name, *_ in PER_IMAGE if per_image[name]),
        "image sizes": frequent,
        "width / height": f"{aspects[0]:.2f} to {aspects[-1]:.2f}, median {aspects[middle]:.2f}" if aspects else "-",
    }


def _table(corner: str, rows: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Rows of one kind as aligned columns: numbers to the right, text to the left."""
    if not rows:
        return []
    heads = [corner, *next(iter(rows.values()))]
    cells = [heads, *([name, *map(str, row.values())] for name, row in rows.items())]
    widths = [max(map(len, column)) for column in zip(*cells)]
    right = [False, *(isinstance(value, int) for value in next(iter(rows.values())).values())]
    lines = []
    for line in cells:
        columns = zip(line, widths, right)
        aligned = [cell.rjust(width) if at_right else cell.ljust(width) for cell, width, at_right in columns]
        lines.append("  ".join(aligned).rstrip())
    return lines
