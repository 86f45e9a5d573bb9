"""The pixels of sources, read, decoded and resized by threads while the network works on earlier ones.

Pictures come in the order of their sources; what waits is bounded, and no thread outlives the iteration.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config.errors import UserError
from ..data.images import UnreadableImage, read_image, resize
from .sources import Item, Ready, Url, Video, describe
from .url import fetch_picture
from .video import BrokenVideo, VideoFile

T = TypeVar("T")
Size = tuple[int, int]  # (h, w) pixels
LIVE_FRAMES = 100  # of a webcam that wait at most where all are wanted
_one_at_a_time = threading.Lock()  # a Pillow image may be given twice, and decodes itself when it is first asked
PAUSE = 0.05  # seconds between two looks whether a reader should end


@dataclass(frozen=True)
class Picture:
    """One image that was read.

    pixels: (h, w, 3) BGR uint8. tile: its resized copy (h', w', 3) RGB uint8, or of a tensor the (3, H, W) floats
    themselves. number: of its source, from 1. milliseconds: the thread's own work. frame, frames: of a video, from 1;
    frames is 0 where the count is not known. rate: frames a second. together: images of its tensor.
    """

    pixels: np.ndarray
    tile: Tensor
    path: str
    number: int
    milliseconds: float
    frame: int = 0
    frames: int = 0
    rate: float = 0.0
    together: int = 0


@dataclass(frozen=True)
class Unread:
    """A source that could not be read, and why."""

    path: str
    reason: str


def read_pictures(
    items: Iterable[Item],
    resized: Callable[[Size], Size],
    *,
    depth: int = 8,
    vid_stride: int = 1,
    keep_all: bool = False,
) -> Iterator[Picture | Unread]:
    """Read all items in order. resized: size of an image -> the size that its tile should have.

    depth: pictures that may wait. vid_stride: every so many frames of a video. keep_all: also the frames of a webcam that
    came while the network was busy; otherwise the newest one.
    """
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(min(max((os.cpu_count() or 1) // 2, 2), 8), "bitfalcon-read", _single_threaded)
    try:
        for index, item in enumerate(items):
            if not isinstance(item, Video):
                waiting.append(pool.submit(_read_one, item, index, resized))
            while waiting and (len(waiting) >= depth or isinstance(item, Video)):
                yield waiting.popleft().result()
            if isinstance(item, Video):
                live = isinstance(item.source, int)
                frames = _read_frames(item, index, resized, vid_stride)
                room = depth if not live else LIVE_FRAMES if keep_all else 1
                yield from ahead(frames, room, newest=live and not keep_all)
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ahead(source: Iterator[T], depth: int, newest: bool = False) -> Iterator[T]:
    """The same items, drawn from the generator `source` by a thread that is at most `depth` of them ahead.

    newest: where the reader is too slow, the oldest waiting item is dropped instead of waiting. What `source` raises is
    raised here. When the iteration ends early `source` is closed and the thread has ended.
    """
    waiting: queue.Queue = queue.Queue(depth)
    ended, stop = object(), threading.Event()

    def hand_over(item: object) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0 if newest and item is not ended else PAUSE)
                return
            except queue.Full:
                if newest and item is not ended:
                    _drop_oldest(waiting)

    def work() -> None:
        _single_threaded()
        outcome = None
        try:
            for item in source:
                hand_over((item, None))
                if stop.is_set():
                    break
        except BaseException as error:
            outcome = error
        finally:
            source.close()
        if outcome is not None:
            hand_over((None, outcome))
        hand_over(ended)

    thread = threading.Thread(target=work, name="bitfalcon-ahead", daemon=True)
    thread.start()
    try:
        while (found := waiting.get()) is not ended:
            item, error = found
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        thread.join()


def _drop_oldest(waiting: queue.Queue) -> None:
    """Drop the oldest item, if there is one still."""
    try:
        waiting.get_nowait()
    except queue.Empty:
        pass


def shrunk(pixels: np.ndarray, size: Size) -> Tensor:
    """(h, w, 3) BGR uint8 -> (*size, 3) RGB uint8, resized as data.images.resize does."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)  # (3, h, w), as it lies: twice as fast to resize as planes
    blue, green, red = resize(image, size)
    return torch.stack((red, green, blue), -1)


def _single_threaded() -> None:
    torch.set_num_threads(1)  # of this thread: a team of its own would fight the network's for the cores


def _read_one(item: Item, index: int, resized: Callable[[Size], Size]) -> Picture | Unread:
    start, path = time.thread_time(), describe(item, index)
    if isinstance(item, Ready):
        planes = (item.image * 255).round().to("cpu", torch.uint8)  # (3, H, W)
        pixels = planes.flip(0).permute(1, 2, 0).contiguous().numpy()
        return Picture(pixels, item.image, path, index + 1, (time.thread_time() - start) * 1e3, together=item.together)
    try:
        with _one_at_a_time if isinstance(item, Image.Image) else contextlib.nullcontext():
            red, green, blue = read_image(io.BytesIO(fetch_picture(item.address)) if isinstance(item, Url) else item)
    except (UnreadableImage, UserError) as error:
        if isinstance(item, np.ndarray):  # a file may be broken, an array is the caller's mistake
            raise UserError(f"source: {error}.") from error
        return Unread(path, str(error))
    pixels = torch.stack((blue, green, red), -1).numpy()  # (h, w, 3)
    size = resized(pixels.shape[:2])
    tile = torch.stack((red, green, blue), -1) if size == pixels.shape[:2] else shrunk(pixels, size)
    return Picture(pixels, tile, path, index + 1, (time.thread_time() - start) * 1e3)


def _read_frames(item: Video, index: int, resized: Callable[[Size], Size], stride: int) -> Iterator[Picture | Unread]:
    path, any_frame = describe(item, index), False
    try:
        with VideoFile(item.source) as video:
            start = time.thread_time()
            for number, frame in video.frames(stride):
                any_frame = True
                tile = shrunk(frame, resized(frame.shape[:2]))
                spent = (time.thread_time() - start) * 1e3
                yield Picture(frame, tile, path, index + 1, spent, number, video.count, video.rate / stride)
                start = time.thread_time()
    except BrokenVideo as error:
        yield Unread(path, str(error))
    else:
        if not any_frame:
            yield Unread(path, "a video without frames")
