"""Files and folders of runs. Written from spec/dropin-helpers.md section 10."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from ...config.files import size_of


def increment_path(path: str | Path, exist_ok: bool = False, sep: str = "", mkdir: bool = False) -> Path:
    """Return `path`, or where it exists the first of path2, path3, ... that does not; a file keeps its suffix.

    exist_ok: return the path as it is. sep: between name and number. mkdir: make the folder.
    """
    path = Path(path)
    if path.exists() and not exist_ok:
        stem, suffix = (path.with_suffix(""), path.suffix) if path.is_file() else (path, "")
        number = 2
        while (candidate := Path(f"{stem}{sep}{number}{suffix}")).exists():
            number += 1
        path = candidate
    if mkdir:
        path.mkdir(parents=True, exist_ok=True)
    return path


def get_latest_run(search_dir: str = ".") -> str:
    """Return the newest file last*.pt below a folder as text; "" where there is none."""
    files = [path for path in Path(search_dir).rglob("last*.pt") if path.is_file()]
    return str(max(files, key=lambda path: path.stat().st_mtime)) if files else ""


def file_size(path: str | Path) -> float:
    """Return the size of a file, or of all files below a folder, in MB of 2**20 bytes; 0.0 where there is none."""
    path = Path(path)
    if path.is_dir():
        return sum(part.stat().st_size for part in path.rglob("*") if part.is_file()) / 2**20
    return size_of(path) / 2**20 if path.is_file() else 0.0


def file_age(path: str | Path = __file__) -> int:
    """Return whole days since a file was written."""
    return (datetime.now() - datetime.fromtimestamp(Path(path).stat().st_mtime)).days


def file_date(path: str | Path = __file__) -> str:
    """Return the day a file was written: '2024-1-31'."""
    written = datetime.fromtimestamp(Path(path).stat().st_mtime)
    return f"{written.year}-{written.month}-{written.day}"


class WorkingDirectory(contextlib.ContextDecorator):
    """A context and a decorator under which another folder is the working directory."""

    def __init__(self, new_dir: str | Path):
        self.dir, self.cwd = new_dir, Path.cwd().resolve()

    def __enter__(self) -> None:
        os.chdir(self.dir)

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        os.chdir(self.cwd)


@contextlib.contextmanager
def spaces_in_path(path: str | Path) -> Iterator[Path | str]:
    """Yield a path without spaces: where there are some, a copy, which afterwards takes the place of the original."""
    if " " not in str(path):
        yield path
        return
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name.replace(" ", "_")
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, copy)
        yield copy
        if copy.is_dir():
            shutil.copytree(copy, path, dirs_exist_ok=True)
        elif copy.exists():
            shutil.copy2(copy, path)
