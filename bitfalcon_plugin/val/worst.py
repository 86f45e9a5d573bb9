"""The images on which a model errs most: what it misses and what it finds where nothing is, as a table and a picture.

Pairs as COCO's evaluation makes them: the surest detection first, each takes the label of its class that it overlaps
most and that no surer one has taken. An object that is taken for another class is a miss and a false positive.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..data.dataset import Sample
from ..data.images import UnreadableImage, read_image
from ..ops.boxes import box_iou, pair_greedily
from ..ops.instances import Instances
from ..plots.drawing import GREY
from ..plots.fonts import writable
from ..tasks.curves import by_image

IOU = 0.5
MISS, FALSE, HIT = "#ff2d2d", "#ffc400", "#2fbf71"  # colours of the picture
PRINTED, DRAWN = 10, 12  # images of the table that is printed, and of the picture
SIDE, COLUMNS, HEAD = 480, 4, 30  # pixels of a cell and of the line above all


@dataclass(frozen=True, eq=False)
class Errors:
    """What went wrong on one image.

    labels, detections: in pixels of the original image. hit (m,), right (n,): bool, whether a label has a partner among
    the detections, and a detection among the labels.
    """

    image: Path
    labels: Instances
    detections: Instances
    hit: Tensor
    right: Tensor

    @property
    def misses(self) -> int:
        """Labels that nothing was found for."""
        return int((~self.hit).sum())

    @property
    def false(self) -> int:
        """Detections without a label."""
        return int((~self.right).sum())


@dataclass(frozen=True, eq=False)
class Worst:
    """Images with errors, in turn the one with most misses and the one with most false positives of those that are left.

    names: class index -> name. conf, iou: detections with a higher score count, and the least overlap of a pair.
    images: how many were looked at.
    """

    errors: tuple[Errors, ...]
    names: Mapping[int, str]
    images: int
    conf: float
    iou: float = IOU
    totals: Mapping[str, int] = field(default_factory=dict)  # labels, hits, misses, false positives of all images

    def rows(self) -> list[dict[str, object]]:
        """A dict for each image with errors: its path, counts, and which classes were missed and found wrongly."""
        return [
            {
                "image": str(one.image),
                "labels": len(one.labels),
                "hits": int(one.hit.sum()),
                "misses": one.misses,
                "false_positives": one.false,
                "missed": self._named(one.labels.classes[~one.hit]),
                "found_wrongly": self._named(one.detections.classes[~one.right]),
            }
            for one in self.errors
        ]

    def _named(self, classes: Tensor) -> str:
        counts = Counter(classes.tolist())
        return ", ".join(f"{count} {self.names[index]}" for index, count in sorted(counts.items()))

    def to_csv(self) -> str:
        """`rows` as CSV text with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("image", "labels", "hits", "misses", "false_positives", "missed", "found_wrongly"))
        writer.writerows(row.values() for row in self.rows())
        return text.getvalue()

    def table(self, most: int = PRINTED) -> str:
        """The table people read: the first `most` images."""
        where = f"confidence {self.conf:.3f} and IoU {self.iou:.2f}"
        if not self.errors:
            return f"Worst images: none of {self.images} has an error at {where}"
        lines = [
            f"Worst images at {where} (in turn by misses and by false positives; {len(self.errors)} of {self.images} have errors)",
            f"{'Labels':>8}{'Hits':>7}{'Misses':>8}{'False':>7}  Image",
        ]
        lines += [
            f"{row['labels']:>8}{row['hits']:>7}{row['misses']:>8}{row['false_positives']:>7}  {Path(row['image']).name}"
            for row in self.rows()[:most]
        ]
        return "\n".join(lines)

    def draw(self) -> Image.Image:
        """A sheet of the first images: misses and false positives in thick lines of their own colours, hits in thin ones."""
        cells = [self._cell(one) for one in self.errors[:DRAWN]]
        columns = max(min(COLUMNS, len(cells)), 1)
        sheet = Image.new("RGB", (max(columns * SIDE, 2 * SIDE), HEAD + -(-len(cells) // columns) * SIDE), GREY)
        _legend(sheet, self.totals, f"at confidence {self.conf:.3f}, IoU {self.iou:.2f}")
        for index, cell in enumerate(cells):
            sheet.paste(cell, (index % columns * SIDE, HEAD + index // columns * SIDE))
        return sheet

    def _cell(self, one: Errors) -> Image.Image:
        cell = Image.new("RGB", (SIDE, SIDE), GREY)
        draw = ImageDraw.Draw(cell)
        try:
            picture = Image.fromarray(read_image(one.image).permute(1, 2, 0).numpy())
        except UnreadableImage as reason:  # it was readable when it was measured
            _text(cell, (4, SIDE // 2), f"not readable any more: {reason}", "black", "white")
        else:
            self._draw_on(cell, picture, one)
        _text(cell, (0, SIDE - 20), f"{one.image.name}: {one.misses} missed, {one.false} false", "black", "white")
        draw.rectangle((0, 0, SIDE - 1, SIDE - 1), outline="white")
        return cell

    def _draw_on(self, cell: Image.Image, picture: Image.Image, one: Errors) -> None:
        ratio = min(SIDE / picture.width, SIDE / picture.height)
        size = max(round(picture.width * ratio), 1), max(round(picture.height * ratio), 1)
        left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
        cell.paste(picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), (left, top))
        draw, shift = ImageDraw.Draw(cell), np.array([left, top, left, top])
        for box in one.detections.boxes[one.right].numpy() * ratio + shift:
            draw.rectangle(_ordered(box), outline=HIT, width=1)
        false, missed = one.detections.only(~one.right), one.labels.only(~one.hit)
        wrong = [
            (box, FALSE, f"{self.names[index]} {score:.2f}")
            for box, index, score in zip(
                false.boxes.numpy(), false.classes.tolist(), false.scores.tolist(), strict=True
            )
        ]
        wrong += [
            (box, MISS, str(self.names[index]))
            for box, index in zip(missed.boxes.numpy(), missed.classes.tolist(), strict=True)
        ]
        placed = [(_ordered(box * ratio + shift), colour, text) for box, colour, text in wrong]
        for corners, colour, _ in placed:
            draw.rectangle(corners, outline=colour, width=3)
        for (
            x1,
            y1,
            _,
            y2,
        ), colour, text in placed:  # over all boxes; a miss and what it was taken for do not hide each other
            _text(
                cell,
                (x1, y2 - 16 if colour == MISS else y1 - 16 if y1 >= 16 else y1),
                text,
                colour,
                "white" if colour == MISS else "black",
            )


def _ordered(box: np.ndarray) -> tuple[float, float, float, float]:
    # corners that Pillow takes: not crossed
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, max(x1, x2), max(y1, y2)


def _text(page: Image.Image, corner: tuple[float, float], text: str, ground: str, colour: str) -> float:
    # Text on a plate whose upper left corner is `corner`, moved into the picture; returns where the plate ends on the right.
    draw = ImageDraw.Draw(page)
    text, font = writable(text, 12)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    x = min(max(corner[0], 0), max(page.width - (right - left) - 6, 0))
    y = min(max(corner[1], 0), max(page.height - (bottom - top) - 6, 0))
    draw.rectangle((x, y, x + right - left + 5, y + bottom - top + 5), fill=ground)
    draw.text((x + 3 - left, y + 3 - top), text, fill=colour, font=font)
    return x + right - left + 6


def _legend(sheet: Image.Image, totals: Mapping[str, int], where: str) -> None:
    draw, x = ImageDraw.Draw(sheet), 8.0
    draw.rectangle((0, 0, sheet.width, HEAD - 1), fill="white")
    for words, colour, width in (("missed", MISS, 3), ("false", FALSE, 3), ("right", HIT, 1)):
        draw.rectangle((x, 8, x + 20, 22), outline=colour, width=width)
        x = _text(sheet, (x + 24, 7), f"{words} {totals[words]}", "white", "black") + 14
    _text(sheet, (x, 7), f"in all images, {where}", "white", "black")


def worst_images(
    samples: Sequence[Sample], detections: Instances, names: Mapping[int, str], *, conf: float, iou: float = IOU
) -> Worst:
    """Look for errors on every image.

    detections: in pixels of the original images, `image` is the index of the sample. Detections with a score above
    `conf` count; a pair overlaps by `iou` or more.
    """
    per_image = by_image(detections, len(samples), conf)
    errors = [_errors(sample, found, iou) for sample, found in zip(samples, per_image, strict=True)]
    labels, misses = sum(len(each.labels) for each in errors), sum(each.misses for each in errors)
    totals = {"missed": misses, "false": sum(each.false for each in errors), "right": labels - misses}
    wrong = [each for each in errors if each.misses or each.false]
    return Worst(tuple(_in_turn(wrong)), dict(names), len(samples), conf, iou, totals)


def _errors(sample: Sample, detections: Instances, iou: float) -> Errors:
    labels = sample.pixel_labels()
    overlap = box_iou(detections.boxes.double(), labels.boxes.double())  # (n, m)
    overlap *= detections.classes[:, None] == labels.classes[None]
    detection, label = pair_greedily(overlap, iou, rows_in_turn=True).T
    hit, right = torch.zeros(len(labels), dtype=torch.bool), torch.zeros(len(detections), dtype=torch.bool)
    right[detection] = hit[label] = True
    return Errors(sample.image, labels, detections, hit, right)


def _in_turn(wrong: Sequence[Errors]) -> Iterator[Errors]:
    """By falling misses and by falling false positives alternately, each image once; equal ones by their other errors."""
    orders = [
        sorted(range(len(wrong)), key=lambda i: (-wrong[i].misses, -wrong[i].false)),
        sorted(range(len(wrong)), key=lambda i: (-wrong[i].false, -wrong[i].misses)),
    ]
    if wrong and not wrong[orders[0][0]].misses:
        orders = orders[1:]
    elif wrong and not wrong[orders[1][0]].false:
        orders = orders[:1]
    lines, taken = [iter(order) for order in orders], set()
    while len(taken) < len(wrong):
        for line in lines:
            index = next((i for i in line if i not in taken), None)
            if index is not None:
                taken.add(index)
                yield wrong[index]
