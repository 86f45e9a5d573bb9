"""augmentation/augment.py: boxes follow their pixels, off means off, the same draws give the same batch."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import pytest
import torch

from bitfalcon_plugin.data.augmentation import render as rendering
from bitfalcon_plugin.data.augmentation.augment import Batch, Recipe, augment
from bitfalcon_plugin.data.augmentation.compose import Tile
from tests.helpers.labels import tile_of

SIZE = 96
OFF = Recipe(
    imgsz=SIZE, mosaic=0, degrees=0, translate=0, scale=0, shear=0, perspective=0, hsv_h=0, hsv_s=0, hsv_v=0,
    flipud=0, fliplr=0, mixup=0, bgr=0,
)  # fmt: skip
DEFAULTS = replace(OFF, mosaic=1.0, translate=0.1, scale=0.5, hsv_h=0.015, hsv_s=0.7, hsv_v=0.4, fliplr=0.5)
# Far from grey 114 and from one another, so that a pixel half paint and half grey can be told.
PAINT = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(height: int = 72, width: int = SIZE, boxes: int = 2, seed: int = 0) -> Tile:
    generator = seeded(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    corner = torch.rand(boxes, 2, generator=generator) * 30
    classes = torch.randint(0, 5, (boxes,), generator=generator)
    return tile_of(image, torch.cat([corner, corner + 12 + corner / 2], dim=1), classes)


def painted(paint: int, height: int, width: int, box: tuple[int, int, int, int]) -> Tile:
    image = torch.full((3, height, width), 114, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = PAINT[paint][:, None, None].byte()
    return tile_of(image, torch.tensor([box], dtype=torch.float32), torch.tensor([paint]))


PAINTED = [
    painted(0, 96, 96, (10, 12, 60, 70)), painted(1, 72, 96, (30, 8, 80, 40)), painted(2, 96, 60, (8, 40, 50, 86)),
    painted(3, 96, 96, (40, 40, 88, 56)), painted(4, 50, 96, (12, 10, 40, 40)), painted(5, 96, 96, (8, 60, 88, 88)),
]  # fmt: skip


def paint_mask(image: torch.Tensor, paint: int) -> torch.Tensor:
    """(H, W) pixels that are more than half of this paint: grey is 0.553 or 0.447 away from it."""
    return ((image - PAINT[paint][:, None, None] / 255).abs() < 0.27).all(dim=0)


def assert_same(a: Batch, b: Batch) -> None:
    assert torch.equal(a.images, b.images)
    for name in ("boxes", "classes", "image"):
        assert torch.equal(getattr(a.labels, name), getattr(b.labels, name)), name


# Off means off


@pytest.mark.parametrize("height,width", [(96, 96), (72, 96), (96, 51), (1, 96), (96, 1), (33, 47)])
def test_identity_keeps_every_pixel_and_box(height, width):
    image = torch.randint(0, 256, (3, height, width), generator=seeded(), dtype=torch.uint8)
    box = torch.tensor([[width * 0.1, height * 0.2, width * 0.7, height * 0.9]])
    batch = augment([tile_of(image, box, torch.tensor([3]))], [], OFF, seeded(), "cpu")
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    expected = torch.full((1, 3, SIZE, SIZE), 114 / 255)
    expected[0, :, top : top + height, left : left + width] = image / 255
    assert torch.equal(batch.images, expected)
    assert batch.images.dtype == torch.float32 and batch.images.is_contiguous()
    large = min(height, width) * 0.6 > 2  # sides of 2 px and less are never kept
    assert torch.equal(batch.labels.boxes, (box + torch.tensor([left, top, left, top])) if large else torch.empty(0, 4))


def test_identity_by_resampling_agrees_with_the_copy():
    tiles = [noise(seed=seed) for seed in range(3)]
    still = augment(tiles, tiles, OFF, seeded(), "cpu")
    sampled = augment(tiles, tiles, replace(OFF, degrees=1e-9), seeded(), "cpu")
    torch.testing.assert_close(sampled.images, still.images, atol=1e-4, rtol=0)
    torch.testing.assert_close(sampled.labels.boxes, still.labels.boxes, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name,dims", [("fliplr", [3]), ("flipud", [2])])
@pytest.mark.parametrize("others", [OFF, DEFAULTS], ids=["copied", "resampled"])
def test_flips_mirror_pixels_and_boxes(name, dims, others):
    tiles = [noise(seed=seed) for seed in range(4)]
    plain = augment(tiles, tiles, replace(others, fliplr=0, flipud=0), seeded(), "cpu")
    flipped = augment(tiles, tiles, replace(others, **{"fliplr": 0, "flipud": 0, name: 1}), seeded(), "cpu")
    if others is OFF:
        assert torch.equal(flipped.images, plain.images.flip(dims))
    torch.testing.assert_close(flipped.images, plain.images.flip(dims), atol=2e-4, rtol=0)
    low, high = (0, 2) if name == "fliplr" else (1, 3)
    expected = plain.labels.boxes.clone()
    expected[:, low], expected[:, high] = SIZE - plain.labels.boxes[:, high], SIZE - plain.labels.boxes[:, low]
    torch.testing.assert_close(flipped.labels.boxes, expected)
    assert torch.equal(flipped.labels.classes, plain.labels.classes) and len(plain.labels.classes) > 0


def test_some_flips_leave_the_others():
    tiles = [noise(seed=seed) for seed in range(16)]
    plain = augment(tiles, tiles, OFF, seeded(), "cpu").images
    mixed = augment(tiles, tiles, replace(OFF, fliplr=0.5), seeded(), "cpu").images
    turned = [torch.equal(a, b.flip(2)) for a, b in zip(mixed, plain)]
    kept = [torch.equal(a, b) for a, b in zip(mixed, plain)]
    assert all(a != b for a, b in zip(turned, kept)) and 2 < sum(turned) < 14


def test_bgr_reverses_the_channels():
    tiles = [noise(seed=seed) for seed in range(2)]
    plain, reverse = (augment(tiles, tiles, replace(OFF, bgr=p), seeded(), "cpu") for p in (0, 1))
    assert torch.equal(reverse.images, plain.images.flip(1)) and not torch.equal(reverse.images, plain.images)


# Boxes follow their pixels

WARPS = {
    "identity": {}, "translate": {"translate": 0.3}, "scale": {"scale": 0.5},
    "defaults": {"translate": 0.1, "scale": 0.5},
    "flips": {"fliplr": 0.5, "flipud": 0.5, "scale": 0.5}, "rotate": {"degrees": 45}, "shear": {"shear": 20},
    "perspective": {"perspective": 0.001},
    "all": {"degrees": 30, "shear": 10, "perspective": 0.0005, "translate": 0.1, "scale": 0.3, "fliplr": 0.5,
            "flipud": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
@pytest.mark.parametrize("warp", WARPS)
def test_box_follows_its_paint(warp, mosaic):
    recipe, compared = replace(OFF, mosaic=mosaic, **WARPS[warp]), 0
    straight = not any(getattr(recipe, name) for name in ("degrees", "shear", "perspective"))
    for seed in range(40 if straight else 150):
        batch = augment(PAINTED[:3], PAINTED[3:], recipe, seeded(seed), "cpu")
        for box, paint, owner in zip(batch.labels.boxes, batch.labels.classes.tolist(), batch.labels.image.tolist()):
            # The hull of a slanted quadrilateral that leaves the image is larger than the hull of what is left of it,
            # and the hulls of two partners with the same paint (one tile, drawn twice) overlap.
            if not straight and (box.min() <= 0 or box.max() >= SIZE or paint >= 3):
                continue
            x1, y1 = (box[:2] - 3).floor().int().clamp_min(0).tolist()  # the same partner may lie elsewhere
            x2, y2 = (box[2:] + 3).ceil().int().tolist()
            rows, columns = paint_mask(batch.images[owner, :, y1:y2, x1:x2], paint).nonzero().unbind(1)
            result = torch.tensor([columns.min() + x1, rows.min() + y1, columns.max() + x1 + 1, rows.max() + y1 + 1])
            torch.testing.assert_close(result.float(), box, atol=1.0, rtol=0)
            compared += 1
    assert compared >= 20


@pytest.mark.parametrize("warp", WARPS)
def test_visible_paint_keeps_its_box(warp):
    recipe, judged = replace(OFF, **WARPS[warp]), 0
    for seed in range(12):
        batch = augment(PAINTED, PAINTED, recipe, seeded(seed), "cpu")
        for image, tile in enumerate(PAINTED):
            paint = int(tile.labels.classes)
            seen = int(paint_mask(batch.images[image], paint).sum())
            full = float((tile.labels.boxes[0, 2:] - tile.labels.boxes[0, :2]).prod()) * (1 + recipe.scale) ** 2
            if seen > 0.2 * full:  # twice what the rule for lost area asks for, at the largest scale
                assert paint in batch.labels.classes[batch.labels.image == image]
                judged += 1
    assert judged > 10


def test_a_line_does_not_become_a_box_by_turning():
    tile = tile_of(noise(96).image, torch.tensor([[10.0, 10.0, 10.0, 90.0]]), torch.tensor([0]))
    batch = augment([tile] * 8, [tile], replace(OFF, degrees=90), seeded(), "cpu")
    assert batch.labels.boxes.shape == (0, 4)


# Mosaic and mixup


def test_mosaic_puts_the_own_image_top_left_and_fills_the_rest():
    def flat(paint: int, box: list[float]) -> Tile:
        image = PAINT[paint].byte()[:, None, None].expand(3, SIZE, SIZE)
        return tile_of(image, torch.tensor([box]), torch.tensor([paint]))

    whole = [0.0, 0.0, SIZE, SIZE]
    batch = augment([flat(0, whole)] * 40, [flat(1, whole)], replace(OFF, mosaic=1), seeded(), "cpu")
    centres = []
    for index, image in enumerate(batch.images):
        red, green = paint_mask(image, 0), paint_mask(image, 1)
        height, width = int(red.any(dim=1).sum()), int(red.any(dim=0).sum())
        assert torch.equal(red[:height, :width], torch.ones(height, width, dtype=torch.bool))
        assert torch.equal(red, ~green) and int(red.sum()) == height * width
        own = batch.labels.boxes[(batch.labels.image == index) & (batch.labels.classes == 0)].tolist()
        on_canvas = min(width + SIZE / 2, SIZE) * min(height + SIZE / 2, SIZE)  # the crop took half a size off it
        assert own == ([[0, 0, width, height]] if min(width, height) > 2 and width * height > 0.1 * on_canvas else [])
        centres += [height, width]
    # 80 draws of a number that is uniform in [0, SIZE)
    assert min(centres) < 8 and max(centres) > SIZE - 8 and abs(sum(centres) / 80 - SIZE / 2) < 15


def test_mosaic_probability_is_per_image():
    tiles = [noise(96, seed=seed) for seed in range(32)]
    plain = augment(tiles, tiles, OFF, seeded(), "cpu").images
    some = augment(tiles, tiles, replace(OFF, mosaic=0.5), seeded(), "cpu").images
    same = sum(torch.equal(a, b) for a, b in zip(plain, some))
    assert 6 < same < 26


def test_mosaic_crops_what_leaves_its_canvas():
    own, other = painted(0, 96, 96, (0, 0, 96, 96)), noise(96, boxes=0)
    recipe, compared = replace(OFF, mosaic=1, scale=0.6, translate=0.2), 0
    batch = augment([own] * 60, [replace(other, image=other.image // 4)], recipe, seeded(), "cpu")
    for box, owner in zip(batch.labels.boxes, batch.labels.image.tolist()):
        rows, columns = paint_mask(batch.images[owner], 0).nonzero().unbind(1)
        result = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        torch.testing.assert_close(result.float(), box, atol=1.0, rtol=0)
        compared += bool(((box[:2] > 2) & (box[2:] < SIZE)).any())  # the grey beyond the canvas is in sight
    assert compared >= 5


def test_mixup_blends_the_partner_and_joins_the_labels():
    own, other = painted(0, 96, 96, (0, 0, 96, 96)), painted(2, 96, 96, (0, 0, 96, 96))
    batch = augment([own] * 200, [other], replace(OFF, mixup=1), seeded(), "cpu")
    weight = batch.images[:, 0].mean(dim=(1, 2))
    torch.testing.assert_close(batch.images[:, 2].mean(dim=(1, 2)), 1 - weight)
    assert torch.equal(batch.images[:, 0].amin(dim=(1, 2)), batch.images[:, 0].amax(dim=(1, 2)))
    # Beta(32, 32): mean 1/2, variance 1 / (4 * 65)
    assert abs(float(weight.mean()) - 0.5) < 0.02 and abs(float(weight.std()) - 0.062) < 0.01
    assert batch.labels.image.tolist() == [index for index in range(200) for _ in range(2)]
    assert batch.labels.classes.view(-1, 2).tolist() == [[0, 2]] * 200


def test_mixup_partner_goes_through_mosaic_and_map_itself():
    tiles = [noise(seed=seed) for seed in range(8)]
    recipe = replace(DEFAULTS, hsv_h=0, hsv_s=0, hsv_v=0)
    plain = augment(tiles, tiles, recipe, seeded(), "cpu")
    mixed = augment(tiles, tiles, replace(recipe, mixup=0.5), seeded(), "cpu")
    kept = [torch.equal(a, b) for a, b in zip(plain.images, mixed.images)]
    assert 0 < sum(kept) < 8
    for index, same in enumerate(kept):
        before, after = plain.labels.boxes[plain.labels.image == index], mixed.labels.boxes[mixed.labels.image == index]
        assert torch.equal(after[: len(before)], before) and (len(after) == len(before) or not same)
    assert mixed.labels.image.tolist() == sorted(mixed.labels.image.tolist())
    assert len(mixed.labels.boxes) > len(plain.labels.boxes)


# Colour


def test_each_colour_gain_changes_what_it_names():
    tile = painted(3, 96, 96, (0, 0, 96, 96))  # yellow: hue 60 degrees
    for name in ("hsv_h", "hsv_s", "hsv_v"):
        batch = augment([tile] * 8, [tile], replace(OFF, **{name: 0.1}), seeded(), "cpu")
        hsv = [colorsys.rgb_to_hsv(*image[:, 5, 5].tolist()) for image in batch.images]
        spread = [max(column) - min(column) for column in zip(*hsv)]
        moved = [width > 0.02 for width in spread]
        assert moved == [name == "hsv_h", name == "hsv_s", name == "hsv_v"]
        assert abs(hsv[0][0] - 1 / 6) <= 0.1 and all(width <= 0.2 for width in spread)


def test_colour_stays_in_range():
    tiles = [noise(seed=seed) for seed in range(4)]
    images = augment(tiles, tiles, replace(OFF, hsv_h=1, hsv_s=1, hsv_v=1), seeded(), "cpu").images
    assert images.min() >= 0 and images.max() <= 1 and images.isfinite().all()


# Purity and odd inputs


def test_equal_generators_give_equal_batches_and_leave_the_tiles():
    tiles = [noise(seed=seed) for seed in range(6)]
    copies = [(tile.image.clone(), tile.labels.boxes.clone()) for tile in tiles]
    recipe = replace(DEFAULTS, mixup=0.5, degrees=10, bgr=0.5, flipud=0.5)
    state = torch.get_rng_state()
    first, second = (augment(tiles, tiles, recipe, seeded(7), "cpu") for _ in range(2))
    assert_same(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first.images, augment(tiles, tiles, recipe, seeded(8), "cpu").images)
    for tile, (image, boxes) in zip(tiles, copies):
        assert torch.equal(tile.image, image) and torch.equal(tile.labels.boxes, boxes)


@pytest.mark.parametrize("recipe", [OFF, replace(OFF, mosaic=1), replace(DEFAULTS, mixup=0.5)])
def test_the_size_of_a_part_does_not_matter(recipe, monkeypatch):
    tiles = [noise(seed=seed) for seed in range(9)]
    whole = augment(tiles, tiles, recipe, seeded(), "cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setitem(rendering.CANVAS_BYTES, "cpu", 1)
    parts = augment(tiles, tiles, recipe, seeded(), "cpu")
    assert torch.equal(whole.labels.boxes, parts.labels.boxes)
    torch.testing.assert_close(whole.images, parts.images, atol=1e-6, rtol=0)


@pytest.mark.parametrize("recipe", [OFF, DEFAULTS, replace(DEFAULTS, mixup=1, degrees=20, perspective=0.001)])
def test_images_without_boxes_survive(recipe):
    empty = tile_of(noise().image, torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    batch = augment([empty] * 3, [empty], recipe, seeded(), "cpu")
    assert batch.images.shape == (3, 3, SIZE, SIZE) and batch.images.isfinite().all()
    assert batch.labels.boxes.shape == (0, 4) and batch.labels.boxes.dtype == torch.float32
    assert batch.labels.classes.shape == (0,) and batch.labels.classes.dtype == torch.int64
    assert batch.labels.image.shape == (0,) and batch.labels.image.dtype == torch.int64
    full = noise(boxes=3)
    mixed = augment([empty, full, empty], [empty], OFF, seeded(), "cpu")
    assert mixed.labels.image.tolist() == [1, 1, 1] and torch.equal(mixed.labels.classes, full.labels.classes)


def test_all_boxes_lost():
    tile = tile_of(noise().image, torch.tensor([[5.0, 5.0, 6.5, 6.5], [9.0, 9.0, 9.0, 30.0]]), torch.tensor([0, 1]))
    batch = augment([tile], [tile], DEFAULTS, seeded(), "cpu")
    assert batch.labels.boxes.shape == (0, 4) and batch.labels.image.dtype == torch.int64


def test_one_image_alone_with_an_empty_pool():
    batch = augment([noise()], [], replace(DEFAULTS, mixup=1), seeded(), "cpu")
    assert batch.images.shape == (1, 3, SIZE, SIZE) and set(batch.labels.image.tolist()) == {0}


@pytest.mark.parametrize("height,width", [(1, SIZE), (SIZE, 1), (1, 1)])
def test_tiles_one_pixel_wide(height, width):
    thin = tile_of(torch.full((3, height, width), 255, dtype=torch.uint8), torch.empty(0, 4), torch.empty(0).long())
    images = augment([thin] * 8, [thin], replace(OFF, mosaic=1), seeded(), "cpu").images
    assert set(images.unique().tolist()) == {float(torch.tensor(114) / 255), 1.0}


def test_extreme_settings_stay_finite_and_inside():
    tiles = [noise(seed=seed) for seed in range(16)]
    wild = replace(DEFAULTS, degrees=180, shear=89, scale=1, translate=1, perspective=1, mixup=0.5)
    batch = augment(tiles, tiles, wild, seeded(), "cpu")
    assert batch.images.isfinite().all() and batch.images.min() >= 0 and batch.images.max() <= 1
    assert batch.labels.boxes.isfinite().all() and ((batch.labels.boxes >= 0) & (batch.labels.boxes <= SIZE)).all()


def test_an_odd_size_is_cropped_from_the_middle():
    tile = tile_of(noise(33, 33).image, torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    images = augment([tile], [tile], replace(OFF, imgsz=33, mosaic=0.001), seeded(), "cpu").images
    assert torch.equal(images[0], tile.image / 255)


def test_a_tile_larger_than_imgsz_is_refused():
    with pytest.raises(ValueError, match=r"\(72, 96\).*imgsz 64"):
        augment([noise()], [], replace(OFF, imgsz=64), seeded(), "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_batch():
    tiles = [noise(seed=seed) for seed in range(8)]
    there = [replace(tile, image=tile.image.cuda()) for tile in tiles]
    recipe = replace(DEFAULTS, mixup=0.5, degrees=10, perspective=0.0005)
    here, away = (augment(t, t, recipe, seeded(), d) for t, d in ((tiles, "cpu"), (there, "cuda")))
    assert away.images.is_cuda and away.labels.boxes.is_cuda and torch.equal(here.labels.boxes, away.labels.boxes.cpu())
    torch.testing.assert_close(away.images.cpu(), here.images, atol=2e-3, rtol=0)
