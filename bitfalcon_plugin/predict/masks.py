"""The masks of the objects of one image as a public object. Written from spec/segment-classify.md 1.3, 1.9 and 1.11."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from ..ops.encoded_masks import EncodedMasks
from ..ops.letterbox import letterbox_fit
from ..ops.outlines import one_ring, rings_of
from ..plots.overlays import mask_region
from .parts import Array, Part, as_numpy


class Masks(Part):
    """Masks of the objects of one image, one a row. The length is the number of rows; Masks without rows are false.

    masks (Tensor or ndarray [n, h, w]): 0 or 1. The planes have the size of the original image, or that of a network
    input on which the image lies as a letterbox places it: as large as can be, in the middle. A single mask may be
    given as (h, w). orig_shape: (h, w) of the image. Raises ValueError for data of another shape.
    """

    ndim = 3
    shown = ("data", "orig_shape", "shape", "xy", "xyn")

    def __init__(self, masks: Array, orig_shape: tuple[int, int]):
        super().__init__(masks, orig_shape)

    def _problem(self, data: Array) -> str:
        return "" if data.ndim == 3 else "(n, h, w): 0 or 1"

    def _of(self, data: Array) -> Masks:
        return type(self)(data, self.orig_shape)  # a copy would keep the outlines

    @property
    def masks(self) -> Array:
        """data, by its name in old scripts."""
        return self.data

    @cached_property
    def parts(self) -> list[list[np.ndarray]]:
        """The outlines (k, 2) float32, x and y in pixels of the original image, of each connected part of each mask.

        An outline goes through the centres of border pixels, without its first point at the end; holes are left out.
        """
        planes = as_numpy(torch.as_tensor(self.data))
        fit = letterbox_fit(self.orig_shape, planes.shape[1:])
        (top, left), (height, width) = fit.pad, self.orig_shape
        gain = np.asarray([fit.resized[1] / width, fit.resized[0] / height])

        def to_original(ring: np.ndarray) -> np.ndarray:
            return ((ring - [left, top]) / gain).clip(0, [width, height]).astype(np.float32)

        return [[to_original(ring) for ring in rings_of(plane)] for plane in planes]

    @cached_property
    def xy(self) -> list[np.ndarray]:
        """The outline (k, 2) float32 of each mask, x and y in pixels of the original image; (0, 2) of an empty mask.

        Several parts are joined to one ring by bridges between nearest points; `parts` has them apart.
        """
        return [one_ring(rings).astype(np.float32) for rings in self.parts]

    @property
    def xyn(self) -> list[np.ndarray]:
        """The outlines `xy` over the image's width and height."""
        height, width = self.orig_shape
        return [ring / np.asarray([width, height], np.float32) for ring in self.xy]

    @cached_property
    def rle(self) -> list[dict[str, object]]:
        """Each mask in the size of the original image as COCO's run lengths: {"size": [h, w], "counts": bytes}.

        Masks of another size are cut to the image and interpolated; what is above a half is inside.
        """
        planes = torch.as_tensor(self.data)
        if tuple(planes.shape[1:]) != tuple(self.orig_shape):
            fit = letterbox_fit(self.orig_shape, planes.shape[1:])
            (top, left), (height, width) = fit.pad, fit.resized
            content = planes[:, None, top : top + height, left : left + width].float()
            planes = torch.nn.functional.interpolate(content, self.orig_shape, mode="bilinear")[:, 0] > 0.5
        return list(EncodedMasks.of(planes.bool()).codes)

    @property
    def content(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the image on the planes, in px of the planes."""
        fit = letterbox_fit(self.orig_shape, self.shape[1:])
        top, left = fit.pad
        return left, top, left + fit.resized[1], top + fit.resized[0]

    def region(self, index: int, page: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray] | None:
        """Return the part of a mask that is not empty on a picture of the image; see plots.overlays.mask_region.

        page: width and height of the picture in px.
        """
        return mask_region(as_numpy(torch.as_tensor(self.data[index])), self.content, page)

    segments = xyn  # its name in old scripts
