"""Pictures of results in files and on displays."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageShow

from ..config.errors import UserError
from ..config.files import atomic
from ..config.notes import print_note_once

UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f]')  # in a folder's name, on one system or another


def write_picture(picture: Image.Image, target: Path) -> None:
    """Write a picture in the format of the target's suffix, JPEG with quality 95. Raises UserError."""
    if target.suffix.lower() not in Image.registered_extensions():
        raise UserError(
            f"'{target}' cannot be written: '{target.suffix}' is no picture format known here; try .jpg or .png ."
        )
    try:
        with atomic(target) as temporary:
            picture.save(temporary, quality=95)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"'{target}' cannot be written: {error}.") from error


def show_picture(picture: Image.Image, target: Path, quiet: bool = False) -> bool:
    """Show a picture and return True; without a display write it, print its path once unless `quiet`, and return False.

    target: the file that is written; in a folder that cannot be written to, one of that name in the temporary folder.
    """
    if _display(picture):
        return True
    try:
        write_picture(picture, target)
    except UserError:  # a folder that cannot be written to
        target = Path(tempfile.gettempdir()) / target.name
        write_picture(picture, target)
    if not quiet:
        print_note_once(f"no display here; the picture is in {target}")
    return False


def _display(picture: Image.Image) -> bool:
    """Show a picture in the page of a notebook, else in the system's viewer; returns whether that worked."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if type(shell).__name__ == "ZMQInteractiveShell":
        sys.modules["IPython.display"].display(picture)
        return True
    if not has_display():
        return False
    try:
        return bool(ImageShow.show(picture))
    except Exception:  # viewers raise errors of many types
        return False


def has_display() -> bool:
    """Whether windows can be opened here."""
    return sys.platform in ("win32", "darwin") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ))


def folder_name(name: str, index: int) -> str:
    """Return a name for the folder of a class: one path component on every system, also for classes like a/b or .. ."""
    return UNSAFE.sub("_", name).strip(". ")[:100] or f"class {index}"


def unused_path(folder: Path, stem: str, suffix: str = ".jpg") -> Path:
    """The first of <stem>.jpg, <stem>2.jpg, <stem>3.jpg, ... that is not in the folder."""
    path, count = folder / f"{stem}{suffix}", 1
    while path.exists():
        count += 1
        path = folder / f"{stem}{count}{suffix}"
    return path
