"""Read every image and label file of a dataset and collect the facts that `doctor` judges; no problem ends the survey.

Duplicates are found by two hashes: one of the file's bytes, and the difference hash of the decoded picture (signs of
the steps between neighbours of a 9x8 thumbnail), which survives another file format. Written from interface.md 5.1 and
5.2.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ...config.files import sha256_of
from ...config.threads import usable_processors
from ...ops.instances import Instances
from ..dataset import list_images
from ..formats.coco_labels import Wish, coco_labels
from ..formats.dataset_yaml import DataSpec, read_data
from ..formats.keypoint_notes import no_keypoints
from ..formats.keypoint_rows import keypoint_rows, polygon_values
from ..formats.listing import Listing
from ..formats.pose_rows import read_pose
from ..formats.voc import VocLabels, xml_path
from ..formats.yolo import LabelFile, RowReader, TxtLabels, label_path, read_row, reader_for, swap_folder
from ..images import IMAGE_SUFFIXES, UnreadableImage, check_file, check_sides, header_size, read_interleaved
from ..label_sources import refuse
from ..large_pictures import decode_in_turn
from ..scan_cache import LabelReader
from .rectangles import Rectangles

T = TypeVar("T")
THREADS = min(2 * usable_processors(), 16)  # decoding releases the interpreter, and part of the time is the disk's
MAX_DECODED = 2**26  # pixels; of larger images the header alone is read
PLAIN = 2.0  # grey levels: a thumbnail that varies less has no hash, otherwise all plain pictures would look alike
NO_LABELS = ("classes.txt", "notes.txt", "readme")  # beginnings of text files that labelling tools leave beside labels
ORIENTATION = 0x0112  # EXIF tag
MODES = {"RGB": "", "L": "grey", "P": "palette", "1": "black and white", "CMYK": "CMYK"}
SUFFIXES_OF = {  # format in Pillow -> its usual suffixes
    "JPEG": ".jpg .jpeg .mpo", "MPO": ".jpg .jpeg .mpo", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp",
    "TIFF": ".tif .tiff .dng",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of a split and its label file."""

    path: Path
    size: tuple[int, int] | None  # (h, w) in pixels, upright; None if the image cannot be used
    problem: str  # why the image cannot be used; empty if it can
    labels: LabelFile | None  # None without a label file
    digest: str = ""  # of the file's bytes
    hash: int | None = None  # difference hash, 64 bits; None for plain pictures
    traits: tuple[str, ...] = ()  # unusual storage: grey, CMYK, 16-bit, EXIF-rotated, ...
    polygons: int = 0  # the number of label rows that were read as polygons
    keypoints: tuple[str, ...] = ()  # a line of text for each of these rows that looks like keypoints
    rectangles: Rectangles | None = None  # where labels stand for oriented boxes
    decoded: bool = True  # False: its header alone was read, because it has more than MAX_DECODED pixels


@dataclass(frozen=True, eq=False)
class Survey:
    """The content of a dataset: its YAML as far as it can be read, and every listed image."""

    data: DataSpec
    problems: tuple[str, ...]  # of the YAML and of image lists
    absent: tuple[tuple[str, Path], ...]  # (split, entry) that does not exist
    splits: dict[str, tuple[Picture, ...]]  # sorted by path
    orphans: tuple[Path, ...]  # label files without an image
    notes: tuple[str, ...]
    by_class: bool = False  # class folders: the one label of a picture is the class of its folder


