"""From a picture to a network input without labels: resize the shorter side and cut out the middle, or pad.

Pillow resizes, bilinear with antialiasing: the recorded pixels are equal bit for bit. Facts: spec/segment-classify.md
2.5.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..ops.letterbox import Fit, letterbox_fit
from .images import GREY

MAX_LONG = 16  # times the input: a longer side is cut before the resize, not after it, to save memory


def input_fit(size: tuple[int, int], imgsz: int | tuple[int, int], *, letterbox: bool = False) -> Fit:
    """Return how an image of `size` (h, w) px lies on the network input.

    imgsz: a side s, or (H, W). With one side the shorter side of the image becomes s, the other one s * long / short,
    truncated, and the middle s x s is the input: `pad` is negative where the canvas cuts the image off. With two
    different sides the image is stretched to H x W. letterbox: the whole image, proportions kept, on grey instead.
    """
    canvas = (imgsz, imgsz) if isinstance(imgsz, int) else tuple(imgsz)
    if letterbox:
        return letterbox_fit(size, canvas)
    if canvas[0] != canvas[1]:
        return Fit(tuple(size), canvas, canvas, (0, 0))
    side, short = canvas[0], min(size)
    resized = tuple(side if edge == short else int(side * edge / short) for edge in size)
    # to even, as the recorded inputs have it
    top, left = (round((edge - side) / 2) for edge in resized)
    return Fit(tuple(size), resized, canvas, (-top, -left))


def visible_part(picture: Image.Image, fit: Fit) -> Image.Image:
    """Resize an RGB picture as `fit` says, and cut off what the network input does not show."""
    height, width = fit.resized
    top, left = (max(-shift, 0) for shift in fit.pad)
    bottom, right = (min(edge, side - shift) for edge, side, shift in zip(fit.resized, fit.canvas, fit.pad))
    if max(fit.resized) > MAX_LONG * max(fit.canvas):
        gain_y, gain_x = (old / new for old, new in zip(fit.original, fit.resized))
        box = (left * gain_x, top * gain_y, right * gain_x, bottom * gain_y)
        return picture.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    return resized if (top, left, bottom, right) == (0, 0, height, width) else resized.crop((left, top, right, bottom))


def input_pixels(picture: Image.Image, fit: Fit) -> Tensor:
    """The network input (3, H, W) uint8 that an RGB picture becomes, with grey where the picture does not reach."""
    part = torch.from_numpy(np.array(visible_part(picture, fit))).permute(2, 0, 1)  # (h, w, 3) -> (3, h, w)
    if part.shape[1:] == fit.canvas:
        return part.contiguous()
    canvas = part.new_full((3, *fit.canvas), GREY)
    top, left = (max(shift, 0) for shift in fit.pad)
    canvas[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    return canvas
