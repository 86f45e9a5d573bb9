"""Exports land whole or not at all, files and folders alike; an earlier one stays until the new one is proven."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..files import atomic

OURS = {".xml", ".bin", ".yaml"}  # what may be in a folder that is replaced
STALE = 3600.0  # seconds: what an export has not touched for so long belongs to a process that was killed


@contextlib.contextmanager
def placed(target: Path, folder: bool) -> Iterator[Path]:
    """Yield a path beside `target` to fill, of the same suffix; on success it becomes `target`, after an exception it is removed.

    folder: it is an empty folder. What killed processes left of earlier attempts at this very target is removed first. Raises UserError
    where nothing can be written there.
    """
    try:
        _sweep(target, folder)
        with (_folder(target) if folder else atomic(target)) as path:
            yield path
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"'{target}' cannot be written: {error.strerror or error}. Give another place with out= .") from error


def _sweep(target: Path, folder: bool) -> None:
    # By the names that the writers below and files.atomic give, of the kind and with the rights that mkstemp and mkdtemp give.
    random = "[a-z0-9_]{8}"
    name = rf"\.{random}-{re.escape(target.name)}(-old)?" if folder else rf"\.{re.escape(target.stem)}-{random}{re.escape(target.suffix)}"
    for path in target.parent.glob(".*"):
        if not re.fullmatch(name, path.name) or path.is_symlink() or path.is_dir() != folder:
            continue
        with contextlib.suppress(OSError):  # another process was first, or it is another user's
            state = path.stat()
            # An earlier export that was moved aside has ordinary rights, and is all there is where the new one did not come.
            moved = folder and path.name.endswith("-old")
            ours = target.exists() and _replaceable(path) if moved else os.name == "nt" or not state.st_mode & 0o077
            if ours and time.time() - state.st_mtime > STALE:
                shutil.rmtree(path) if folder else path.unlink()


@contextlib.contextmanager
def _folder(target: Path) -> Iterator[Path]:
    if target.exists() and not _replaceable(target):
        raise UserError(f"'{target}' is there already and holds other things than an export. Give another place with out= .")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=".", suffix=f"-{target.name}"))
    old = made.with_name(f"{made.name}-old")
    try:
        yield made
        for path in (*made.iterdir(), made):
            _flush(path)
        umask = os.umask(0)
        os.umask(umask)
        made.chmod(0o777 & ~umask)  # mkdtemp makes folders private
        if target.exists():
            target.rename(old)
            made.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            made.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
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
