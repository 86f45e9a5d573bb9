"""Colour of training images: hue, saturation and value of a whole batch at once.

Hue, saturation and value as A. R. Smith defined them (Color Gamut Transform Pairs, SIGGRAPH 1978); the way back is the
closed form out(n) = V - V S clamp(2 - |k - 2|, 0, 1), k = (n + hue / 60) mod 6, n = 5, 3, 1 for red, green, blue.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Keeps black (value 0) and grey (chroma 0) from dividing by zero; the numerators are zero there as well.
TINY = 1e-12


def shift_hsv_(images: Tensor, gains: Tensor) -> Tensor:
    """Turn the hue and scale saturation and value of `images`, in place.

    images (n, 3, H, W): RGB in [0, 1], floating; gains (n, 3): hue in whole turns (added), saturation and value as
    relative changes (times 1 + gain, clipped to [0, 1]). Returns `images`.
    """
    turn, saturate, brighten = gains.to(images.dtype)[:, :, None, None].unbind(1)  # each (n, 1, 1)
    red, green, blue = images.unbind(1)  # each (n, H, W)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    hue = torch.where(value == green, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4))
    hue = torch.where(value == red, green - blue, hue).div_(chroma.clamp_min(TINY))  # in sixths of a turn
    hue.add_(turn * 6)
    share = chroma.div_(value.clamp_min(TINY)).mul_(1 + saturate).clamp_(0, 1)
    value.mul_(1 + brighten).clamp_(0, 1)
    share.mul_(value)  # the new chroma
    for channel, start in zip((red, green, blue), (5, 3, 1)):
        part = hue.add(start).remainder_(6).sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
        torch.addcmul(value, share, part, value=-1, out=channel)
    return images
