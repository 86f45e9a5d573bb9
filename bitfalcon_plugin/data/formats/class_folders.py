"""Class folders: the images of a class lie in a folder with its name, `train/<class>/...`, `val/<class>/...`.

The classes are the sub-folders of train in plain string order; every other split is matched with them by name. Nothing
is moved, copied or written. Written from spec/segment-classify.md 2.4 and 2.9.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...config.errors import MissingFileError, UserError, nearest, raise_problems
from ...config.yaml_files import SUFFIXES, load_yaml
from ..shape_classes import ensure_shape_classes
from .dataset_yaml import DataSpec, datasets_dir, find_yaml, names_of, root_of, settings_of, splits_of
from .folders import class_folders, images_below, images_in, of_label_files, some, sub_folders
from .yolo import label_path

VAL_NAMES = ("val", "validation", "valid")  # folders and keys that mean val; the first that exists counts
SPLIT_FOLDERS = {"train": ("train",), "val": VAL_NAMES, "test": ("test",)}
GENERATORS = {"shapes-cls": ensure_shape_classes}  # `generator:` -> what makes the folders and returns their root
INSTEAD = {"val": "test", "test": "val"}  # a split that is missing -> the split that is taken instead


@dataclass(frozen=True, eq=False)
class ClassListing:
    """The images of a split, sorted by class and path, and what is wrong with its folders."""

    paths: list[Path] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)  # of each path
    absent: list[Path] = field(default_factory=list)  # entries that do not exist
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load_class_folders(data: str | Path, *, share: float | None = None, allow_outside: bool = False) -> DataSpec:
    """Find class folders and their classes.

    Args:
        data: a folder; a folder by its name in the user's datasets_dir; or a YAML with train, val, test and names,
            whose entries are folders of class folders.
        share: of each class in train; the rest is val. For a folder that is not split.
        allow_outside: accept entries of a YAML that lead out of the dataset's root.

    Raises MissingFileError, with the nearest names, if there is no such folder, and UserError with all problems.
    """
    spec, problems = read_class_folders(data, share=share, allow_outside=allow_outside)
    raise_problems(f"Class folders '{spec.path}' cannot be used:", problems)
    return spec


def read_class_folders(
    data: str | Path, *, share: float | None = None, allow_outside: bool = False
) -> tuple[DataSpec, list[str]]:
    """Find class folders as `load_class_folders` does, and return them with their problems.

    Raises MissingFileError or UserError if there is no such folder or YAML, or the YAML cannot be parsed.
    """
    path = _find(data)
    if path.is_dir():
        spec, problems = DataSpec(path, path, {}, _split_folders(path)), []
    else:
        spec, problems = _read_yaml(path, allow_outside)
    if problems:
        return spec, problems
    if share is not None:
        spec = _unsplit(spec, share, problems)
    elif "train" not in spec.splits and not spec.names:
        problems.append(_no_train(spec))
    roots = [Path(entry) for entry in spec.splits.get("train", ())]
    problems += [problem for root in roots if (problem := _root_problem(root))]
    if not spec.names and not problems:
        spec = replace(spec, names=dict(enumerate(sorted({name for root in roots for name in sub_folders(root)}))))
    if spec.nc == 1:
        spec = replace(spec, notes=(*spec.notes, f"there is one class only, '{spec.names[0]}': nothing to tell apart"))
    return spec, problems


def holds_class_folders(data: object) -> bool:
    """Whether `data` names class folders, or a YAML of such, and not data with label files."""
    try:
        path = _find(data)
        raw = {} if path.is_dir() else load_yaml(path)
        if raw.get("generator") is not None:
            return raw["generator"] in GENERATORS
        problems: list[str] = []
        if path.is_dir():
            roots = [Path(entry) for entries in _split_folders(path).values() for entry in entries] or [path]
        else:
            options = {"allow_outside": True, "required": (), "val_names": VAL_NAMES[1:]}
            splits = splits_of(raw, root_of(raw, path, problems), problems, [], **options)
            roots = [Path(entry) for entries in splits.values() for entry in entries]
    except UserError:
        return False
    first = [next(images_below(root)) for root in roots if class_folders(root)]
    return bool(first) and not any(label_path(image).is_file() for image in first)


def list_class_images(data: DataSpec, split: str) -> ClassListing:
    """List the images of a split; problems are collected, not raised."""
    listing = ClassListing()
    index_of = {name: index for index, name in data.names.items()}
    of_class: dict[int, list[Path]] = {index: [] for index in data.names}
    for root in map(Path, data.splits["train" if data.share else split]):
        if not root.exists():
            listing.absent.append(root)
        elif problem := _root_problem(root):
            listing.problems.append(problem)
        else:
            _list_root(root, index_of, of_class, listing)
    for index, paths in of_class.items():
        paths = sorted(paths, key=str)
        chosen = _part_of(paths, data.root, data.share, split == "train") if data.share else paths
        listing.paths.extend(chosen)
        listing.classes.extend([index] * len(chosen))
    if not (listing.absent or listing.problems):
        lacking = [data.names[index] for index in data.names if index not in set(listing.classes)]
        if lacking and listing.paths:
            listing.notes.append(f"no image of {len(lacking)} of {data.nc} classes in {split}: {some(lacking, 20)}")
    return listing


def existing_split(data: DataSpec, split: str) -> tuple[str, str]:
    """The split to read for `split`, and a note where it is another one: val and test stand in for each other.

    Raises UserError where there is neither.
    """
    if split in data.splits or data.share and split == "val":
        return split, ""
    other = INSTEAD.get(split)
    if other not in data.splits:
        names = " or ".join(name for name in (split, other) if name)
        repair = "" if split == "train" else "; make val/<class>, or give split=0.8 where nothing is split yet"
        raise UserError(f"Class folders '{data.path}' have no {names} (only {', '.join(data.splits)}){repair}.")
    return other, f"{data.path} has no split '{split}': '{other}' is used instead"


def some_of_each(listing: ClassListing, fraction: float) -> ClassListing:
    """The listing with round(n * fraction) of the n images of each class, at least one, evenly spaced."""
    starts: dict[int, list[int]] = {}
    for place, index in enumerate(listing.classes):
        starts.setdefault(index, []).append(place)
    chosen = []
    for places in starts.values():
        count = max(1, round(len(places) * fraction))
        chosen += [places[number * len(places) // count] for number in range(count)]
    paths, classes = ([values[place] for place in chosen] for values in (listing.paths, listing.classes))
    return replace(listing, paths=paths, classes=classes)


def _find(data: str | Path) -> Path:
    """The folder or YAML that `data` names."""
    if not isinstance(data, (str, Path)) or not str(data).strip():
        raise UserError(f"data={data!r}: expected a folder of class folders, or a YAML that names such folders.")
    path = Path(data).expanduser()
    kept = datasets_dir() / path
    folder = next((folder for folder in (path, kept) if folder.is_dir()), None)
    if folder is not None:
        has_yaml = any(file.suffix.lower() in SUFFIXES for file in folder.iterdir())
        return Path(os.path.abspath(find_yaml(folder) if has_yaml and not _split_folders(folder) else folder))
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise UserError(f"data='{data}' is a file; expected a folder of class folders. Unpack an archive first.")
    try:
        return find_yaml(data)
    except MissingFileError:
        names = [name for place in (path.parent, datasets_dir()) if place.is_dir() for name in sub_folders(place)]
        close = nearest(path.name, names)
        raise MissingFileError(
            f"Class folders '{data}' are not there: no such folder or YAML, neither here nor in '{datasets_dir()}'."
            + (f" Nearest: {', '.join(close)}." if close else "")
        ) from None


def _split_folders(folder: Path) -> dict[str, tuple[str, ...]]:
    """Split -> its folder, of those that exist."""
    found = {}
    for split, names in SPLIT_FOLDERS.items():
        paths = [folder / name for name in names if (folder / name).is_dir()]
        if paths:
            found[split] = (str(paths[0]),)
    return found


def _read_yaml(path: Path, allow_outside: bool) -> tuple[DataSpec, list[str]]:
    """The DataSpec that a YAML describes, and its problems."""
    raw: Mapping[str, object] = load_yaml(path)
    problems: list[str] = []
    notes: list[str] = []
    settings = settings_of(raw, problems)
    if raw.get("generator") is not None:
        return _generated(raw["generator"], path, settings)
    root = root_of(raw, path, problems)
    names = names_of(raw, problems) if raw.get("names") is not None else {}
    required = () if names else ("train",)
    options = {"allow_outside": allow_outside, "required": required, "val_names": VAL_NAMES[1:]}
    splits = splits_of(raw, root, problems, notes, **options)
    download = None if raw.get("download") is None else str(raw["download"])
    common = {"allow_outside": allow_outside, "notes": tuple(notes)}
    return DataSpec(path, root, names, splits, settings, download=download, **common), problems


def _generated(name: object, path: Path, settings: dict[str, object]) -> tuple[DataSpec, list[str]]:
    """The DataSpec of a YAML with `generator: name`, and its problems."""
    if name not in GENERATORS:
        known = ", ".join(GENERATORS)
        problem = f"generator: {name!r} makes no class folders; known: {known}. Other tasks read data with label files"
        return DataSpec(path, path.parent, {}, {}, settings), [problem]
    root = GENERATORS[name]()
    return DataSpec(path, root, {}, _split_folders(root), settings), []


def _unsplit(spec: DataSpec, share: float, problems: list[str]) -> DataSpec:
    """The spec whose train is all that there is. Problems: a split beside train, and a share that leaves no val."""
    others = [split for split in ("val", "test") if split in spec.splits]
    if not 0 < share < 1:
        problems.append(f"split={share:g}; expected the share of train, above 0 and below 1")
    if others:
        problems.append(f"split={share:g} is for data without val and test; there is {' and '.join(others)} already")
    splits = spec.splits if "train" in spec.splits else {"train": (str(spec.root),), **spec.splits}
    return replace(spec, splits=splits, share=share)


def _root_problem(root: Path) -> str:
    """What is wrong with a folder that should hold class folders; empty where nothing is, or it does not exist."""
    if not root.exists():
        return ""
    if not root.is_dir():
        kind = "annotations of objects, which task=detect trains" if root.suffix.lower() == ".json" else "a file"
        return f"'{root}' is {kind}; expected a folder that holds a folder for each class"
    if class_folders(root):
        return ""
    names, images = sub_folders(root), images_in(root)
    if images and not names or of_label_files(names):
        return f"'{root}' has no class folders; it looks like data with label files, which task=detect trains"
    if names and not images:
        return f"'{root}' has no image in its folders {some(names)}"
    return "" if names else f"'{root}' is empty; expected a folder for each class"


def _no_train(spec: DataSpec) -> str:
    """The problem of data without train."""
    names = class_folders(spec.root)
    if names and not spec.splits:
        return (
            f"there is no folder train, but class folders ({some(names)}). Move them to train/<class> and "
            "val/<class>, or give split=0.8: of each class this share is trained, the rest is val; no file is moved"
        )
    found = f" (only {', '.join(spec.splits)})" if spec.splits else ""
    return (
        f"train: missing{found}; expected train/<class>/<images> and val/<class>/<images>. Where there is nothing to "
        "train, a YAML with val: and names: does"
    )


def _list_root(
    root: Path, index_of: Mapping[str, int], of_class: Mapping[int, list[Path]], listing: ClassListing
) -> None:
    """Add the images of one folder of class folders."""
    if strays := images_in(root):
        listing.notes.append(f"'{root}': {len(strays)} images outside of the class folders, left out ({some(strays)})")
    folders = sub_folders(root)
    unknown = [name for name in folders if name not in index_of]
    if unknown:
        first = next((path for name in unknown for path in images_below(root / name)), None)
        labelled = first is not None and label_path(first).is_file()
        hint = ". Label files lie beside these images: task=detect reads them" if labelled else ""
        text = f"{some(unknown, 20)}; the classes are {some(list(index_of), 20)}{hint}"
        listing.problems.append(f"'{root}' has folders of unknown classes: {text}")
    for name in folders:
        if name in index_of:
            of_class[index_of[name]].extend(images_below(root / name))


def _part_of(paths: Sequence[Path], root: Path, share: float, first: bool) -> list[Path]:
    """The images of one class that belong to the first part, a share of them, or to the rest.

    Which ones follows from their paths below `root`, so that it is the same in every run and for every seed=.
    """

    def key(path: Path) -> bytes:
        name = path.relative_to(root) if root in path.parents else path
        return hashlib.blake2b(os.fsencode(name.as_posix()), digest_size=16).digest()

    count = min(max(round(len(paths) * share), 1), max(len(paths) - 1, 1))
    chosen = set(sorted(paths, key=key)[:count])
    return [path for path in paths if (path in chosen) == first]
