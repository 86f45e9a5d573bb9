"""What lies in a folder of a dataset: its images, its sub-folders, and whether these are class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..images import IMAGE_SUFFIXES

OF_LABELS = {"images", "labels"}  # sub-folders of data with label files


def images_below(folder: Path) -> Iterator[Path]:
    """Yield the images in a folder and below it, without hidden ones. Linked folders are followed, once each."""
    visited = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if is_image(name):
                yield Path(parent, name)


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image: by its suffix, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def images_in(folder: Path) -> list[str]:
    """The names of the images in a folder itself, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if is_image(entry.name) and entry.is_file())


def sub_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, linked ones too and hidden ones not, in plain string order."""
    return sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_dir())


def class_folders(folder: Path) -> list[str]:
    """The sub-folders of a folder where they may be class folders: one of them holds an image.

    Empty for a folder that does not exist, that holds images itself, and for data with label files.
    """
    if not folder.is_dir() or images_in(folder):
        return []
    names = sub_folders(folder)
    if of_label_files(names) or not any(any(images_below(folder / name)) for name in names):
        return []
    return names


def of_label_files(names: Sequence[str]) -> bool:
    """Whether sub-folders are `images`, `labels` or both, as data with label files have them."""
    return bool(names) and (set(names) <= OF_LABELS or OF_LABELS <= set(names))


def some(names: Sequence[str], count: int = 5) -> str:
    """The first names for a message: `a, b, c and 7 more`."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
