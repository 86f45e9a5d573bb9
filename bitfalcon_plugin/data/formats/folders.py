"""What lies in a folder of a dataset: its images, its sub-folders, and whether these are class folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..images import IMAGE_SUFFIXES

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar", ".gz")
LONGEST_PATH, LONGEST_NAME = 1500, 255  # bytes; Linux allows 4096, with the dataset's folder, and 255
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # s3://bucket; a drive of Windows has one letter
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


def path_problem(entry: str) -> str:
    """Say why an entry is no local path: an address, an archive, too long, a zero byte. Empty for a path."""
    encoded = entry.encode("utf-8", "surrogatepass")
    if len(encoded) > LONGEST_NAME and max(map(len, encoded.split(b"/"))) > LONGEST_NAME or len(encoded) > LONGEST_PATH:
        return f"'{entry[:40]}...' is too long; a path has at most {LONGEST_PATH} bytes, each name {LONGEST_NAME}"
    if "\0" in entry:
        return f"{entry[:40]!r} contains a zero byte; expected a path"
    if _ADDRESS.match(entry):
        return f"'{entry}' is a remote address; nothing is fetched: mount or copy it, and give the local path"
    if entry.lower().rstrip("/").endswith(ARCHIVES) and not Path(entry).is_dir():
        return f"'{entry}' is an archive; unpack it, and give the path of what it held"
    return ""


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


def leaves(path: Path, root: Path) -> bool:
    """Whether an absolute, normalised path lies outside `root`."""
    return path != root and root not in path.parents


def outside_problem(entry: str, root: Path) -> str:
    """The problem of an entry that leads out of `root`, with its repair."""
    return (
        f"'{entry}' leads out of the dataset's folder '{root}'; set `path:` to a folder that holds all of it, "
        "or give allow_outside=True if that is meant"
    )
