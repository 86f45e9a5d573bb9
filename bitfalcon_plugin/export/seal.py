"""Seals: which exported models were written here, or were opened and run once without harm.

The programs that run exported models are not made for files of strangers: some files crash them, hang them or fill the
memory. So a file without a seal is first opened and run in a process of its own with limits, and refused where it dies
there. A seal is an empty file in the cache folder; its name is the SHA-256 of the format and the content, because what
is harmless to the program of one format may harm that of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ..config.errors import UserError
from ..config.files import cache_dir, sha256_of, size_of
from ..config.limited_process import DiedError, call_limited
from ..config.notes import print_note
from .formats import format_of

SECONDS, SECONDS_PER_BYTE = 5.0, 5e-8  # for opening a file and running it once, by its size
MEMORY, MEMORY_FACTOR = 10**9, 5  # bytes that this may take, or so many times the size of the file
_SEALED: set[str] = set()  # by this process, where the cache folder cannot be written


def seal(path: Path) -> None:
    """Remember that the content of an exported model is harmless; where no cache folder can be, for this process."""
    name = _digest(path)
    _SEALED.add(name)
    try:
        _place(name).parent.mkdir(parents=True, exist_ok=True)
        _place(name).touch()
    except OSError:
        pass  # another process tries the file again


def is_sealed(path: Path) -> bool:
    """Whether an exported model is there whole, as it was written here or tried."""
    try:
        name = _digest(path)
        return name in _SEALED or _place(name).is_file()
    except OSError:
        return False


def try_once(path: Path, first_run: Callable[..., None], *arguments: object) -> None:
    """Call `first_run(allow, path, *arguments)` in a process of its own, unless the file has a seal; then seal it.

    allow: of `call_limited`. Raises the UserError of first_run, and UserError where the process crashes or reaches its
    limits.
    """
    if is_sealed(path):
        return
    print_note(f"'{path}' was not written on this machine: it is tried in a process of its own first, once.")
    size = size_of(path)
    seconds, memory = SECONDS + SECONDS_PER_BYTE * size, max(MEMORY, MEMORY_FACTOR * size)
    try:
        call_limited(first_run, path, *arguments, seconds=seconds, memory=memory)
    except DiedError as error:
        raise UserError(
            f"'{path}' is not opened: the process in which it was tried {error}. Export the checkpoint on this "
            "machine with `bitfalcon export`, whose files are opened at once."
        ) from None
    seal(path)


def require_own(path: Path, format_: str) -> None:
    """Raise UserError for a file that has no seal, of a format whose files are opened only where they were written."""
    if not is_sealed(path):
        raise UserError(
            f"'{path}' was not written on this machine, or was changed since. Files of format {format_} hold machine "
            f"code, which is run only where it was written: export the checkpoint here with `bitfalcon export "
            f"model=best.pt format={format_}`."
        )


def _place(name: str) -> Path:
    return cache_dir() / "seals" / name


def _digest(path: Path) -> str:
    """The SHA-256 of the format and the content of an exported model."""
    return hashlib.sha256(f"{format_of(path)} {_content_digest(path)}".encode()).hexdigest()


def _content_digest(path: Path) -> str:
    """The SHA-256 of a file, or of the names and contents of the files of a folder or of an OpenVINO model."""
    if path.is_dir():
        folder, files = path, [item for item in path.rglob("*") if item.is_file()]
    elif path.suffix.lower() == ".xml":
        folder, names = path.parent, (path.name, path.with_suffix(".bin").name, "metadata.yaml")
        files = [folder / name for name in names if (folder / name).is_file()]
    else:
        return sha256_of(path)
    lines = (f"{sha256_of(file)} {file.relative_to(folder).as_posix()}\n" for file in sorted(files))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
