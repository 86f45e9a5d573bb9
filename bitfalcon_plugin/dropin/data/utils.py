"""Checks and readers of datasets under the names that scripts import. Facts: spec/dropin-helpers.md section 8."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...config.errors import MissingFileError, UserError
from ...data.formats.dataset_yaml import read_data
from ...data.formats.yolo import label_path
from ...data.images import IMAGE_SUFFIXES, UnreadableImage, check_sides, image_size
from ...predict.video import VIDEO_SUFFIXES
from ..engine.datasets import dict_of_data
from .labels import find_one
from .masks import polygon2mask, polygons2masks, polygons2masks_overlap
from .split import autosplit

__all__ = [
    "FORMATS_HELP_MSG",
    "IMG_FORMATS",
    "VID_FORMATS",
    "autosplit",
    "check_cls_dataset",
    "check_det_dataset",
    "exif_size",
    "find_dataset_yaml",
    "get_hash",
    "img2label_paths",
    "load_dataset_cache_file",
    "polygon2mask",
    "polygons2masks",
    "polygons2masks_overlap",
    "save_dataset_cache_file",
    "verify_image",
    "verify_image_label",
]

IMG_FORMATS = {suffix[1:] for suffix in IMAGE_SUFFIXES}
VID_FORMATS = {suffix[1:] for suffix in VIDEO_SUFFIXES}
FORMATS_HELP_MSG = f"images: {', '.join(sorted(IMG_FORMATS))}; videos: {', '.join(sorted(VID_FORMATS))}"
SPLITS = ("train", "val", "test")


class DatasetSyntaxError(UserError, SyntaxError):
    """A dataset YAML whose keys are wrong."""

    def __str__(self) -> str:
        return str(self.args[0])


def check_det_dataset(dataset: str | Path, autodownload: bool = True) -> dict[str, Any]:
    """Return a dataset YAML as a dict: path, absolute train, val and test, names, nc, yaml_file, and its other keys.

    Raises SyntaxError for missing or wrong keys, FileNotFoundError for a missing file and for missing images; nothing
    is downloaded.
    """
    spec, problems = read_data(dataset, allow_outside=True)
    if problems:
        raise DatasetSyntaxError(f"Dataset file '{spec.path}': {'; '.join(problems)}.")
    absent = [entry for name in ("train", "val") for entry in spec.splits[name] if not Path(entry).exists()]
    if absent:
        download = f" Its `download:` is not run; it says: {spec.download}" if spec.download and autodownload else ""
        raise MissingFileError(f"Dataset '{spec.path}': images are missing, '{absent[0]}' does not exist.{download}")
    found = dict_of_data(spec)
    return {**_other_keys(spec.path, found), **found}


def _other_keys(path: Path, found: dict[str, object]) -> dict[str, Any]:
    from ...config.yaml_files import load_yaml

    return {key: value for key, value in load_yaml(path).items() if key not in found}


def check_cls_dataset(dataset: str | Path, split: str = "") -> dict[str, Any]:
    """Return a folder with train/, val/ and test/, each with a folder for each class, as a dict of paths and names.

    A missing val is replaced by test, and the other way round; split: the one that must exist.
    """
    root = Path(dataset)
    if not root.is_dir():
        raise MissingFileError(f"Dataset folder '{dataset}' does not exist; nothing is downloaded.")
    folders: dict[str, Path | None] = {name: root / name if (root / name).is_dir() else None for name in SPLITS}
    folders["val"] = folders["val"] or (root / "validation" if (root / "validation").is_dir() else None)
    if folders["train"] is None:
        raise MissingFileError(f"'{root}' has no folder 'train'; expected train/<class>/<picture>.")
    folders["val"], folders["test"] = folders["val"] or folders["test"], folders["test"] or folders["val"]
    if split and folders.get(split) is None:
        raise MissingFileError(f"'{root}' has no folder '{split}'.")
    names = sorted(path.name for path in folders["train"].iterdir() if path.is_dir() and not path.name.startswith("."))
    return {**folders, "nc": len(names), "names": dict(enumerate(names)), "channels": 3}


def find_dataset_yaml(path: Path) -> Path:
    """Return the only YAML in a folder. Raises FileNotFoundError where there is none, AssertionError for several."""
    files = sorted({*Path(path).glob("*.yaml"), *Path(path).glob("*.yml")}) or sorted(Path(path).rglob("*.yaml"))
    if not files:
        raise MissingFileError(f"No YAML in '{path}'.")
    assert len(files) == 1, f"several YAMLs in '{path}': {', '.join(file.name for file in files)}"
    return files[0]


def img2label_paths(img_paths: Sequence[str]) -> list[str]:
    """Return the paths of label files: the last folder `images` becomes `labels`, the suffix `.txt`."""
    return [str(label_path(Path(path))) for path in img_paths]


def get_hash(paths: Sequence[str]) -> str:
    """Return a digest of paths, and of the sizes and times of the files that exist."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        stamp = (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None
        digest.update(f"{path}\n{stamp}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def load_dataset_cache_file(path: Path) -> dict[str, Any]:
    """Raise FileNotFoundError: files of labels are pickles, which can run code. Labels are read anew instead."""
    raise MissingFileError(f"'{path}' is not opened: such a file can run code. Labels are read from their files.")


def save_dataset_cache_file(prefix: str, path: Path, x: dict[str, Any], version: str = "") -> None:
    """Write nothing: labels are read anew, which is quick."""


def exif_size(img: Image.Image) -> tuple[int, int]:
    """Return (width, height) of a Pillow image as it is shown upright."""
    width, height = img.size
    try:
        turned = img.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # EXIF orientation
    except Exception:  # broken EXIF in a sound picture
        turned = False
    return (height, width) if turned else (width, height)


def verify_image(args: tuple) -> tuple:
    """Check one image: args ((file, class), prefix) -> ((file, class), number sound, number broken, message)."""
    (file, number), prefix = args
    try:
        check_sides(image_size(Path(file)))
    except UnreadableImage as error:
        return (file, number), 0, 1, f"{prefix}{file}: {error}"
    return (file, number), 1, 0, ""


def verify_image_label(args: tuple) -> list[Any]:
    """Check one image and its labels.

    args: image, label file, prefix, whether keypoints are read, number of classes, number of keypoints, their numbers
    each, and optionally single_cls. Returns image, rows (n, 5), shape (h, w), segments, keypoints, and the counts of
    missing, found, empty and corrupt files, and a message; of an unusable image None in the place of the first five.
    """
    image, file, prefix, keypoint, classes, count, dimensions, *single = args
    nc = None if single and single[0] else classes
    found = find_one(image, file, nc, (count, dimensions) if keypoint else None)
    message = "; ".join((*found.problems, *found.notes))
    message = f"{prefix}{message}" if message else ""
    if not found.usable:
        return [None, None, None, None, None, int(not found.has_file), int(found.has_file), 0, 1, message]
    empty = int(found.has_file and not len(found.rows))
    counts = [int(not found.has_file), int(found.has_file), empty, 0]
    return [image, found.rows, found.size, found.segments, found.keypoints, *counts, message]
