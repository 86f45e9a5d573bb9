"""Read every image and label file of a dataset, whatever is wrong with others: the facts that `doctor` judges.

Duplicates are found by two hashes: one of the file's bytes, and the difference hash of the decoded picture (signs of
the steps between neighbours of a 9x8 thumbnail), which survives another file format. Written from interface.md 5.1 and
5.2.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ..dataset import _lines, _walk
from ..formats.dataset_yaml import DataSpec, read_data
from ..formats.keypoint_rows import keypoint_rows, polygon_values
from ..formats.yolo import LabelFile, label_path, read_labels
from ..images import IMAGE_SUFFIXES, UnreadableImage, read_image
from ..scan_cache import SMALLEST_SIDE

THREADS = min(2 * (os.cpu_count() or 4), 16)  # decoding releases the interpreter, and part of the time is the disk's
PLAIN = 2.0  # grey levels: a thumbnail that varies less has no hash, or all plain pictures would look alike
NO_LABELS = ("classes.txt", "notes.txt", "readme")  # beginnings of text files that labelling tools leave beside labels
ORIENTATION = 0x0112  # EXIF tag
USUAL = {"RGB": "", "L": "grey", "P": "palette", "1": "black and white", "CMYK": "CMYK"}
SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg", ".mpo"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff", ".dng"),
}


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of a split and its label file."""

    path: Path
    size: tuple[int, int] | None  # (h, w) in pixels, upright; None where it cannot be used
    problem: str  # why it cannot; '' where it can
    digest: str  # of the file's bytes; '' where it cannot be read
    look: int | None  # difference hash, 64 bits; None for plain pictures
    traits: tuple[str, ...]  # what is unusual: grey, CMYK, 16-bit, EXIF-rotated, ...
    labels: LabelFile | None  # None where there is no label file
    polygons: int = 0  # label rows that are polygons, or were read as such
    keypoints: tuple[str, ...] = ()  # those of them that look like keypoints, one line each


@dataclass(frozen=True, eq=False)
class Survey:
    """What a dataset holds: its YAML as far as it can be read, and every listed image."""

    data: DataSpec
    problems: tuple[str, ...]  # of the YAML and of image lists
    absent: tuple[tuple[str, Path], ...]  # (split, entry) that is not there
    splits: dict[str, tuple[Picture, ...]]  # sorted by path
    orphans: tuple[Path, ...]  # label files without an image
    notes: tuple[str, ...]


