"""Training augmentation: a batch of tiles in, a batch of network inputs out, on the training device.

Mosaic (Bochkovskiy et al., YOLOv4, arXiv:2004.10934), a random projective map, mixup (Zhang et al., arXiv:1710.09412),
colour and flips, written from spec/interface.md (section 6.6). Every output image is pasted onto a canvas
(a copy) and read from it in one sampling step: mosaic, map and flips cost one interpolation together. Draws come from
a CPU generator and boxes move on the CPU, so that nothing waits for the device and every device does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .colour import shift_hsv_
from .geometry import draw_maps, invert, mirror, move_boxes, sampling_grid, survives

GREY = 114.0  # what lies outside every image, of 255
RING = 2  # grey pixels around the canvas: a sample held between the two of them is grey whatever its rounding
# Bytes of canvas at a time: what a processor's cache holds (12 MiB ran 1.5 times as fast as 24), what fills a GPU.
CANVAS_BYTES = {"cpu": 12 << 20, "cuda": 512 << 20}
MIX_DRAWS = 63  # the median of 63 uniform draws has the distribution Beta(32, 32)


@dataclass(frozen=True)
class Recipe:
    """What is drawn, and how wide. `imgsz` is in pixels, `degrees` and `shear` in degrees.

    `mosaic`, `flipud`, `fliplr`, `mixup` and `bgr` are probabilities; `translate` and `scale` fractions; `perspective`
    is per pixel; `hsv_h` is in turns, `hsv_s` and `hsv_v` are relative.
    """

    imgsz: int
    mosaic: float
    degrees: float
    translate: float
    scale: float
    shear: float
    perspective: float
    hsv_h: float
    hsv_s: float
    hsv_v: float
    flipud: float
    fliplr: float
    mixup: float
    bgr: float

    @property
    def still(self) -> bool:
        """Whether the map only moves by whole pixels and mirrors, so that nothing needs interpolating."""
        return not (self.degrees or self.translate or self.scale or self.shear or self.perspective)


@dataclass(frozen=True)
class Tile:
    """One image as read: image (3, h, w) uint8 RGB, sides at most imgsz, on any device; on the CPU its boxes (n, 4)
    float32 xyxy, pixels of this image, and classes (n,) int64."""

    image: Tensor
    boxes: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Batch:
    """Network input: images (B, 3, S, S) float32 RGB in [0, 1]; boxes (N, 4) float32 xyxy, pixels of the input; classes
    (N,) int64; owner (N,) int64: the image each box is in, ascending. All on one device."""

    images: Tensor
    boxes: Tensor
    classes: Tensor
    owner: Tensor


class _Draws(NamedTuple):
    """Uniform draws from [0, 1), a row for each image; two sets of the first pair: its own and its mixup partner's."""

    place: Tensor  # (n, 2, 6) mosaic or not, centre x and y, three partners
    warp: Tensor  # (n, 2, 8) as draw_maps wants them
    mix: Tensor  # (n, 2) mixup or not, partner
    hsv: Tensor  # (n, 3)
    toss: Tensor  # (n, 3) flipud, fliplr, bgr
    weight: Tensor  # (n, 63)

    @classmethod
    def take(cls, count: int, generator: torch.Generator) -> _Draws:
        # Everything is drawn whether it is used or not: changing one setting leaves the other draws as they were.
        rows = torch.rand(count, 36 + MIX_DRAWS, generator=generator, dtype=torch.float64)
        place, warp, mix, hsv, toss, weight = rows.split([12, 16, 2, 3, 3, MIX_DRAWS], dim=1)
        return cls(place.view(count, 2, 6), warp.view(count, 2, 8), mix, hsv, toss, weight)


class _Pasted(NamedTuple):
    """A tile and where its top left corner lies on the canvas; parts beyond the canvas are cut off."""

    tile: Tile
    left: int
    top: int


@dataclass(frozen=True)
class _Canvas:
    """The square that output images are read from: its side, and the corner of the size x size square in its middle."""

    size: int
    side: int
    margin: int


