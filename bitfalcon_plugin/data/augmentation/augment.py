"""Training augmentation: a batch of tiles in, a batch of network inputs out, on the training device.

Mosaic (Bochkovskiy et al., YOLOv4, arXiv:2004.10934), copy-paste, a random projective map, mixup, cutmix, colour and
flips, written from spec/interface.md (section 6.6). Every output image is pasted onto a canvas
(a copy) and read from it in one sampling step: mosaic, map and flips cost one interpolation together. Draws come from
a CPU generator and boxes move on the CPU, so that nothing waits for the device and every device does the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config.settings import Settings
from ...ops.instances import Instances
from .compose import Canvas, Pasted, Tile, lay_out, move, paste_mirrored
from .geometry import draw_maps, invert, mirror, sampling_grid
from .hsv import shift_hsv_
from .mixing import Part, cut, lend, stamp_

GREY = 114.0  # what lies outside every image, of 255
RING = 2  # grey pixels around the canvas: a sample held between the two of them is grey whatever its rounding
# Bytes of canvas at a time: what a processor's cache holds (12 MiB ran 1.5 times as fast as 24), what fills a GPU.
CANVAS_BYTES = {"cpu": 12 << 20, "cuda": 512 << 20}
MIX_DRAWS = 63  # the median of 63 uniform draws has the distribution Beta(32, 32)
MIXES, CUTS, LENDS = 1, 2, 3  # what a scene may do for the image that it belongs to; 0 is the image itself
_Given = tuple[dict[Part, Tensor], dict[Part, tuple[int, int, int, int]]]  # masks of objects, rectangles


@dataclass(frozen=True)
class Recipe:
    """What is drawn, and how wide. `imgsz` is in pixels, `degrees` and `shear` in degrees.

    `mosaic`, `flipud`, `fliplr`, `mixup`, `cutmix` and `bgr` are probabilities; `translate` and `scale` fractions;
    `perspective` is per pixel; `hsv_h` is in turns, `hsv_s` and `hsv_v` are relative. `copy_paste` is the share of the
    objects with outlines that are pasted once more where they hide little: "flip" pastes the mirrored image's own,
    "mixup" those of another image. Boxes without outlines are never pasted.
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
    cutmix: float = 0.0
    copy_paste: float = 0.0
    copy_paste_mode: str = "flip"

    @property
    def still(self) -> bool:
        """Whether the map only moves by whole pixels and mirrors, so that nothing needs interpolating."""
        return not (self.degrees or self.translate or self.scale or self.shear or self.perspective)

    @property
    def alone(self) -> bool:
        """Whether every image is made of itself, so that no partners are needed."""
        return not (self.mosaic or self.mixup or self.cutmix or self.copy_paste and self.copy_paste_mode == "mixup")

    def closed(self) -> Recipe:
        """For the last epochs: without what puts several images together, and without copy-paste (section 6.5)."""
        return replace(self, mosaic=0.0, mixup=0.0, cutmix=0.0, copy_paste=0.0)

    def rectangular(self) -> Recipe:
        """For images of any shape: without what needs partners of the same shape."""
        own = self.copy_paste if self.copy_paste_mode == "flip" else 0.0
        return replace(self, mosaic=0.0, mixup=0.0, cutmix=0.0, copy_paste=own)


@dataclass(frozen=True)
class Batch:
    """Network input and its labels, on one device.

    images (B, 3, H, W): float32 RGB in [0, 1]. labels: float32 pixels of the input, `image` ascending.
    """

    images: Tensor
    labels: Instances


