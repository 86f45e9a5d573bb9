"""Read a dataset in the layout of DOTA: folders of images, and of label files with corners in pixels.

Written from spec/pose-obb.md 2.12.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ...config.errors import MissingFileError, UserError, did_you_mean, raise_problems
from ...config.settings import Settings
from ...ops.instances import Instances
from ...ops.polygons import Polygons, hulls
from ..dataset import MAX_PROBLEMS, Sample
from ..formats.dota import CLASSES, CORNERS, VERSIONS, DotaObject, place_problem, read_dota, same_class, versions_with
from ..formats.folders import images_below, some, sub_folders
from ..formats.obb_rows import is_straight
from ..formats.yolo import read_text
from ..images import IMAGE_SUFFIXES
from ..scan_cache import scan_images
from .source import Part, Source, same_stems

# Name of a folder -> the split that it holds.
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "test-dev": "test"}
OWN_CLASSES = "classes.txt"  # in the dataset's folder: the names of other classes than DOTA's, one a line
LAYOUTS = (
    "<split>/images with <split>/labelTxt, or images/<split> with labels/<split>_original, where <split> is train, "
    "val or test"
)


class Folders(NamedTuple):
    """The folders of one split; labels: None for images alone."""

    images: Path
    labels: Path | None


def read_dota_folder(settings: Settings, version: str = "") -> Source:
    """Read the dataset in the folder `settings.data`.

    version: a key of VERSIONS, whose classes the dataset has; "": the first version that has all classes that occur. A
    file OWN_CLASSES in the folder replaces both. With settings.difficult False the objects that the labels call
    difficult are left out.

    Raises UserError with all problems of all label files, by file and line.
    """
    root = Path(settings.data).expanduser()
    if not root.is_dir():
        raise MissingFileError(f"data={settings.data}: there is no such folder; format=dota reads {LAYOUTS}.")
    known = _own_classes(root) or CLASSES[: VERSIONS.get(version, len(CLASSES))]
    numbers = {same_class(name): index for index, name in enumerate(known)}
    problems: list[str] = []
    parts, found = {}, Counter()
    for split, folders in find_splits(root, version).items():
        parts[split] = _read_part(folders, numbers, settings, problems, found)
    raise_problems(f"Labels of '{root}' cannot be converted; correct these lines:", problems, limit=MAX_PROBLEMS)
    if not version and known is CLASSES:
        known = CLASSES[: VERSIONS[versions_with(list(found))]]
    return Source(dict(enumerate(known)), parts, "obb")


def find_splits(root: Path, version: str = "") -> dict[str, Folders]:
    """Find the folders of images and labels of each split; train, val and test in this order.

    Raises UserError where there are none, and where a split has several folders of labels.
    """
    found: dict[str, Folders] = {}
    for name, split in SPLITS.items():
        for images, labels in ((root / name / "images", root / name), (root / "images" / name, None)):
            if split in found or not images.is_dir():
                continue
            candidates = [root / "labels" / f"{name}_original", root / "labelTxt" / name, root / "labels" / name]
            folder = next(filter(Path.is_dir, candidates), None) if labels is None else _label_folder(labels, version)
            found[split] = Folders(images, folder)
    images = root / "images"
    if not found and images.is_dir():
        found[SPLITS.get(root.name, "train")] = Folders(images, _label_folder(root, version))
    if not found:
        inside = some(sub_folders(root)) or "no folder"
        raise MissingFileError(f"'{root}' holds {inside}; expected the layout of DOTA: {LAYOUTS}.")
    for split, folders in found.items():
        if folders.labels is None and split != "test":
            raise MissingFileError(f"Split '{split}' of '{root}' has images and no labels; expected {LAYOUTS}.")
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _label_folder(folder: Path, version: str) -> Path | None:
    """The folder `labelTxt` of a split; DOTA also ships it as `labelTxt-v1.0`, for example."""
    names = [name for name in sub_folders(folder) if name.lower().startswith("labeltxt")]
    if version and (of_version := [name for name in names if version in name]):
        names = of_version
    if len(names) > 1:
        raise UserError(
            f"'{folder}' holds several folders of labels: {', '.join(names)}. Say which version is meant, for example "
            "format=dota-v1.0, or move the others away."
        )
    return folder / names[0] if names else None


def _own_classes(root: Path) -> tuple[str, ...]:
    """The names in the file OWN_CLASSES; empty where there is none."""
    path = root / OWN_CLASSES
    if not path.is_file():
        return ()
    text, problem = read_text(path, "expected the name of a class in each line")
    names = tuple(line.strip() for line in text.split("\n") if line.strip())
    twice = [name for name, count in Counter(map(same_class, names)).items() if count > 1]
    if problem or not names or twice:
        raise UserError(problem or f"'{path}': " + (f"{some(twice)} stands twice" if twice else "holds no name") + ".")
    return names


def _read_part(
    folders: Folders, numbers: Mapping[str, int], settings: Settings, problems: list[str], found: Counter
) -> Part:
    """Read the images and labels of one split; add what is wrong to `problems`, and count its classes in `found`."""
    images = scan_images(sorted(images_below(folders.images)), None, large=settings.tile is not None)
    if not images:
        problems.append(f"{folders.images}: no image; expected files {' '.join(sorted(IMAGE_SUFFIXES))}")
    elif not any(image.size for image in images):
        problems.append(f"{folders.images}: no image of {len(images)} can be read; {images[0].notes[0]}")
    files = _files_by_stem(folders.labels, problems)
    notes = [note for image in images for note in image.notes]
    without = [image.path.name for image in images if image.size and image.path.stem not in files]
    alone = sorted(files.keys() - {image.path.stem for image in images})
    if folders.labels and without:
        notes.append(f"{len(without)} images of {folders.images} have no label, and are backgrounds: {some(without)}")
    if alone:
        notes.append(f"{len(alone)} labels in {folders.labels} have no image, and are left out: {some(alone)}")
    samples, left_out = [], Counter()
    for image in images:
        if image.size is None:
            continue
        objects, file = [], files.get(image.path.stem)
        if file is not None:
            objects, wrong = read_dota(file)
            problems += wrong
            problems += [
                f"{file}:{each.line}: {text}" for each in objects for text in _misfits(each, image.size, numbers)
            ]
            objects = [each for each in objects if not _misfits(each, image.size, numbers)]
        kept = _kept(objects, settings.difficult, left_out)
        found.update(same_class(each.name) for each in kept)
        samples.append(Sample(image.path, image.size, _labels(kept, image.size, numbers)))
    problems += same_stems(samples)
    return Part(samples, folders.labels is not None, notes, left_out)


def _files_by_stem(folder: Path | None, problems: list[str]) -> dict[str, Path]:
    """The label files in a folder and below it, by their names without suffix."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.txt")) if folder else ():
        if path.name == OWN_CLASSES or path.name.startswith("."):
            continue
        if path.stem in files:
            problems.append(f"{path}: '{files[path.stem]}' has the same name; keep one of them")
        files[path.stem] = path
    return files


