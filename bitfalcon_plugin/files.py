"""Where things lie on disk, and writes that are whole or absent.

A file is written beside its target, flushed to the disk and renamed over it, so that a killed process or a full
disk leaves the earlier file as it was.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


def cfg_dir() -> Path:
    """The package's folder of settings, graphs and dataset YAMLs: inside it when installed, beside it in the tree."""
    package = Path(__file__).resolve().parent
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
    left = [path for path in Path(folder).glob(".*") if re.fullmatch(r"\..+-[a-z0-9_]{8}(\.\w+)?", path.name) and path.is_file()]
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
