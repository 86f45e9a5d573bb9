"""Put a generated dataset into a folder, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..config.errors import UserError


def ensure_files(target: Path, names: Sequence[str], draw: Callable[[Path], None]) -> None:
    """Draw the dataset `target` where one of its files is missing. names: of the files, below `target`.

    `draw` gets a temporary folder that is then renamed, so that a killed or a second process leaves nothing incomplete.
    In an existing folder only missing files are put back. Raises UserError if they cannot be written.
    """
    if not missing_files(target, names):
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            drawn = Path(scratch, "drawn")
            draw(drawn)
            _install(drawn, target, names)
    except OSError as error:
        raise UserError(
            f"The example dataset cannot be written to '{target}': {error}. "
            "Set BITFALCON_CACHE to a folder with room and write permission, or give data=."
        ) from error


def missing_files(folder: Path, names: Sequence[str]) -> list[str]:
    """The files that `folder` lacks. An empty file counts as missing, unless it is a label file."""

    def is_missing(path: Path) -> bool:
        try:
            return path.stat().st_size == 0 and path.suffix != ".txt"
        except OSError:
            return True

    return [name for name in names if is_missing(folder / name)]


def _install(drawn: Path, target: Path, names: Sequence[str]) -> None:
    """Rename folder `drawn` to `target`. If `target` exists, move only the missing files into it."""
    try:
        if not target.exists():
            os.rename(drawn, target)
            return
    except OSError:  # perhaps another process was faster
        if not target.is_dir():
            raise
    for name in missing_files(target, names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(drawn / name, target / name)
