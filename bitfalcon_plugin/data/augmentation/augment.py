"""Training augmentation: a batch of tiles in, a batch of network inputs out, on the training device.

Mosaic (Bochkovskiy et al., YOLOv4, arXiv:2004.10934), copy-paste, a random projective map, mixup, cutmix, colour and
flips, written from spec/interface.md (section 6.6). Every output image is pasted onto a canvas (a copy) and read from
it in one sampling step: mosaic, map and flips cost one interpolation together. Draws come from a CPU generator and
boxes move on the CPU, so that nothing waits for the device and every device gives the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ...config.settings import Settings
from ...config.unused import MIXING
from ...ops.instances import Instances
from ...ops.keypoints import exchange_keypoints
from .compose import Canvas, Pasted, Tile, lay_out, move, paste_mirrored
from .geometry import draw_maps, mirror
from .hsv import shift_hsv_
from .mixing import Guest, Rectangle, cut_rectangles, paste_objects
from .mosaic import choose_tile, lay_out_scene
from .render import blend_, images_at_once, render, send

MIXUP_DRAWS = 63  # the median of 63 uniform draws has the distribution Beta(32, 32)
CHANCES = ("mosaic", "mixup", "cutmix", "copy_paste", "flipud", "fliplr", "bgr")  # settings that are probabilities
RANGES = ("degrees", "translate", "scale", "shear", "perspective", "hsv_h", "hsv_s", "hsv_v")
OWN, MIXUP, CUTMIX, LENDER = range(4)  # roles of a scene: an image itself, or what it gives to another image


@dataclass(frozen=True)
class Recipe:
    """Which augmentations are drawn, and from which ranges.

    `imgsz` is in pixels, `degrees` and `shear` in degrees. `mosaic`, `flipud`, `fliplr`, `mixup`, `cutmix` and `bgr`
    are probabilities; `translate` and `scale` fractions; `perspective` is per pixel; `hsv_h` is in turns, `hsv_s` and
    `hsv_v` are relative. `copy_paste` is the share of the objects with polygons that are pasted once more where they
    hide little: "flip" pastes the mirrored objects of the same image, "mixup" objects of another image. Objects without
    polygons are never pasted. flip_idx: for each keypoint the one that takes its place in a mirror.
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
    flip_idx: tuple[int, ...] | None = None

    mixing: ClassVar[tuple[str, ...]] = MIXING  # what `closed` ends

    @property
    def whole_pixels(self) -> bool:
        """Whether the map only moves by whole pixels and mirrors, so that nothing needs interpolating."""
        return not (self.degrees or self.translate or self.scale or self.shear or self.perspective)

    @property
    def without_partners(self) -> bool:
        """Whether every image is made of a single tile."""
        return not (self.mosaic or self.mixup or self.cutmix or self.copy_paste and self.copy_paste_mode == "mixup")

    def described(self) -> dict[str, dict[str, float]]:
        """The settings by kind, "chances" and "ranges", for reports."""
        kinds = {"chances": CHANCES, "ranges": RANGES}
        return {kind: {name: getattr(self, name) for name in names} for kind, names in kinds.items()}

    def closed(self) -> Recipe:
        """The recipe of the last epochs: without partners, and without copy-paste (section 6.5)."""
        return replace(self, mosaic=0.0, mixup=0.0, cutmix=0.0, copy_paste=0.0)

    def for_keypoints(self, flip_idx: Sequence[int] | None) -> Recipe:
        """The recipe for objects with keypoints; without mirrors where flip_idx is None (pose-obb.md 1.4)."""
        if flip_idx is None:
            return replace(self, flipud=0.0, fliplr=0.0)
        return replace(self, flip_idx=tuple(flip_idx))

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
        # Draws of newer augmentations come after the older ones, so that old seeds give the same images.
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
    imgsz; mosaic needs the square. Raises ValueError for a tile larger than that, and for keypoints in mirrors without
    flip_idx.
    """
    device, size = torch.device(device), size or (recipe.imgsz, recipe.imgsz)
    for tile in batch:
        if tile.image.shape[1] > size[0] or tile.image.shape[2] > size[1]:
            expected = f"imgsz {size[0]}" if size[0] == size[1] else f"images of {size}"
            raise ValueError(f"Tile of {tuple(tile.image.shape[1:])} pixels for {expected}: resize it first.")
        if tile.labels.keypoints is not None and recipe.flip_idx is None and (recipe.flipud or recipe.fliplr):
            raise ValueError("keypoints in mirrors without flip_idx: which ones are left and right is not known.")
    pool = pool or batch
    draws, canvas = _Draws.take(len(batch), generator), Canvas.around(size, mosaic=recipe.mosaic > 0)
    roles = _Roles.of(recipe, draws, pool)
    plan = _Plan(recipe, draws, roles, canvas)
    scenes = _scenes(batch, pool, plan)
    maps, scale = _maps(plan)
    labels, mirrors = _labels(scenes, maps, scale, plan)
    labels, objects, rectangles = _mix_labels(labels, plan)
    kind = {"whole_pixels": recipe.whole_pixels, "flat": not recipe.perspective}
    images = render(scenes, maps, canvas, device, **kind, mirrors=mirrors)
    blend_(images, objects, roles.guests(MIXUP), draws.weight.median(dim=1).values, rectangles)
    images = _recolour_(images[: len(batch)], recipe, draws)
    labels = replace(labels, image=roles.image[labels.image])
    labels = labels.only(labels.image.argsort(stable=True))
    return Batch(images, labels.apply(lambda tensor: send(tensor, device)))


def _scenes(batch: Sequence[Tile], pool: Sequence[Tile], plan: _Plan) -> list[list[Pasted]]:
    """The tiles of every scene and their places on its canvas."""
    draws, (images, roles) = plan.draws, plan.roles
    partners = torch.stack([draws.mixup[:, 1], draws.cutmix[:, 1], draws.lender], dim=1).tolist()
    scenes = []
    for image, role, row in zip(images.tolist(), roles.tolist(), draws.mosaic[images, roles].tolist()):
        tile = batch[image] if role == OWN else choose_tile(pool, partners[image][role - 1])
        scenes.append(lay_out_scene(tile, pool, plan.recipe.mosaic, row, plan.canvas))
    return scenes


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
    return _exchanged(move(labels, maps, scale, plan.canvas), plan), mirrors


def _exchanged(labels: Instances, plan: _Plan) -> Instances:
    """The labels with the keypoints exchanged that a mirror exchanges: once for each flip of their image."""
    if labels.keypoints is None or plan.recipe.flip_idx is None:
        return labels
    image, keypoints = plan.roles.image[labels.image], labels.keypoints
    for column, chance in ((0, plan.recipe.flipud), (1, plan.recipe.fliplr)):
        mirrored = plan.draws.flips[image, column] < chance
        keypoints = exchange_keypoints(keypoints, mirrored, plan.recipe.flip_idx)
    return replace(labels, keypoints=keypoints)


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


def _recolour_(images: Tensor, recipe: Recipe, draws: _Draws) -> Tensor:
    """Shift hue, saturation and value, and turn the images that drew it to BGR; in place."""
    ranges = torch.tensor([recipe.hsv_h, recipe.hsv_s, recipe.hsv_v], dtype=torch.float64)
    if ranges.any():
        gains = send((draws.hsv * 2 - 1) * ranges, images.device)  # (n, 3)
        step = images_at_once(images.device, *images.shape[2:])
        for part, gain in zip(images.split(step), gains.split(step)):
            shift_hsv_(part, gain)
    for index in torch.nonzero(draws.flips[:, 2] < recipe.bgr).flatten().tolist():
        images[index] = images[index].flip(0)
    return images


def recipe_of(settings: Settings, closed: bool) -> Recipe:
    """The recipe of an epoch; `closed` is as for `Recipe.closed`."""
    names = [field.name for field in fields(Recipe) if field.name != "flip_idx"]  # the data say it
    recipe = Recipe(**{name: getattr(settings, name) for name in names})
    return recipe.closed() if closed else recipe
