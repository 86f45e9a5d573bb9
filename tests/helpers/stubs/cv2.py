"""Stands in for OpenCV in scripts that have a webcam or a window: cameras and videos show the pictures of frames/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

FONT_HERSHEY_SIMPLEX, FONT_HERSHEY_COMPLEX, LINE_AA = 0, 3, 16
LOG: list[np.ndarray] = []


class VideoCapture:
    def __init__(self, source):
        self.frames = sorted(Path("frames").glob("*.png"))
        self.is_open = True

    def isOpened(self) -> bool:
        return self.is_open

    def read(self):
        return (True, imread(self.frames.pop(0))) if self.frames else (False, None)

    def release(self) -> None:
        self.is_open = False


def imread(path, flags: int = 1) -> np.ndarray | None:
    if not Path(path).is_file():
        return None
    return np.ascontiguousarray(np.asarray(Image.open(path).convert("RGB"))[..., ::-1])


def imwrite(path, image, params=None) -> bool:
    Image.fromarray(image[..., ::-1]).save(path)
    return True


def imshow(title: str, image: np.ndarray) -> None:
    LOG.append(image)


def waitKey(delay: int = 0) -> int:
    return -1


def destroyAllWindows() -> None:
    pass


def rectangle(image, first, last, color, thickness=1, *args):
    return _draw(image, lambda draw: draw.rectangle((*first, *last), outline=tuple(color[::-1]), width=thickness))


def putText(image, text, place, font, scale, color, *args):
    return _draw(image, lambda draw: draw.text(place, text, fill=tuple(color[::-1])))


def _draw(image, action):
    picture = Image.fromarray(image[..., ::-1])
    action(ImageDraw.Draw(picture))
    image[:] = np.asarray(picture)[..., ::-1]
    return image
