"""augmentation/render.py: sampling against a loop over the pixels, and maps without an inverse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bitfalcon_plugin.data.augmentation.compose import Canvas, Pasted
from bitfalcon_plugin.data.augmentation.geometry import draw_maps, invert, mirror
from bitfalcon_plugin.data.augmentation.render import render
from tests.data.augmentation.test_augment import DEFAULTS, OFF, SIZE, noise, seeded
from tests.helpers.labels import tile_of


def slow_sample(canvas: torch.Tensor, inverse: torch.Tensor, x: int, y: int) -> list[float]:
    """Bilinear value of output pixel (x, y) tap by tap; outside the canvas, or behind the viewer, lies 114."""
    u, v, w = (inverse @ torch.tensor([x + 0.5, y + 0.5, 1.0], dtype=torch.float64)).tolist()
    if w <= 1e-6:
        return [114.0] * 3
    u, v = u / w - 0.5, v / w - 0.5
    left, top = math.floor(u), math.floor(v)
    value = [0.0] * 3
    for column, share_x in ((left, left + 1 - u), (left + 1, u - left)):
        for row, share_y in ((top, top + 1 - v), (top + 1, v - top)):
            inside = 0 <= row < canvas.shape[1] and 0 <= column < canvas.shape[2]
            for channel in range(3):
                tap = float(canvas[channel, row, column]) if inside else 114.0
                value[channel] += share_x * share_y * tap
    return value


@pytest.mark.parametrize("perspective", [0.0, 0.004, 0.2])
def test_sampling_matches_a_slow_loop(perspective):
    size = 16
    recipe = replace(DEFAULTS, imgsz=size, degrees=60, shear=20, perspective=perspective)
    canvas = Canvas.around((size, size), mosaic=True)
    pixels = torch.randint(0, 256, (3, 2 * size, 2 * size), generator=seeded(1), dtype=torch.uint8)
    scene = [Pasted(tile_of(pixels, torch.empty(0, 4), torch.empty(0, dtype=torch.int64)), 0, 0)]
    uniform = torch.rand(4, 8, generator=seeded(2), dtype=torch.float64)
    gains = {"degrees": 60, "translate": 0.3, "scale": 0.6, "shear": 20, "perspective": perspective}
    maps, _ = draw_maps(uniform, size=(size, size), centre=(size, size), **gains)
    maps = mirror(maps, torch.tensor([True, False, True, False]), 0, size)
    images = render(
        [scene] * 4, maps, canvas, torch.device("cpu"), whole_pixels=recipe.whole_pixels, flat=not perspective
    )
    for image, inverse in zip(images, torch.linalg.inv(maps)):
        expected = [[slow_sample(pixels, inverse, x, y) for x in range(size)] for y in range(size)]
        torch.testing.assert_close(image.permute(1, 2, 0) * 255, torch.tensor(expected), atol=0.05, rtol=0)


def test_a_map_without_inverse_shows_grey():
    flat = torch.zeros(2, 3, 3, dtype=torch.float64)
    flat[1] = torch.eye(3)
    inverse = invert(flat)
    assert torch.equal(inverse[1], flat[1]) and inverse.isfinite().all()
    canvas, scene = Canvas.around((SIZE, SIZE), mosaic=False), [Pasted(noise(96), 0, 0)]
    images = render([scene, scene], flat, canvas, torch.device("cpu"), whole_pixels=False, flat=True)
    torch.testing.assert_close(images[0], torch.full((3, SIZE, SIZE), 114 / 255))
    torch.testing.assert_close(images[1], noise(96).image / 255, atol=1e-4, rtol=0)


@pytest.mark.parametrize("perspective", [0.0, 0.004])
def test_rectangles_are_sampled_as_by_a_slow_loop(perspective):
    size = (12, 20)
    recipe = replace(OFF, imgsz=20, degrees=60, shear=20, perspective=perspective)
    pixels = torch.randint(0, 256, (3, *size), generator=seeded(1), dtype=torch.uint8)
    scene = [Pasted(tile_of(pixels, torch.empty(0, 4), torch.empty(0, dtype=torch.int64)), 0, 0)]
    uniform = torch.rand(4, 8, generator=seeded(2), dtype=torch.float64)
    maps, _ = draw_maps(
        uniform, size=size, centre=(6, 10), degrees=60, translate=0.3, scale=0.6, shear=20, perspective=perspective
    )
    canvas = Canvas.around(size, mosaic=False)
    images = render(
        [scene] * 4, maps, canvas, torch.device("cpu"), whole_pixels=recipe.whole_pixels, flat=not perspective
    )
    for image, inverse in zip(images, torch.linalg.inv(maps)):
        expected = [[slow_sample(pixels, inverse, x, y) for x in range(size[1])] for y in range(size[0])]
        torch.testing.assert_close(image.permute(1, 2, 0) * 255, torch.tensor(expected), atol=0.05, rtol=0)
