"""Scan the images of a split and their labels, and cache the results between runs.

A file is read again only if the size or the modification time of the image or of its label file has changed. The cache
holds plain tensors and text in the user's cache folder (packed_file.py).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..config.files import cache_dir
from ..ops.instances import Instances
from ..ops.polygons import Polygons, join
from .formats.yolo import LabelFile
from .images import UnreadableImage, check_sides, image_size
from .large import large_image
from .packed_file import load_packed, save_packed

THREADS = 8  # mostly waiting for the disk
CHUNK = 32  # images that a thread scans before it takes more
MIN_IMAGES = 1000  # fewer are scanned in a second or two and not cached
VERSION = 6  # of the cached content; to be raised when a scan gives another result for the same files
SETTLED = 2 * 10**9  # ns: a file that changed more lately may change again with the same modification time
SET_ASIDE = "image set aside"  # end of the note about an image that cannot be used
NO_LABELS = LabelFile(Instances.empty())

Stamp = tuple[int, int, int, int]  # size and mtime (ns) of the image, then of its label file; -1 without a label file


@dataclass(frozen=True)
class ScannedImage:
    """One listed image and its labels; `size` (h, w) px is None if the image cannot be used."""

    path: Path
    size: tuple[int, int] | None
    labels: LabelFile
    notes: tuple[str, ...]


class LabelReader(Protocol):
    """Reads the label files of a format, of which each image has one at most."""

    @property
    def key(self) -> str:
        """What labels are read of the same files, in words: another key, another cache."""

    def path(self, image: Path) -> Path:
        """The label file of an image, which may not exist."""

    def read_file(self, image: Path, size: tuple[int, int]) -> LabelFile | None:
        """The labels of an image of `size` (h, w) px; None without a label file."""


def scan_image(path: Path, labels: LabelReader | None, large: bool = False) -> ScannedImage:
    """Check the header and the end of an image file and read its labels.

    labels: None: images have no label files. large: of a large image, also of one beyond images.MAX_PIXELS, the header
    alone is checked.
    """
    try:
        by_windows = large_image(path) if large else None
        size = image_size(path) if by_windows is None else by_windows.shape[:2]
        check_sides(size)
    except UnreadableImage as error:
        return ScannedImage(path, None, NO_LABELS, (f"{path}: {error}; {SET_ASIDE}",))
    content = labels and labels.read_file(path, size) or NO_LABELS
    return ScannedImage(path, size, content, content.notes)


def scan_images(paths: Sequence[Path], labels: LabelReader | None, large: bool = False) -> list[ScannedImage]:
    """Scan each image as `scan_image` does, or take it from the cache if its files have not changed."""
    started = time.time_ns()
    file = _cache_file(paths, labels, large) if len(paths) >= MIN_IMAGES else None
    cached = _load(file) if file else {}

    def scan(path: Path) -> tuple[Stamp | None, ScannedImage]:
        stamp = _stamp(path, labels)  # before the scan: a file that changes meanwhile will not match
        cached_stamp, image = cached.get(str(path), (None, None))
        if image is None or cached_stamp != stamp:
            image = scan_image(path, labels, large)
        return stamp, image

    chunks = [paths[first : first + CHUNK] for first in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        entries = [entry for part in pool.map(lambda chunk: list(map(scan, chunk)), chunks) for entry in part]
    if file and any(cached.get(str(image.path), (None, None))[1] is not image for _, image in entries):
        latest = started - SETTLED
        settled = [(stamp, image) for stamp, image in entries
                   if stamp and max(stamp[1], stamp[3]) < latest and not image.labels.problems]  # fmt: skip
        if settled:
            _save(file, settled)
    return [image for _, image in entries]


def _stamp(image: Path, labels: LabelReader | None) -> Stamp | None:
    try:
        picture = os.stat(image)
    except OSError:
        return None
    if labels is None:
        return picture.st_size, picture.st_mtime_ns, -1, -1
    try:
        file = os.stat(labels.path(image))
    except FileNotFoundError:
        return picture.st_size, picture.st_mtime_ns, -1, -1
    except OSError:
        return None
    return picture.st_size, picture.st_mtime_ns, file.st_size, file.st_mtime_ns


def _cache_file(paths: Sequence[Path], labels: LabelReader | None, large: bool) -> Path:
    """The cache file of a split, named by its first and last image, so that added images do not change the name."""
    kind = (labels.key if labels else "no labels") + (" large" if large else "")
    name = f"{VERSION}\n{kind}\n{paths[0]}\n{paths[-1]}"
    return cache_dir() / "scans" / f"{hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()}.pt"


def _save(file: Path, entries: Sequence[tuple[Stamp, ScannedImage]]) -> None:
    stamps, images = [stamp for stamp, _ in entries], [image for _, image in entries]
    labels = [image.labels.labels for image in images]
    polygons = join([part.polygons for part in labels], [len(part) for part in labels])
    content = {
        "images": [str(image.path) for image in images],
        "stamps": torch.tensor(stamps, dtype=torch.int64).view(-1, 4),
        "sizes": torch.tensor([image.size or (-1, -1) for image in images], dtype=torch.int64).view(-1, 2),
        "counts": torch.tensor([-1 if image.labels is NO_LABELS else len(image.labels.labels) for image in images]),
        "classes": torch.cat([part.classes for part in labels]),
        "boxes": torch.cat([part.boxes for part in labels]),
        "lengths": polygons.counts,
        "points": polygons.points,
        "keypoints": _stacked_keypoints(labels),
        "difficult": torch.cat([image.labels.is_difficult for image in images]),
        "notes": {index: list(image.notes) for index, image in enumerate(images) if image.notes},
    }
    save_packed(file, content)


def _stacked_keypoints(labels: Sequence[Instances]) -> Tensor:
    """(n, K, 3) of all labels; (n, 0, 3) where they have no keypoints."""
    parts = [part.keypoints for part in labels if part.keypoints is not None]
    return torch.cat(parts) if parts else torch.zeros(sum(map(len, labels)), 0, 3)


def _load(file: Path) -> dict[str, tuple[Stamp, ScannedImage]]:
    """Path of an image -> its stamp and its scan; empty if there is no cache file or it cannot be read."""
    content = load_packed(file)
    try:
        return {} if content is None else _unpacked(content)
    except Exception:  # another program's: anything may be missing in it
        return {}


def _unpacked(content: dict[str, object]) -> dict[str, tuple[Stamp, ScannedImage]]:
    """What `_load` returns, from the content of a cache file."""
    counts = content["counts"][content["counts"] >= 0].tolist()  # of images with a label file
    lengths = content["lengths"].split(counts)
    points = content["points"].split([int(length.sum()) for length in lengths])
    columns = (content[name].split(counts) for name in ("boxes", "classes", "keypoints", "difficult"))
    labels = iter(
        (
            Instances(
                boxes,
                classes,
                polygons=Polygons(point, length) if len(point) else None,
                keypoints=keypoints if keypoints.numel() else None,
            ),
            difficult if bool(difficult.any()) else None,
        )
        for boxes, classes, keypoints, difficult, point, length in zip(*columns, points, lengths, strict=True)
    )
    cached = {}
    columns = (content[name].tolist() for name in ("stamps", "sizes", "counts"))
    for index, (name, stamp, size, count) in enumerate(zip(content["images"], *columns, strict=True)):
        notes = tuple(content["notes"].get(index, ()))
        label_file = NO_LABELS
        if count >= 0:
            instances, difficult = next(labels)
            label_file = LabelFile(instances, (), notes, difficult)
        usable_size = None if size[0] < 0 else tuple(size)
        cached[name] = tuple(stamp), ScannedImage(Path(name), usable_size, label_file, notes)
    return cached
