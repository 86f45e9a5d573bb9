"""Pictures that go through the network together: network input, network, suppression, back to original pixels.

Written from spec/interface.md 5.4 and 8.2.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..data.images import GREY
from ..models.detector import Detector, rows_named
from ..models.inference.compiling import warm
from ..ops.instances import Instances
from ..ops.letterbox import Fit
from ..ops.nms import Suppression
from ..ops.tiles import Tiling
from ..tasks import Task
from ..tasks.detect import predict_decoded
from .reader import Picture


@dataclass(frozen=True)
class Options:
    """How sources are predicted.

    imgsz: side of the network input in pixels, or (H, W); rounded up to what the model takes. rule: which candidates
    are detections. batch: images at once, by default 1 (of a tensor pipeline.MAX_TOGETHER); they share a minimal
    rectangle if their sizes are equal, and a square otherwise. square: always a square. letterbox: show all of an image
    also where the task cuts off its sides. augment: merge the detections on the image with those on copies of 0.83,
    mirrored, and 0.67 of its size. autocast: the half-precision type of autocast, None for the type of the weights.
    retina_masks: masks have the size of the original image. embed: instead of detections, give for each image the means
    of the maps of these rows, one behind the other. vid_stride, keep_all: of videos and webcams, see
    reader.read_pictures. tiling: larger images are cut into tiles, of which `batch` go through the network at once;
    None: each image goes through it as a whole.
    """

    imgsz: int | tuple[int, int] = 640
    rule: Suppression = field(default_factory=Suppression)
    batch: int | None = None
    square: bool = False
    letterbox: bool = False
    augment: bool = False
    autocast: torch.dtype | None = None
    retina_masks: bool = False
    embed: Sequence[int] | None = None
    vid_stride: int = 1
    keep_all: bool = False
    tiling: Tiling | None = None

    @property
    def is_autocast(self) -> bool:
        """Whether autocast is on."""
        return self.autocast is not None


@dataclass
class Detected:
    """What was found in pictures that went through the network together.

    detections: of each picture, in its own pixels; objects without a visible pixel are left out. input_shape: (H, W) of
    the network input. preprocess, inference, postprocess: seconds, of all pictures.
    """

    detections: list[Instances]
    input_shape: tuple[int, int]
    preprocess: float
    inference: float
    postprocess: float


def detect(model: Detector, pictures: Sequence[Picture], options: Options, task: Task, buffers: dict) -> Detected:
    """Find the objects of pictures. buffers: see network_input."""
    start = time.perf_counter()
    images, fits = network_input(pictures, options, model, task, buffers)
    with torch.inference_mode():
        warming = warm(model, images)
        preprocess_end = _now(images)
        with rows_named(), torch.autocast(images.device.type, options.autocast, enabled=options.is_autocast):
            decoded = predict_decoded(model, images, options.augment)
        inference_end = _now(images)
        detections = task.decode(decoded, options.rule)
        planes = [None] * len(fits) if decoded.prototypes is None else decoded.prototypes
        detections = [task.place(*each, options.retina_masks) for each in zip(detections, fits, planes, strict=True)]
        detections = [each.only(each.visible) for each in detections]
        postprocess_end = _now(images)
    seconds = preprocess_end - start - warming, inference_end - preprocess_end, postprocess_end - inference_end
    return Detected(detections, tuple(images.shape[2:]), *seconds)


def _now(images: Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter()


def network_input(
    pictures: Sequence[Picture], options: Options, model: Detector, task: Task, buffers: dict
) -> tuple[Tensor, list[Fit]]:
    """Return the network input (B, 3, H, W), channels last in memory, and how each image lies on the input.

    buffers: keeps the canvas of the last shape for the next batch.
    """
    weight = next(model.parameters())
    if pictures[0].together:
        images = torch.stack([picture.tile for picture in pictures]).to(weight.device, weight.dtype)
        size = tuple(images.shape[2:])
        return images.contiguous(memory_format=torch.channels_last), [Fit(size, size, size, (0, 0))] * len(pictures)
    fits = fits_of([picture.pixels.shape[:2] for picture in pictures], options, model, task)
    shape = (len(pictures), *fits[0].canvas, 3)
    if shape not in buffers:
        buffers.clear()
        buffers[shape] = torch.empty(shape, dtype=torch.uint8)
    canvas = buffers[shape]
    for image, picture, fit in zip(canvas, pictures, fits, strict=True):
        top, left, height, width = fit.window
        tile = picture.tile if picture.tile.shape[:2] == (height, width) else task.tile(picture.pixels, fit)
        if (height, width) != fit.canvas:
            image.fill_(GREY)
        image[top : top + height, left : left + width] = tile
    fits = [replace(fit, beyond=picture.beyond) for fit, picture in zip(fits, pictures)]
    images = canvas.to(weight.device).permute(0, 3, 1, 2)
    return torch.div(images, 255).to(weight.dtype), fits  # a new tensor, in one pass


def fits_of(sizes: Sequence[tuple[int, int]], options: Options, model: Detector, task: Task) -> list[Fit]:
    """Return how images of `sizes` (h, w) lie on the input when they go through the network together."""
    if model.fixed:  # an exported model that takes one size
        height, width = model.fixed
        size, multiple, square = height if height == width else model.fixed, 1, True
    else:
        size, multiple, square = options.imgsz, model.multiple, options.square
    return task.fits(sizes, size, multiple, square=square, letterbox=options.letterbox)