def survey(data: str | Path, *, allow_outside: bool = False, single_cls: bool = False) -> Survey:
    """Look at every image and label file of every split; problems are collected, not raised.

    Raises MissingFileError where there is no such YAML, UserError where it is none.
    """
    spec, problems = read_data(data, allow_outside=allow_outside)
    notes, absent = list(spec.notes), []
    paths = {split: sorted(_listed(spec, split, problems, absent, notes), key=str) for split in spec.splits}
    nc = None if single_cls else spec.nc or None
    splits = {}
    pool = ThreadPoolExecutor(THREADS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about metadata
            for split, files in paths.items():
                bar = tqdm(
                    pool.map(lambda path: _look(path, nc, spec.kpt_shape), files),
                    total=len(files),
                    desc=split,
                    leave=False,
                    disable=not sys.stderr.isatty(),
                )
                splits[split] = tuple(bar)
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for every image
    orphans = tuple(sorted(_orphans(spec, splits), key=str))
    return Survey(spec, tuple(problems), tuple(absent), splits, orphans, tuple(notes))


def _listed(spec: DataSpec, split: str, problems: list[str], absent: list, notes: list[str]) -> Iterator[Path]:
    for entry in map(Path, spec.splits[split]):
        if not entry.exists():
            absent.append((split, entry))
        elif entry.is_dir():
            yield from _walk(entry)
        elif entry.suffix.lower() == ".txt":
            yield from _lines(entry, spec, problems, notes)
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            yield entry
        else:
            problems.append(f"{split}: '{entry}' is neither a folder, a .txt list nor an image")


def _look(path: Path, nc: int | None, kpt_shape: tuple[int, int] | None) -> Picture:
    labels = read_labels(label_path(path), nc)
    polygons = polygon_values(labels.labels) if labels else []
    keypoints = tuple(keypoint_rows(label_path(path), polygons, kpt_shape))
    if labels:  # the polygons of a large dataset take gigabytes
        labels = labels._replace(labels=replace(labels.labels, polygons=None))
    try:
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        image = read_image(path)
        size = tuple(image.shape[1:])
        if min(size) < SMALLEST_SIDE:
            raise UnreadableImage(f"{size[1]}x{size[0]} pixels, expected sides of {SMALLEST_SIDE} or more")
    except FileNotFoundError:
        return Picture(path, None, "there is no such file", "", None, (), labels)
    except (OSError, UnreadableImage) as error:
        return Picture(path, None, getattr(error, "strerror", None) or str(error), "", None, (), labels)
    return Picture(path, size, "", digest, difference_hash(image), _traits(path), labels, len(polygons), keypoints)


def difference_hash(image: Tensor) -> int | None:
    """64 bits of a (3, H, W) uint8 picture: whether each cell of its 8x9 thumbnail is darker than the next in its row.

    None where the thumbnail hardly varies.
    """
    green = image[1][None, None].float()  # (1, 1, H, W): nearly the luminance, at a third of the work
    cells = functional.interpolate(green, size=(8, 9), mode="area")[0, 0]  # (8, 9)
    if float(cells.std()) < PLAIN:
        return None
    bits = (cells[:, :-1] < cells[:, 1:]).flatten().tolist()  # (64,)
    return sum(bit << place for place, bit in enumerate(bits))


def _traits(path: Path) -> tuple[str, ...]:
    """What is unusual about how the picture is stored. Read after it was decoded once without an error."""
    try:
        with Image.open(path) as image:
            kind, mode = image.format or "", image.mode
            raw = next((tile[3] for tile in image.tile), "")
            raw = raw if isinstance(raw, str) else str(next(iter(raw or ()), ""))
            # asking a PNG that has no EXIF up front would decode all its pixels again
            turned = (kind != "PNG" or "exif" in image.info) and image.getexif().get(ORIENTATION, 1) not in (0, 1)
    except Exception:  # odd metadata in a sound picture
        return ()
    found = [USUAL.get(mode, "alpha" if mode.endswith(("A", "a")) else mode)]
    found += ["16-bit"] if mode.startswith("I;16") or "16" in raw else []
    found += ["EXIF-rotated"] if turned else []
    if kind in SUFFIXES_OF and path.suffix.lower() not in SUFFIXES_OF[kind]:
        found.append(f"{kind} named {path.suffix.lower()}")
    return tuple(filter(None, found))


def _orphans(spec: DataSpec, splits: dict[str, Sequence[Picture]]) -> Iterator[Path]:
    """Label files that belong to no image, in the folders where labels of this dataset are looked for."""
    known = {label_path(picture.path) for pictures in splits.values() for picture in pictures}
    lists = {Path(entry) for entries in spec.splits.values() for entry in entries}
    folders = {path.parent for path in known} | {label_path(entry / "x").parent for entry in lists if entry.is_dir()}
    stems: dict[Path, set[str]] = {}
    files = {
        Path(place, name)
        for folder in folders
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(".txt") and not name.lower().startswith(NO_LABELS)
    }
    for file in files - known - lists:
        pictured = False
        for folder in (file.parent, _image_folder(file.parent)):
            if folder not in stems:
                stems[folder] = (
                    {path.stem for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
                    if folder.is_dir()
                    else set()
                )
            pictured = pictured or file.stem in stems[folder]
        if not pictured:
            yield file


def _image_folder(labels: Path) -> Path:
    # where the images of a label folder lie: its last `labels` becomes `images`
    parts = list(labels.parts)
    for at in range(len(parts) - 1, -1, -1):
        if parts[at] == "labels":
            parts[at] = "images"
            break
    return Path(*parts)
