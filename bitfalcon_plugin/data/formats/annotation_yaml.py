"""What the YAML of a dataset says of its format, and what it need not say because annotation files say it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...config.errors import did_you_mean
from ...ops.keypoint_layout import KEYS, KeypointLayout, read_layout
from .coco_file import CocoFile, read_coco
from .folders import path_problem
from .keypoint_notes import mirror_partners

SPLITS = ("train", "val", "validation", "test")
FORMATS = ("yolo", "coco", "voc")
_SIDE = re.compile("left|right", re.IGNORECASE)
OTHERS = "supervision, hotcoco and labelformat (Python packages) convert many other formats to coco"


def format_of(raw: Mapping[str, object], problems: list[str]) -> str:
    """The format of a dataset: the key `format:`, else coco where an entry of a split is a .json file, else yolo."""
    value = raw.get("format")
    if value is None:
        values = [raw.get(split) for split in SPLITS]
        entries = [entry for each in values for entry in (each if isinstance(each, list) else [each])]
        is_json = any(isinstance(entry, str) and entry.strip().lower().endswith(".json") for entry in entries)
        return "coco" if is_json else "yolo"
    name = str(value).lower()
    if name in FORMATS:
        return name
    problems.append(f"format: {value!r}; expected {', '.join(FORMATS)}; {OTHERS}.{did_you_mean(name, FORMATS)}")
    return "yolo"


def image_folders(raw: Mapping[str, object], root: Path, problems: list[str]) -> dict[str, str]:
    """The key `images:` of a COCO dataset: split -> absolute folder of its images; "" for all splits."""
    value = raw.get("images")
    if value is None:
        return {}
    by_split = value if isinstance(value, Mapping) else {"": value}
    folders = {}
    for split, folder in by_split.items():
        if not isinstance(folder, str) or not folder.strip() or split not in ("", "train", "val", "test"):
            problems.append(
                f"images: {value!r}; expected the folder of the images, or one for train, val and test each"
            )
            return {}
        if problem := path_problem(folder):
            problems.append(f"images: {problem}")
            continue
        folders[split] = os.path.abspath(root / Path(folder).expanduser())
    return folders


def annotation_files(entry: Path) -> list[Path]:
    """The annotation files of an entry of a split: the file, or the .json files in the folder."""
    return sorted(entry.glob("*.json")) if entry.is_dir() else [entry]


def coco_names(
    splits: Mapping[str, Sequence[str]], raw: Mapping[str, object], names: Mapping[int, str], problems: list[str]
) -> tuple[dict[int, str], KeypointLayout | None, list[str]]:
    """Class index -> name, the keypoints of each object, and notes, of a dataset with annotation files.

    names: those that the YAML gives; without them the classes are the categories of the first split by rising id, and
    behind these what other splits have more. Problems of the files themselves are found when they are scanned.
    """
    files = _readable(splits)
    notes: list[str] = []
    if not names:
        order = list(dict.fromkeys(name for file in files for name in file.category_names))
        names = dict(enumerate(order))
        if files and (more := [name for name in order if name not in files[0].category_names]):
            notes.append(f"categories that not all annotation files have: {', '.join(more)}")
    of_files = _keypoint_keys(files, names)
    if problem := _count_problem(of_files, raw.get("kpt_shape")):
        problems.append(problem)
        return dict(names), None, notes
    keys = {**of_files, **{key: raw[key] for key in ("kpt_shape", *KEYS) if key in raw}}
    return dict(names), read_layout(keys, len(names), problems), notes


def _count_problem(of_files: Mapping[str, object], shape: object) -> str:
    """What is wrong with `kpt_shape:` beside the keypoints that the categories name; empty where nothing is."""
    if not of_files or not isinstance(shape, list) or len(shape) != 2 or shape[0] == of_files["kpt_shape"][0]:
        return ""
    names = next(iter(of_files["kpt_names"].values()))
    return (
        f"kpt_shape: {shape}, but the categories of the annotation files name {len(names)} keypoints "
        f"({', '.join(names)}); expected [{len(names)}, {shape[1]}], or no kpt_shape"
    )


def _readable(splits: Mapping[str, Sequence[str]]) -> list[CocoFile]:
    files = []
    for entries in splits.values():
        for path in (path for entry in entries for path in annotation_files(Path(entry))):
            if path.is_file() and (content := read_coco(path)[0]) is not None:
                files.append(content)
    return files


def _keypoint_keys(files: Sequence[CocoFile], names: Mapping[int, str]) -> dict[str, object]:
    """The keys of a YAML about keypoints that annotation files answer."""
    by_class: dict[int, list[str]] = {}
    limbs: list[list[int]] = []
    index_of = {name: index for index, name in names.items()}
    for file in files:
        for name, points, skeleton in zip(file.category_names, file.keypoint_names, file.skeletons):
            if points and name in index_of:
                by_class.setdefault(index_of[name], points)
                limbs = limbs or skeleton
    if not by_class:
        return {}
    count = max(map(len, by_class.values()))
    full = {index: points for index, points in by_class.items() if len(points) == count}
    keys: dict[str, object] = {"kpt_shape": [count, 3], "kpt_names": full}
    if flip := _mirrored(next(iter(full.values()))):
        keys["flip_idx"] = flip
    if limbs:
        keys["skeleton"] = [[end - 1 for end in limb] for limb in limbs]
    return keys


def _mirrored(names: Sequence[str]) -> list[int] | None:
    """For each keypoint the one that takes its place in a mirror, by left and right in their names; None: unclear."""
    partners = mirror_partners(names)
    alone = [name for index, name in enumerate(names) if index not in partners and _SIDE.search(name)]
    flip = [partners.get(index, index) for index in range(len(names))]
    return flip if partners and not alone and sorted(flip) == list(range(len(names))) else None
