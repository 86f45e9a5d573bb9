"""Patches: their planes and run lengths against whole planes and pycocotools."""

from __future__ import annotations

import pytest
import torch
from pycocotools import mask

import bitfalcon_plugin.ops.patches as module
from bitfalcon_plugin.ops.encoded_masks import EncodedMasks
from bitfalcon_plugin.ops.letterbox import Fit
from bitfalcon_plugin.ops.patches import Patches

SIZE = (9, 7)


def made(generator: torch.Generator, density: float) -> Patches:
    """Twelve masks in patches of 4 x 3, 9 x 2 and 9 x 7 pixels, at random places."""
    sides = [(4, 3), (9, 2), (9, 7)]
    stacks = [torch.rand(4, *side, generator=generator) < density for side in sides]
    stack, row = torch.arange(12) % 3, torch.arange(12) // 3
    top, left = (
        torch.stack([torch.randint(0, SIZE[axis] - sides[k][axis] + 1, (1,), generator=generator)[0] for k in stack])
        for axis in (0, 1)
    )
    return Patches(SIZE, stacks, stack, row, top, left)


def slow_planes(patches: Patches) -> torch.Tensor:
    planes = torch.zeros(len(patches), *SIZE, dtype=torch.uint8)
    for index in range(len(patches)):
        patch = patches.stacks[patches.stack[index]][patches.row[index]]
        for y, x in patch.nonzero().tolist():
            planes[index, patches.top[index] + y, patches.left[index] + x] = 1
    return planes


@pytest.mark.parametrize("density", [0.0, 0.03, 0.5, 0.97, 1.0])
def test_planes_and_run_lengths_are_those_of_whole_planes(density):
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        patches = made(generator, density)
        planes = slow_planes(patches)
        assert torch.equal(patches.planes(), planes)
        assert patches.visible.tolist() == planes.flatten(1).any(1).tolist()
        assert patches.encode().codes == EncodedMasks.of(planes.bool()).codes
        order = torch.tensor([11, 2, 2, 0, 7])
        for keep in (order, torch.rand(12, generator=generator) < 0.5, torch.zeros(12, dtype=torch.bool)):
            chosen = patches[keep]
            assert torch.equal(chosen.planes(), planes[keep]) and len(chosen) == len(planes[keep])
            assert chosen.encode().codes == EncodedMasks.of(planes[keep].bool()).codes


def test_runs_that_go_on_in_the_next_column_are_joined():
    """Columns 1 and 2 are full, and the upper half of column 3: one run."""
    patch = torch.ones(1, 9, 3, dtype=torch.bool)
    patch[0, 5:, 2] = False
    zero = torch.zeros(1, dtype=torch.int64)
    (code,) = Patches(SIZE, [patch], zero, zero, zero, zero + 1).encode().codes
    assert code == mask.frPyObjects({"size": [9, 7], "counts": [9, 23, 31]}, 9, 7)


def test_pixels_at_once_give_the_same_planes(monkeypatch):
    patches = made(torch.Generator().manual_seed(1), 0.5)
    expected = patches.planes()
    monkeypatch.setattr(module, "_paste_rectangles", module._paste_pixels)
    assert torch.equal(patches.planes(), expected) and expected.any()


@pytest.mark.parametrize("resized", [(18, 14), (5, 4), (9, 7), (23, 17)])
def test_masks_on_a_canvas_have_the_value_of_the_pixel_at_each_centre(resized):
    patches = made(torch.Generator().manual_seed(0), 0.5)
    planes = torch.zeros(len(patches), 30, 20, dtype=torch.uint8)
    for y in range(resized[0]):
        for x in range(resized[1]):
            source = int((y + 0.5) * SIZE[0] / resized[0]), int((x + 0.5) * SIZE[1] / resized[1])
            planes[:, 3 + y, 2 + x] = patches.planes()[:, source[0], source[1]]
    assert torch.equal(patches.on_canvas(Fit(SIZE, resized, (30, 20), (3, 2))).planes(), planes)


def test_a_mask_smaller_than_a_pixel_of_the_canvas_stays_visible():
    one = torch.zeros(1, dtype=torch.int64)
    for top, left in ((0, 0), (8, 6), (4, 2)):
        patches = Patches(SIZE, [torch.ones(1, 1, 1, dtype=torch.bool)], one, one, one + top, one + left)
        assert patches.on_canvas(Fit(SIZE, (2, 2), (4, 4), (1, 1))).planes().sum() == 1
