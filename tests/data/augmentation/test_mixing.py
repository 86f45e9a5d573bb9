"""augmentation/mixing.py: objects and rectangles of other images, with their labels."""

from __future__ import annotations

from dataclasses import replace

import torch

from bitfalcon_plugin.data.augmentation.augment import augment
from bitfalcon_plugin.data.augmentation.compose import Tile
from bitfalcon_plugin.data.augmentation.mixing import Guest, cut_rectangles
from bitfalcon_plugin.ops.instances import Instances
from tests.data.augmentation.test_augment import DEFAULTS, OFF, PAINT, SIZE, assert_same, noise, paint_mask, seeded
from tests.data.augmentation.test_compose import drawn
from tests.helpers.labels import tile_of


def full(paint: int, *boxes: list[float]) -> Tile:
    image = PAINT[paint].byte()[:, None, None].expand(3, SIZE, SIZE).contiguous()
    return tile_of(image, torch.tensor(boxes).view(-1, 4), torch.full((len(boxes),), paint))


# Objects of another image


def test_objects_of_another_image_are_pasted_where_they_lie():
    own, other = drawn((0, (60, 8, 92, 40))), drawn((1, (8, 20, 40, 70)), (2, (64, 10, 90, 38)))
    recipe = replace(OFF, copy_paste=1, copy_paste_mode="mixup")
    batch = augment([own], [other], recipe, seeded(), "cpu")
    # the other's second would hide the own one
    assert batch.labels.boxes.tolist() == [[60, 8, 92, 40], [8, 20, 40, 70]]
    assert batch.labels.classes.tolist() == [0, 1] and batch.labels.image.tolist() == [0, 0]
    expected, shown = own.image.clone(), (other.image == PAINT[1][:, None, None]).all(dim=0)
    expected[:, shown] = other.image[:, shown]
    assert torch.equal(batch.images[0], expected / 255)


def test_lent_objects_go_through_mosaic_and_map_themselves_and_leave_other_draws():
    tiles = [drawn((paint, (8 + 8 * paint, 8, 36 + 8 * paint, 60))) for paint in range(4)]
    recipe = replace(DEFAULTS, mosaic=0.5, degrees=20, hsv_h=0, hsv_s=0, hsv_v=0)
    plain = augment(tiles * 3, tiles, recipe, seeded(), "cpu")
    lent = augment(tiles * 3, tiles, replace(recipe, copy_paste=1, copy_paste_mode="mixup"), seeded(), "cpu")
    compared = 0
    for image in range(12):
        before, after = plain.labels.boxes[plain.labels.image == image], lent.labels.boxes[lent.labels.image == image]
        assert torch.equal(after[: len(before)], before)
        classes = lent.labels.classes[lent.labels.image == image][len(before) :].tolist()
        for box, paint in zip(after[len(before) :], classes):
            x1, y1, x2, y2 = box.round().int().tolist()
            changed = (plain.images[image] != lent.images[image]).any(dim=0)
            assert (paint_mask(lent.images[image], paint) & changed)[y1:y2, x1:x2].any()
            compared += 1
    assert compared > 3


# Cutmix


def test_a_rectangle_of_another_image_is_cut_in_with_its_boxes():
    own, other = full(0, [2.0, 2, 20, 20]), full(1, [0.0, 0, SIZE, SIZE], [80.0, 80, 90, 90])
    batch = augment([own] * 200, [other], replace(OFF, cutmix=1), seeded(), "cpu")
    shares = []
    for index, image in enumerate(batch.images):
        green = paint_mask(image, 1)
        assert torch.equal(green, ~paint_mask(image, 0))
        labels = batch.labels.only(batch.labels.image == index)
        boxes, classes = labels.boxes, labels.classes
        assert classes[0] == 0 and boxes[0].tolist() == [2, 2, 20, 20] and not green[2:20, 2:20].any()
        if not green.any():
            assert classes.tolist() == [0]  # each of three rectangles met the box
            continue
        rows, columns = green.nonzero().unbind(1)
        x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert int(green.sum()) == (x2 - x1) * (y2 - y1)
        area = int(green.sum()) / SIZE**2
        shares.append(area)
        expected = [[int(x1), int(y1), int(x2), int(y2)]] if area >= 0.1 and min(x2 - x1, y2 - y1) > 2 else []
        small = [max(int(x1), 80), max(int(y1), 80), min(int(x2), 90), min(int(y2), 90)]
        sides = small[2] - small[0], small[3] - small[1]
        if min(sides) > 2 and sides[0] * sides[1] >= 10:
            expected.append(small)
        assert boxes[1:].tolist() == expected and classes[1:].tolist() == [1] * len(expected)
    # Of a uniform share those around 0 always find room; large ones never do, for they would meet the box.
    assert len(shares) > 150 and min(shares) < 0.03 and max(shares) > 0.3