class _Draws(NamedTuple):
    """Uniform draws from [0, 1), a row for each image; of some a set for each part that a scene may play (see _Cast)."""

    place: Tensor  # (n, 4, 6) mosaic or not, centre x and y, three partners
    warp: Tensor  # (n, 4, 8) as draw_maps wants them
    mix: Tensor  # (n, 2) mixup or not, partner
    hsv: Tensor  # (n, 3)
    toss: Tensor  # (n, 3) flipud, fliplr, bgr
    weight: Tensor  # (n, 63)
    cut: Tensor  # (n, 2) cutmix or not, partner
    rectangle: Tensor  # (n, 9) of cutmix
    lend: Tensor  # (n,) the partner whose objects are pasted
    pasted: Tensor  # (n, 4) whether the number of pasted objects is rounded up

    @classmethod
    def take(cls, count: int, generator: torch.Generator) -> _Draws:
        # Everything is drawn whether it is used or not: changing one setting leaves the other draws as they were.
        rows = torch.rand(count, 36 + MIX_DRAWS, generator=generator, dtype=torch.float64)
        place, warp, mix, hsv, toss, weight = rows.split([12, 16, 2, 3, 3, MIX_DRAWS], dim=1)
        # What came later is drawn behind all of that, so that older draws stayed what they were.
        rows = torch.rand(count, 44, generator=generator, dtype=torch.float64)
        place2, warp2, cut, rectangle, lend, pasted = rows.split([12, 16, 2, 9, 1, 4], dim=1)
        place = torch.cat([place, place2], dim=1).view(count, 4, 6)
        warp = torch.cat([warp, warp2], dim=1).view(count, 4, 8)
        return cls(place, warp, mix, hsv, toss, weight, cut, rectangle, lend[:, 0], pasted)


class _Cast(NamedTuple):
    """The scenes of a batch: every image's own, then those that give something to an image. Each has a home, the image
    that it belongs to, and a part: 0 its own, 1 mixup, 2 cutmix, 3 lends objects."""

    home: Tensor  # (n,)
    part: Tensor  # (n,)

    @classmethod
    def of(cls, recipe: Recipe, draws: _Draws, count: int, lends: bool) -> _Cast:
        homes = (
            torch.arange(count),
            torch.nonzero(draws.mix[:, 0] < recipe.mixup).flatten(),
            torch.nonzero(draws.cut[:, 0] < recipe.cutmix).flatten(),
            torch.arange(count if lends else 0),
        )
        return cls(torch.cat(homes), torch.repeat_interleave(torch.tensor([len(home) for home in homes])))

    def playing(self, part: int) -> list[Part]:
        scenes = torch.nonzero(self.part == part).flatten().tolist()
        return [Part(scene, home) for scene, home in zip(scenes, self.home[self.part == part].tolist())]


@torch.no_grad()
def augment(
    batch: Sequence[Tile],
    pool: Sequence[Tile],
    recipe: Recipe,
    generator: torch.Generator,
    device: torch.device | str,
    size: tuple[int, int] | None = None,
) -> Batch:
    """Turn tiles into one augmented batch on `device`.

    `pool` is where partners are drawn from, with replacement (`batch` itself when it is empty). `generator` lives on the
    CPU: equal generators give equal batches. `size` is the (height, width) of the images, a square of imgsz unless
    given; mosaic wants the square. Raises ValueError for a tile larger than that.
    """
    device, size = torch.device(device), size or (recipe.imgsz, recipe.imgsz)
    for tile in batch:
        if tile.image.shape[1] > size[0] or tile.image.shape[2] > size[1]:
            raise ValueError(f"Tile of {tuple(tile.image.shape[1:])} pixels for {_words(size)}: resize it first.")
    canvas = Canvas.around(size, mosaic=recipe.mosaic > 0)
    draws = _Draws.take(len(batch), generator)
    pool = pool or batch
    lends = (
        recipe.copy_paste > 0
        and recipe.copy_paste_mode == "mixup"
        and any(tile.labels.polygons is not None for tile in pool)
    )
    cast = _Cast.of(recipe, draws, len(batch), lends)
    scenes = _scenes(batch, pool, recipe, draws, cast, canvas)
    maps, scale = _maps(recipe, draws, cast, canvas)
    labels, mirrors = _labels(scenes, maps, scale, recipe, draws, cast, canvas)
    labels, given = _given(labels, recipe, draws, cast, canvas)
    images = _render(scenes, maps, recipe, canvas, device, mirrors)
    _blend_(images, cast, draws, given)
    images = _recolour_(images[: len(batch)], recipe, draws)
    labels = replace(labels, image=cast.home[labels.image])
    labels = labels.only(labels.image.argsort(stable=True))
    return Batch(images, labels.apply(lambda tensor: _send(tensor, device)))


