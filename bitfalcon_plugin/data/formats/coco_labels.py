"""The labels of images from an annotation file of COCO's format, as every other format gives them.

Groups of objects (iscrowd) are no labels. Boxes are those of the file, cut to the image. The parts of a segmentation
become one ring (ops/outlines.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...config.errors import did_you_mean
from ...config.printable import short_repr
from ...ops.instances import Instances
from ...ops.outlines import edge_rings, one_ring
from ...ops.polygons import Polygons, areas, clip_to_boxes
from ..ground_truth import CategoryIds, GroundTruth
from .coco_file import CocoFile
from .folders import some
from .voc import size_problem
from .yolo import TOLERANCE, LabelFile


@dataclass(frozen=True)
class Wish:
    """What labels a task needs.

    part: "" for boxes, or "outlines", "keypoints", "corners" (oriented boxes). optional: objects without the part are
    taken too. exact: in float64. truth: with a GroundTruth where the format has one. difficult: objects that the labels
    call difficult are labels too. any_format: formats that cannot hold the part are taken too.
    """

    part: str = ""
    optional: bool = False
    exact: bool = False
    truth: bool = False
    difficult: bool = True
    any_format: bool = False


@dataclass(eq=False)
class _Chosen:
    """The annotations of the images that are read, in the order of these images.

    rows (n,): rows of the file. owner (n,): position of the image. sizes (n, 2) float64: its width and height.
    problems, notes: position of an image -> lines.
    """

    file: CocoFile
    path: Path
    rows: Tensor
    owner: Tensor
    sizes: Tensor
    problems: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def tell(self, table: dict[int, list[str]], which: Tensor, text: str, values: Tensor | None = None) -> None:
        """Add a line to `table` for each annotation of the mask `which` (n,). {} in the text: a row of `values`."""
        for index in which.nonzero().flatten().tolist():
            row = int(self.rows[index])
            where = f"{self.path}: annotations[{int(self.file.entries[row])}] (id {int(self.file.ids[row])})"
            numbers = "" if values is None else [round(value, 4) for value in values[index].tolist()]
            width, height = (int(side) for side in self.sizes[index].tolist())
            table[int(self.owner[index])].append(f"{where}: " + text.format(numbers, size=f"{width} x {height}"))


def coco_labels(
    path: Path,
    file: CocoFile,
    rows: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    names: Mapping[int, str] | None,
    wish: Wish,
    points: int = 0,
) -> list[LabelFile]:
    """Return the labels of the images in `rows` of an annotation file, whose pictures have `sizes` (h, w) px.

    names: class index -> name of a category; None: every category is class 0. points: number of keypoints of each
    object. Problems and notes are in the LabelFile of their image.
    """
    chosen = _choose(path, file, rows, sizes)
    for position, (row, size) in enumerate(zip(rows, sizes)):
        stated = tuple(file.sizes[row].tolist())
        if stated[0] > 0 and stated != tuple(size):
            where = f"{path}: images (id {short_repr(file.image_ids[row])}, {short_repr(file.file_names[row])})"
            chosen.problems[position].append(f"{where}: {size_problem(stated, tuple(size))}")
    classes = _classes(chosen, names)
    boxes, usable = _boxes(chosen, classes)
    polygons = keypoints = None
    drawable = torch.ones_like(usable)
    if wish.part == "outlines":
        drawable = _drawable(chosen)
        polygons, usable = _outlines(chosen, usable & drawable, wish.optional)
    if wish.part == "keypoints":
        keypoints, usable = _keypoints(chosen, usable, points)
    kept = usable.nonzero().flatten()
    dtype = torch.float64 if wish.exact else torch.float32
    labels = Instances(
        boxes[kept].to(dtype),
        classes[kept],
        polygons=None
        if polygons is None
        else polygons[kept].apply(lambda x: x.to(dtype) if x.is_floating_point() else x),
        keypoints=None if keypoints is None else keypoints[kept].to(dtype),
    )
    truths = [None] * len(rows)
    if wish.truth:
        truths = _truths(chosen, rows, sizes, classes, names, wish, points, drawable)
    counts = torch.bincount(chosen.owner[kept], minlength=len(rows)).tolist()
    parts = _split(labels, counts)
    return [
        LabelFile(part, tuple(chosen.problems[position]), tuple(chosen.notes[position]), None, truth)
        for position, (part, truth) in enumerate(zip(parts, truths))
    ]


def _choose(path: Path, file: CocoFile, rows: Sequence[int], sizes: Sequence[tuple[int, int]]) -> _Chosen:
    position = torch.full((len(file.image_ids),), -1, dtype=torch.int64)
    position[torch.tensor(rows, dtype=torch.int64)] = torch.arange(len(rows))
    owner = position[file.images]
    chosen = (owner >= 0).nonzero().flatten()
    chosen = chosen[owner[chosen].argsort(stable=True)]
    owner = owner[chosen]
    sides = torch.tensor(sizes, dtype=torch.float64).view(-1, 2).flip(1)
    return _Chosen(file, path, chosen, owner, sides[owner])


def _classes(chosen: _Chosen, names: Mapping[int, str] | None) -> Tensor:
    """The class (n,) of each annotation; -1, with a problem, for one of a category that is not among the names."""
    categories = chosen.file.categories[chosen.rows]
    if names is None:
        return torch.zeros_like(categories)
    index_of = {name: index for index, name in names.items()}
    table = torch.tensor([index_of.get(name, -1) for name in chosen.file.category_names] or [-1])
    classes = table[categories]
    for row in categories[classes < 0].unique().tolist():
        name = chosen.file.category_names[row]
        known = f"the dataset names {some(list(index_of), 20)}.{did_you_mean(name, index_of)}"
        text = f"category {short_repr(name)} is none of the classes; {known}".replace("{", "{{").replace("}", "}}")
        chosen.tell(chosen.problems, categories == row, text)
    return classes


def _boxes(chosen: _Chosen, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes (n, 4) xyxy in shares of the image, cut to it, and which (n,) are labels."""
    stated = chosen.file.boxes[chosen.rows]
    shares = torch.cat([stated[:, :2], stated[:, :2] + stated[:, 2:]], 1) / chosen.sizes.repeat(1, 2)
    crowd = chosen.file.crowd[chosen.rows]
    numbers = torch.cat([(shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]], 1)  # cx, cy, w, h
    outside = ((numbers < -TOLERANCE) | (numbers > 1 + TOLERANCE)).any(1)
    text = "bbox {} lies outside its image of {size} pixels; expected [x, y, width, height] in pixels of this image"
    chosen.tell(chosen.problems, outside, text, stated)
    boxes = shares.clamp(0, 1)
    no_area = (boxes[:, :2] >= boxes[:, 2:]).any(1)
    chosen.tell(chosen.notes, no_area & ~outside & ~crowd, "bbox {}: a box without area, left out", stated)
    beyond = (shares - boxes).abs().amax(1) if len(shares) else shares.new_zeros(0)
    text = "bbox {} reaches beyond its image of {size} pixels, clipped"
    chosen.tell(chosen.notes, (beyond > TOLERANCE) & ~outside & ~no_area & ~crowd, text, stated)
    return boxes, ~outside & ~no_area & ~crowd & (classes >= 0)


