"""The images of an export: what it is compared on, and what the ranges of int8 are measured on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config.errors import MissingFileError, UserError
from ..config.notes import print_note
from ..config.settings import Settings
from ..data.data_format import DataFormat
from ..data.images import GREY, UnreadableImage, read_image
from ..data.shapes import draw
from ..models.detector import Detector
from ..predict.sources import list_sources
from ..tasks import Task, task_of

NEEDS_PICTURES = (
    "int8=True needs data= (or source=): pictures as the model will see them, from which the ranges of its numbers are "
    "found"
)


def load_pictures(model: Detector, settings: Settings, count: int, data_remembered: bool) -> tuple[list[Tensor], str]:
    """Read at most `count` pictures (3, H, W) uint8 of source= or data=, or draw them; returns them and their origin.

    data_remembered: settings.data is the checkpoint's own; without int8 its absence is no error.

    Raises UserError where int8 has no pictures, and for a source or dataset that cannot be read.
    """
    paths = _picture_paths(settings, task_of(model).data, data_remembered)
    pictures = []
    for path in paths[:: max(len(paths) // count, 1)]:
        try:
            pictures.append(read_image(path))
        except UnreadableImage as error:
            print_note(f"skipped {path}: {error}")
    if pictures:
        return pictures[:count], f"images of {settings.source or settings.data}"
    if settings.int8:
        raise UserError(f"{NEEDS_PICTURES}.")
    random = np.random.RandomState(0)
    return [torch.from_numpy(draw(random)[0]).permute(2, 0, 1) for _ in range(count)], "drawn shapes"


def _picture_paths(settings: Settings, form: DataFormat, data_remembered: bool) -> list[Path]:
    if settings.source is not None:
        return [item for item in list_sources(settings.source) if isinstance(item, Path)]
    if settings.data is None:
        return []
    try:
        data = form.load(settings.data, settings)
        # Ranges come from the training images, because val measures on the others.
        split = "train" if settings.int8 and "train" in data.splits else "val"
        return [sample.image for sample in form.scan(data, split, settings).samples]
    except UserError as error:
        if not data_remembered or settings.int8 and not isinstance(error, MissingFileError):
            raise
        if settings.int8:
            raise UserError(
                f"{NEEDS_PICTURES}; the weights were trained on data={settings.data}, which is not here."
            ) from error
        return []


def network_input(picture: Tensor, canvas: tuple[int, int], task: Task, letterbox: bool) -> Tensor:
    """A picture (3, h, w) uint8 as `task` shows it to a network: (1, 3, H, W) float32 in [0, 1]; canvas is (H, W).

    letterbox: show all of the picture also where the task cuts off its sides.
    """
    (fit,) = task.fits([tuple(picture.shape[1:])], canvas, 1, square=True, letterbox=letterbox)
    top, left, height, width = fit.window
    image = torch.full((*canvas, 3), GREY, dtype=torch.uint8)
    image[top : top + height, left : left + width] = task.tile(picture.flip(0).permute(1, 2, 0).numpy(), fit)
    return image.permute(2, 0, 1).contiguous()[None].float() / 255


def comparison_batches(
    pictures: list[Tensor],
    size: tuple[int, int],
    multiple: int,
    dynamic: bool,
    shown: Callable[[Tensor, tuple[int, int]], Tensor],
) -> list[Tensor]:
    """Batches (B, 3, H, W) to compare on: the pictures in one size (H, W), and for a dynamic export other shapes too.

    The other sizes are the smallest one, a tall one and wide ones; their sides are multiples of `multiple`. shown: a
    picture and (H, W) -> the input (1, 3, H, W), as `network_input` makes it.
    """
    batches = [torch.cat([shown(picture, size) for picture in pictures])]
    if not dynamic:
        return batches
    height, width = size
    half_height, half_width = (max(side // 2 // multiple, 1) * multiple for side in (height, width))
    for count, canvas in (
        (1, (multiple, multiple)),
        (2, (half_height + multiple, width)),
        (1, (height, half_width)),
        (3, (multiple, 3 * multiple)),
    ):
        batches.append(torch.cat([shown(picture, canvas) for picture in (pictures * count)[:count]]))
    return batches
