"""Downloads, which this package refuses, saying what to fetch by hand.

Written from spec/dropin-helpers.md section 10.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

from ...config.errors import MissingFileError, UserError
from . import url2file

GITHUB_ASSETS_REPO = ""
TASKS = ("", "-seg", "-cls", "-pose", "-obb")
# Names of weights that others publish; they are files to fetch by hand.
GITHUB_ASSETS_NAMES = frozenset(
    f"{family}{scale}{task}.pt"
    for family, scale, task in product(("yolov8", "yolo11", "yolo12", "yolov12"), "nsmlx", TASKS)
)
GITHUB_ASSETS_STEMS = frozenset(Path(name).stem for name in GITHUB_ASSETS_NAMES)


def is_url(url: Any, check: bool = False) -> bool:
    """Return whether a text is an address with a scheme and a host; check: False, since no server is asked."""
    return not check and re.match(r"\w[\w+.-]*://[^/\s]+", str(url)) is not None


def _refuse(missing: Sequence[tuple[str, Path]]) -> NoReturn:
    listed = "; ".join(f"{url} to {path}" for url, path in missing)
    raise MissingFileError(f"Nothing is downloaded here. Fetch by hand, then run again: {listed}.")


def download(
    url: Any,
    dir: str | Path = Path.cwd(),
    unzip: bool = True,
    delete: bool = False,
    curl: bool = False,
    threads: int = 1,
    retry: int = 3,
    exist_ok: bool = False,
) -> None:
    """Do nothing where the files of the addresses are in `dir`; otherwise raise FileNotFoundError: what to fetch."""
    urls = [str(url)] if isinstance(url, (str, Path)) else [str(item) for item in url]
    missing = [(item, Path(dir) / url2file(item)) for item in urls if not (Path(dir) / url2file(item)).exists()]
    missing = [item for item in missing if not (unzip and item[1].with_suffix("").is_dir())]
    if missing:
        _refuse(missing)


def safe_download(
    url: Any,
    file: str | None = None,
    dir: str | Path | None = None,
    unzip: bool = True,
    delete: bool = False,
    curl: bool = False,
    retry: int = 3,
    min_bytes: float = 1.0,
    exist_ok: bool = False,
    progress: bool = True,
) -> Path:
    """Return the file of an address where it lies in `dir`; otherwise raise FileNotFoundError with what to fetch."""
    target = Path(dir or ".") / (file or url2file(str(url)))
    if not target.exists():
        _refuse([(str(url), target)])
    return unzip_file(target, exist_ok=True) if unzip and target.suffix == ".zip" else target


def attempt_download_asset(file: Any, repo: str = "", release: str = "", **kwargs: Any) -> str:
    """Return the path of weights as it is where they exist; otherwise raise FileNotFoundError: nothing is fetched."""
    name = str(file).strip().replace("'", "")
    if name and Path(name).exists():
        return name
    raise MissingFileError(
        f"Weights '{name}' do not exist. Nothing is downloaded: fetch {url2file(name)} by hand and give its path."
    )


def get_github_assets(*args: Any, **kwargs: Any) -> NoReturn:
    """Raise UserError: no server is asked."""
    raise UserError("get_github_assets asks a server, and nothing is fetched here. Give the paths of files you have.")


get_google_drive_file_info = get_github_assets


def check_disk_space(url: str = "", path: str | Path = ".", sf: float = 1.5, hard: bool = True) -> bool:
    """Return True: nothing is fetched that could fill the disk."""
    return True


def zip_directory(
    directory: str | Path,
    compress: bool = True,
    exclude: Collection[str] = (".DS_Store", "__MACOSX"),
    progress: bool = True,
) -> Path:
    """Write the files below a folder into <folder>.zip beside it, without paths that hold a part of `exclude`."""
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"'{directory}' is no folder")
    target = directory.with_suffix(".zip")
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", method) as archive:
        for path in sorted(directory.rglob("*")):
            if path.is_file() and not any(part in str(path) for part in exclude):
                archive.write(path, path.relative_to(directory))
    return target


def unzip_file(
    file: str | Path,
    path: str | Path | None = None,
    exclude: Collection[str] = (".DS_Store", "__MACOSX"),
    exist_ok: bool = False,
    progress: bool = True,
) -> Path:
    """Unpack a zip archive into `path`, by default beside it in a folder of its name, and return the folder.

    An archive whose files lie in one folder gives that folder. Raises UserError for a name that leads out of it.
    """
    if not (Path(file).exists() and zipfile.is_zipfile(file)):
        raise zipfile.BadZipFile(f"'{file}' does not exist or is no zip archive")
    parent = Path(path) if path else Path(file).parent
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if not any(part in name for part in exclude)]
        outside = [name for name in names if name.startswith(("/", "\\")) or ".." in Path(name).parts]
        if outside:
            raise UserError(f"'{file}' would write outside its folder: {outside[0]!r}. It is not unpacked.")
        tops = {Path(name).parts[0] for name in names}
        is_single = len(tops) == 1 and any("/" in name for name in names)
        folder = parent / (next(iter(tops)) if is_single else Path(file).stem)
        if folder.exists() and any(folder.iterdir()) and not exist_ok:
            return folder
        archive.extractall(parent if is_single else folder, names)
    return folder
