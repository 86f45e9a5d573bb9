"""How an image is scaled and padded to the size that the network takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fit:
    """How one image was resized and placed on the network input; all in pixels."""

    original: tuple[int, int]  # (h, w)
    resized: tuple[int, int]  # (h, w) after the resize
    canvas: tuple[int, int]  # (H, W)
    pad: tuple[int, int]  # (top, left); negative where the canvas cuts the image off
    beyond: tuple[int, int, int, int] = (0, 0, 0, 0)  # (left, top, right, bottom) of what the image was cut out of

    @property
    def window(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the part of the canvas that the image covers."""
        (top, left), (height, width) = self.pad, self.resized
        bottom, right = min(top + height, self.canvas[0]), min(left + width, self.canvas[1])
        top, left = max(top, 0), max(left, 0)
        return top, left, bottom - top, right - left

    def to_original(self, boxes: Tensor) -> Tensor:
        """(n, 4) xyxy pixels of the canvas -> pixels of the original image, clipped to it.

        x and y are divided by their own ratio, resized / original: rounding to whole pixels makes the two differ.
        """
        boxes, gain, shift = self._map(boxes)
        h, w = self.original
        return torch.minimum(((boxes - shift) / gain).clamp(min=0), boxes.new_tensor([w, h, w, h]))

    def rotated_to_original(self, boxes: Tensor) -> Tensor:
        """(n, 5) xywhr pixels of the canvas -> pixels of the original image, not clipped.

        Widths and heights are divided by the ratios of x and y, whatever the angle, which stays.
        """
        upright, gain, shift = self._map(boxes[:, :4])
        centre = (upright[:, :2] - shift[:2]) / gain[:2]
        return torch.cat((centre, upright[:, 2:] / gain[2:], boxes[:, 4:].to(centre)), 1)

    def to_canvas(self, boxes: Tensor) -> Tensor:
        """(n, 4) xyxy pixels of the original image -> pixels of the canvas, not clipped."""
        boxes, gain, shift = self._map(boxes)
        return boxes * gain + shift

    def points_to_canvas(self, points: Tensor) -> Tensor:
        """(n, 2) x, y pixels of the original image -> pixels of the canvas, not clipped."""
        return self.to_canvas(points.repeat(1, 2))[:, :2]

    def points_to_original(self, points: Tensor) -> Tensor:
        """(..., 2) x, y pixels of the canvas -> pixels of the original image, clipped to it and what is `beyond`."""
        moved, gain, shift = self._map(points.reshape(-1, 2).repeat(1, 2))
        moved = ((moved - shift) / gain)[:, :2]
        (height, width), (left, top, right, bottom) = self.original, self.beyond
        low, high = moved.new_tensor([-left, -top]), moved.new_tensor([width + right, height + bottom])
        return torch.minimum(torch.maximum(moved, low), high).view(points.shape)

    def _map(self, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes in float32 or wider, and the factors and shifts (4,) from the original to the canvas."""
        boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
        gain_y, gain_x = (new / old for new, old in zip(self.resized, self.original))
        top, left = self.pad
        return boxes, boxes.new_tensor([gain_x, gain_y, gain_x, gain_y]), boxes.new_tensor([left, top, left, top])


def legal_size(size: int | Sequence[int], multiple: int) -> tuple[int, int]:
    """(H, W) px: the sides of `size`, a side or (H, W), each rounded up to a multiple of `multiple`."""
    sides = (size, size) if isinstance(size, int) else size
    height, width = (-(-side // multiple) * multiple for side in sides)
    return height, width


def rounding_note(imgsz: int | Sequence[int], multiple: int) -> str:
    """The sentence that says what `legal_size` makes of imgsz=; empty where it changes nothing."""
    height, width = legal_size(imgsz, multiple)
    size = (imgsz, imgsz) if isinstance(imgsz, int) else tuple(imgsz)
    if size == (height, width):
        return ""
    using = height if isinstance(imgsz, int) else f"{height} x {width}"
    return f"imgsz={imgsz} is no multiple of {multiple}, which this model needs; using {using}."


def letterbox_fit(size: tuple[int, int], canvas: tuple[int, int], *, scaleup: bool = True) -> Fit:
    """The largest copy of an image of `size` (h, w) px, proportions kept, in the middle of `canvas` (H, W) px.

    With scaleup False the image is never enlarged. An odd pixel of padding goes to the bottom or the right
    (interface.md 5.4).
    """
    ratio = min(canvas[0] / size[0], canvas[1] / size[1])
    if not scaleup:
        ratio = min(ratio, 1.0)
    resized = _scaled(size, ratio)
    top, left = (round((outer - inner) / 2 - 0.1) for outer, inner in zip(canvas, resized))
    return Fit(original=tuple(size), resized=resized, canvas=tuple(canvas), pad=(top, left))


def minimal_canvas(size: tuple[int, int], imgsz: int | tuple[int, int], stride: int) -> tuple[int, int]:
    """The smallest canvas (H, W) px, multiples of `stride`, for an image of `size` (h, w) px fitted into `imgsz`.

    `imgsz` is a side, or (H, W); it is rounded up to a multiple of `stride`.
    """
    limit = legal_size(imgsz, stride)
    return legal_size(_scaled(size, min(limit[0] / size[0], limit[1] / size[1])), stride)


def _scaled(size: tuple[int, int], ratio: float) -> tuple[int, int]:
    """Whole pixels, at least one: an image of 5000 x 3 px still has a height on a canvas of 640 px."""
    return max(round(size[0] * ratio), 1), max(round(size[1] * ratio), 1)


def fits_together(
    sizes: Sequence[tuple[int, int]],
    imgsz: int | tuple[int, int],
    multiple: int,
    *,
    square: bool = False,
    letterbox: bool = True,
) -> list[Fit]:
    """The Fits of images of `sizes` (h, w) px that go through a network together.

    Images of one size lie on the minimal canvas, others and with `square` all on the canvas of imgsz. letterbox:
    without effect, they always are whole.
    """
    if len(set(sizes)) == 1 and not square:
        canvas = minimal_canvas(sizes[0], imgsz, multiple)
    else:
        canvas = legal_size(imgsz, multiple)
    return [letterbox_fit(size, canvas) for size in sizes]


def describe_letterbox(canvas: tuple[int, int]) -> str:
    """How an image becomes an input of `canvas` (H, W), in words, for people who write other programs."""
    height, width = canvas
    return f"RGB / 255; resized to fit {height} x {width} (height x width), in the middle of grey 114"


def nearest_side(side: int, multiple: int) -> int:
    """The positive multiple of `multiple` nearest to `side`; the larger of two equally near."""
    return max((2 * side + multiple) // (2 * multiple), 1) * multiple