def _drawable(chosen: _Chosen) -> Tensor:
    """Which segmentations (n,) can be drawn: of the size of the picture, or near it. Of the others a problem is told.

    pycocotools takes memory by the numbers of a segmentation, and ends the process where it gets none.
    """
    file = chosen.file
    stated = torch.zeros(len(file), 2, dtype=torch.int64)
    stated[file.run_rows] = file.run_sizes
    stated = stated[chosen.rows]  # (n, 2) height, width; zeros without run lengths
    wrong = (stated > 0).any(1) & (stated != chosen.sizes.flip(1)).any(1)
    text = "segmentation has size {}, its picture has {size} pixels; expected [height, width] of the picture"
    chosen.tell(chosen.problems, wrong, text, stated)

    sides = torch.full((len(file), 2), torch.inf, dtype=torch.float64)
    sides[chosen.rows] = chosen.sizes
    owner = torch.arange(len(file)).repeat_interleave(file.ring_counts).repeat_interleave(file.ring_lengths)
    beyond = ((file.ring_points < -sides[owner]) | (file.ring_points > 2 * sides[owner])).any(1)
    far = torch.zeros(len(file), dtype=torch.bool)
    far[owner[beyond]] = True
    far = far[chosen.rows]
    chosen.tell(chosen.problems, far, "segmentation lies far outside its image of {size} pixels; expected pixels")
    return ~wrong & ~far


