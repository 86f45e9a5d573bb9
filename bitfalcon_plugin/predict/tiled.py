"""Prediction on an image in tiles: each goes through the network as an image does, and the results are merged."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from ..config.settings import Settings
from ..data.large import LargeImage
from ..models.detector import Detector
from ..ops.instances import Instances
from ..ops.tiles import Window
from ..tasks import Task
from ..tasks.tiles import merge_tiles
from .inference import Detected, Options, detect, fits_of
from .reader import Picture, ahead

TOGETHER = 4  # tiles that go through the network at once, unless batch= says how many


def overlap_note(settings: Settings) -> list[str]:
    """A line where overlap= is given and has no effect, because tile= is not."""
    if settings.tile is not None or "overlap" not in settings.given:
        return []
    return [f"overlap={settings.overlap:g} has no effect without tile=, for example tile=1024."]


def detect_tiles(
    model: Detector, pixels: np.ndarray | LargeImage, options: Options, task: Task, buffers: dict
) -> Detected:
    """Find the objects of one image (h, w, 3) BGR uint8 in the tiles of options.tiling.

    Masks have the size of the image. A thread reads and resizes tiles while the network works on earlier ones. Raises
    UnreadableImage for a file that cannot be read to its end.
    """
    size = pixels.shape[:2]
    windows, batch = options.tiling.windows(size), options.batch or TOGETHER
    options = replace(options, retina_masks=True)
    found, seconds = [], [0.0, 0.0, 0.0]
    with contextlib.closing(ahead(_tiles(model, pixels, windows, options, task), 2 * batch)) as tiles:
        while pictures := list(islice(tiles, batch)):
            detected = detect(model, pictures, options, task, buffers)
            start = time.perf_counter()
            found += [_light(each) for each in detected.detections]
            seconds[0] += detected.preprocess + sum(picture.milliseconds for picture in pictures) / 1e3
            seconds[1] += detected.inference
            seconds[2] += detected.postprocess + time.perf_counter() - start
    start = time.perf_counter()
    merged = merge_tiles(found, windows, size, options.rule, task).to(next(model.parameters()).device)
    seconds[2] += time.perf_counter() - start
    return Detected([merged], detected.input_shape, *seconds)


def _tiles(
    model: Detector, pixels: np.ndarray | LargeImage, windows: list[Window], options: Options, task: Task
) -> Iterator[Picture]:
    """Yield the tiles of an image, resized for the network."""
    with pixels.opened() if isinstance(pixels, LargeImage) else contextlib.nullcontext(None) as read:
        for number, window in enumerate(windows):
            start = time.thread_time()
            x1, y1, x2, y2 = window
            part = pixels[y1:y2, x1:x2] if read is None else read(window)
            part = part if part.flags.writeable else part.copy()  # a mapped file; torch warns of such arrays
            tile = task.tile(part, fits_of([part.shape[:2]], options, model, task)[0])
            beyond = (x1, y1, pixels.shape[1] - x2, pixels.shape[0] - y2)
            yield Picture(part, tile, "", number + 1, (time.thread_time() - start) * 1e3, beyond=beyond)


def _light(detections: Instances) -> Instances:
    """Return detections on the CPU, with masks in a form that needs little memory while they wait."""
    detections = detections.to("cpu")
    if detections.patches is None:
        return detections
    return replace(detections, patches=None, encoded_masks=detections.patches.encode())
