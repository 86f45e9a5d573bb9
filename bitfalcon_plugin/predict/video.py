"""Read frames of videos and webcams, and write frames to a video, with OpenCV: the extra `video`.

OpenCV rather than PyAV: its wheels carry FFmpeg under the LGPL alone (those of PyAV carry x264 and x265, so the GPL),
one call opens a webcam on Linux, macOS and Windows, and the usual companion packages need OpenCV anyway.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np

from ..config.errors import UserError
from .pictures import has_display

VIDEO_SUFFIXES = frozenset(".asf .avi .gif .m4v .mkv .mov .mp4 .mpeg .mpg .ts .webm .wmv".split())
SUFFIX, CODEC = (".mp4", "avc1") if sys.platform == "darwin" else (".avi", "MJPG")  # for every player of the system
DEFAULT_RATE = 30.0  # frames a second, if a source does not state its rate


class BrokenVideo(Exception):
    """A video or webcam that cannot be opened. The message is the reason, without the path."""


def has_video() -> bool:
    """Whether OpenCV is installed."""
    return find_spec("cv2") is not None


def need_video(what: str) -> None:
    """Raise UserError if OpenCV is missing. what: the thing that needs it, as the beginning of the message."""
    if not has_video():
        raise UserError(f"{what} needs OpenCV: pip install 'bitfalcon[video]'.")


class VideoFile:
    """An open video file, or a webcam by its number. Use it as a context, or call `close`.

    count: number of frames, 0 if it is not known (webcams, some files). rate: frames a second. Raises BrokenVideo if it
    cannot be opened.
    """

    def __init__(self, source: Path | int):
        import cv2

        live = isinstance(source, int)
        with _without_log(cv2):
            self._capture = cv2.VideoCapture(source if live else str(source))
        if not self._capture.isOpened():
            self._capture.release()
            raise BrokenVideo("no such webcam, or it is in use" if live else "not a video that can be decoded here")
        count, rate = (self._capture.get(key) for key in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        self.count = int(count) if not live and 0 < count < 1e9 else 0
        self.rate = float(rate) if 0 < rate < 1000 else DEFAULT_RATE

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def frames(self, stride: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Yield every `stride`-th frame, from the first on, as (number from 1, (H, W, 3) BGR uint8)."""
        number = 0
        while self._capture.grab():  # skipped frames are not converted
            number += 1
            if (number - 1) % stride == 0:
                success, frame = self._capture.retrieve()
                if not success:
                    return
                yield number, frame

    def close(self) -> None:
        """Close the file or webcam."""
        self._capture.release()


@contextmanager
def _without_log(cv2: ModuleType) -> Iterator[None]:
    """Silence OpenCV, which prints twenty lines about a missing webcam; the caller raises one."""
    log = cv2
    if not hasattr(cv2, "setLogLevel"):  # its place from OpenCV 5 on
        log = getattr(getattr(cv2, "utils", None), "logging", None)
    if log is None:
        yield
        return
    level = log.getLogLevel()
    log.setLogLevel(0)
    try:
        yield
    finally:
        log.setLogLevel(level)


def show_frame(frame: np.ndarray, title: str) -> bool:
    """Show a frame (H, W, 3) BGR uint8 in the window of that title, until the next one; returns whether that worked."""
    if not has_display():  # OpenCV itself may end the process
        return False
    import cv2

    try:
        cv2.imshow(title, frame)
        cv2.waitKey(1)
        return True
    except cv2.error:  # the headless package
        return False


class VideoWriter:
    """A video file that grows frame by frame.

    path: ends in SUFFIX. rate: frames a second. size: (height, width) of all frames, in pixels.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]):
        import cv2

        self.size = size
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*CODEC), rate, (size[1], size[0]))
        if not self._writer.isOpened():
            raise UserError(f"'{path}': this OpenCV cannot write {CODEC} videos. Give save=False, or save_frames=True.")

    def write(self, frame: np.ndarray) -> None:
        """Add a frame (H, W, 3) BGR uint8. Raises ValueError for another size: OpenCV would leave the frame out."""
        if frame.shape[:2] != self.size:
            raise ValueError(f"frame of {frame.shape[:2]} pixels in a video of {self.size}")
        self._writer.write(frame)

    def close(self) -> None:
        """Complete the file."""
        self._writer.release()
