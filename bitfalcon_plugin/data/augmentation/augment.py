"""Training augmentation: a batch of tiles in, a batch of network inputs out, on the training device.

Mosaic (Bochkovskiy et al., YOLOv4, arXiv:2004.10934), copy-paste, a random projective map, mixup, cutmix, colour and
flips, written from spec/interface.md (section 6.6). Every output image is pasted onto a canvas (a copy) and read from
it in one sampling step: mosaic, map and flips cost one interpolation together. Draws come from a CPU generator and
boxes move on the CPU, so that nothing waits for the device and every device gives the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config.settings import Settings
from ...ops.instances import Instances
from .compose import Canvas, Pasted, Tile, lay_out, move, paste_mirrored
from .geometry import draw_maps, invert, mirror, sampling_grid
from .hsv import shift_hsv_
from .mixing import Guest, Rectangle, cut_rectangles, paste_objects, stamp_

GREY = 114.0  # what lies outside every image, of 255
RING = 2  # grey pixels around the canvas: a sample held between the two of them is grey whatever its rounding
# Bytes of canvas at a time: what a processor's cache holds (12 MiB ran 1.5 times as fast as 24), what fills a GPU.
CANVAS_BYTES = {"cpu": 12 << 20, "cuda": 512 << 20}
OTHER_BYTES = 64 << 20  # of canvas at a time on other devices
MIXUP_DRAWS = 63  # the median of 63 uniform draws has the distribution Beta(32, 32)
OWN, MIXUP, CUTMIX, LENDER = range(4)  # roles of a scene: an image itself, or what it gives to another image


@dataclass(frozen=True)
class Recipe:
    """Which augmentations are drawn, and from which ranges.

    `imgsz` is in pixels, `degrees` and `shear` in degrees. `mosaic`, `flipud`, `fliplr`, `mixup`, `cutmix` and `bgr`
    are probabilities; `translate` and `scale` fractions; `perspective` is per pixel; `hsv_h` is in turns, `hsv_s` and
    `hsv_v` are relative. `copy_paste` is the share of the objects with polygons that are pasted once more where they
    hide little: "flip" pastes the mirrored objects of the same image, "mixup" objects of another image. Objects without
    polygons are never pasted.
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
    def whole_pixels(self) -> bool:
        """Whether the map only moves by whole pixels and mirrors, so that nothing needs interpolating."""
        return not (self.degrees or self.translate or self.scale or self.shear or self.perspective)

    @property
    def without_partners(self) -> bool:
        """Whether every image is made of a single tile."""
        return not (self.mosaic or self.mixup or self.cutmix or self.copy_paste and self.copy_paste_mode == "mixup")

    def closed(self) -> Recipe:
        """The recipe of the last epochs: without partners, and without copy-paste (section 6.5)."""
        return replace(self, mosaic=0.0, mixup=0.0, cutmix=0.0, copy_paste=0.0)

    def rectangular(self) -> Recipe:
        """The recipe for images of any shape: without augmentations that need partners of the same shape."""
        copy_paste = self.copy_paste if self.copy_paste_mode == "flip" else 0.0
        return replace(self, mosaic=0.0, mixup=0.0, cutmix=0.0, copy_paste=copy_paste)


@dataclass(frozen=True)
class Batch:
    """Network input and its labels, on one device.

    images (B, 3, H, W): float32 RGB in [0, 1]. labels: float32 pixels of the input, `image` ascending.
    """

    images: Tensor
    labels: Instances


class _Draws(NamedTuple):
    """Uniform draws from [0, 1), a row for each image; `mosaic`, `warp` and `rounding` hold a set for each role."""

    mosaic: Tensor  # (n, 4, 6) mosaic or not, centre x and y, three partners
    warp: Tensor  # (n, 4, 8) arguments of draw_maps
    mixup: Tensor  # (n, 2) mixup or not, partner
    hsv: Tensor  # (n, 3)
    flips: Tensor  # (n, 3) flipud, fliplr, bgr
    weight: Tensor  # (n, 63) of mixup
    cutmix: Tensor  # (n, 2) cutmix or not, partner
    rectangle: Tensor  # (n, 9) of cutmix
    lender: Tensor  # (n,) the partner whose objects are pasted
    rounding: Tensor  # (n, 4) whether the number of pasted objects is rounded up

    @classmethod
    def take(cls, count: int, generator: torch.Generator) -> _Draws:
        # Everything is drawn whether it is used or not: changing one setting does not change the other draws.
        rows = torch.rand(count, 36 + MIXUP_DRAWS, generator=generator, dtype=torch.float64)
        mosaic, warp, mixup, hsv, flips, weight = rows.split([12, 16, 2, 3, 3, MIXUP_DRAWS], dim=1)
        # Later features draw behind all of that, so that the older draws did not change.
        rows = torch.rand(count, 44, generator=generator, dtype=torch.float64)
        mosaic2, warp2, cutmix, rectangle, lender, rounding = rows.split([12, 16, 2, 9, 1, 4], dim=1)
        mosaic = torch.cat([mosaic, mosaic2], dim=1).view(count, 4, 6)
        warp = torch.cat([warp, warp2], dim=1).view(count, 4, 8)
        return cls(mosaic, warp, mixup, hsv, flips, weight, cutmix, rectangle, lender[:, 0], rounding)


