"""data/loader.py: epochs entered in their middle, shares of several processes, rectangles, and drawn sizes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin.data.augmentation.augment import augment
from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.data.loading import loader as module
from bitfalcon_plugin.data.loading.loader import Reading, ValLoader, share
from bitfalcon_plugin.data.loading.workers import Tiles, long_side
from tests.data.augmentation.test_augment import paint_mask, painted, seeded
from tests.data.loading.test_loader import FULL, OFF, assert_same, epoch, train, write
from tests.helpers.labels import columns


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return write(tmp_path, [(64, 48), (30, 40), (64, 64), (20, 80), (50, 50), (96, 64), (64, 60), (33, 64), (64, 64)])


def rest(loader, number: int, recipe, start: int) -> list:
    return [(batch.images, *columns(batch), indices)
            for batch, indices in loader.epoch(number, recipe, start=start)]  # fmt: skip


# An epoch from its middle


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("pool", [1, 2, 8])
def test_an_epoch_can_be_entered_anywhere(samples, workers, pool, monkeypatch):
    monkeypatch.setattr(module, "POOL_BATCHES", pool)
    whole, loader = epoch(train(samples, batch=2), 1, FULL), train(samples, batch=2, workers=workers)
    for start in range(5):
        assert_same(rest(loader, 1, FULL, start), whole[start:])
    assert rest(loader, 1, FULL, 5) == []
    assert_same(epoch(loader, 1, FULL), whole)


def test_entering_reads_no_more_than_partners_come_from(samples, monkeypatch):
    monkeypatch.setattr(module, "POOL_BATCHES", 1)
    loader, read = train(samples, batch=2), []
    plain = Tiles.__getitem__
    monkeypatch.setattr(Tiles, "__getitem__", lambda self, index: (read.append(index), plain(self, index))[1])
    rest(loader, 0, FULL, 4)
    assert len(read) == 3  # the batch before, and the last image
    read.clear()
    rest(loader, 0, replace(FULL, mosaic=0, mixup=0), 4)
    assert len(read) == 1


# Several processes


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_every_batch(samples, world):
    whole = [batch[-1] for batch in epoch(train(samples), 2, OFF)]
    shares = [[batch[-1] for batch in epoch(train(samples, rank=rank, world=world), 2, OFF)] for rank in range(world)]
    for number, chunk in enumerate(whole):
        parts = [result[number] for result in shares]
        assert {len(part) for part in parts} == {math.ceil(len(chunk) / world)}
        together = [index for part in parts for index in part]
        assert together == (chunk * world)[: len(together)]  # in order, then from the front again
    assert all(len(result) == len(whole) == len(train(samples, world=world)) for result in shares)
    loader = train(samples, batch=2, rank=world - 1, world=world)
    assert_same(rest(loader, 2, FULL, 3), epoch(train(samples, batch=2, rank=world - 1, world=world), 2, FULL)[3:])


def test_ranks_draw_for_themselves_and_the_first_as_one_alone(samples):
    same = samples[2:3] * 4
    alone = epoch(train(same), 0, replace(FULL, mosaic=0))
    first, second = (epoch(train(same, rank=rank, world=2), 0, replace(FULL, mosaic=0)) for rank in (0, 1))
    assert not torch.equal(first[0][0], second[0][0])
    assert_same(epoch(train(samples, world=1), 1, FULL), epoch(train(samples), 1, FULL))
    assert alone[0][0].shape[0] == 4 and first[0][0].shape[0] == second[0][0].shape[0] == 2
    with pytest.raises(ValueError, match="rank 2 of 2"):
        train(samples, rank=2, world=2)


def test_shares_of_few_images():
    assert [share([7], rank, 3) for rank in range(3)] == [[7], [7], [7]]
    assert [share([1, 2, 3, 4, 5], rank, 4) for rank in range(4)] == [[1, 2], [3, 4], [5, 1], [2, 3]]


@pytest.mark.parametrize("world", [2, 3, 7])
def test_validation_deals_out_whole_batches(samples, world):
    whole = list(ValLoader(samples, imgsz=64, batch=2, multiple=32))
    ranks = [
        ValLoader(samples, Reading(rank=rank, world=world), imgsz=64, batch=2, multiple=32) for rank in range(world)
    ]
    for rank, loader in enumerate(ranks):
        result = list(loader)
        assert len(result) == len(loader) == len(whole[rank::world])
        for (images, fits, indices), (others, other_fits, other_indices) in zip(result, whole[rank::world]):
            assert torch.equal(images, others) and fits == other_fits and indices == other_indices
    assert sorted(index for loader in ranks for *_, indices in loader for index in indices) == list(range(9))


# Rectangles


@pytest.mark.parametrize("multiple", [32, 64])
def test_rectangles_hold_like_images_with_the_least_padding(tmp_path, multiple):
    sizes = [(64, 48), (30, 128), (48, 64), (20, 80), (128, 30), (96, 64), (60, 64), (33, 128), (128, 33)]
    samples = write(tmp_path, sizes)
    loader = train(samples, imgsz=128, batch=2, rect=True, multiple=multiple)
    recipe, orders = replace(OFF, imgsz=128, mosaic=1, mixup=1, cutmix=1), []  # what needs partners is off
    for number in range(4):
        batches = epoch(loader, number, recipe)
        orders.append([batch[-1] for batch in batches])
        for images, boxes, classes, _owner, indices in batches:
            shown = [long_side(samples[i].size, 128) for i in indices]
            ratios = [height / width for height, width in (samples[i].size for i in indices)]
            mixed = min(ratios) < 1 < max(ratios)
            least = [128 if mixed else -(-max(sides) // multiple) * multiple for sides in zip(*shown)]
            assert images.shape == (len(indices), 3, *least) and classes.tolist() == indices
            for image, box, (height, width), _index in zip(images, boxes, shown, indices):
                left, top = (least[1] - width) // 2, (least[0] - height) // 2
                corners = [left + 0.2 * width, top + 0.15 * height, left + 0.8 * width, top + 0.65 * height]
                torch.testing.assert_close(box, torch.tensor(corners), atol=1e-4, rtol=0)
                grey = torch.ones(least, dtype=torch.bool)
                grey[top : top + height, left : left + width] = False
                assert (image[:, grey] == 114 / 255).all()
    by_shape = sorted(range(9), key=lambda i: samples[i].size[0] / samples[i].size[1])
    members = sorted([by_shape[first : first + 2] for first in range(0, 9, 2)])
    assert all(sorted(order) == members for order in orders) and any(order != orders[0] for order in orders)


@pytest.mark.parametrize("changes", [
    {"fliplr": 1}, {"flipud": 1, "fliplr": 0.5}, {"translate": 0.3, "scale": 0.4, "fliplr": 0.5, "flipud": 0.5},
], ids=str)  # fmt: skip
def test_boxes_follow_their_paint_in_rectangles(changes):
    tiles = [
        painted(0, 48, 96, (10, 6, 60, 40)),
        painted(1, 32, 96, (30, 4, 80, 30)),
        painted(2, 48, 90, (40, 20, 88, 44)),
    ]
    compared = 0
    for seed in range(20):
        batch = augment(tiles, [], replace(OFF, imgsz=96, **changes), seeded(seed), "cpu", size=(48, 96))
        assert batch.images.shape == (3, 3, 48, 96)
        for box, paint, owner in zip(batch.labels.boxes, batch.labels.classes.tolist(), batch.labels.image.tolist()):
            rows, columns = paint_mask(batch.images[owner], paint).nonzero().unbind(1)
            result = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            torch.testing.assert_close(result.float(), box, atol=1.0, rtol=0)
            compared += 1
    assert compared > 40


def test_rectangles_with_drawn_sizes_and_workers_and_ranks(samples):
    options = {"rect": True, "multi_scale": 0.5, "batch": 3}
    recipe = replace(FULL, degrees=5)
    assert_same(epoch(train(samples, **options), 1, recipe), epoch(train(samples, workers=2, **options), 1, recipe))
    ranks = [epoch(train(samples, rank=rank, world=2, **options), 1, recipe) for rank in (0, 1)]
    for left, right in zip(*ranks):
        assert left[0].shape == right[0].shape  # whole batches decide, so that all processes do as much


# Drawn sizes


def test_sizes_are_drawn_from_multiples_within_the_share(samples):
    plain = epoch(train(samples, imgsz=128, batch=1), 0, replace(OFF, imgsz=128))
    seen = set()
    for number in range(6):
        plain = epoch(train(samples, imgsz=128, batch=1), number, replace(OFF, imgsz=128))
        drawn = epoch(train(samples, imgsz=128, batch=1, multi_scale=0.5), number, replace(OFF, imgsz=128))
        for (images, boxes, _classes, _, indices), (others, other_boxes, *_, other_indices) in zip(plain, drawn):
            side = others.shape[-1]
            seen.add(side)
            assert indices == other_indices and others.shape == (1, 3, side, side)
            torch.testing.assert_close(other_boxes, boxes * (side / 128))
            if side == 64:  # bilinear at exactly a half is the mean of four pixels
                torch.testing.assert_close(others, torch.nn.functional.avg_pool2d(images, 2))
            if side == 128:
                assert torch.equal(images, others)
    assert seen == {64, 96, 128, 160, 192}


@pytest.mark.parametrize(("spread", "multiple", "sides"), [
    (True, 32, {64, 96, 128, 160, 192}), (0.25, 32, {96, 128, 160}), (0.1, 32, {128}), (1.0, 64, {128, 192, 256}),
    (0.0, 32, {128}), (False, 32, {128}), (0.2, 100, {128}),
])  # fmt: skip
def test_the_range_of_sizes(samples, spread, multiple, sides):
    loader = train(samples[:1] * 40, imgsz=128, batch=1, multi_scale=spread, multiple=multiple)
    assert {batch[0].shape[-1] for batch in epoch(loader, 0, replace(OFF, imgsz=128))} == sides


def test_sizes_are_a_function_of_seed_epoch_and_number(samples):
    options = {"batch": 2, "multi_scale": 0.5}
    whole = epoch(train(samples, **options), 3, FULL)
    assert_same(whole, epoch(train(samples, workers=2, **options), 3, FULL))
    assert_same(whole[3:], rest(train(samples, **options), 3, FULL, 3))
    first, second = ([batch[0].shape for batch in epoch(train(samples * 3, **options), n, FULL)] for n in (0, 1))
    assert first != second
