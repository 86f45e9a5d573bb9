"""Loaders of sources to predict: each yields (paths, images (h, w, 3) BGR, texts). Facts: dropin-helpers.md section 8.

Sources are listed and videos are opened by our own `predict` room.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...config.errors import MissingFileError, UserError
from ...data.images import UnreadableImage, read_image
from ...predict.sources import Video, describe, list_sources
from ...predict.video import BrokenVideo, VideoFile
from ..utils import LOGGER

Batch = tuple[list[str], list[np.ndarray], list[str]]


@dataclass
class SourceTypes:
    """Which kind a source is of; all False for files."""

    stream: bool = False
    screenshot: bool = False
    from_img: bool = False
    tensor: bool = False


def autocast_list(source: Sequence[Any]) -> list[Any]:
    """Return the images of a list: paths are opened as Pillow images, arrays and Pillow images stay."""
    images = []
    for each in source:
        if isinstance(each, (str, Path)):
            path = Path(each)
            if not path.is_file():
                raise MissingFileError(f"'{each}' does not exist; nothing is downloaded.")
            images.append(Image.open(path))
        elif isinstance(each, (Image.Image, np.ndarray)):
            images.append(each)
        else:
            raise TypeError(f"a list of sources holds a {type(each).__name__}; expected paths, images or arrays")
    return images


def bgr_of(source: Any) -> np.ndarray:
    """A picture, of a file, a Pillow image or an array, as (h, w, 3) BGR uint8. Raises UnreadableImage."""
    return torch.stack(read_image(source).unbind(0)[::-1], -1).numpy()


class LoadImagesAndVideos:
    """Images and videos of files, folders, patterns and lists, `batch` at a time.

    files; nf: their number; ni: the images among them; video_flag: which are videos. While it runs: mode ("image" or
    "video"), count: of the file; frame, frames, fps: of the video.
    """

    def __init__(self, path: Any, batch: int = 1, vid_stride: int = 1, channels: int = 3) -> None:
        try:
            self.items = list_sources([str(each) for each in path] if isinstance(path, (list, tuple)) else str(path))
        except UserError as error:
            raise FileNotFoundError(str(error)) from error
        self.files = [describe(item, number) for number, item in enumerate(self.items)]
        self.video_flag = [isinstance(item, Video) for item in self.items]
        self.nf, self.ni = len(self.items), self.video_flag.count(False)
        self.bs, self.vid_stride, self.mode = batch, vid_stride, "video" if self.ni == 0 else "image"
        self.count, self.frame, self.frames, self.fps = 0, 0, 0, 0
        self.cap = None
        self.source_type = SourceTypes()

    def __len__(self) -> int:
        return math.ceil(self.nf / self.bs)

    def __iter__(self) -> Iterator[Batch]:
        self.count = 0
        self._pictures = self._read()
        return self

    def __next__(self) -> Batch:
        batch = []
        for picture in self._pictures:
            batch.append(picture)
            if len(batch) == self.bs:
                break
        if not batch:
            raise StopIteration
        paths, images, texts = zip(*batch, strict=True)
        return list(paths), list(images), list(texts)

    def _read(self) -> Iterator[tuple[str, np.ndarray, str]]:
        for number, (item, path) in enumerate(zip(self.items, self.files, strict=True), start=1):
            self.count = number - 1
            if isinstance(item, Video):
                yield from self._frames(item, path, number)
                continue
            self.mode = "image"
            try:
                image = bgr_of(item)
            except UnreadableImage as error:
                LOGGER.warning(f"{path}: {error}; it is left out.")
                continue
            self.count = number
            yield path, image, f"image {number}/{self.nf} {path}: "

    def _frames(self, item: Video, path: str, number: int) -> Iterator[tuple[str, np.ndarray, str]]:
        self.mode = "video"
        try:
            with VideoFile(item.source) as video:
                self.frames, self.fps = math.ceil(video.count / self.vid_stride), int(video.rate)
                for count, (_, frame) in enumerate(video.frames(self.vid_stride), start=1):
                    self.frame = count
                    yield path, frame, f"video {number}/{self.nf} (frame {count}/{self.frames}) {path}: "
        except BrokenVideo as error:
            LOGGER.warning(f"{path}: {error}; it is left out.")
        self.count = number


class LoadStreams:
    """Webcams by their numbers, and video files as streams: a frame of each at a time.

    sources: a number, a path, a list of these, or a .streams file with one a line. buffer is accepted: frames are read
    when they are asked for.
    """

    def __init__(self, sources: Any = "file.streams", vid_stride: int = 1, buffer: bool = False, channels: int = 3):
        if isinstance(sources, (list, tuple)):
            names = [str(each) for each in sources]
        elif Path(str(sources)).is_file() and str(sources).endswith(".streams"):
            names = Path(str(sources)).read_text(encoding="utf-8").split()
        else:
            names = [str(sources)]
        self.sources, self.bs, self.mode = names, len(names), "stream"
        self.vid_stride, self.buffer, self.running = vid_stride, buffer, True
        try:
            self.videos = [VideoFile(int(name) if name.isnumeric() else Path(name)) for name in names]
        except BrokenVideo as error:
            raise ConnectionError(f"{', '.join(names)}: {error}") from error
        self.fps = [video.rate for video in self.videos]
        self.frames = [video.count or float("inf") for video in self.videos]
        self.source_type = SourceTypes(stream=True)

    def __len__(self) -> int:
        return self.bs

    def __iter__(self) -> Iterator[Batch]:
        self.count = -1
        self._streams = [video.frames(self.vid_stride) for video in self.videos]
        return self

    def __next__(self) -> Batch:
        images = []
        for stream in self._streams:
            item = next(stream, None)
            if item is None:
                self.close()
                raise StopIteration
            images.append(item[1])
        self.count += 1
        return list(self.sources), images, [f"{number}: " for number in range(self.bs)]

    def close(self) -> None:
        """Close all streams."""
        self.running = False
        for video in self.videos:
            video.close()


class LoadPilAndNumpy:
    """Pillow images and BGR arrays, all in one batch."""

    def __init__(self, im0: Any, channels: int = 3) -> None:
        images = list(im0) if isinstance(im0, (list, tuple)) else [im0]
        names = (getattr(image, "filename", "") for image in images)
        self.paths = [name or f"image{number}.jpg" for number, name in enumerate(names)]
        try:
            self.im0 = [bgr_of(image) for image in images]
        except UnreadableImage as error:
            raise TypeError(f"source: {error}") from error
        self.mode, self.bs, self.source_type = "image", len(self.im0), SourceTypes(from_img=True)

    def __len__(self) -> int:
        return len(self.im0)

    def __iter__(self) -> Iterator[Batch]:
        self.count = 0
        return self

    def __next__(self) -> Batch:
        if self.count:
            raise StopIteration
        self.count = 1
        return self.paths, self.im0, [""] * self.bs


class LoadTensor:
    """A tensor (B, 3, H, W) of RGB in [0, 1]; one of (3, H, W) is a batch of one. Values to 255 are divided."""

    def __init__(self, im0: Tensor) -> None:
        images = im0[None] if im0.ndim == 3 else im0
        if images.ndim != 4:
            raise ValueError(f"source: a tensor {tuple(im0.shape)}; expected (B, 3, H, W)")
        if images.shape[2] % 32 or images.shape[3] % 32:
            raise ValueError(f"source: a tensor {tuple(im0.shape)}; its sides must be multiples of 32")
        if images.dtype == torch.uint8 or float(images.max()) > 1.0 + torch.finfo(torch.float32).eps:
            LOGGER.warning("source: the values of the tensor go beyond 1; they are divided by 255.")
            images = images.float() / 255
        self.im0, self.bs, self.mode = images, len(images), "image"
        self.paths = [getattr(im0, "filename", f"image{number}.jpg") for number in range(self.bs)]
        self.source_type = SourceTypes(tensor=True)

    def __len__(self) -> int:
        return self.bs

    def __iter__(self) -> Iterator[tuple[list[str], Tensor, list[str]]]:
        self.count = 0
        return self

    def __next__(self) -> tuple[list[str], Tensor, list[str]]:
        if self.count:
            raise StopIteration
        self.count = 1
        return self.paths, self.im0, [""] * self.bs


class LoadScreenshots:
    """Pictures of the screen, which bitfalcon does not take."""

    def __init__(self, source: Any, channels: int = 3) -> None:
        raise NotImplementedError(
            f"source={source!r}: the screen is not read here. Take it with a package such as mss, and give the arrays."
        )


LOADERS = (LoadStreams, LoadPilAndNumpy, LoadImagesAndVideos, LoadScreenshots, LoadTensor)
