"""The images on which a model errs most: missed labels and false positives, as a table and as a picture.

Pairs are those of COCO's evaluation: in the order of their scores each detection takes the label of its class that it
overlaps most, among the labels that no detection before it has taken. An object with a wrong class is a miss and a
false positive. Where detections have masks, the overlap is that of the masks; that of oriented boxes is ProbIoU. Poses
are compared by their keypoints, by OKS; a label without a labelled keypoint is found by its box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from ..config.tabular import Tabular
from ..data.dataset import Sample
from ..data.images import UnreadableImage, read_image
from ..data.large import large_image
from ..ops.boxes import box_iou, pair_greedily
from ..ops.instances import Instances
from ..ops.polygons import clip, fill_each
from ..ops.rotated import corners_of
from ..ops.rotated_overlap import overlap_of
from ..plots.colours import GREY
from ..plots.fonts import writable
from ..plots.overlays import draw_keypoints, draw_masks
from ..tasks.coco import mask_iou
from ..tasks.confusion import by_image
from ..tasks.oks import similarity_of

IOU = 0.5
MISS, FALSE, HIT = "#ff2d2d", "#ffc400", "#2fbf71"  # colours of the picture
PRINTED, DRAWN = 10, 12  # images in the printed table, and in the picture
SIDE, COLUMNS, HEAD = 480, 4, 30  # pixels of a cell, cells of a row, pixels of the legend
DOT = 3  # pixels, radius of a keypoint


@dataclass(frozen=True, eq=False)
class ImageErrors:
    """The errors on one image.

    labels (m), detections (n): in pixels of the original image. label_hit (m,), detection_hit (n,): bool, whether a
    label or a detection has a partner. limbs: pairs of keypoints that the picture joins by a line.
    """

    image: Path
    labels: Instances
    detections: Instances
    label_hit: Tensor
    detection_hit: Tensor
    limbs: Sequence[tuple[int, int]] = ()

    @property
    def missed(self) -> Instances:
        """The labels without a detection."""
        return self.labels.only(~self.label_hit)

    @property
    def false(self) -> Instances:
        """The detections without a label."""
        return self.detections.only(~self.detection_hit)

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of misses and of false positives."""
        return len(self.missed), len(self.false)


@dataclass(frozen=True, eq=False)
class Worst(Tabular):
    """The images with errors: in turn the image with most misses and the one with most false positives of the others.

    names: class index -> name. images: number of all images. conf: detections with a higher score count. iou: the
    smallest overlap of a pair. totals: the counts "missed", "false" and "right" of all images. overlap: the name of the
    overlap.
    """

    errors: tuple[ImageErrors, ...]
    names: Mapping[int, str]
    images: int
    conf: float
    iou: float = IOU
    totals: Mapping[str, int] = field(default_factory=dict)
    overlap: str = "IoU"

    @property
    def threshold(self) -> str:
        """The confidence and the overlap above which pairs count, in words."""
        return f"confidence {self.conf:.3f} and {self.overlap} {self.iou:.2f}"

    def columns(self, flat: bool = False) -> Sequence[str]:
        return "image", "labels", "hits", "misses", "false_positives", "missed", "found_wrongly"

    def summary(self) -> list[dict[str, object]]:
        """Return a dict for each image with errors: path, counts, classes of the misses and of the false positives."""
        records = []
        for image_errors in self.errors:
            misses, false = image_errors.counts
            counts = (len(image_errors.labels), len(image_errors.labels) - misses, misses, false)
            classes = self._named(image_errors.missed), self._named(image_errors.false)
            values = (str(image_errors.image), *counts, *classes)
            records.append(dict(zip(self.columns(), values, strict=True)))
        return records

    def _named(self, instances: Instances) -> str:
        counts = Counter(instances.classes.tolist())
        return ", ".join(f"{count} {self.names[index]}" for index, count in sorted(counts.items()))

    def table(self, limit: int = PRINTED) -> str:
        """Return the table people read: the first `limit` images."""
        if not self.errors:
            return f"Worst images: none of {self.images} has an error at {self.threshold}"
        order = "in turn by misses and by false positives"
        lines = [
            f"Worst images at {self.threshold} ({order}; {len(self.errors)} of {self.images} have errors)",
            f"{'Labels':>8}{'Hits':>7}{'Misses':>8}{'False':>7}  Image",
        ]
        for record in self.summary()[:limit]:
            counts = f"{record['labels']:>8}{record['hits']:>7}{record['misses']:>8}{record['false_positives']:>7}"
            lines.append(f"{counts}  {Path(record['image']).name}")
        return "\n".join(lines)

    def draw(self) -> Image.Image:
        """Draw a sheet of the first images: thick boxes for misses and false positives, thin boxes for hits.

        Masks are blended in and keypoints drawn in the colour of their box: of misses those of the labels, else those
        of the detections.
        """
        sheet = sheet_of([_draw_cell(image_errors, self.names) for image_errors in self.errors[:DRAWN]])
        _draw_legend(sheet, self.totals, f"at {self.threshold}")
        return sheet