def test_the_share_that_is_cut_is_uniform():
    labels = Instances(torch.empty(0, 4).double(), torch.empty(0).long(), image=torch.empty(0).long())
    generator, size, areas = seeded(), (400, 800), []
    for _ in range(400):
        row = torch.rand(9, generator=generator, dtype=torch.float64).tolist()
        row[1] = row[2] = 0.5  # in the middle, nothing is cut off at the sides
        _, result = cut_rectangles(labels, torch.tensor([0, 0]), [Guest(1, 0)], size, [row])
        (x1, y1, x2, y2) = result[Guest(1, 0)]
        areas.append((x2 - x1) * (y2 - y1) / (400 * 800))
        assert abs(areas[-1] - (1 - row[0])) < 0.02 and (x2 - x1 - 2 * (y2 - y1)) in range(-4, 5)
    assert abs(sum(areas) / 400 - 0.5) < 0.05


def test_the_first_free_rectangle_is_taken():
    boxes = torch.tensor([[0.0, 0, 50, 100], [60.0, 0, 100, 100]], dtype=torch.float64)
    labels = Instances(boxes, torch.tensor([0, 1]), image=torch.tensor([0, 1]))
    images, guest = torch.tensor([0, 0]), Guest(1, 0)
    small = 1 - 0.04  # a rectangle of 20 by 20
    left, right, far = [small, 0.305, 0.505], [small, 0.805, 0.505], [small, 0.705, 0.205]
    assert cut_rectangles(labels, images, [guest], (100, 100), [[*left, *right, *far]])[1] == {guest: (70, 40, 90, 60)}
    assert cut_rectangles(labels, images, [guest], (100, 100), [[*right, *left, *far]])[1] == {guest: (70, 40, 90, 60)}
    kept, result = cut_rectangles(labels, images, [guest], (100, 100), [[*left, *left, *left]])
    assert result == {} and kept.classes.tolist() == [0]
    kept, result = cut_rectangles(
        labels, images, [guest], (100, 100), [[0.5, 0.95, 0.5] * 3]
    )  # half of the picture, cut at its side
    assert result == {guest: (59, 14, 100, 85)}
    assert kept.boxes.tolist() == [[0, 0, 50, 100], [60, 14, 100, 85]]


def test_cutmix_leaves_every_other_draw():
    tiles = [noise(96, seed=seed) for seed in range(8)]
    recipe = replace(DEFAULTS, mixup=0.3)
    plain = augment(tiles, tiles, recipe, seeded(), "cpu")
    some = augment(tiles, tiles, replace(recipe, cutmix=0.4), seeded(), "cpu")
    kept = [torch.equal(a, b) for a, b in zip(plain.images, some.images)]
    assert 0 < sum(kept) < 8
    for image, same in enumerate(kept):
        before, after = plain.labels.boxes[plain.labels.image == image], some.labels.boxes[some.labels.image == image]
        assert torch.equal(after[: len(before)], before) and (len(after) == len(before) or not same)
    assert_same(plain, augment(tiles, tiles, replace(recipe, cutmix=0.0), seeded(), "cpu"))


def test_all_of_it_together_stays_finite_and_inside():
    tiles = [drawn((paint, (8, 8 + 8 * paint, 36, 50 + 8 * paint)), (5, (50, 10, 80, 30))) for paint in range(5)]
    for mode in ("flip", "mixup"):
        recipe = replace(DEFAULTS, mixup=0.5, cutmix=0.5, copy_paste=0.6, copy_paste_mode=mode, degrees=10, bgr=0.5)
        first, again = (augment(tiles * 2, tiles, recipe, seeded(3), "cpu") for _ in range(2))
        assert_same(first, again)
        assert first.images.isfinite().all() and ((first.labels.boxes >= 0) & (first.labels.boxes <= SIZE)).all()
        assert first.labels.image.tolist() == sorted(first.labels.image.tolist())