def survey(
    data: str | Path,
    *,
    allow_outside: bool = False,
    single_cls: bool = False,
    read: RowReader | None = None,
    oriented: bool = False,
    wish: Wish | None = None,
) -> Survey:
    """Read every image and label file of every split; problems are collected, not raised.

    read: the task's reader of one row of a label file; by default one that takes boxes, outlines, and keypoints where
    the YAML has them. oriented: outlines stand for oriented boxes. wish: what the task needs of labels in other
    formats.

    Raises MissingFileError if the YAML does not exist, UserError if it cannot be parsed.
    """
    spec, problems = read_data(data, allow_outside=allow_outside)
    listings = {split: list_images(spec, split) for split in spec.splits}
    nc = None if single_cls else spec.nc or None
    if read is read_pose and spec.kpt_shape is None and spec.format == "yolo":
        if not any(problem.startswith("kpt_shape:") for problem in problems):
            problems.append(no_keypoints(spec.path, spec.format))
        read = read_row
    if spec.format == "yolo":
        row = reader_for(read or (read_row if spec.kpt_shape is None else read_pose), spec.kpt_shape)
        labels = TxtLabels(nc, row)
    else:
        wish = wish or Wish("" if spec.keypoints is None or spec.format == "voc" else "keypoints")
        refuse(spec, wish)
        labels = VocLabels(tuple(spec.names.values()) or None, spec.first_pixel) if spec.format == "voc" else None
    paths = {split: listing.paths for split, listing in listings.items()}
    splits = examine_each(paths, lambda path: _examine(path, labels, oriented))
    if spec.format == "coco":
        splits = {split: _with_labels(spec, listings[split], splits[split], wish, single_cls) for split in splits}
    problems += [f"{split}: {problem}" for split, listing in listings.items() for problem in listing.problems]
    absent = tuple((split, path) for split, listing in listings.items() for path in listing.absent)
    notes = (*spec.notes, *(note for listing in listings.values() for note in listing.notes))
    return Survey(spec, tuple(problems), absent, splits, tuple(sorted(_orphans(spec, splits), key=str)), notes)