def _misfits(each: DotaObject, size: tuple[int, int], numbers: Mapping[str, int]) -> list[str]:
    """What is wrong with an object that could be read: an unknown class, a place outside the image of `size`."""
    misfits = []
    if same_class(each.name) not in numbers:
        hint = did_you_mean(each.name, numbers) or f" Classes of your own: {OWN_CLASSES} in the dataset's folder"
        names = ", ".join(name.replace(" ", "-") for name in numbers)
        misfits.append(f"class {each.name!r} is unknown; expected one of {names}.{hint}")
    if problem := place_problem(each.corners, size):
        misfits.append(problem)
    return misfits


def _kept(objects: Sequence[DotaObject], difficult: bool, left_out: Counter) -> list[DotaObject]:
    """The objects that are converted; the others are counted in `left_out`."""
    kept = []
    for each in objects:
        reason = "difficult" * (each.difficult and not difficult) or "without area" * is_straight(each.corners)
        if reason:
            left_out[reason] += 1
        else:
            kept.append(each)
    return kept


def _labels(objects: Sequence[DotaObject], size: tuple[int, int], numbers: Mapping[str, int]) -> Instances:
    """Objects as labels in shares of an image of `size` (h, w) px, float64."""
    points = torch.tensor([each.corners for each in objects], dtype=torch.float64).view(-1, 2)
    counts = torch.full((len(objects),), CORNERS // 2)
    rings = Polygons(points / points.new_tensor([size[1], size[0]]), counts)
    classes = torch.tensor([numbers[same_class(each.name)] for each in objects], dtype=torch.int64)
    return Instances(hulls(rings), classes, polygons=rings)
