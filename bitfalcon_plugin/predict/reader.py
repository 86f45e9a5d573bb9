"""Threads that read, decode and resize the pictures of sources while the network works on earlier ones.

Pictures come in the order of their sources, a bounded number of them waits, and no thread outlives the iteration.
"""

from __future__ import annotations

import contextlib
import io
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config.errors import UserError
from ..config.threads import usable_processors
from ..data.images import UnreadableImage, read_interleaved
from ..data.large import LARGE, LargeImage, large_image
from ..ops.tiles import Tiling
from .sources import Item, Ready, Url, Video, describe
from .url import fetch_picture
from .video import BrokenVideo, VideoFile

T = TypeVar("T")
MAX_LIVE_FRAMES = 100  # frames of a webcam that may wait if none is to be dropped
PAUSE = 0.05  # seconds after which a thread with a full queue checks again whether it should end
_pillow_lock = threading.Lock()  # a Pillow image decodes itself at its first use, and may be given twice


@dataclass(frozen=True)
class Picture:
    """One image of a source.

    pixels: (h, w, 3) BGR uint8, or a LargeImage, of which windows are read. tile: what the network input shows of the
    image, resized, (h', w', 3) RGB uint8; if the source is a tensor, its (3, H, W) floats; None of an image that is cut
    into tiles. number: of the source, from 1. milliseconds: time that the thread took. frame, frames: number of a
    video's frame, from 1, and their count, 0 if it is not known. rate: frames a second. together: number of images in
    the source's tensor. beyond: pixels left, above, right and below of a tile, in the image that it was cut out of.
    """

    pixels: np.ndarray | LargeImage
    tile: Tensor | None
    path: str
    number: int
    milliseconds: float
    frame: int = 0
    frames: int = 0
    rate: float = 0.0
    together: int = 0
    beyond: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class Unread:
    """A source that could not be read, and the reason."""

    path: str
    reason: str

    @property
    def line(self) -> str:
        """Path and reason."""
        return f"{self.path}: {self.reason}"


def read_pictures(
    items: Iterable[Item],
    tile: Callable[[np.ndarray], Tensor | None],
    *,
    depth: int = 8,
    vid_stride: int = 1,
    keep_all: bool = False,
    tiling: Tiling | None = None,
) -> Iterator[Picture | Unread]:
    """Yield the pictures of all items in order.

    tile: pixels of an image -> its tile (see Picture). depth: number of pictures that may wait. vid_stride: every how
    many frames of a video one is read. keep_all: read all frames of a webcam, not only the newest when the network is
    free. tiling: large images that are more than one tile are read by windows, later.
    """
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(min(max(usable_processors() // 2, 2), 8), "bitfalcon-read", _use_one_core)
    try:
        for index, item in enumerate(items):
            if not isinstance(item, Video):
                waiting.append(pool.submit(_read_one, item, index, tile, tiling))
            while waiting and (len(waiting) >= depth or isinstance(item, Video)):
                yield waiting.popleft().result()
            if isinstance(item, Video):
                live = isinstance(item.source, int)
                frames = _read_frames(item, index, tile, vid_stride)
                if live:
                    yield from ahead(frames, MAX_LIVE_FRAMES if keep_all else 1, newest=not keep_all)
                else:
                    yield from ahead(frames, depth)
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ahead(source: Iterator[T], depth: int, newest: bool = False) -> Iterator[T]:
    """Yield the items of generator `source`, drawn by a thread that is at most `depth` items ahead.

    newest: when the queue is full, drop its oldest item instead of waiting. An error of `source` is raised here. When
    the iteration ends early, `source` is closed and the thread has ended.
    """
    waiting: queue.Queue = queue.Queue(depth)
    stop = threading.Event()
    end = object()  # the last item

    def put(item: object) -> None:
        drops = newest and item is not end
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0 if drops else PAUSE)
                return
            except queue.Full:
                if drops:
                    with contextlib.suppress(queue.Empty):
                        waiting.get_nowait()

    def work() -> None:
        _use_one_core()
        failure = None
        try:
            for item in source:
                put((item, None))
                if stop.is_set():
                    break
        except BaseException as error:
            failure = error
        finally:
            source.close()
        if failure is not None:
            put((None, failure))
        put(end)

    thread = threading.Thread(target=work, name="bitfalcon-ahead", daemon=True)
    thread.start()
    try:
        while (entry := waiting.get()) is not end:
            item, error = entry
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        thread.join()


def _use_one_core() -> None:
    """Let torch work on one core for this thread: more threads would take the cores from the network."""
    torch.set_num_threads(1)


def _read_one(
    item: Item, index: int, tile: Callable[[np.ndarray], Tensor | None], tiling: Tiling | None
) -> Picture | Unread:
    start, path = time.thread_time(), describe(item, index)
    if isinstance(item, Ready):
        planes = (item.image * 255).round().to("cpu", torch.uint8)  # (3, H, W)
        pixels = planes.flip(0).permute(1, 2, 0).contiguous().numpy()
        return Picture(pixels, item.image, path, index + 1, (time.thread_time() - start) * 1e3, together=item.together)
    try:
        if tiling is not None and (large := _large(item, tiling)) is not None:
            return Picture(large, None, path, index + 1, (time.thread_time() - start) * 1e3)
        file = io.BytesIO(fetch_picture(item.address)) if isinstance(item, Url) else item
        with _pillow_lock if isinstance(item, Image.Image) else contextlib.nullcontext():
            red, green, blue = read_interleaved(file)
    except (UnreadableImage, UserError) as error:
        if isinstance(item, np.ndarray):  # a mistake of the caller, unlike a broken file
            raise UserError(f"source: {error}.") from error
        return Unread(path, str(error))
    pixels = torch.stack((blue, green, red), -1).numpy()  # (h, w, 3)
    return Picture(pixels, tile(pixels), path, index + 1, (time.thread_time() - start) * 1e3)


def _large(item: Item, tiling: Tiling) -> LargeImage | np.ndarray | None:
    """Return a large image that is cut into tiles, and None for another item. An array is not copied."""
    image = large_image(item) if isinstance(item, Path) else item
    if not isinstance(image, (LargeImage, np.ndarray)) or (image.ndim, image.dtype) != (3, np.uint8):
        return None
    if image.shape[2] != 3:
        return None
    height, width, _ = image.shape
    return image if height * width > LARGE and tiling.divides((height, width)) else None


def _read_frames(
    item: Video, index: int, tile: Callable[[np.ndarray], Tensor | None], stride: int
) -> Iterator[Picture | Unread]:
    path, number = describe(item, index), 0
    try:
        with VideoFile(item.source) as video:
            start = time.thread_time()
            for number, frame in video.frames(stride):
                resized = tile(frame)
                milliseconds = (time.thread_time() - start) * 1e3
                yield Picture(frame, resized, path, index + 1, milliseconds, number, video.count, video.rate / stride)
                start = time.thread_time()
    except BrokenVideo as error:
        yield Unread(path, str(error))
    else:
        if not number:
            yield Unread(path, "a video without frames")
