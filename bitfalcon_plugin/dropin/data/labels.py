"""Labels of images as the dicts of `dataset.labels`, read by our own readers; images with mistakes are left out.

Facts: spec/dropin-helpers.md section 8, spec/interface.md 5.2, spec/pose-obb.md 1.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...data.formats.yolo import LabelFile, label_path, read_labels, read_row
from ...data.images import UnreadableImage, check_sides, image_size
from ...ops.boxes import xywh_from_xyxy

THREADS = 8  # mostly waiting for the disk
OUTSIDE = 0.01  # how far a keypoint may lie outside the image, as a share of its side

Shape = tuple[int, int]  # kpt_shape: number of keypoints, and 2 (x y) or 3 (x y visibility)


class Found(NamedTuple):
    """What is known of one image. size: (h, w) px, None where the image cannot be used. problems: why it is left out.

    rows (n, 5): class, then xywh in shares. segments: an outline (k, 2) for each row, or none at all. keypoints
    (n, K, D) or None. has_file: whether there is a label file.
    """

    image: str
    size: tuple[int, int] | None
    rows: np.ndarray
    segments: list[np.ndarray]
    keypoints: np.ndarray | None
    has_file: bool
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return self.size is not None and not self.problems


def find(
    images: Sequence[str], files: Sequence[str] | None = None, nc: int | None = None, kpt_shape: Shape | None = None
) -> list[Found]:
    """Read the labels of images. files: their label files; by default where such files belong.

    nc: number of classes, None for any. kpt_shape: read keypoints of this shape.
    """
    files = [str(label_path(Path(image))) for image in images] if files is None else files
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda image, file: find_one(image, file, nc, kpt_shape), images, files))


def find_one(image: str, file: str, nc: int | None, kpt_shape: Shape | None = None) -> Found:
    """Read the labels of one image."""
    nothing = np.zeros((0, 5), np.float32)
    no_keypoints = None if kpt_shape is None else np.zeros((0, *kpt_shape), np.float32)
    try:
        size = image_size(Path(image))
        check_sides(size)
    except UnreadableImage as error:
        return Found(image, None, nothing, [], no_keypoints, False, (f"{image}: {error}",))
    if kpt_shape is None:
        labels = read_labels(Path(file), nc)
        if labels is None:
            return Found(image, size, nothing, [], None, False)
        return _found(image, size, labels)
    return _with_keypoints(Found(image, size, nothing, [], no_keypoints, Path(file).is_file()), file, nc, kpt_shape)


def _found(image: str, size: tuple[int, int], read: LabelFile) -> Found:
    labels = read.labels
    boxes = xywh_from_xyxy(labels.boxes).numpy()
    rows = np.concatenate([labels.classes.numpy().astype(np.float32)[:, None], boxes], axis=1)
    segments = []
    if labels.polygons is not None and bool(labels.has_polygon.all()):
        segments = [ring.numpy() for ring in labels.polygons.split()]
    problems = read.problems
    if labels.polygons is not None and len(segments) != len(labels):
        problems = (*problems, f"{label_path(Path(image))}: boxes and outlines in one file; expected one kind")
    return Found(image, size, rows, segments, None, True, problems, read.notes)


def _with_keypoints(found: Found, file: str, nc: int | None, kpt_shape: Shape) -> Found:
    """The rows `class cx cy w h` and keypoints of a label file."""
    if not found.has_file:
        return found
    count, dimensions = kpt_shape
    rows: dict[tuple[str, ...], tuple[list[float], list[float]]] = {}
    problems = []
    for number, line in enumerate(Path(file).read_text(encoding="utf-8-sig").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        problem = _keypoint_problem(fields, nc, kpt_shape)
        if problem:
            problems.append(f"{file}:{number}: {problem}")
        else:
            values = [float(field) for field in fields]
            rows.setdefault(tuple(fields), (values[:5], values[5:]))
    boxes = np.array([row for row, _ in rows.values()], np.float32).reshape(-1, 5)
    keypoints = np.array([points for _, points in rows.values()], np.float32).reshape(-1, count, dimensions)
    if dimensions == 2:  # a point left of or above the image is none
        visible = (keypoints >= 0).all(axis=-1, keepdims=True).astype(np.float32)
        keypoints = np.concatenate([keypoints, visible], axis=-1)
    return found._replace(rows=boxes, keypoints=keypoints, problems=tuple(problems))


def _keypoint_problem(fields: list[str], nc: int | None, kpt_shape: Shape) -> str:
    """What is wrong with a row; "" where it is right."""
    count, dimensions = kpt_shape
    expected = 5 + count * dimensions
    if len(fields) != expected:
        return f"{len(fields)} columns; expected {expected}, class, box and {count} keypoints of {dimensions} numbers"
    box = read_row(fields[:5], nc)
    if isinstance(box, list):
        return "; ".join(box)
    try:
        points = np.array(fields[5:], np.float64).reshape(count, dimensions)
    except ValueError:
        return "text where a number is expected"
    xy = points[:, :2]
    if not ((xy >= -OUTSIDE) & (xy <= 1 + OUTSIDE)).all():
        return "a keypoint outside the image; expected shares of its sides, 0 to 1"
    return ""