def sheet_of(cells: Sequence[Image.Image]) -> Image.Image:
    """Return cells in a grid, below a stripe of HEAD pixels."""
    columns = max(min(COLUMNS, len(cells)), 1)
    sheet = Image.new("RGB", (max(columns * SIDE, 2 * SIDE), HEAD + -(-len(cells) // columns) * SIDE), GREY)
    ImageDraw.Draw(sheet).rectangle((0, 0, sheet.width, HEAD - 1), fill="white")
    for index, cell in enumerate(cells):
        sheet.paste(cell, (index % columns * SIDE, HEAD + index // columns * SIDE))
    return sheet


def cell_of(file: Path, caption: str, draw: Callable[[Image.Image, Image.Image, float, tuple], None]) -> Image.Image:
    """Return a square with an image and a caption.

    draw: draws the image onto the square; gets the square, the resized image, pixels of it a pixel of the image, and
    its left and top on the square.
    """
    cell = Image.new("RGB", (SIDE, SIDE), GREY)
    try:
        picture, (height, width) = _picture(file)
    except UnreadableImage as reason:  # the image was readable when it was validated
        draw_text(cell, (4, SIDE // 2), f"not readable any more: {reason}")
    else:
        ratio = min(SIDE / width, SIDE / height)
        size = max(round(width * ratio), 1), max(round(height * ratio), 1)
        small = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        draw(cell, small, ratio, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    draw_text(cell, (0, SIDE - 20), caption)
    ImageDraw.Draw(cell).rectangle((0, 0, SIDE - 1, SIDE - 1), outline="white")
    return cell


def _picture(file: Path) -> tuple[Image.Image, tuple[int, int]]:
    """Return an image, of a large one a reduced copy, and its (h, w) in the file."""
    large = large_image(file)
    if large is not None:
        return Image.fromarray(large.reduced(2 * SIDE)[..., ::-1].copy()), large.shape[:2]
    picture = Image.fromarray(read_image(file).permute(1, 2, 0).numpy())
    return picture, picture.size[::-1]


def _draw_cell(errors: ImageErrors, names: Mapping[int, str]) -> Image.Image:
    misses, false = errors.counts
    draw = partial(_draw_errors, errors, names)
    return cell_of(errors.image, f"{errors.image.name}: {misses} missed, {false} false", draw)


def _draw_errors(
    errors: ImageErrors,
    names: Mapping[int, str],
    cell: Image.Image,
    picture: Image.Image,
    ratio: float,
    corner: tuple[int, int],
) -> None:
    missed, false, hits = errors.missed, errors.false, errors.detections.only(errors.detection_hit)
    for instances, colour in ((hits, HIT), (false, FALSE), (missed, MISS)):
        for plane in _planes(instances, ratio, picture.size):
            picture = draw_masks(picture, plane[None], [colour], (0, 0, plane.shape[1], plane.shape[0]))
        look = {"radius": DOT, "line_width": 1, "colour": ImageColor.getrgb(colour)}
        picture = draw_keypoints(picture, _points(instances, ratio), errors.limbs, **look)
    cell.paste(picture, corner)
    left, top = corner
    draw = ImageDraw.Draw(cell)

    def corners(instances: Instances) -> list[tuple[float, float, float, float]]:
        """Corners in the cell, not crossed: Pillow refuses crossed ones."""
        boxes = instances.boxes.numpy() * ratio + np.array([left, top, left, top])
        return [(x1, y1, max(x1, x2), max(y1, y2)) for x1, y1, x2, y2 in boxes.tolist()]

    missed_corners, false_corners = corners(missed), corners(false)
    for instances, colour, width in ((hits, HIT, 1), (false, FALSE, 3), (missed, MISS, 3)):
        oriented = instances.oriented
        if oriented is None:
            for box in corners(instances):
                draw.rectangle(box, outline=colour, width=width)
        else:
            for ring in (corners_of(oriented).numpy() * ratio + np.array([left, top])).tolist():
                draw.line([tuple(point) for point in (*ring, *ring[:2])], fill=colour, width=width, joint="curve")
    # Texts lie over all boxes. Those of misses stand at the bottom of the box: the text of a wrong class hides none.
    for (x1, y1, _, _), index, score in zip(false_corners, false.classes.tolist(), false.scores.tolist(), strict=True):
        draw_text(cell, (x1, y1 - 16 if y1 >= 16 else y1), f"{names[index]} {score:.2f}", FALSE, "black")
    for (x1, _, _, y2), index in zip(missed_corners, missed.classes.tolist(), strict=True):
        draw_text(cell, (x1, y2 - 16), str(names[index]), MISS, "white")


def _planes(instances: Instances, ratio: float, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the mask of each object: of detections (h, w) of the image, of labels in a picture of `size` (w, h)."""
    if instances.encoded_masks is not None:
        for index in range(len(instances)):
            yield instances.encoded_masks[torch.tensor([index])].decode()[0].numpy()
    elif instances.polygons is not None and not instances.polygons.rectangles:
        polygons = clip(instances.polygons.scaled(ratio, ratio), size[::-1])
        yield from fill_each(polygons, size[::-1]).numpy()


def _points(instances: Instances, ratio: float) -> list[list[list[float]]]:
    """Return the keypoints of each object in pixels of a resized picture; of none where there are no keypoints."""
    if instances.keypoints is None:
        return []
    points = instances.keypoints.clone()
    points[..., :2] *= ratio
    return points.tolist()


def draw_text(
    page: Image.Image, corner: tuple[float, float], text: str, ground: str = "black", colour: str = "white"
) -> float:
    """Draw text on a plate with its upper left at `corner`, moved into the picture; returns the plate's right end."""
    draw = ImageDraw.Draw(page)
    text, font = writable(text, 12)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    x = min(max(corner[0], 0), max(page.width - (right - left) - 6, 0))
    y = min(max(corner[1], 0), max(page.height - (bottom - top) - 6, 0))
    draw.rectangle((x, y, x + right - left + 5, y + bottom - top + 5), fill=ground)
    draw.text((x + 3 - left, y + 3 - top), text, fill=colour, font=font)
    return x + right - left + 6


def _draw_legend(sheet: Image.Image, totals: Mapping[str, int], threshold: str) -> None:
    draw, x = ImageDraw.Draw(sheet), 8.0
    for name, colour, width in (("missed", MISS, 3), ("false", FALSE, 3), ("right", HIT, 1)):
        draw.rectangle((x, 8, x + 20, 22), outline=colour, width=width)
        x = draw_text(sheet, (x + 24, 7), f"{name} {totals[name]}", "white", "black") + 14
    draw_text(sheet, (x, 7), f"in all images, {threshold}", "white", "black")


def worst_images(
    samples: Sequence[Sample], detections: Instances, names: Mapping[int, str], *, conf: float, iou: float = IOU
) -> Worst:
    """Find the errors on every image.

    detections: in pixels of the original images, `image` is the index of the sample. Detections with a score above
    `conf` count; a pair overlaps by `iou` or more.
    """
    per_image = by_image(detections, len(samples), conf)
    errors = [
        _errors(sample, image_detections, iou) for sample, image_detections in zip(samples, per_image, strict=True)
    ]
    misses, false = (sum(image_errors.counts[kind] for image_errors in errors) for kind in (0, 1))
    hits = sum(len(image_errors.labels) for image_errors in errors) - misses
    totals = {"missed": misses, "false": false, "right": hits}
    wrong = [image_errors for image_errors in errors if any(image_errors.counts)]
    return Worst(tuple(_in_turn(wrong)), dict(names), len(samples), conf, iou, totals, _overlap_name(detections))


def _overlap_name(detections: Instances) -> str:
    if detections.encoded_masks is not None:
        return "mask IoU"
    if detections.keypoints is not None:
        return "OKS"
    return "IoU" if detections.xywhr is None else "ProbIoU"


def _errors(sample: Sample, detections: Instances, iou: float) -> ImageErrors:
    labels = sample.pixel_labels()
    overlap = _overlap(sample, labels, detections)
    overlap *= detections.classes[:, None] == labels.classes[None]
    detection, label = pair_greedily(overlap, iou, rows_in_turn=True).T
    label_hit, detection_hit = (torch.zeros(len(instances), dtype=torch.bool) for instances in (labels, detections))
    label_hit[label] = detection_hit[detection] = True
    limbs = sample.layout.limbs if sample.layout else ()
    return ImageErrors(sample.image, labels, detections, label_hit, detection_hit, limbs)


def _overlap(sample: Sample, labels: Instances, detections: Instances) -> Tensor:
    """Return how much detections and labels overlap (n, m), by what the task compares."""
    if detections.encoded_masks is not None:
        return mask_iou(detections, labels, sample.size)
    if detections.keypoints is None or labels.keypoints is None:
        return overlap_of(detections, labels)
    by_box = (labels.keypoints[..., 2] == 0).all(1)  # (m,) labels that no keypoint could find
    boxes = box_iou(detections.boxes.double(), labels.boxes.double())
    return torch.where(by_box, boxes, similarity_of(detections, labels, sample.layout.sigmas))


def _in_turn(wrong: Sequence[ImageErrors]) -> Iterator[ImageErrors]:
    """By falling misses and by falling false positives alternately, each image once; equal ones by their other errors.

    An order in which no image has an error is left out.
    """
    counts = [image_errors.counts for image_errors in wrong]
    by_misses = sorted(range(len(wrong)), key=lambda i: (-counts[i][0], -counts[i][1]))
    by_false = sorted(range(len(wrong)), key=lambda i: (-counts[i][1], -counts[i][0]))
    orders = [order for order, kind in ((by_misses, 0), (by_false, 1)) if any(count[kind] for count in counts)]
    queues, listed = [iter(order) for order in orders], set()
    while len(listed) < len(wrong):
        for queue in queues:
            index = next((i for i in queue if i not in listed), None)
            if index is not None:
                listed.add(index)
                yield wrong[index]