class _Roles(NamedTuple):
    """The scenes of a batch: first the images themselves, then the guests, which give something to an image."""

    image: Tensor  # (n,) the image that each scene belongs to
    role: Tensor  # (n,) OWN, MIXUP, CUTMIX or LENDER

    @classmethod
    def of(cls, recipe: Recipe, draws: _Draws, pool: Sequence[Tile]) -> _Roles:
        count = len(draws.mixup)
        lenders = recipe.copy_paste > 0 and recipe.copy_paste_mode == "mixup"
        lenders = lenders and any(tile.labels.polygons is not None for tile in pool)
        images = (
            torch.arange(count),
            torch.nonzero(draws.mixup[:, 0] < recipe.mixup).flatten(),
            torch.nonzero(draws.cutmix[:, 0] < recipe.cutmix).flatten(),
            torch.arange(count if lenders else 0),
        )
        return cls(torch.cat(images), torch.repeat_interleave(torch.tensor([len(part) for part in images])))

    def guests(self, role: int) -> list[Guest]:
        scenes = torch.nonzero(self.role == role).flatten()
        return [Guest(scene, image) for scene, image in zip(scenes.tolist(), self.image[scenes].tolist())]


class _Plan(NamedTuple):
    """The settings and draws of one batch."""

    recipe: Recipe
    draws: _Draws
    roles: _Roles
    canvas: Canvas


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

    `pool` is where partners are drawn from, with replacement (`batch` itself when it is empty). `generator` lives on
    the CPU: equal generators give equal batches. `size` is the (height, width) of the images, by default a square of
    imgsz; mosaic needs the square. Raises ValueError for a tile larger than that.
    """
    device, size = torch.device(device), size or (recipe.imgsz, recipe.imgsz)
    for tile in batch:
        if tile.image.shape[1] > size[0] or tile.image.shape[2] > size[1]:
            expected = f"imgsz {size[0]}" if size[0] == size[1] else f"images of {size}"
            raise ValueError(f"Tile of {tuple(tile.image.shape[1:])} pixels for {expected}: resize it first.")
    pool = pool or batch
    draws, canvas = _Draws.take(len(batch), generator), Canvas.around(size, mosaic=recipe.mosaic > 0)
    roles = _Roles.of(recipe, draws, pool)
    plan = _Plan(recipe, draws, roles, canvas)
    scenes = _scenes(batch, pool, plan)
    maps, scale = _maps(plan)
    labels, mirrors = _labels(scenes, maps, scale, plan)
    labels, objects, rectangles = _mix_labels(labels, plan)
    images = _render(scenes, maps, recipe, canvas, device, mirrors)
    _blend_(images, plan, objects, rectangles)
    images = _recolour_(images[: len(batch)], recipe, draws)
    labels = replace(labels, image=roles.image[labels.image])
    labels = labels.only(labels.image.argsort(stable=True))
    return Batch(images, labels.apply(lambda tensor: _send(tensor, device)))


def _scenes(batch: Sequence[Tile], pool: Sequence[Tile], plan: _Plan) -> list[list[Pasted]]:
    """The tiles of every scene and their places on its canvas."""
    draws, (images, roles) = plan.draws, plan.roles
    partners = torch.stack([draws.mixup[:, 1], draws.cutmix[:, 1], draws.lender], dim=1).tolist()
    scenes = []
    for image, role, row in zip(images.tolist(), roles.tolist(), draws.mosaic[images, roles].tolist()):
        tile = batch[image] if role == OWN else _choose(pool, partners[image][role - 1])
        scenes.append(_scene(tile, pool, plan.recipe.mosaic, row, plan.canvas))
    return scenes


def _scene(tile: Tile, pool: Sequence[Tile], mosaic: float, row: list[float], canvas: Canvas) -> list[Pasted]:
    """A mosaic of `tile` (top left) and three partners that touch a drawn centre, or `tile` in the canvas's middle."""
    if row[0] >= mosaic:
        (top, left), (tall, wide), (height, width) = canvas.margin, canvas.size, tile.image.shape[1:]
        return [Pasted(tile, left + (wide - width) // 2, top + (tall - height) // 2)]
    x, y = (int(canvas.size[0] * (0.5 + draw)) for draw in row[1:3])
    tiles = [tile, *(_choose(pool, draw) for draw in row[3:6])]  # top left, top right, bottom left, bottom right
    scene = []
    for part, (below, right) in zip(tiles, ((0, 0), (0, 1), (1, 0), (1, 1))):
        height, width = part.image.shape[1:]
        scene.append(Pasted(part, x - (1 - right) * width, y - (1 - below) * height))
    return scene


def _choose(pool: Sequence[Tile], draw: float) -> Tile:
    return pool[int(draw * len(pool))]


def _maps(plan: _Plan) -> tuple[Tensor, Tensor]:
    """The maps (n, 3, 3) from canvas to output for every scene, flips included, and the drawn scales (n,)."""
    recipe, size = plan.recipe, plan.canvas.size
    ranges = {name: getattr(recipe, name) for name in ("degrees", "translate", "scale", "shear", "perspective")}
    uniform = plan.draws.warp[plan.roles.image, plan.roles.role]
    maps, scale = draw_maps(uniform, size=size, centre=plan.canvas.centre, **ranges)
    # A guest is blended in before the flips, so it is mirrored with the image that it ends up in.
    flips = plan.draws.flips[plan.roles.image]
    maps = mirror(maps, flips[:, 0] < recipe.flipud, 1, size[0])
    return mirror(maps, flips[:, 1] < recipe.fliplr, 0, size[1]), scale


def _labels(
    scenes: list[list[Pasted]], maps: Tensor, scale: Tensor, plan: _Plan
) -> tuple[Instances, dict[int, Tensor]]:
    """The labels of every scene on the output, and scene -> mask of its canvas that shows its own mirror image."""
    labels, mirrors, roles = lay_out(scenes, plan.canvas), {}, plan.roles
    if plan.recipe.copy_paste_mode == "flip":
        rounding = plan.draws.rounding[roles.image, roles.role].tolist()
        labels, mirrors = paste_mirrored(labels, plan.canvas, plan.recipe.copy_paste, rounding)
    return move(labels, maps, scale, plan.canvas), mirrors


def _mix_labels(labels: Instances, plan: _Plan) -> tuple[Instances, dict[Guest, Tensor], dict[Guest, Rectangle]]:
    """Drop the labels of guests that no image shows; return the masks of pasted objects and the cut rectangles too."""
    size, objects, rectangles = plan.canvas.size, {}, {}
    if lenders := plan.roles.guests(LENDER):
        rounding = [plan.draws.rounding[guest.image, LENDER].item() for guest in lenders]
        labels, objects = paste_objects(labels, lenders, size, plan.recipe.copy_paste, rounding)
    if guests := plan.roles.guests(CUTMIX):
        rows = [plan.draws.rectangle[guest.image].tolist() for guest in guests]
        labels, rectangles = cut_rectangles(labels, plan.roles.image, guests, size, rows)
    return labels, objects, rectangles


def _render(
    scenes: list[list[Pasted]],
    maps: Tensor,
    recipe: Recipe,
    canvas: Canvas,
    device: torch.device,
    mirrors: dict[int, Tensor] | None = None,
) -> Tensor:
    """Paste every scene and read the output from it: (n, 3, H, W) float32 in [0, 1]."""
    tall, wide = (side + 2 * RING for side in canvas.sides)
    step = max(_images_at_once(device, tall, wide), torch.get_num_threads())
    images = torch.empty(len(scenes), 3, *canvas.size, device=device)
    sheet = torch.empty(min(step, len(scenes)), 3, tall, wide, device=device)
    inverse = None if recipe.whole_pixels else _send(_to_sheet(tall, wide) @ invert(maps), device)
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
            flat = not recipe.perspective
            pixels = _sample(sheet[: len(part)], inverse[start : start + step], canvas.size, flat=flat)
        torch.div(pixels, 255, out=images[start : start + step])
    return images


def _images_at_once(device: torch.device, height: int, width: int) -> int:
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


def _blend_(images: Tensor, plan: _Plan, objects: dict[Guest, Tensor], rectangles: dict[Guest, Rectangle]) -> None:
    """Put what the guests give into the images, in the order of interface.md 6.6; in place."""
    for guest, mask in objects.items():
        stamp_(images[guest.image], images[guest.scene], mask)
    if guests := plan.roles.guests(MIXUP):
        weights = plan.draws.weight.median(dim=1).values.tolist()
        for scene, image in guests:
            images[image].mul_(weights[image]).add_(images[scene], alpha=1 - weights[image])
    for guest, (x1, y1, x2, y2) in rectangles.items():
        images[guest.image, :, y1:y2, x1:x2] = images[guest.scene, :, y1:y2, x1:x2]


def _recolour_(images: Tensor, recipe: Recipe, draws: _Draws) -> Tensor:
    """Shift hue, saturation and value, and turn the images that drew it to BGR; in place."""
    ranges = torch.tensor([recipe.hsv_h, recipe.hsv_s, recipe.hsv_v], dtype=torch.float64)
    if ranges.any():
        gains = _send((draws.hsv * 2 - 1) * ranges, images.device)  # (n, 3)
        step = _images_at_once(images.device, *images.shape[2:])
        for part, gain in zip(images.split(step), gains.split(step)):
            shift_hsv_(part, gain)
    for index in torch.nonzero(draws.flips[:, 2] < recipe.bgr).flatten().tolist():
        images[index] = images[index].flip(0)
    return images


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor from the CPU to `device` without waiting; float64 becomes float32, which every device has."""
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def recipe_of(settings: Settings, closed: bool) -> Recipe:
    """The recipe of an epoch; `closed` is as for `Recipe.closed`."""
    recipe = Recipe(**{field.name: getattr(settings, field.name) for field in fields(Recipe)})
    return recipe.closed() if closed else recipe