@torch.no_grad()
def augment(
    batch: Sequence[Tile], pool: Sequence[Tile], recipe: Recipe, generator: torch.Generator, device: torch.device | str
) -> Batch:
    """Turn tiles into one augmented batch on `device`.

    `pool` is where mosaic and mixup partners are drawn from, with replacement (`batch` itself when it is empty).
    `generator` lives on the CPU: equal generators give equal batches. Raises ValueError for a tile larger than imgsz.
    """
    device, size = torch.device(device), recipe.imgsz
    for tile in batch:
        if max(tile.image.shape[1:]) > size:
            raise ValueError(f"Tile of {tuple(tile.image.shape[1:])} pixels for imgsz {size}: resize it first.")
    # Around the middle of a mosaic canvas lies room for partners; a letterboxed image has grey there, as outside.
    canvas = _Canvas(size, 2 * size, size // 2) if recipe.mosaic else _Canvas(size, size, 0)
    draws = _Draws.take(len(batch), generator)
    mixed = torch.nonzero(draws.mix[:, 0] < recipe.mixup).flatten()  # rows that get a mixup partner
    owner = torch.cat([torch.arange(len(batch)), mixed])  # (n,) the image that each scene ends up in
    scenes = _scenes(batch, pool or batch, recipe, draws, mixed.tolist(), canvas)
    maps, scale = _maps(recipe, draws, owner, len(batch), canvas)
    boxes, classes, box_owner = _labels(scenes, maps, scale, owner, canvas)
    images = _render(scenes, maps, recipe, canvas, device)
    _mix_(images, len(batch), mixed.tolist(), draws.weight.median(dim=1).values.tolist())
    images = _recolour_(images[: len(batch)], recipe, draws)
    return Batch(images, _send(boxes, device), _send(classes, device), _send(box_owner, device))


def _scenes(
    batch: Sequence[Tile], pool: Sequence[Tile], recipe: Recipe, draws: _Draws, mixed: list[int], canvas: _Canvas
) -> list[list[_Pasted]]:
    """What is pasted where: a scene for each image, then one for each mixup partner."""
    partner = draws.mix[:, 1].tolist()
    own, other = draws.place[:, 0].tolist(), draws.place[:, 1].tolist()
    scenes = [_scene(tile, pool, recipe, row, canvas) for tile, row in zip(batch, own)]
    return scenes + [_scene(_choose(pool, partner[i]), pool, recipe, other[i], canvas) for i in mixed]


def _scene(tile: Tile, pool: Sequence[Tile], recipe: Recipe, row: list[float], canvas: _Canvas) -> list[_Pasted]:
    """A mosaic of `tile` (top left) and three partners that touch a drawn centre, or `tile` in the canvas's middle."""
    size = canvas.size
    if row[0] >= recipe.mosaic:
        height, width = tile.image.shape[1:]
        return [_Pasted(tile, canvas.margin + (size - width) // 2, canvas.margin + (size - height) // 2)]
    x, y = (int(size * (0.5 + draw)) for draw in row[1:3])
    tiles = [tile, *(_choose(pool, draw) for draw in row[3:6])]  # top left, top right, bottom left, bottom right
    return [
        _Pasted(each, x if right else x - each.image.shape[2], y if low else y - each.image.shape[1])
        for each, (low, right) in zip(tiles, ((0, 0), (0, 1), (1, 0), (1, 1)))
    ]


def _choose(pool: Sequence[Tile], draw: float) -> Tile:
    return pool[int(draw * len(pool))]


def _maps(recipe: Recipe, draws: _Draws, owner: Tensor, count: int, canvas: _Canvas) -> tuple[Tensor, Tensor]:
    """Canvas to output for every scene, flips included: maps (n, 3, 3) and drawn scales (n,)."""
    warp = torch.cat([draws.warp[:, 0], draws.warp[owner[count:], 1]])  # (n, 8)
    maps, scale = draw_maps(
        warp, size=canvas.size, centre=canvas.margin + canvas.size / 2, degrees=recipe.degrees,
        translate=recipe.translate, scale=recipe.scale, shear=recipe.shear, perspective=recipe.perspective,
    )
    # A partner is blended in before the flips, so it is mirrored with the image that it ends up in.
    maps = mirror(maps, draws.toss[owner, 0] < recipe.flipud, 1, canvas.size)
    return mirror(maps, draws.toss[owner, 1] < recipe.fliplr, 0, canvas.size), scale


def _labels(
    scenes: list[list[_Pasted]], maps: Tensor, scale: Tensor, owner: Tensor, canvas: _Canvas
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, 4) that survive, their classes (N,) and the image of each (N,), ascending."""
    flat = [(index, pasted) for index, scene in enumerate(scenes) for pasted in scene]
    counts = torch.tensor([len(pasted.tile.boxes) for _, pasted in flat])
    corner = torch.tensor([(pasted.left, pasted.top) * 2 for _, pasted in flat])  # (tiles, 4)
    corner = corner.repeat_interleave(counts, dim=0)  # (N, 4)
    scene = torch.tensor([index for index, _ in flat]).repeat_interleave(counts)  # (N,)
    boxes = torch.cat([pasted.tile.boxes for _, pasted in flat]).double() + corner
    boxes.clamp_(0, canvas.side)
    moved = move_boxes(boxes, maps[scene], canvas.size)
    keep = survives(boxes, moved, scale[scene]).nonzero().flatten()
    keep = keep[owner[scene[keep]].argsort(stable=True)]
    classes = torch.cat([pasted.tile.classes for _, pasted in flat])
    return moved[keep].float(), classes[keep], owner[scene[keep]]


def _render(scenes: list[list[_Pasted]], maps: Tensor, recipe: Recipe, canvas: _Canvas, device: torch.device) -> Tensor:
    """Paste every scene and read the output from it: (n, 3, size, size) float32 in [0, 1]."""
    full = canvas.side + 2 * RING
    step = max(CANVAS_BYTES.get(device.type, 64 << 20) // (12 * full * full), torch.get_num_threads(), 1)
    images = torch.empty(len(scenes), 3, canvas.size, canvas.size, device=device)
    sheet = torch.empty(min(step, len(scenes)), 3, full, full, device=device)
    inverse = None if recipe.still else _send(_to_sheet(full) @ invert(maps), device)
    for start in range(0, len(scenes), step):
        part = scenes[start : start + step]
        sheet.fill_(GREY)
        for rows, scene in zip(sheet, part):
            _paste(rows[:, RING : full - RING, RING : full - RING], scene)
        if inverse is None:
            read = _crop(sheet[: len(part)], maps[start : start + step], canvas)
        else:
            read = _sample(sheet[: len(part)], inverse[start : start + step], canvas.size, flat=not recipe.perspective)
        torch.div(read, 255, out=images[start : start + step])
    return images


def _paste(square: Tensor, scene: list[_Pasted]) -> None:
    side = square.shape[-1]
    for tile, left, top in scene:
        height, width = tile.image.shape[1:]
        x, y, right, bottom = max(left, 0), max(top, 0), min(left + width, side), min(top + height, side)
        square[:, y:bottom, x:right] = tile.image[:, y - top : bottom - top, x - left : right - left]


def _to_sheet(full: int) -> Tensor:
    """Canvas pixels to grid_sample's coordinates, [-1, 1] across the canvas and its ring: (3, 3)."""
    offset = 2 * RING / full - 1
    return torch.tensor([[2 / full, 0, offset], [0, 2 / full, offset], [0, 0, 1]], dtype=torch.float64)


def _sample(sheet: Tensor, inverse: Tensor, size: int, *, flat: bool) -> Tensor:
    # Samples beyond the ring are held on it: grid_sample's own border mode does not exist on every device.
    edge = 1 - RING / sheet.shape[-1]
    grid = sampling_grid(inverse, size, flat=flat).clamp_(-edge, edge)
    return F.grid_sample(sheet, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _crop(sheet: Tensor, maps: Tensor, canvas: _Canvas) -> Tensor:
    """The middle of each canvas, mirrored where its map mirrors: pixels as they were."""
    first = RING + canvas.margin
    middle = sheet[:, :, first : first + canvas.size, first : first + canvas.size]
    mirrored = (torch.diagonal(maps, dim1=1, dim2=2) < 0).tolist()  # a row (x, y, False) for each image
    if not any(map(any, mirrored)):
        return middle
    return torch.stack([
        image.flip([axis for axis, on in ((2, across), (1, down)) if on])
        for image, (across, down, _) in zip(middle, mirrored)
    ])


def _mix_(images: Tensor, count: int, mixed: list[int], weights: list[float]) -> None:
    """Blend the partners, which lie behind the first `count` images, into the images that drew them."""
    for partner, index in enumerate(mixed, start=count):
        images[index].mul_(weights[index]).add_(images[partner], alpha=1 - weights[index])


def _recolour_(images: Tensor, recipe: Recipe, draws: _Draws) -> Tensor:
    """Shift hue, saturation and value; turn the images that drew it to BGR. In place."""
    gains = torch.tensor([recipe.hsv_h, recipe.hsv_s, recipe.hsv_v], dtype=torch.float64)
    if gains.any():
        gains = _send((draws.hsv * 2 - 1) * gains, images.device)  # (n, 3)
        step = max(CANVAS_BYTES.get(images.device.type, 64 << 20) // (4 * images[0].numel()), 1)
        for part, gain in zip(images.split(step), gains.split(step)):
            shift_hsv_(part, gain)
    for index in torch.nonzero(draws.toss[:, 2] < recipe.bgr).flatten().tolist():
        images[index] = images[index].flip(0)
    return images


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` from the CPU to `device` without waiting; float64 becomes float32, which every device has."""
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