def examine_each(items: Mapping[str, Sequence[T]], examine: Callable[[T], Picture]) -> dict[str, tuple[Picture, ...]]:
    """Call `examine` for each item of each split, in several threads, with a bar on a terminal."""
    splits = {}
    pool = ThreadPoolExecutor(THREADS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about metadata
            for split, of_split in items.items():
                pictures = pool.map(examine, of_split)
                hidden = not sys.stderr.isatty()
                splits[split] = tuple(tqdm(pictures, split, len(of_split), leave=False, disable=hidden))
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for every image
    return splits


def _examine(path: Path, reader: LabelReader | None, oriented: bool = False) -> Picture:
    if isinstance(reader, VocLabels):
        picture = examine_image(path, None)
        content = reader.read_file(path, picture.size)
        return replace(picture, labels=content and content._replace(labels=_single(content.labels)))
    content = reader and reader.read_file(path, (0, 0))
    polygons = polygon_values(content.labels) if content else []
    keypoints = tuple(keypoint_rows(label_path(path), polygons))
    slim = content and content._replace(labels=replace(content.labels, polygons=None))  # they would take gigabytes
    picture = examine_image(path, slim)
    if not picture.size:
        return picture
    rectangles = Rectangles.of(content.labels, picture.size) if content and oriented else None
    return replace(picture, polygons=len(polygons), keypoints=keypoints, rectangles=rectangles)


def _single(labels: Instances) -> Instances:
    """Labels in float32, as those of other formats are."""
    return replace(labels, boxes=labels.boxes.float())


def _with_labels(
    spec: DataSpec, listing: Listing, pictures: Sequence[Picture], wish: Wish, single_cls: bool
) -> tuple[Picture, ...]:
    """The pictures of a split with the labels of its annotation files; without outlines, which take gigabytes."""
    labels: dict[int, LabelFile] = {}
    places = [listing.places[picture.path] for picture in pictures]
    points = 0 if spec.keypoints is None else spec.keypoints.count
    for number, (path, file) in enumerate(listing.files):
        chosen = [at for at, picture in enumerate(pictures) if picture.size and places[at][0] == number]
        rows, sizes = [places[at][1] for at in chosen], [pictures[at].size for at in chosen]
        names = None if single_cls else spec.names
        labels |= dict(zip(chosen, coco_labels(path, file, rows, sizes, names, wish, points)))
    return tuple(
        replace(
            picture,
            labels=labels[at]._replace(labels=replace(labels[at].labels, polygons=None)),
            polygons=int(labels[at].labels.has_polygon.sum()),
        )
        if at in labels
        else picture
        for at, picture in enumerate(pictures)
    )


def examine_image(path: Path, labels: LabelFile | None) -> Picture:
    """Read an image file and collect its facts; `labels` are its labels.

    Of an image with more than MAX_DECODED pixels the header alone is read.
    """
    try:
        check_file(path)
        digest = sha256_of(path)
        height, width = size = header_size(path)
        check_sides(size)
        if height * width > MAX_DECODED:
            return Picture(path, size, "", labels, digest, None, _traits(path), decoded=False)
        size, thumbnail = decode_in_turn(height * width, _size_and_hash, path)
    except FileNotFoundError:
        return Picture(path, None, "there is no such file", labels)
    except (OSError, ValueError, UnreadableImage) as error:
        return Picture(path, None, getattr(error, "strerror", None) or str(error), labels)
    return Picture(path, size, "", labels, digest, thumbnail, _traits(path))


def _size_and_hash(path: Path) -> tuple[tuple[int, int], int | None]:
    """The upright (h, w) of a picture, and its difference hash. Raises UnreadableImage."""
    image = read_interleaved(path)
    return tuple(image.shape[1:]), difference_hash(image)


def difference_hash(image: Tensor) -> int | None:
    """64 bits of a (3, H, W) uint8 picture: whether each cell of its 8x9 thumbnail is darker than the next in its row.

    None if the thumbnail hardly varies.
    """
    green = image[1][None, None].float()  # (1, 1, H, W): nearly the luminance, at a third of the work
    cells = functional.interpolate(green, size=(8, 9), mode="area")[0, 0]  # (8, 9)
    if float(cells.std()) < PLAIN:
        return None
    bits = (cells[:, :-1] < cells[:, 1:]).flatten().tolist()  # (64,)
    return sum(bit << position for position, bit in enumerate(bits))


def _traits(path: Path) -> tuple[str, ...]:
    """The unusual properties of an image file that could be decoded."""
    try:
        with Image.open(path) as image:
            kind, mode = image.format or "", image.mode
            raw = next((tile[3] for tile in image.tile), "")
            raw = raw if isinstance(raw, str) else str(next(iter(raw or ()), ""))
            # getexif() of a PNG without EXIF in its header would decode all its pixels again
            rotated = (kind != "PNG" or "exif" in image.info) and image.getexif().get(ORIENTATION, 1) not in (0, 1)
    except Exception:  # odd metadata in a sound picture
        return ()
    suffix = path.suffix.lower()
    traits = (
        MODES.get(mode, "alpha" if mode.endswith(("A", "a")) else mode),
        "16-bit" if mode.startswith("I;16") or "16" in raw else "",
        "EXIF-rotated" if rotated else "",
        f"{kind} named {suffix}" if suffix not in SUFFIXES_OF.get(kind, suffix).split() else "",
    )
    return tuple(trait for trait in traits if trait)


def _orphans(spec: DataSpec, splits: dict[str, Sequence[Picture]]) -> Iterator[Path]:
    """Yield the label files that belong to no image, from the folders where labels of this dataset are expected."""
    if spec.format == "coco":
        return
    find, suffix = (label_path, ".txt") if spec.format == "yolo" else (xml_path, ".xml")
    expected = {find(picture.path) for pictures in splits.values() for picture in pictures}
    entries = {Path(entry) for paths in spec.splits.values() for entry in paths}
    folders = {path.parent for path in expected}
    folders |= {find(entry / "x").parent for entry in entries if entry.is_dir()}
    files = {
        Path(parent, name)
        for folder in folders
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(suffix) and not name.lower().startswith(NO_LABELS)
    }

    @cache
    def image_stems(folder: Path) -> set[str]:
        if not folder.is_dir():
            return set()
        return {path.stem for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}

    for file in files - expected - entries:
        if spec.format == "voc":
            yield file
        elif file.stem not in image_stems(file.parent) | image_stems(swap_folder(file.parent, "labels", "images")):
            yield file