def segmentations(chosen: CocoFile, rows: Tensor) -> list[list[np.ndarray] | dict | None]:
    """The segmentation of each annotation of `rows`: rings (k, 2) float64 in pixels, run lengths, or None."""
    ends = chosen.ring_lengths.cumsum(0).numpy()
    starts = ends - chosen.ring_lengths.numpy()
    last = chosen.ring_counts.cumsum(0).numpy()
    first = last - chosen.ring_counts.numpy()
    points = chosen.ring_points.numpy()
    runs = {
        row: {"size": size, "counts": counts}
        for row, size, counts in zip(chosen.run_rows.tolist(), chosen.run_sizes.tolist(), chosen.runs)
    }
    shapes = []
    for row in rows.tolist():
        rings = [points[starts[ring] : ends[ring]] for ring in range(first[row], last[row])]
        shapes.append(rings or runs.get(row))
    return shapes


def _outlines(chosen: _Chosen, usable: Tensor, optional: bool) -> tuple[Polygons, Tensor]:
    """The outlines of n annotations in shares of the image, one ring each and cut to it, and which are labels."""
    shapes = segmentations(chosen.file, chosen.rows)
    lacking = torch.tensor([shape is None for shape in shapes], dtype=torch.bool)
    if not optional:
        text = "no segmentation; task=segment needs outlines. Draw it, or give boxes_without_masks=True, or task=detect"
        chosen.tell(chosen.problems, lacking & usable, text)
        usable = usable & ~lacking
    rings = [
        _ring(shape) if use and shape is not None else np.zeros((0, 2)) for shape, use in zip(shapes, usable.tolist())
    ]
    counts = torch.tensor([len(ring) for ring in rings], dtype=torch.int64)
    points = torch.from_numpy(np.concatenate([*rings, np.zeros((0, 2))]))
    polygons = Polygons(points / torch.repeat_interleave(chosen.sizes, counts, 0), counts)
    cut = clip_to_boxes(polygons, torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64).expand(len(counts), 4))
    empty = usable & (counts > 0) & (areas(cut) <= 0)
    chosen.tell(chosen.notes, empty, "an outline without area inside its image of {size} pixels, left out")
    return cut, usable & ~empty


def _ring(shape: list[np.ndarray] | dict) -> np.ndarray:
    """One ring (k, 2) in pixels of a segmentation."""
    if isinstance(shape, list):
        return shape[0] if len(shape) == 1 else one_ring(shape)
    from pycocotools import mask

    plane = mask.decode(encoded(shape, *shape["size"]))
    rings = edge_rings(plane)
    return one_ring(rings) if rings else np.zeros((0, 2))


def encoded(shape: list[np.ndarray] | dict, height: int, width: int) -> dict[str, object]:
    """The mask of a segmentation as pycocotools encodes it for an image of this size."""
    from pycocotools import mask

    if isinstance(shape, list):
        return mask.merge(mask.frPyObjects([ring.flatten().tolist() for ring in shape], height, width))
    if isinstance(shape["counts"], list):
        return mask.frPyObjects(shape, height, width)
    return {"size": shape["size"], "counts": shape["counts"].encode("ascii")}


