"""Exports land whole or not at all, files and folders alike; an earlier one stays until the new one is proven."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..files import atomic

OURS = {".xml", ".bin", ".yaml"}  # what may be in a folder that is replaced


@contextlib.contextmanager
def placed(target: Path, folder: bool) -> Iterator[Path]:
    """Yield a path beside `target` to fill, of the same suffix; on success it becomes `target`, after an exception it is removed.

    folder: it is an empty folder. Raises UserError where nothing can be written there.
    """
    try:
        with (_folder(target) if folder else atomic(target)) as path:
            yield path
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"'{target}' cannot be written: {error.strerror or error}. Give another place with out= .") from error


@contextlib.contextmanager
def _folder(target: Path) -> Iterator[Path]:
    if target.exists() and not _replaceable(target):
        raise UserError(f"'{target}' is there already and holds other things than an export. Give another place with out= .")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=".", suffix=f"-{target.name}"))
    try:
        yield made
        for path in (*made.iterdir(), made):
            _flush(path)
        umask = os.umask(0)
        os.umask(umask)
        made.chmod(0o777 & ~umask)  # mkdtemp makes folders private
        if target.exists():
            old = made.with_name(f"{made.name}-old")
            target.rename(old)
            made.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            made.rename(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _replaceable(target: Path) -> bool:
    return target.is_dir() and all(path.is_file() and path.suffix in OURS for path in target.iterdir())


def _flush(path: Path) -> None:
    if path.is_file():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(part.stat().st_size for part in path.iterdir()) if path.is_dir() else path.stat().st_size
