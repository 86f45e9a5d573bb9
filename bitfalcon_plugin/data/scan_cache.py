"""Looking at each image of a split and at its labels, and remembering it between runs.

A look is repeated only where the size or the time of change of the image or of its label file is another than before. What is
remembered is plain tensors and text in the user's cache folder, read by torch's loader for weights alone: no code in it
is run, and whatever is wrong with the file costs a new look and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config.files import atomic, cache_dir
from ..ops.instances import Instances
from ..ops.polygons import Polygons, join
from .formats.yolo import LabelFile, RowReader, label_path, read_labels, read_row
from .images import UnreadableImage, image_size

SMALLEST_SIDE = 10  # px; smaller images are set aside (interface.md 5.2)
THREADS = 8  # mostly waiting for the disk
WORTH = 1000  # images: fewer are looked at in less than a second or two
VERSION = 2  # of what is remembered; raised when a look finds something else in the same files
FRESH = 2 * 10**9  # ns: a file that changed so lately may change again without its time of change showing it
NO_LABELS = LabelFile(Instances.empty())

Stamp = tuple[int, int, int, int]  # size and mtime (ns) of the image, then of its label file; -1 where there is none


@dataclass(frozen=True)
class Look:
    """What was found about one listed image; `size` is None where it cannot be used."""

    image: Path
    size: tuple[int, int] | None
    labels: LabelFile
    notes: tuple[str, ...]


def look(image: Path, nc: int | None, read: RowReader = read_row) -> Look:
    """Look at one image's header and end, and read its labels; `read` reads a row of a label file."""
    try:
        size = image_size(image)
    except UnreadableImage as error:
        return Look(image, None, NO_LABELS, (f"{image}: {error}; image set aside",))
    if min(size) < SMALLEST_SIDE:
        reason = f"{size[1]}x{size[0]} pixels, expected sides of {SMALLEST_SIDE} or more"
        return Look(image, None, NO_LABELS, (f"{image}: {reason}; image set aside",))
    labels = read_labels(label_path(image), nc, read) or NO_LABELS
    return Look(image, size, labels, labels.notes)


def look_at_all(images: Sequence[Path], nc: int | None, read: RowReader = read_row) -> list[Look]:
    """A look at each image, from memory where its files are as they were."""
    started = time.time_ns()
    file = _file(images, nc, read) if len(images) >= WORTH else None
    known = _remembered(file) if file else {}

    def visit(image: Path) -> tuple[Stamp | None, Look]:
        stamp = _stamp(image)  # before the look: a file that changes meanwhile does not match later
        found = known.get(str(image))
        return stamp, found[1] if found and found[0] == stamp else look(image, nc, read)

    with ThreadPoolExecutor(THREADS) as pool:
        visits = list(pool.map(visit, images))
    if file and any(known.get(str(found.image), (None, None))[1] is not found for _, found in visits):
        _remember(
            file,
            [
                (stamp, found)
                for stamp, found in visits
                if stamp and max(stamp[1], stamp[3]) < started - FRESH and not found.labels.problems
            ],
        )
    return [found for _, found in visits]


def _stamp(image: Path) -> Stamp | None:
    try:
        picture = os.stat(image)
    except OSError:
        return None
    try:
        labels = os.stat(label_path(image))
    except FileNotFoundError:
        return picture.st_size, picture.st_mtime_ns, -1, -1
    except OSError:
        return None
    return picture.st_size, picture.st_mtime_ns, labels.st_size, labels.st_mtime_ns


def _file(images: Sequence[Path], nc: int | None, read: RowReader) -> Path:
    """Where looks at these images are remembered: by the first and the last of them, so that new ones find the old."""
    name = f"{VERSION}\n{read.__module__}.{read.__qualname__}\n{nc}\n{images[0]}\n{images[-1]}"
    return cache_dir() / "scans" / f"{hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()}.pt"


def _remember(file: Path, visits: Sequence[tuple[Stamp, Look]]) -> None:
    labels = [found.labels.labels for _, found in visits]
    polygons = join([each.polygons for each in labels], [len(each) for each in labels])
    content = {
        "images": [str(found.image) for _, found in visits],
        "stamps": torch.tensor([stamp for stamp, _ in visits], dtype=torch.int64).view(-1, 4),
        "sizes": torch.tensor([found.size or (-1, -1) for _, found in visits], dtype=torch.int64).view(-1, 2),
        "counts": torch.tensor([-1 if found.labels is NO_LABELS else len(found.labels.labels) for _, found in visits]),
        "classes": torch.cat([each.classes for each in labels]),
        "boxes": torch.cat([each.boxes for each in labels]),
        "lengths": polygons.counts,
        "points": polygons.points,
        "notes": {index: list(found.notes) for index, (_, found) in enumerate(visits) if found.notes},
    }
    try:
        with atomic(file) as temporary:
            torch.save({**content, "digest": _digest(content)}, temporary)
    except (OSError, RuntimeError):  # torch tells a full disk as a RuntimeError; the next run looks again
        pass


def _digest(content: dict[str, object]) -> str:
    """Of the whole content: torch's loader does not notice a flipped bit."""
    found = hashlib.blake2b(
        repr((content["images"], sorted(content["notes"].items()))).encode("utf-8", "surrogateescape")
    )
    for name in ("stamps", "sizes", "counts", "classes", "boxes", "lengths", "points"):
        found.update(content[name].numpy().tobytes())
    return found.hexdigest()


def _remembered(file: Path) -> dict[str, tuple[Stamp, Look]]:
    """Image -> its stamp and the look at it; empty where nothing is remembered or it cannot be understood."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        if content.pop("digest") != _digest(content):
            return {}
        counts = content["counts"].clamp(min=0).tolist()
        lengths = content["lengths"].split(counts)
        points = content["points"].split([int(length.sum()) for length in lengths])
        labels = [
            Instances(boxes, classes, polygons=Polygons(point, length) if len(point) else None)
            for boxes, classes, point, length in zip(
                content["boxes"].split(counts), content["classes"].split(counts), points, lengths, strict=True
            )
        ]
        known = {}
        columns = (content[name].tolist() for name in ("stamps", "sizes", "counts"))
        for index, (name, stamp, size, count) in enumerate(zip(content["images"], *columns, strict=True)):
            notes = tuple(content["notes"].get(index, ()))
            file_labels = NO_LABELS if count < 0 else LabelFile(labels[index], (), notes)
            known[name] = tuple(stamp), Look(Path(name), None if size[0] < 0 else tuple(size), file_labels, notes)
        return known
    except Exception:  # absent, cut off, another program's: torch raises whatever it stumbles over
        return {}
