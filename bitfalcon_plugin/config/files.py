"""Where things lie on disk, and writes that are whole or absent.

A file is written next to its target, flushed to the disk and renamed over it, so that a killed process or a full
disk leaves the earlier file unchanged.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError

RANDOM = "[a-z0-9_]{8}"  # what tempfile puts into the names of temporary files and folders
# Of the files in the folder of an export, and its inner folders (of .mlpackage); no other folder is replaced.
EXPORT_SUFFIXES = {".xml", ".param", ".bin", ".yaml", ".json", ".mlmodel"}
INNER_FOLDERS = {"Data", "com.apple.CoreML", "weights"}
STALE_SECONDS = 3600.0  # a temporary file that was not written to for so long belongs to a process that was killed


def cfg_dir() -> Path:
    """The folder of settings, graphs and dataset YAMLs: in an installed package, or next to the package in the tree."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "cfg"
    return installed if installed.is_dir() else package.parent / "cfg"


def cache_dir() -> Path:
    """The user's cache folder for this package: $BITFALCON_CACHE, or that of the platform. It may not exist."""
    if path := os.environ.get("BITFALCON_CACHE"):
        return Path(path).expanduser()
    if sys.platform == "win32":
        parent = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Caches"
    else:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return parent / "bitfalcon"


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success flush the file to the disk and rename it to `path`.

    The temporary name keeps the suffix, since some writers choose the format by it. After an exception the temporary
    file is removed and `path` is untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        make_public(temporary, 0o666)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_export(target: Path, is_folder: bool) -> Iterator[Path]:
    """Yield a temporary path of the same suffix, or an empty folder, to fill; on success it becomes `target`.

    After an exception the temporary path is removed. What killed processes left of earlier attempts at `target` is
    removed first. Raises UserError where `target` cannot be written.
    """
    try:
        _remove_stale(target, is_folder)
        with _atomic_folder(target) if is_folder else atomic(target) as path:
            yield path
    except OSError as error:
        if isinstance(error, UserError):
            raise
        reason = error.strerror or error
        raise UserError(f"'{target}' cannot be written: {reason}. Give another place with out= .") from error


@contextmanager
def _atomic_folder(target: Path) -> Iterator[Path]:
    if target.exists() and not _is_export(target):
        raise UserError(f"'{target}' exists and holds other things than an export. Give another place with out= .")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".", suffix=f"-{target.name}"))
    old = temporary.with_name(f"{temporary.name}-old")
    try:
        yield temporary
        for path in temporary.rglob("*"):
            _flush(path)
        make_public(temporary, 0o777)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_leftovers(folder: str | os.PathLike[str]) -> int:
    """Remove the temporary files that killed processes left in `folder`; return how many.

    No process may be writing in `folder`.
    """
    pattern = re.compile(rf"\..+-{RANDOM}(\.\w+)?")
    leftovers = [path for path in Path(folder).glob(".*") if pattern.fullmatch(path.name) and path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _remove_stale(target: Path, is_folder: bool) -> None:
    """Remove the temporary files or folders of killed exports to `target`.

    They have the names of `atomic` or `_atomic_folder`, and the private permissions of the tempfile module. An export
    that was moved aside ("-old") has ordinary permissions, and stays where no newer one took its place.
    """
    name = rf"\.{re.escape(target.stem)}-{RANDOM}{re.escape(target.suffix)}"
    if is_folder:
        name = rf"\.{RANDOM}-{re.escape(target.name)}(-old)?"
    for path in target.parent.glob(".*"):
        if not re.fullmatch(name, path.name) or path.is_symlink() or path.is_dir() != is_folder:
            continue
        with suppress(OSError):  # another process removed it first, or it belongs to another user
            status = path.stat()
            if is_folder and path.name.endswith("-old"):
                removable = target.exists() and _is_export(path)
            else:
                removable = os.name == "nt" or not status.st_mode & 0o077
            if removable and time.time() - status.st_mtime > STALE_SECONDS:
                shutil.rmtree(path) if is_folder else path.unlink()


def _is_export(folder: Path) -> bool:
    return folder.is_dir() and all(
        path.suffix in EXPORT_SUFFIXES if path.is_file() else path.name in INNER_FOLDERS for path in folder.rglob("*")
    )


def _flush(path: Path) -> None:
    """Write the data of a file to the disk; a folder is left alone."""
    if path.is_file():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def make_public(path: Path, mode: int) -> None:
    """Give a path `mode` less the umask: the tempfile module makes private files, results are ordinary ones."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(mode & ~umask)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    parts = [part for part in path.rglob("*") if part.is_file()] if path.is_dir() else [path]
    return sum(part.stat().st_size for part in parts)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read in pieces of 1 MiB. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