def _keypoints(chosen: _Chosen, usable: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The keypoints (n, count, 3) in shares of the image, and which annotations are labels."""
    lacking = chosen.file.labelled_points[chosen.rows] < 0
    text = "no keypoints; task=pose needs those of every object (COCO's are in person_keypoints_*.json)"
    chosen.tell(chosen.problems, lacking & usable, text)
    keypoints = padded_points(chosen.file.keypoints[chosen.rows], count)
    shares = keypoints[..., :2] / chosen.sizes[:, None]
    labelled = keypoints[..., 2:] != 0
    outside = (((shares < -TOLERANCE) | (shares > 1 + TOLERANCE)) & labelled).flatten(1).any(1)
    text = "keypoints outside its image of {size} pixels; expected x, y in pixels, or 0, 0, 0 where one is not labelled"
    chosen.tell(chosen.problems, outside & usable, text)
    shares = torch.where(labelled, shares, torch.zeros_like(shares))
    return torch.cat([shares, keypoints[..., 2:]], -1), usable & ~lacking & ~outside


def padded_points(keypoints: Tensor, count: int) -> Tensor:
    """Keypoints (n, k, 3) as (n, count, 3), filled up with zeros or cut."""
    missing = max(count - keypoints.shape[1], 0)
    return torch.nn.functional.pad(keypoints, (0, 0, 0, missing))[:, :count]


def _truths(
    chosen: _Chosen,
    rows: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    classes: Tensor,
    names: Mapping[int, str] | None,
    wish: Wish,
    points: int,
    drawable: Tensor,
) -> list[GroundTruth]:
    """The GroundTruth of each image, with all annotations. drawable (n,): see `_drawable`."""
    file, counts = chosen.file, torch.bincount(chosen.owner, minlength=len(rows))
    columns = {name: getattr(file, name)[chosen.rows].numpy() for name in ("boxes", "areas", "crowd")}
    columns |= {"classes": classes.numpy(), "annotations": file.ids[chosen.rows].numpy()}
    columns["difficult"] = np.zeros(len(classes), bool)
    if wish.part == "keypoints":
        columns["keypoints"] = padded_points(file.keypoints[chosen.rows], points).numpy()
        columns["labelled"] = file.labelled_points[chosen.rows].clamp(min=0).numpy()
    if wish.part == "outlines":
        shapes = segmentations(file, chosen.rows)
        planes = [sizes[position] for position in chosen.owner.tolist()]
        masks = [
            encoded(shape, *size) if shape is not None and fits else None
            for shape, size, fits in zip(shapes, planes, drawable.tolist())
        ]
    ids = dict(enumerate(file.category_ids))
    if names is not None:
        index_of = {name: index for index, name in names.items()}
        pairs = zip(file.category_names, file.category_ids)
        ids = {index_of[name]: identity for name, identity in pairs if name in index_of}
    truths, start = [], 0
    for row, count in zip(rows, counts.tolist()):
        part = slice(start, start + count)
        fields = {name: column[part] for name, column in columns.items()}
        if wish.part == "outlines":
            fields["masks"] = masks[part]
            fields["segments"] = shapes[part] if wish.exact else None
        truths.append(GroundTruth(**fields, ids=CategoryIds(file.image_ids[row], ids)))
        start += count
    return truths


def _split(labels: Instances, counts: Sequence[int]) -> list[Instances]:
    """Labels of several images as those of each image; polygons are None where an image has none."""
    boxes, classes = labels.boxes.split(counts), labels.classes.split(counts)
    keypoints = [None] * len(counts) if labels.keypoints is None else labels.keypoints.split(counts)
    polygons: list[Polygons | None] = [None] * len(counts)
    if labels.polygons is not None:
        lengths = labels.polygons.counts.split(counts)
        points = labels.polygons.points.split([int(part.sum()) for part in lengths])
        polygons = [Polygons(*pair) if len(pair[0]) else None for pair in zip(points, lengths)]
    columns = zip(boxes, classes, polygons, keypoints)
    return [
        Instances(box, cls, polygons=outline, keypoints=points if len(box) else None)
        for box, cls, outline, points in columns
    ]
