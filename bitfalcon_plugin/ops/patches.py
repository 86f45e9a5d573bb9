"""Masks of many objects, each in a patch around its box: a small part of the planes of a whole image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .encoded_masks import EncodedMasks, encode_runs
from .letterbox import Fit


@dataclass(frozen=True, eq=False)
class Patches:
    """The masks of n objects on planes of `size` (H, W): inside of its patch each has a mask, outside it is empty.

    stacks: patches (g, h, w) bool of equal size, a stack for each size. stack, row (n,) int64: where the patch of each
    object lies in the stacks. top, left (n,) int64: the place of the patch on the plane, on which all of it lies.
    """

    size: tuple[int, int]
    stacks: Sequence[Tensor]
    stack: Tensor
    row: Tensor
    top: Tensor
    left: Tensor

    def __len__(self) -> int:
        return len(self.stack)

    def __getitem__(self, keep: Tensor) -> Patches:
        """The masks that `keep` selects: a mask (n,) bool, or indices (m,) int64 in any order."""
        return Patches(self.size, self.stacks, *(value[keep] for value in self._columns()))

    def apply(self, function: Callable[[Tensor], Tensor]) -> Patches:
        """The same masks with `function` applied to each tensor."""
        return Patches(self.size, [function(stack) for stack in self.stacks], *map(function, self._columns()))

    @property
    def visible(self) -> Tensor:
        """(n,) bool: which masks have a pixel."""
        visible = torch.zeros_like(self.stack, dtype=torch.bool)
        for objects, patches in self._members():
            visible[objects] = patches.flatten(1).any(1)
        return visible

    def planes(self) -> Tensor:
        """The masks on whole planes: (n, H, W) uint8, 0 or 1."""
        planes = torch.zeros(len(self), *self.size, dtype=torch.uint8, device=self.stack.device)
        # In a processor's memory rectangles are copied ten times as fast as pixels.
        paste = _paste_rectangles if planes.device.type == "cpu" else _paste_pixels
        for objects, patches in self._members():
            paste(planes, patches, objects, self.top[objects], self.left[objects])
        return planes

    def on_canvas(self, fit: Fit) -> Patches:
        """The masks on the canvas of `fit`, by the nearest pixels. A patch keeps at least one pixel."""
        stacks, places = [], []
        for patch, *start in zip(self.split(), self.top.tolist(), self.left.tolist()):
            lines = zip(start, patch.shape, fit.original, fit.resized)
            (top, rows), (left, columns) = (_lines_of(*each) for each in lines)
            stacks.append(patch[rows][:, columns][None])
            places.append((top + fit.pad[0], left + fit.pad[1]))
        top, left = torch.tensor(places, dtype=torch.int64).view(-1, 2).unbind(1)
        number = torch.arange(len(stacks))
        return Patches(fit.canvas, stacks, number, torch.zeros_like(number), top, left)

    def split(self) -> list[Tensor]:
        """The patch (h, w) bool of each object."""
        return [self.stacks[stack][row] for stack, row in zip(self.stack.tolist(), self.row.tolist())]

    def encode(self) -> EncodedMasks:
        """The masks as COCO's run lengths."""
        codes: list = [None] * len(self)
        for objects, patches in self._members():
            places = self.top[objects].cpu(), self.left[objects].cpu()
            for index, code in zip(objects.tolist(), encode_runs(patches.cpu(), *places, self.size)):
                codes[index] = code
        return EncodedMasks(codes)

    def _columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.stack, self.row, self.top, self.left

    def _members(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each stack the objects (g,) whose patches are in it, and these patches (g, h, w)."""
        for number, stack in enumerate(self.stacks):
            objects = (self.stack == number).nonzero().flatten()
            if len(objects):
                yield objects, stack[self.row[objects]]


def _lines_of(first: int, count: int, original: int, resized: int) -> tuple[int, Tensor]:
    """Return where a patch of `count` lines begins after resizing, and for each line then the index of its source."""
    scale = resized / original
    begin = min(math.ceil(first * scale - 0.5), resized - 1)
    end = max(math.ceil((first + count) * scale - 0.5), begin + 1)
    lines = ((torch.arange(begin, end) + 0.5) / scale).floor().long() - first
    return begin, lines.clamp(0, count - 1)


def _paste_rectangles(planes: Tensor, patches: Tensor, objects: Tensor, top: Tensor, left: Tensor) -> None:
    """Copy patches (g, h, w) into the planes of their objects (g,), one after the other."""
    height, width = patches.shape[1:]
    for index, y, x, patch in zip(objects.tolist(), top.tolist(), left.tolist(), patches):
        planes[index, y : y + height, x : x + width] = patch


def _paste_pixels(planes: Tensor, patches: Tensor, objects: Tensor, top: Tensor, left: Tensor) -> None:
    """Copy patches (g, h, w) into the planes of their objects (g,), all at once."""
    rows, columns = (
        start[:, None] + torch.arange(count, device=start.device)
        for start, count in zip((top, left), patches.shape[1:])
    )
    planes[objects[:, None, None], rows[:, :, None], columns[:, None]] = patches.to(planes.dtype)
