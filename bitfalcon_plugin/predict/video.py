"""Videos and webcams to frames, and frames to a video, by OpenCV: the extra `video` (opencv-python-headless).

OpenCV rather than PyAV: its wheels carry FFmpeg under the LGPL alone (PyAV's carry x264 and x265, so the GPL), one call
opens a webcam on Linux, macOS and Windows, and who uses the usual companion packages has it already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..config.errors import UserError

VIDEO_SUFFIXES = frozenset(".asf .avi .gif .m4v .mkv .mov .mp4 .mpeg .mpg .ts .webm .wmv".split())
SUFFIX, CODEC = (".mp4", "avc1") if sys.platform == "darwin" else (".avi", "MJPG")  # that every player there opens
USUAL_RATE = 30.0  # frames a second, where a source does not say


class BrokenVideo(Exception):
    """A video or camera that cannot be opened; the message is the reason alone."""


def has_video() -> bool:
    """Whether the extra is installed."""
    return find_spec("cv2") is not None


def need_video(what: str) -> None:
    """Raise UserError where the extra is missing. what: what it is needed for."""
    if not has_video():
        raise UserError(f"{what} needs OpenCV: pip install 'bitfalcon[video]'.")


class VideoFile:
    """A video file, or a webcam by its number.

    count: frames in it, 0 where that is not known (a webcam, some files). rate: frames a second. Raises BrokenVideo
    where it cannot be opened. Use it as a context, or call `close`.
    """

    def __init__(self, place: Path | int):
        import cv2

        self.live = isinstance(place, int)
        with _hushed(cv2):
            self._capture = cv2.VideoCapture(place if self.live else str(place))
        if not self._capture.isOpened():
            self._capture.release()
            raise BrokenVideo(
                "no such webcam, or it is in use" if self.live else "not a video that can be decoded here"
            )
        count, rate = (self._capture.get(key) for key in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        self.count = int(count) if not self.live and 0 < count < 1e9 else 0
        self.rate = float(rate) if 0 < rate < 1000 else USUAL_RATE

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def frames(self, stride: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number from 1, (H, W, 3) BGR uint8) of every `stride`-th frame, the first among them."""
        number = 0
        while self._capture.grab():  # frames that are passed over are not converted
            number += 1
            if (number - 1) % stride == 0:
                there, frame = self._capture.retrieve()
                if not there:
                    return
                yield number, frame

    def close(self) -> None:
        """Let go of the file or camera."""
        self._capture.release()


@contextmanager
def _hushed(cv2) -> Iterator[None]:
    # A webcam that is not there takes OpenCV twenty lines; the caller says it in one.
    log = (
        cv2 if hasattr(cv2, "setLogLevel") else getattr(getattr(cv2, "utils", None), "logging", None)
    )  # there from OpenCV 5 on
    before = log.getLogLevel() if log else None
    if log:
        log.setLogLevel(0)
    try:
        yield
    finally:
        if log:
            log.setLogLevel(before)


class VideoWriter:
    """A video of BGR frames. path: its end is SUFFIX. rate: frames a second. size: (height, width) in pixels, as all frames."""

    def __init__(self, path: Path, rate: float, size: tuple[int, int]):
        import cv2

        self.size = size
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*CODEC), rate, (size[1], size[0]))
        if not self._writer.isOpened():
            raise UserError(f"'{path}': this OpenCV cannot write {CODEC} videos. Give save=False, or save_frames=True.")

    def write(self, frame: np.ndarray) -> None:
        """Add a frame (H, W, 3) BGR uint8. Raises ValueError for one of another size, which OpenCV would leave out."""
        if frame.shape[:2] != self.size:
            raise ValueError(f"frame of {frame.shape[:2]} pixels in a video of {self.size}")
        self._writer.write(frame)

    def close(self) -> None:
        """Finish the file."""
        self._writer.release()
