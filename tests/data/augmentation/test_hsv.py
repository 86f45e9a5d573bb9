"""data/colour.py against the standard library's colorsys, pixel by pixel."""

from __future__ import annotations

import colorsys

import torch

from bitfalcon_plugin.data.augmentation.hsv import shift_hsv_


def test_hsv_matches_colorsys():
    images = torch.rand(3, 3, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images[0, :, 0] = torch.arange(7) / 6  # greys, black and white among them
    images[0, :, 1] = torch.eye(3, 7)  # pure colours, black
    images[0, 0, 2] = images[0, 1, 2]  # two equal largest
    gains = torch.tensor([[0.3, -0.5, 0.2], [-0.7, 0.9, -0.4], [0.015, 0.0, 1.0]], dtype=torch.float64)
    expected = torch.empty_like(images)
    for index, (turn, saturate, brighten) in enumerate(gains.tolist()):
        for y in range(6):
            for x in range(7):
                hue, saturation, value = colorsys.rgb_to_hsv(*images[index, :, y, x].tolist())
                saturation, value = min(saturation * (1 + saturate), 1), min(value * (1 + brighten), 1)
                rgb = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
                expected[index, :, y, x] = torch.tensor(rgb, dtype=torch.float64)
    assert not torch.allclose(images, expected, atol=0.1)
    result = shift_hsv_(images, gains)
    assert result is images
    torch.testing.assert_close(result, expected, atol=1e-9, rtol=0)