def _words(size: tuple[int, int]) -> str:
    return f"imgsz {size[0]}" if size[0] == size[1] else f"images of {size}"


def _scenes(
    batch: Sequence[Tile], pool: Sequence[Tile], recipe: Recipe, draws: _Draws, cast: _Cast, canvas: Canvas
) -> list[list[Pasted]]:
    """What is pasted where, for every scene."""
    places = draws.place[cast.home, cast.part].tolist()
    partners = torch.stack([draws.mix[:, 1], draws.cut[:, 1], draws.lend], dim=1).tolist()
    tiles = [batch[home] if part == 0 else _choose(pool, partners[home][part - 1])
             for home, part in zip(cast.home.tolist(), cast.part.tolist())]  # fmt: skip
    return [_scene(tile, pool, recipe, row, canvas) for tile, row in zip(tiles, places)]


def _scene(tile: Tile, pool: Sequence[Tile], recipe: Recipe, row: list[float], canvas: Canvas) -> list[Pasted]:
    """A mosaic of `tile` (top left) and three partners that touch a drawn centre, or `tile` in the canvas's middle."""
    if row[0] >= recipe.mosaic:
        (top, left), (tall, wide), (height, width) = canvas.margin, canvas.size, tile.image.shape[1:]
        return [Pasted(tile, left + (wide - width) // 2, top + (tall - height) // 2)]
    x, y = (int(canvas.size[0] * (0.5 + draw)) for draw in row[1:3])
    tiles = [tile, *(_choose(pool, draw) for draw in row[3:6])]  # top left, top right, bottom left, bottom right
    return [
        Pasted(each, x if right else x - each.image.shape[2], y if low else y - each.image.shape[1])
        for each, (low, right) in zip(tiles, ((0, 0), (0, 1), (1, 0), (1, 1)))
    ]


def _choose(pool: Sequence[Tile], draw: float) -> Tile:
    return pool[int(draw * len(pool))]


def _maps(recipe: Recipe, draws: _Draws, cast: _Cast, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Canvas to output for every scene, flips included: maps (n, 3, 3) and drawn scales (n,)."""
    maps, scale = draw_maps(
        draws.warp[cast.home, cast.part],
        size=canvas.size,
        centre=canvas.centre,
        degrees=recipe.degrees,
        translate=recipe.translate,
        scale=recipe.scale,
        shear=recipe.shear,
        perspective=recipe.perspective,
    )
    # A partner is blended in before the flips, so it is mirrored with the image that it ends up in.
    toss = draws.toss[cast.home]
    maps = mirror(maps, toss[:, 0] < recipe.flipud, 1, canvas.size[0])
    return mirror(maps, toss[:, 1] < recipe.fliplr, 0, canvas.size[1]), scale


def _labels(
    scenes: list[list[Pasted]], maps: Tensor, scale: Tensor, recipe: Recipe, draws: _Draws, cast: _Cast, canvas: Canvas
) -> tuple[Instances, dict[int, Tensor]]:
    """The labels of every scene on the output, and the parts of canvases that show their own mirror image."""
    labels, mirrors = lay_out(scenes, canvas), {}
    if recipe.copy_paste_mode == "flip":
        labels, mirrors = paste_mirrored(labels, canvas, recipe.copy_paste, draws.pasted[cast.home, cast.part].tolist())
    return move(labels, maps, scale, canvas), mirrors


def _given(labels: Instances, recipe: Recipe, draws: _Draws, cast: _Cast, canvas: Canvas) -> tuple[Instances, _Given]:
    """What scenes give to the images they belong to: objects, then rectangles; labels of everything else go."""
    objects, rectangles = {}, {}
    if lenders := cast.playing(LENDS):
        rounding = draws.pasted[:, LENDS].tolist()
        labels, objects = lend(
            labels, lenders, canvas.size, recipe.copy_paste, [rounding[part.home] for part in lenders]
        )
    if cutters := cast.playing(CUTS):
        rows = draws.rectangle.tolist()
        labels, rectangles = cut(labels, cast.home, cutters, canvas.size, [rows[part.home] for part in cutters])
    return labels, (objects, rectangles)


def _render(
    scenes: list[list[Pasted]],
    maps: Tensor,
    recipe: Recipe,
    canvas: Canvas,
    device: torch.device,
    mirrors: Mapping[int, Tensor] = MappingProxyType({}),
) -> Tensor:
    """Paste every scene and read the output from it: (n, 3, H, W) float32 in [0, 1]."""
    tall, wide = (side + 2 * RING for side in canvas.sides)
    step = max(CANVAS_BYTES.get(device.type, 64 << 20) // (12 * tall * wide), torch.get_num_threads(), 1)
    images = torch.empty(len(scenes), 3, *canvas.size, device=device)
    sheet = torch.empty(min(step, len(scenes)), 3, tall, wide, device=device)
    inverse = None if recipe.still else _send(_to_sheet(tall, wide) @ invert(maps), device)
    for start in range(0, len(scenes), step):
        part = scenes[start : start + step]
        sheet.fill_(GREY)
        for index, (rows, scene) in enumerate(zip(sheet, part), start=start):
            square = rows[:, RING : tall - RING, RING : wide - RING]
            _paste(square, scene)
            if index in mirrors:
                stamp_(square, square, mirrors[index], mirrored=True)
        if inverse is None:
            read = _crop(sheet[: len(part)], maps[start : start + step], canvas)
        else:
            read = _sample(sheet[: len(part)], inverse[start : start + step], canvas.size, flat=not recipe.perspective)
        torch.div(read, 255, out=images[start : start + step])
    return images


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
    """The middle of each canvas, mirrored where its map mirrors: pixels as they were."""
    top, left = (RING + margin for margin in canvas.margin)
    middle = sheet[:, :, top : top + canvas.size[0], left : left + canvas.size[1]]
    mirrored = (torch.diagonal(maps, dim1=1, dim2=2) < 0).tolist()  # a row (x, y, False) for each image
    if not any(map(any, mirrored)):
        return middle
    return torch.stack(
        [
            image.flip([axis for axis, on in ((2, across), (1, down)) if on])
            for image, (across, down, _) in zip(middle, mirrored)
        ]
    )


def _blend_(images: Tensor, cast: _Cast, draws: _Draws, given: _Given) -> None:
    """Put what other scenes give into the images, in the order of interface.md 6.6; in place."""
    objects, rectangles = given
    for part, mask in objects.items():
        stamp_(images[part.home], images[part.scene], mask)
    if mixed := cast.playing(MIXES):
        weights = draws.weight.median(dim=1).values.tolist()
        for scene, home in mixed:
            images[home].mul_(weights[home]).add_(images[scene], alpha=1 - weights[home])
    for part, (x1, y1, x2, y2) in rectangles.items():
        images[part.home, :, y1:y2, x1:x2] = images[part.scene, :, y1:y2, x1:x2]


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


def recipe_of(settings: Settings, closed: bool) -> Recipe:
    """The augmentation of an epoch; `closed` leaves out what mixes several images."""
    names = Recipe.__dataclass_fields__
    recipe = Recipe(**{name: getattr(settings, name) for name in names})
    return recipe.closed() if closed else recipe
