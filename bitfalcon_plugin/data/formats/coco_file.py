"""An annotation file of COCO's format: read, checked entry by entry, and kept as flat tensors.

The file is parsed once. Until it changes, its content is read from the user's cache folder (data/packed_file.py). The
format is that of cocodataset.org (Lin et al., arXiv:1405.0312).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from ...config.files import cache_dir
from ..packed_file import load_packed, save_packed
from .coco_entries import Entries, read_entries
from .yolo import read_text

VERSION = 1  # of the kept content; to be raised when the same file gives another one
LEAST_BYTES = 1 << 20  # smaller files are parsed in a moment and not kept
RECENT = 3  # files whose content stays in memory between loading a dataset and scanning it
EXPECTED = "expected COCO's annotations: an object with the lists images, categories and annotations"


@dataclass(frozen=True, eq=False)
class CocoFile:
    """The content of an annotation file: I images, C categories by rising id, N annotations by image.

    image_ids, file_names (I): as in the file. sizes (I, 2) int64: height and width, -1 where the file has none.
    category_ids, category_names, keypoint_names (C): of the categories; skeletons (C): pairs of keypoints from 1.
    labelled: whether the file has annotations at all.

    entries (N,) int64: place in the file's list. ids (N,). images (N,): row of the image, ascending. categories (N,):
    row of the category. boxes (N, 4) float64: left, top, width, height in pixels. areas (N,) float64. crowd (N,) bool.
    ring_counts (N,): number of rings of the segmentation; ring_lengths (R,): number of points of each ring;
    ring_points (P, 2) float64. run_rows (M,): annotations whose segmentation is run lengths; run_sizes (M, 2); runs
    (M): the run lengths, as list or text. keypoints (N, K, 3) float64, zeros where there are none; labelled_points
    (N,): num_keypoints, -1 for an annotation without keypoints.
    """

    image_ids: list[int | str]
    file_names: list[str]
    sizes: Tensor
    category_ids: list[int]
    category_names: list[str]
    keypoint_names: list[list[str]]
    skeletons: list[list[list[int]]]
    labelled: bool
    entries: Tensor
    ids: Tensor
    images: Tensor
    categories: Tensor
    boxes: Tensor
    areas: Tensor
    crowd: Tensor
    ring_counts: Tensor
    ring_lengths: Tensor
    ring_points: Tensor
    run_rows: Tensor
    run_sizes: Tensor
    runs: list[list[int] | str]
    keypoints: Tensor
    labelled_points: Tensor

    def __len__(self) -> int:
        return len(self.ids)


_recent: dict[tuple[str, int, int], tuple[CocoFile | None, Sequence[str]]] = {}


def read_coco(path: Path) -> tuple[CocoFile | None, Sequence[str]]:
    """Return the content of an annotation file, and a problem for everything that is wrong in it.

    The content is None where there are problems. Raises FileNotFoundError.
    """
    state = os.stat(path)
    key = os.path.abspath(path), state.st_size, state.st_mtime_ns
    if key in _recent:
        return _recent[key]
    name = hashlib.blake2b(os.fsencode(f"{VERSION}\n{key}"), digest_size=16).hexdigest()
    kept = cache_dir() / "annotations" / f"{name}.pt"
    content = load_packed(kept) if state.st_size >= LEAST_BYTES else None
    problems: Sequence[str] = ()
    if content is None:
        entries, problems = _parse(path)
        content = None if problems else packed(entries)
        if content is not None and state.st_size >= LEAST_BYTES:
            save_packed(kept, content)
    _recent[key] = None if content is None else CocoFile(**content), problems
    for old in list(_recent)[:-RECENT]:
        del _recent[old]
    return _recent[key]


def forget(path: Path) -> None:
    """Free the memory of a file that was read."""
    for key in [key for key in _recent if key[0] == os.path.abspath(path)]:
        del _recent[key]


def _parse(path: Path) -> tuple[Entries, Sequence[str]]:
    """Return the entries of a file and what is wrong with them."""
    text, problem = read_text(path, EXPECTED)
    if problem:
        return Entries(), [problem]
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}: column {error.colno}"
        return Entries(), [f"{place}: not JSON ({error.msg}); {EXPECTED}. Was the file cut off?"]
    except RecursionError:
        return Entries(), [f"{path}: its lists are nested too deep; {EXPECTED}"]
    except ValueError as error:  # a number of thousands of digits
        return Entries(), [f"{path}: not JSON ({error}); {EXPECTED}"]
    del text
    if isinstance(document, list):
        return Entries(), [f"{path}: holds a list, like the detections in a predictions.json; {EXPECTED}"]
    if not isinstance(document, dict):
        return Entries(), [f"{path}: holds {type(document).__name__}; {EXPECTED}"]
    return read_entries(path, document)


def packed(entries: Entries) -> dict[str, object]:
    """The fields of a CocoFile, from checked entries: categories by id, annotations by image."""
    order = sorted(range(len(entries.category_ids)), key=entries.category_ids.__getitem__)
    row_of = torch.empty(len(order), dtype=torch.int64)
    row_of[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(order))
    lists = ("category_ids", "category_names", "keypoint_names", "skeletons")
    content: dict[str, object] = {name: [getattr(entries, name)[row] for row in order] for name in lists}
    content |= {name: getattr(entries, name) for name in ("image_ids", "file_names", "labelled")}
    content["sizes"] = torch.tensor(entries.sizes, dtype=torch.int64).view(-1, 2)
    by_image = torch.tensor(entries.images, dtype=torch.int64).argsort(stable=True)
    count = max(map(len, entries.keypoint_names), default=0)
    columns = {
        "entries": torch.tensor(entries.entries, dtype=torch.int64),
        "ids": torch.tensor(entries.ids, dtype=torch.int64),
        "images": torch.tensor(entries.images, dtype=torch.int64),
        "categories": row_of[torch.tensor(entries.categories, dtype=torch.int64)],
        "boxes": torch.tensor(entries.boxes, dtype=torch.float64).view(-1, 4),
        "areas": torch.tensor(entries.areas, dtype=torch.float64),
        "crowd": torch.tensor(entries.crowd, dtype=torch.bool),
        "keypoints": _points(entries.keypoints, count),
        "labelled_points": torch.tensor(entries.labelled_points, dtype=torch.int64),
    }
    content |= {name: column[by_image] for name, column in columns.items()}
    content |= _segmentations([entries.segmentations[row] for row in by_image.tolist()])
    assert content.keys() == {field.name for field in fields(CocoFile)}
    return content


def _points(keypoints: Sequence[Sequence[float]], count: int) -> Tensor:
    """Keypoints as (N, count, 3), filled up with zeros."""
    rows = torch.zeros(len(keypoints), count * 3, dtype=torch.float64)
    for row, values in enumerate(keypoints):
        if values:
            rows[row, : len(values)] = torch.tensor(values, dtype=torch.float64)
    return rows.view(len(keypoints), count, 3)


def _segmentations(segmentations: Sequence[object]) -> dict[str, object]:
    """The fields of rings and run lengths: of each annotation a list of rings, run lengths, or None."""
    rings = [value if isinstance(value, list) else [] for value in segmentations]
    runs = [(row, value) for row, value in enumerate(segmentations) if isinstance(value, dict)]
    flat = [number for of_object in rings for ring in of_object for number in ring]
    return {
        "ring_counts": torch.tensor([len(of_object) for of_object in rings], dtype=torch.int64),
        "ring_lengths": torch.tensor([len(ring) // 2 for each in rings for ring in each], dtype=torch.int64),
        "ring_points": torch.tensor(flat, dtype=torch.float64).view(-1, 2),
        "run_rows": torch.tensor([row for row, _ in runs], dtype=torch.int64),
        "run_sizes": torch.tensor([value["size"] for _, value in runs], dtype=torch.int64).view(-1, 2),
        "runs": [value["counts"] for _, value in runs],
    }
