"""Projective maps of training images: drawing them, sampling along them, and which boxes survive them.

Written from the composition M = T S R P C and the survival rules of spec/interface.md (section 6.6).
Pixel i covers [i, i + 1) and its centre is i + 0.5; boxes are continuous coordinates in the same frame, so a box
follows its pixels exactly. Matrices are float64 on the CPU: a batch has a few dozen, and every device gets the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.projective import HORIZON


def draw_maps(
    uniform: Tensor,
    *,
    size: tuple[int, int],
    centre: tuple[float, float],
    degrees: float,
    translate: float,
    scale: float,
    shear: float,
    perspective: float,
) -> tuple[Tensor, Tensor]:
    """Draw maps from the canvas to the output image, and the scale in each.

    `uniform` (n, 8) holds draws from [0, 1): perspective x and y, angle, scale, shear x and y, translation x and y.
    `size` is the (height, width) of the output in pixels, `centre` the point (y, x) of the canvas that maps turn
    about, `degrees` and `shear` are in degrees, `translate` and `scale` fractions, `perspective` per pixel.
    Returns (n, 3, 3) and (n,), both float64: output = map @ (x, y, 1), divided by its third component.
    """
    signed = uniform.double() * 2 - 1
    gain = 1 + signed[:, 3] * scale
    angle = torch.deg2rad(signed[:, 2] * degrees)
    slant = torch.tan(torch.deg2rad(signed[:, 4:6] * shear))
    shift = (0.5 + signed[:, 6:8] * translate) * signed.new_tensor(size[::-1])
    eye = torch.eye(3, dtype=torch.float64).repeat(len(uniform), 1, 1)  # (n, 3, 3)
    centred, view, turned, sheared, shifted = (eye.clone() for _ in range(5))
    centred[:, :2, 2] = -signed.new_tensor(centre[::-1])
    view[:, 2, :2] = signed[:, 0:2] * perspective
    turned[:, 0, 0] = turned[:, 1, 1] = gain * angle.cos()
    turned[:, 0, 1] = gain * angle.sin()
    turned[:, 1, 0] = -turned[:, 0, 1]
    sheared[:, 0, 1], sheared[:, 1, 0] = slant[:, 0], slant[:, 1]
    shifted[:, :2, 2] = shift
    return shifted @ sheared @ turned @ view @ centred, gain


def mirror(maps: Tensor, chosen: Tensor, axis: int, size: int) -> Tensor:
    """Let the maps (n, 3, 3) that `chosen` (n,) bool selects mirror their output.

    axis: 0 for x, 1 for y. size: the output's extent along that axis in pixels.
    """
    flip = torch.eye(3, dtype=maps.dtype).repeat(len(maps), 1, 1)  # (n, 3, 3)
    flip[chosen, axis, axis] = -1
    flip[chosen, axis, 2] = size
    return flip @ maps


def invert(maps: Tensor) -> Tensor:
    """Invert `maps` (n, 3, 3). A map without an inverse gets one that points far off the canvas: it shows nothing."""
    inverse = torch.linalg.inv_ex(maps).inverse
    nowhere = torch.tensor([[0, 0, -1e6], [0, 0, -1e6], [0, 0, 1]], dtype=maps.dtype)
    usable = (inverse.abs() < 1e9).all(dim=2).all(dim=1)  # False for inf and NaN too
    return torch.where(usable[:, None, None], inverse, nowhere)


def sampling_grid(inverse: Tensor, size: tuple[int, int], *, flat: bool) -> Tensor:
    """The place of each output pixel's centre in the input: (n, H, W, 2), x and y, on the device of `inverse`.

    `inverse` (n, 3, 3) takes output pixels to input coordinates of any unit. `flat` says that the last rows are
    (0, 0, 1), which saves the division. Points behind the horizon get numbers of the order of 1 / HORIZON.
    """
    height, width = size
    steps = torch.arange(max(height, width), device=inverse.device, dtype=inverse.dtype) + 0.5
    across = inverse[:, :, 0, None] * steps[:width]  # (n, 3, W)
    down = inverse[:, :, 1, None] * steps[:height] + inverse[:, :, 2, None]  # (n, 3, H)
    grid = torch.empty(len(inverse), height, width, 2, device=inverse.device, dtype=inverse.dtype)
    for axis in (0, 1):
        torch.add(across[:, axis, None, :], down[:, axis, :, None], out=grid[..., axis])
    if not flat:
        depth = (across[:, 2, None, :] + down[:, 2, :, None]).unsqueeze(-1)  # (n, H, W, 1)
        grid.div_(depth.clamp_min(HORIZON))
    return grid


def survives(before: Tensor, after: Tensor, scale: Tensor, share: float | Tensor = 0.10) -> Tensor:
    """Whether each box is still worth learning from after a map.

    before (n, 4): xyxy on the canvas; after (n, 4): xyxy, clipped output; scale (n,): the scale that was drawn. A box
    stays when it had an area, both sides are above 2 px, neither is 100 times the other, and more than `share` (one
    number or (n,)) of the area that the scale alone would have given is left. Returns (n,) bool.
    """
    old = before[:, 2:] - before[:, :2]
    new = after[:, 2:] - after[:, :2]
    old_area = old.prod(dim=1)
    short, long = new.amin(dim=1), new.amax(dim=1)
    return (old_area > 0) & (short > 2) & (long < 100 * short) & (short * long > share * old_area * scale.square())
