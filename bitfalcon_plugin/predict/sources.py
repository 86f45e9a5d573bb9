"""Check `source=` and list the items it names, before anything is read. Written from spec/interface.md 8.1."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config.errors import MissingFileError, UserError, did_you_mean, raise_problems
from ..data.images import IMAGE_SUFFIXES, UnreadableImage, read_image
from ..ops.letterbox import legal_size
from .url import check_address
from .video import VIDEO_SUFFIXES, has_video, need_video

LISTS = (".txt", ".csv")
LIVE = ("rtsp://", "rtmp://", "tcp://", "udp://")


@dataclass(frozen=True)
class Url:
    """A picture on the web."""

    address: str


@dataclass(frozen=True)
class Video:
    """A video file, or a webcam by its number."""

    source: Path | int


@dataclass(frozen=True)
class Ready:
    """A tensor (3, H, W), RGB in [0, 1], that the network gets unchanged. together: number of images in its batch."""

    image: Tensor
    together: int


Item = Path | Image.Image | np.ndarray | Url | Video | Ready


def list_sources(
    source: object, *, allow_url: bool = False, multiple: int = 1, notes: list[str] | None = None
) -> list[Item]:
    """The items that `source` names, in order.

    source: a file; a folder (its images and videos, without its subfolders) or a glob; a `.txt` or `.csv` list of
    these, one a line, relative to the working directory or to the list's folder; with `allow_url` the http(s) address
    of a picture; the number of a webcam; a Pillow image; a BGR uint8 array (H, W, 3), or with alpha or grey; a tensor
    (B, 3, H, W) or (3, H, W) of RGB in [0, 1] with sides that are multiples of `multiple`; or a list of all these.
    notes: a list to which lines for the user are added.

    Raises MissingFileError for missing files, and UserError with every problem for a source that cannot be used.
    """
    lister = _Lister(allow_url, multiple, [] if notes is None else notes)
    lister.add(source, "source")
    if lister.problems:
        if len(lister.problems + lister.missing) == 1:
            raise UserError(lister.problems[0])
        raise_problems("Sources that cannot be used:", lister.problems + lister.missing)
    if lister.missing:
        more = len(lister.missing) - 10
        raise MissingFileError("\n".join(lister.missing[:10]) + (f"\n... and {more} more" if more > 0 else ""))
    return lister.items


@dataclass
class _Lister:
    """Collects items, and a line for each missing file and each problem. where: the source's name in messages."""

    allow_url: bool
    multiple: int
    notes: list[str]
    items: list[Item] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, source: object, where: str) -> None:
        if isinstance(source, (list, tuple)):
            if not source:
                self.missing.append(f"{where} is an empty list.")
            for index, part in enumerate(source):
                self.add(part, f"{where}[{index}]")
        elif isinstance(source, np.ndarray):
            self._add_array(source, where)
        elif isinstance(source, Tensor):
            self._add_tensor(source, where)
        elif isinstance(source, Image.Image):
            self.items.append(source)
        elif isinstance(source, (str, os.PathLike)):
            try:
                self._add_name(os.fsdecode(source))
            except (OSError, ValueError) as error:  # a name that is too long or contains a zero byte, no permission
                self.problems.append(
                    f"{where} {os.fsdecode(source)[:80]!r} cannot be read: {getattr(error, 'strerror', None) or error}."
                )
        elif isinstance(source, int) and not isinstance(source, bool) and source >= 0:
            need_video(f"{where}={source}, a webcam,")
            self.items.append(Video(source))
        else:
            value = f" ({source})" if isinstance(source, (bool, int, float)) else ""
            self.problems.append(
                f"{where} is a {type(source).__name__}{value}; expected a path, a glob, the number of a webcam, "
                "a Pillow image, a BGR uint8 array, a float tensor (B, 3, H, W), or a list of these."
            )

    def _add_name(self, name: str, base: Path | None = None) -> None:
        """Add a path, glob, address or webcam that is given as text. base: folder of the list that names it."""
        path = Path(name).expanduser()
        if name.lower().startswith(("http://", "https://")):
            self._add_address(name)
        elif name.lower().startswith(LIVE):
            self.problems.append(
                f"'{name}': live streams are not opened here. Read its frames and give them as BGR arrays."
            )
        elif name.strip().isdecimal() and not path.exists():
            self.add(int(name), "source")
        elif base is not None and not path.is_absolute() and not _exists(path) and _exists(base / path):
            self._add_path(base / path, name, in_list=True)
        else:
            self._add_path(path, name, in_list=base is not None)

    def _add_path(self, path: Path, name: str, in_list: bool) -> None:
        if not name.strip():
            self.missing.append("source is empty; expected an image, a folder or a glob.")
        elif path.is_dir():
            self._add_paths(sorted(path.iterdir()), f"folder '{name}'")
        elif path.is_file():
            if path.suffix.lower() in LISTS and not in_list:
                self._add_list(path)
            elif path.suffix.lower() in VIDEO_SUFFIXES:
                need_video(f"'{name}', a video,")
                self.items.append(Video(path))
            else:
                self.items.append(path)
        elif any(mark in name for mark in "*?["):
            self._add_paths(sorted(map(Path, glob.glob(str(path), recursive=True))), f"pattern '{name}'")
        else:
            near = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
            self.missing.append(f"Source '{name}' does not exist.{did_you_mean(path.name, near)}")

    def _add_paths(self, paths: Sequence[Path], what: str) -> None:
        """Add the images and videos among the paths of a folder or pattern. what: how messages call it."""
        suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
        files = [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]
        videos = {path for path in files if path.suffix.lower() in VIDEO_SUFFIXES}
        if videos and not has_video():
            if len(videos) == len(files):
                need_video(f"{what[0].upper()}{what[1:]}, which holds videos,")
            self.notes.append(
                f"{len(videos)} videos in {what} are left out: they need OpenCV, pip install 'bitfalcon[video]'."
            )
            files = [path for path in files if path not in videos]
        if not files:
            endings = " ".join(sorted(suffix[1:] for suffix in suffixes))
            self.missing.append(f"No images in {what}. Images and videos end in: {endings}.")
        self.items += [Video(path) if path in videos else path for path in files]

    def _add_list(self, path: Path) -> None:
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                if path.suffix.lower() == ".csv":
                    names = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
                    names = names[1:] if names[:1] == ["source"] else names
                else:
                    names = [line.strip() for line in file if line.strip()]
        except (UnicodeDecodeError, csv.Error) as error:
            self.problems.append(f"'{path}' is no list of sources: {error}. Expected text, a path a line.")
            return
        if not names:
            self.missing.append(f"List '{path}' is empty; expected a path a line.")
        for name in names:
            self._add_name(name, path.parent)

    def _add_address(self, name: str) -> None:
        if not self.allow_url:
            self.problems.append(
                f"'{name}' is an address, and nothing is fetched unasked. Give allow_url=True, or a file."
            )
            return
        try:
            check_address(name)
            self.items.append(Url(name))
        except (UserError, ValueError) as error:
            self.problems.append(str(error))

    def _add_array(self, array: np.ndarray, where: str) -> None:
        try:
            is_image = array.ndim == 2 or array.ndim == 3 and array.shape[2] in (1, 3, 4)
            if array.dtype != np.uint8 or not array.size or not is_image:
                read_image(array)  # raises with the reason
            self.items.append(array)
        except UnreadableImage as error:
            hint = ""
            if array.dtype != np.uint8 and array.dtype.kind in "fiu":
                hint = " Give (array * 255).astype('uint8') where its samples are from 0 to 1."
            self.problems.append(f"{where}: {error}.{hint}")

    def _add_tensor(self, tensor: Tensor, where: str) -> None:
        images = tensor.detach()
        if images.ndim == 3:
            images = images[None]  # (3, H, W) -> (1, 3, H, W)
        if problem := self._tensor_problem(images, tensor):
            self.problems.append(f"{where}: {problem}")
            return
        if not images.is_floating_point():
            images = images.float() / 255
        elif images.amax() > 1:
            self.notes.append(
                f"{where}: the tensor's values go up to {float(images.amax()):g}; they are divided by 255."
            )
            images = images / 255
        self.items += [Ready(image, len(images)) for image in images]

    def _tensor_problem(self, images: Tensor, given: Tensor) -> str:
        """The problem of a tensor (B, 3, H, W), "" without one. given: the tensor with the shape that the user gave."""
        description = f"tensor of {str(given.dtype).removeprefix('torch.')} {tuple(given.shape)}"
        if not (images.is_floating_point() or images.dtype == torch.uint8):
            return f"{description}; expected floats in [0, 1]."
        if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
            hint = (
                " Channels come before rows and columns: tensor.permute(2, 0, 1)." if images.shape[-1:] == (3,) else ""
            )
            return f"{description}; expected RGB as (B, 3, H, W) or (3, H, W).{hint}"
        sides = images.shape[2:]
        if any(side % self.multiple for side in sides):
            padded = "x".join(map(str, legal_size(sides, self.multiple)))
            return (
                f"{description}: a tensor goes to the network as it is, so its sides must be multiples of "
                f"{self.multiple}; "
                f"pad it to {padded}, or give an array or a Pillow image, which are fitted."
            )
        low, high = (float(value) for value in images.aminmax())
        if not (0 <= low and high <= 255):  # also if both are nan
            return (
                f"{description} with values from {low:g} to {high:g}; "
                "expected RGB in [0, 1] (or up to 255, which is divided)."
            )
        return ""


def _exists(path: Path) -> bool:
    return path.exists() or any(True for _ in glob.iglob(str(path), recursive=True))


def describe(item: Item, index: int) -> str:
    """The path of an item in messages and results; of an image in memory image<index>.jpg. index: of all items."""
    if isinstance(item, Path):
        return str(item.resolve())
    if isinstance(item, Url):
        return item.address
    if isinstance(item, Video):
        return f"camera{item.source}" if isinstance(item.source, int) else str(item.source.resolve())
    return getattr(item, "filename", "") or f"image{index}.jpg"
