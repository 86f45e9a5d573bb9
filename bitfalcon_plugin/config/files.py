"""Where things lie on disk, and writes that are whole or absent.

A file is written beside its target, flushed to the disk and renamed over it, so that a killed process or a full
disk leaves the earlier file as it was.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


def cfg_dir() -> Path:
    """The package's folder of settings, graphs and dataset YAMLs: inside it when installed, beside it in the tree."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "cfg"
    return installed if installed.is_dir() else package.parent / "cfg"


def cache_dir() -> Path:
    """The user's cache folder for this package: $BITFALCON_CACHE, or the platform's own place. Not created here."""
    if named := os.environ.get("BITFALCON_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        parent = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Caches"
    else:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return parent / "bitfalcon"


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to the disk and rename it over `path`.

    The temporary name keeps the suffix (some writers choose the format by it). After an exception the temporary
    file is removed and `path` is untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private; these are ordinary results
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sweep(folder: str | os.PathLike[str]) -> int:
    """Remove what `atomic` left in `folder` when its process was killed; returns how many files. Nobody may be writing there."""
    left = [
        path
        for path in Path(folder).glob(".*")
        if re.fullmatch(r"\..+-[a-z0-9_]{8}(\.\w+)?", path.name) and path.is_file()
    ]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def new_run_dir(mode: str, project: str | None = None, name: str | None = None, exist_ok: bool = False) -> Path:
    """Create and return the folder of a run: `runs/detect/<mode>`, or `<project>/<name>`; then `train2`, `train3`, ...

    `exist_ok` takes the folder as it is. Raises UserError where the folder cannot be made.
    """
    first = Path(project or "runs/detect") / (name or mode)
    folder, count = first, 1
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
            return folder
        except FileExistsError as error:
            if exist_ok:
                raise UserError(f"Run folder '{folder}' is a file. Give another name=.") from error
            count += 1
            folder = first.with_name(f"{first.name}{count}")
        except OSError as error:
            raise UserError(f"Run folder '{folder}' cannot be made: {error}. Give a writable project=.") from error


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
        with _folder(target) if folder else atomic(target) as path:
            yield path
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"'{target}' cannot be written: {error.strerror or error}. Give another place with out= ."
        ) from error


def _sweep(target: Path, folder: bool) -> None:
    # By the names that the writers below and files.atomic give, of the kind and with the rights that mkstemp and mkdtemp give.
    random = "[a-z0-9_]{8}"
    name = (
        rf"\.{random}-{re.escape(target.name)}(-old)?"
        if folder
        else rf"\.{re.escape(target.stem)}-{random}{re.escape(target.suffix)}"
    )
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
        raise UserError(
            f"'{target}' is there already and holds other things than an export. Give another place with out= ."
        )
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
