"""Masks of the objects of a large image, kept as patches: a plane of the image for each would not fit into memory."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..config.errors import UserError
from ..ops.outlines import rings_of
from ..ops.patches import Patches
from ..plots.overlays import mask_region
from .masks import Masks
from .parts import Array, as_index, as_numpy

MAX_BYTES = 1 << 33  # of the planes of all masks of an image, a byte a pixel


class PatchMasks(Masks):
    """Masks in the size of the original image; `data` makes their planes when it is first read.

    patches: on planes of the size of the image. Outlines, run lengths and pictures are made from the patches alone.
    Reading `data` raises UserError where the planes of all masks take more than MAX_BYTES.
    """

    shown = ("orig_shape", "shape", "xy", "xyn")

    def __init__(self, patches: Patches, is_numpy: bool = False):
        self.patches, self._is_numpy, self.orig_shape = patches, is_numpy, tuple(patches.size)

    @cached_property
    def data(self) -> Array:  # type: ignore[override]
        """(n, h, w) uint8, 0 or 1."""
        if math.prod(self.shape) > MAX_BYTES:
            n, height, width = self.shape
            raise UserError(
                f"{n} masks of {width}x{height} pixels are {math.prod(self.shape) / 1e9:.0f} GB as planes. Use their "
                "outlines (masks.xy, masks.parts) or run lengths (masks.rle), or an index: masks[0].data ."
            )
        planes = self.patches.planes()
        return as_numpy(planes) if self._is_numpy else planes

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.patches), *self.patches.size)

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index) -> PatchMasks:
        rows = torch.arange(len(self))
        chosen = torch.as_tensor(rows[as_index(index, rows)]).reshape(-1)
        return PatchMasks(self.patches[chosen.to(self.patches.stack.device)], self._is_numpy)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "data"}  # it is made again

    def cpu(self) -> PatchMasks:
        return PatchMasks(self.patches.apply(Tensor.cpu), self._is_numpy)

    def numpy(self) -> PatchMasks:
        return PatchMasks(self.patches.apply(Tensor.cpu), True)

    def to(self, *args, **kwargs) -> PatchMasks:
        """Return the same masks as tensors on another device; a type has no effect, as masks are 0 and 1."""
        device = torch.empty(0).to(*args, **kwargs).device
        return PatchMasks(self.patches.apply(lambda tensor: tensor.to(device)))

    @cached_property
    def parts(self) -> list[list[np.ndarray]]:
        corners = torch.stack((self.patches.left, self.patches.top), 1).tolist()
        planes = map(as_numpy, self.patches.split())
        return [
            [(ring + corner).astype(np.float32) for ring in rings_of(plane)] for plane, corner in zip(planes, corners)
        ]

    @cached_property
    def rle(self) -> list[dict[str, object]]:
        return list(self.patches.encode().codes)

    def region(self, index: int, page: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray] | None:
        height, width = self.patches.size
        margin = 2 + 2 * math.ceil(max(width / page[0], height / page[1]))  # a pixel of the page, and interpolation
        (plane,) = self.patches[torch.tensor([index], device=self.patches.stack.device)].split()
        top, left = int(self.patches.top[index]), int(self.patches.left[index])
        below, beside = height - top - plane.shape[0], width - left - plane.shape[1]
        above, before = min(margin, top), min(margin, left)  # no more than there is of the image
        around = (above, min(margin, below)), (before, min(margin, beside))
        left, top = left - before, top - above
        return mask_region(np.pad(as_numpy(plane), around), (-left, -top, width - left, height - top), page)
