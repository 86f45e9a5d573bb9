"""Render scenes: paste tiles onto a canvas, sample the output from it, and blend in what other images give.

Written from spec/interface.md (section 6.6). Pixels stay on the training device, and nothing waits for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .compose import Canvas, Pasted
from .geometry import invert, sampling_grid
from .mixing import Guest, Rectangle, stamp_

GREY = 114.0  # what lies outside every image, of 255
RING = 2  # width of the grey border in pixels: a sampling position clamped to it interpolates grey pixels only
# Bytes of canvas at a time: what a processor's cache holds (12 MiB ran 1.5 times as fast as 24), what fills a GPU.
CANVAS_BYTES = {"cpu": 12 << 20, "cuda": 512 << 20}
OTHER_BYTES = 64 << 20  # of canvas at a time on other devices


def render(
    scenes: list[list[Pasted]],
    maps: Tensor,
    canvas: Canvas,
    device: torch.device,
    *,
    whole_pixels: bool,
    flat: bool,
    mirrors: dict[int, Tensor] | None = None,
) -> Tensor:
    """Paste every scene and read the output from it: (n, 3, H, W) float32 in [0, 1].

    maps (n, 3, 3): from canvas to output. whole_pixels: the maps only move by whole pixels and mirror, so that nothing
    is interpolated. flat: the maps have no perspective. mirrors: scene -> mask of the canvas that shows the scene's
    mirror image.
    """
    tall, wide = (side + 2 * RING for side in canvas.sides)
    step = max(images_at_once(device, tall, wide), torch.get_num_threads())
    images = torch.empty(len(scenes), 3, *canvas.size, device=device)
    sheet = torch.empty(min(step, len(scenes)), 3, tall, wide, device=device)
    inverse = None if whole_pixels else send(_to_sheet(tall, wide) @ invert(maps), device)
    for start in range(0, len(scenes), step):
        part = scenes[start : start + step]
        sheet.fill_(GREY)
        for index, (rows, scene) in enumerate(zip(sheet, part), start=start):
            square = rows[:, RING : tall - RING, RING : wide - RING]
            _paste(square, scene)
            if mirrors and index in mirrors:
                stamp_(square, square, mirrors[index], mirrored=True)
        if inverse is None:
            pixels = _crop(sheet[: len(part)], maps[start : start + step], canvas)
        else:
            pixels = _sample(sheet[: len(part)], inverse[start : start + step], canvas.size, flat=flat)
        torch.div(pixels, 255, out=images[start : start + step])
    return images


def images_at_once(device: torch.device, height: int, width: int) -> int:
    """The number of float32 images (3, height, width) that are worked on at a time, at least one."""
    return max(CANVAS_BYTES.get(device.type, OTHER_BYTES) // (12 * height * width), 1)


def _paste(square: Tensor, scene: list[Pasted]) -> None:
    tall, wide = square.shape[1:]
    for tile, left, top in scene:
        height, width = tile.image.shape[1:]
        x, y, right, bottom = max(left, 0), max(top, 0), min(left + width, wide), min(top + height, tall)
        square[:, y:bottom, x:right] = tile.image[:, y - top : bottom - top, x - left : right - left]


def _to_sheet(tall: int, wide: int) -> Tensor:
    """Canvas pixels to grid_sample's coordinates, [-1, 1] across the canvas and its ring: (3, 3)."""
    rows = [[2 / wide, 0, 2 * RING / wide - 1], [0, 2 / tall, 2 * RING / tall - 1], [0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)


def _sample(sheet: Tensor, inverse: Tensor, size: tuple[int, int], *, flat: bool) -> Tensor:
    # Samples beyond the ring are held on it: grid_sample's own border mode does not exist on every device.
    grid = sampling_grid(inverse, size, flat=flat)
    tall, wide = sheet.shape[-2:]
    if tall == wide:
        grid.clamp_(RING / tall - 1, 1 - RING / tall)
    else:
        for axis, side in enumerate((wide, tall)):
            grid[..., axis].clamp_(RING / side - 1, 1 - RING / side)
    return F.grid_sample(sheet, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _crop(sheet: Tensor, maps: Tensor, canvas: Canvas) -> Tensor:
    """The middle of each canvas, mirrored if its map mirrors; no pixel changes its value."""
    top, left = (RING + margin for margin in canvas.margin)
    middle = sheet[:, :, top : top + canvas.size[0], left : left + canvas.size[1]]
    mirrored = (torch.diagonal(maps, dim1=1, dim2=2) < 0).tolist()  # a row (x, y, False) for each image
    if not any(map(any, mirrored)):
        return middle
    return torch.stack([image.flip([2] * x + [1] * y) for image, (x, y, _) in zip(middle, mirrored)])


def blend_(
    images: Tensor,
    objects: dict[Guest, Tensor],
    mixed: list[Guest],
    weights: Tensor,
    rectangles: dict[Guest, Rectangle],
) -> None:
    """Blend objects, mixed images and cut rectangles of the guests into the images, in this order; in place.

    The order is that of interface.md 6.6. objects: masks (H, W) of pasted objects. weights (n,): the part that an image
    keeps of its own pixels where it is mixed with a guest of `mixed`.
    """
    for guest, mask in objects.items():
        stamp_(images[guest.image], images[guest.scene], mask)
    own_weights = weights.tolist()
    for scene, image in mixed:
        images[image].mul_(own_weights[image]).add_(images[scene], alpha=1 - own_weights[image])
    for guest, (x1, y1, x2, y2) in rectangles.items():
        images[guest.image, :, y1:y2, x1:x2] = images[guest.scene, :, y1:y2, x1:x2]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor from the CPU to `device` without waiting; float64 becomes float32, which every device has."""
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
