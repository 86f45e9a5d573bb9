"""The images of a split with their labels, whatever the format of the dataset: one function a format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..config.errors import UserError
from .formats.coco_file import forget
from .formats.coco_labels import Wish, coco_labels
from .formats.dataset_yaml import DataSpec
from .formats.listing import Listing
from .formats.voc import VocLabels
from .formats.yolo import LabelFile, RowReader, TxtLabels, reader_for
from .ground_truth import GroundTruth
from .scan_cache import NO_LABELS, ScannedImage, scan_images

REFUSED = {  # format, part of a label that it has not -> what to do
    ("coco", "corners"): "format: coco has upright boxes; task=obb reads label files with four corners a row",
    ("voc", "corners"): "format: voc has upright boxes; task=obb reads label files with four corners a row",
    ("voc", "outlines"): "format: voc has boxes alone; task=segment reads outlines of format: coco or of label files",
    ("voc", "keypoints"): "format: voc has boxes alone; task=pose reads keypoints of format: coco or of label files",
}
PIXEL_DIGITS = 6  # to which pixels are rounded that were shares of the image


def refuse(data: DataSpec, wish: Wish) -> None:
    """Raise UserError where the format of a dataset has not what a task needs."""
    reason = REFUSED.get((data.format, wish.part))
    if reason and not wish.any_format:
        raise UserError(f"Dataset '{data.path}': {reason}.")


def read_labelled(
    data: DataSpec, listing: Listing, paths: list[Path], read: RowReader, wish: Wish, *, single_cls: bool, large: bool
) -> list[ScannedImage]:
    """Check each image of `paths`, which `listing` lists, and read its labels.

    read: the task's reader of a row of a text file. wish: what labels the task needs. single_cls: any class is taken.
    large: as in scan_cache.scan_image.
    """
    refuse(data, wish)
    return _READERS[data.format](data, listing, paths, read, wish, single_cls, large)


def _read_yolo(
    data: DataSpec, listing: Listing, paths: list[Path], read: RowReader, wish: Wish, single_cls: bool, large: bool
) -> list[ScannedImage]:
    dtype = torch.float64 if wish.exact else torch.float32
    nc = None if single_cls else data.nc
    return scan_images(paths, TxtLabels(nc, reader_for(read, data.kpt_shape), dtype), large)


def _read_voc(
    data: DataSpec, listing: Listing, paths: list[Path], read: RowReader, wish: Wish, single_cls: bool, large: bool
) -> list[ScannedImage]:
    names = None if single_cls else tuple(data.names.values())
    images = scan_images(paths, VocLabels(names, data.first_pixel), large)
    return [
        image if image.labels is NO_LABELS else replace(image, labels=voc_labels(image.labels, image.size, wish))
        for image in images
    ]


def voc_labels(file: LabelFile, size: tuple[int, int] | None, wish: Wish) -> LabelFile:
    """The labels of an image as a task needs them, from all objects in float64."""
    labels, difficult = file.labels, file.is_difficult
    truth = _truth(file, size) if wish.truth and size else None
    if not wish.difficult:
        labels, difficult = labels.only(~difficult), difficult[~difficult]
    if not wish.exact:
        labels = replace(labels, boxes=labels.boxes.float())
    return file._replace(labels=labels, difficult=difficult, truth=truth)


def _truth(file: LabelFile, size: tuple[int, int]) -> GroundTruth:
    """The objects of a file of VOC in pixels, difficult ones too."""
    height, width = size
    corners = (file.labels.boxes.double() * torch.tensor([width, height] * 2, dtype=torch.float64)).numpy()
    corners = corners.round(PIXEL_DIGITS)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    count = len(boxes)
    return GroundTruth(
        classes=file.labels.classes.numpy(),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.zeros(count, bool),
        difficult=file.is_difficult.numpy(),
        annotations=np.full(count, -1),
    )


def _read_coco(
    data: DataSpec, listing: Listing, paths: list[Path], read: RowReader, wish: Wish, single_cls: bool, large: bool
) -> list[ScannedImage]:
    images = scan_images(paths, None, large)
    names = None if single_cls else data.names
    points = 0 if data.keypoints is None else data.keypoints.count
    labels: dict[int, LabelFile] = {}
    for number, (path, file) in enumerate(listing.files):
        chosen = [at for at, image in enumerate(images) if image.size and listing.places[image.path][0] == number]
        rows, sizes = [listing.places[images[at].path][1] for at in chosen], [images[at].size for at in chosen]
        labels |= dict(zip(chosen, coco_labels(path, file, rows, sizes, names, wish, points)))
        forget(path)
    if len(listing.files) > 1:
        labels = {at: file._replace(truth=file.truth and replace(file.truth, ids=None)) for at, file in labels.items()}
    return [
        replace(image, labels=labels[at], notes=(*image.notes, *labels[at].notes)) if at in labels else image
        for at, image in enumerate(images)
    ]


_READERS: Mapping[str, Callable[..., list[ScannedImage]]] = {"yolo": _read_yolo, "coco": _read_coco, "voc": _read_voc}
