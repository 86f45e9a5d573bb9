"""data/loader.py: the same batches whatever the workers, shapes and fits of validation, files that change."""

from __future__ import annotations

import gc
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.data.augmentation.augment import Recipe
from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.data.images import read_image
from bitfalcon_plugin.data.loading import loader as module
from bitfalcon_plugin.data.loading import workers as reading
from bitfalcon_plugin.data.loading.loader import Reading, TrainLoader, ValLoader, rect_shape
from bitfalcon_plugin.data.loading.workers import long_side
from tests.helpers.labels import columns, sample_of

OFF = Recipe(
    imgsz=64, mosaic=0, degrees=0, translate=0, scale=0, shear=0, perspective=0, hsv_h=0, hsv_s=0, hsv_v=0,
    flipud=0, fliplr=0, mixup=0, bgr=0,
)  # fmt: skip
FULL = replace(OFF, mosaic=1, translate=0.1, scale=0.5, hsv_h=0.015, hsv_s=0.7, hsv_v=0.4, fliplr=0.5, mixup=0.3)


def write(folder: Path, sizes: list[tuple[int, int]]) -> list[Sample]:
    """One PNG of noise for each (h, w), with a box over its middle and the class of its number."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for number, size in enumerate(sizes):
        pixels = torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8)
        path = folder / f"{number:02}.png"
        Image.fromarray(pixels.numpy()).save(path)
        samples.append(sample_of(path, size, torch.tensor([number]), torch.tensor([[0.5, 0.4, 0.6, 0.5]])))
    return samples


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return write(tmp_path, [(64, 48), (30, 40), (64, 64), (20, 80), (50, 50), (96, 64), (64, 60), (33, 64), (64, 64)])


def epoch(loader: TrainLoader, number: int, recipe: Recipe) -> list:
    return [(batch.images, *columns(batch), indices)
            for batch, indices in loader.epoch(number, recipe)]  # fmt: skip


def assert_same(a: list, b: list) -> None:
    assert len(a) == len(b) > 0
    for left, right in zip(a, b):
        assert left[-1] == right[-1]
        assert all(torch.equal(x, y) for x, y in zip(left[:-1], right[:-1]))


def train(samples: list[Sample], **changes) -> TrainLoader:
    options = {name: changes.pop(name) for name in vars(Reading()) if name in changes}
    return TrainLoader(samples, Reading(**options), **{"imgsz": 64, "batch": 4, "seed": 3, **changes})


# Training


def test_an_epoch_holds_every_image_once_as_it_is(samples):
    loader = train(samples)
    batches = epoch(loader, 0, OFF)
    assert len(loader) == len(batches) == 3 and [len(batch[-1]) for batch in batches] == [4, 4, 1]
    assert sorted(index for batch in batches for index in batch[-1]) == list(range(9))
    for images, boxes, classes, owner, indices in batches:
        assert images.shape == (len(indices), 3, 64, 64) and images.dtype == torch.float32
        assert classes.tolist() == indices and owner.tolist() == list(range(len(indices)))
        for image, box, index in zip(images, boxes, indices):
            height, width = long_side(samples[index].size, 64)
            left, top = (64 - width) // 2, (64 - height) // 2
            expected = [left + 0.2 * width, top + 0.15 * height, left + 0.8 * width, top + 0.65 * height]
            torch.testing.assert_close(box, torch.tensor(expected), atol=1e-4, rtol=0)
            if samples[index].size in ((64, 64), (64, 48), (64, 60)):  # not resized: the file's own pixels
                shown = image[:, top : top + height, left : left + width]
                assert torch.equal(shown, read_image(samples[index].image) / 255)


def test_workers_change_nothing(samples):
    alone, together = train(samples), train(samples, workers=2)
    for number in (0, 1):
        assert_same(epoch(alone, number, FULL), epoch(together, number, FULL))


def test_the_readers_of_a_loader_that_is_garbage_end_at_once(samples):
    """Also of one that refers to itself, as a trainer with functions of its own does."""
    loader = train(samples, workers=2)
    loader.itself = loader
    epoch(loader, 0, FULL)
    readers = loader._loader._iterator._workers
    del loader
    start = time.monotonic()
    gc.collect()
    assert len(readers) == 2 and not any(reader.is_alive() for reader in readers)
    assert time.monotonic() - start < 5  # torch waits 5 seconds for each reader that does not hear of its end


def test_an_epoch_is_a_function_of_seed_and_number(samples):
    loader, state = train(samples), torch.get_rng_state()
    first, second = epoch(loader, 0, FULL), epoch(loader, 1, FULL)
    assert [batch[-1] for batch in first] != [batch[-1] for batch in second]
    assert_same(second, epoch(train(samples), 1, FULL))  # alone, without the epoch before it
    assert_same(first, epoch(loader, 0, FULL))
    other = epoch(train(samples, seed=4), 0, FULL)
    assert [batch[-1] for batch in first] != [batch[-1] for batch in other]
    assert torch.equal(state, torch.get_rng_state())


def test_the_same_image_looks_different_in_each_epoch(samples):
    loader = train(samples[:1])
    assert not torch.equal(epoch(loader, 0, FULL)[0][0], epoch(loader, 1, FULL)[0][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_early_does_not_leak_into_the_next(samples, workers):
    loader = train(samples, workers=workers, batch=2)
    next(loader.epoch(0, FULL))
    assert_same(epoch(loader, 1, FULL), epoch(train(samples, batch=2), 1, FULL))


def test_partners_are_the_latest_tiles_also_those_of_the_epoch_before(samples, monkeypatch):
    seen, plain = [], module.augment

    def spy(tiles, pool, *rest):
        seen.append((list(tiles), list(pool)))
        return plain(tiles, pool, *rest)

    monkeypatch.setattr(module, "augment", spy)
    monkeypatch.setattr(module, "POOL_BATCHES", 2)
    loader = train(samples, batch=2)
    for number in (0, 1, 2):
        epoch(loader, number, FULL)
    all_tiles = [id(tile) for tiles, _ in seen for tile in tiles]
    for count, (_, pool) in enumerate(seen, start=1):
        so_far = sum(len(tiles) for tiles, _ in seen[:count])
        assert [id(tile) for tile in pool] == all_tiles[max(so_far - 4, 0) : so_far]
    assert [len(pool) for _, pool in seen] == [2] + [4] * 14
    monkeypatch.setattr(module, "POOL_BYTES", 1)  # however little memory: the batch itself stays
    seen.clear()
    epoch(loader, 0, FULL)
    assert [len(pool) for _, pool in seen] == [2] * 5


def test_no_more_partners_than_images_of_an_epoch(samples, monkeypatch):
    lengths, plain = [], module.augment
    monkeypatch.setattr(
        module, "augment", lambda tiles, pool, *rest: lengths.append(len(pool)) or plain(tiles, pool, *rest)
    )
    loader = train(samples, batch=3)
    for number in (0, 1):
        epoch(loader, number, FULL)
    assert lengths == [3, 6, 9, 9, 9, 9]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_the_same_behind_another_one_and_alone(samples, workers):
    loader = train(samples, workers=workers, batch=2)
    for number in (0, 1, 2):
        assert_same(epoch(loader, number, FULL), epoch(train(samples, batch=2), number, FULL))
    assert_same(epoch(loader, 1, FULL), epoch(train(samples, batch=2), 1, FULL))


def test_each_image_is_decoded_once(samples, monkeypatch):
    paths, plain = [], reading.read_interleaved
    monkeypatch.setattr(reading, "read_interleaved", lambda path: (paths.append(path), plain(path))[1])
    epoch(train(samples), 0, FULL)
    assert sorted(paths) == [str(sample.image) for sample in samples]


def test_a_recipe_of_another_size_is_refused(samples):
    with pytest.raises(ValueError, match="imgsz is 32.*64"):
        next(train(samples).epoch(0, replace(OFF, imgsz=32)))


def broken(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:40])
    return "03.png"


def missing(path: Path) -> str:
    path.unlink()
    return "03.png"


def resized(path: Path) -> str:
    Image.new("RGB", (12, 34)).save(path)
    return r"03.png.*\(34, 12\).*\(20, 80\)"


def complaint(passing) -> str:
    # Not pytest.raises: what it returns refers to this frame and the frame to it, and a DataLoader that is collected
    # from such a cycle waits five seconds for each of its workers.
    try:
        list(passing)
    except UserError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("change", [broken, missing, resized])
def test_a_file_that_changed_is_named(samples, change, workers):
    loaders = [
        train(samples, workers=workers, on_bad_image="stop"),
        ValLoader(samples, Reading(workers=workers, on_bad_image="stop"), imgsz=64, batch=4, multiple=32),
    ]
    words = change(samples[3].image)
    for text in (complaint(loaders[0].epoch(0, OFF)), complaint(loaders[1])):
        assert re.search(words, text) and "Traceback" not in text


def test_workers_hold_plain_values_only(samples):
    # Where processes are spawned a tensor for each image would be sent as a file for each image.
    for loader in (train(samples), ValLoader(samples, imgsz=64, batch=4, multiple=32)):
        held = vars(loader._loader.dataset)
        assert set(held) <= {"paths", "sizes", "imgsz", "fits", "cache"} and held["cache"] is None
        assert all(isinstance(path, str) for path in held["paths"])
        assert type(loader._loader.dataset).__qualname__ in vars(reading)
        assert loader._loader.collate_fn.__module__ == reading.__name__


# Validation


def test_long_side_is_exact():
    assert long_side((480, 640), 640) == (480, 640) and long_side((360, 480), 640) == (480, 640)
    assert long_side((1080, 810), 640) == (640, 480) and long_side((333, 500), 320) == (214, 320)  # 213.12 up
    assert long_side((1, 5000), 640) == (1, 640) and long_side((7, 7), 640) == (640, 640)
    for side in range(1, 200):
        assert long_side((side * 3, side * 4), 640) == (480, 640)  # a float ratio makes 481 of some of these


@pytest.mark.parametrize(
    "ratios,imgsz,shape",
    [
        ([1.0], 640, (672, 672)), ([0.75, 0.75], 640, (512, 672)), ([0.5, 0.75], 640, (512, 672)),
        ([4 / 3], 640, (672, 512)), ([4 / 3, 2.0], 640, (672, 512)), ([0.75, 1.0], 640, (672, 672)),
        ([0.5, 2.0], 640, (672, 672)), ([1.0, 1.5], 640, (672, 672)), ([0.75], 320, (256, 352)),
    ],
)  # fmt: skip
def test_shapes_of_batches(ratios, imgsz, shape):
    assert rect_shape(ratios, imgsz, 32) == shape


def test_validation_sorts_and_pads(tmp_path):
    samples = write(tmp_path, [(64, 48), (30, 40), (64, 64), (20, 80), (15, 20), (96, 64)])
    batches = list(ValLoader(samples, imgsz=64, batch=2, multiple=32))
    assert [indices for *_, indices in batches] == [[3, 1], [4, 2], [0, 5]]
    # 64 / 32 + 0.5 rounds up to 3 strides of 32, 48 / 32 + 0.5 is 2
    assert [tuple(images.shape) for images, *_ in batches] == [(2, 3, 64, 96), (2, 3, 96, 96), (2, 3, 96, 64)]
    for images, fits, indices in batches:
        assert images.dtype == torch.uint8
        for image, fit, index in zip(images, fits, indices):
            height, width = long_side(samples[index].size, 64)
            top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
            assert fit.original == samples[index].size and fit.resized == (height, width)
            assert fit.canvas == tuple(images.shape[2:]) and fit.pad == (top, left)
            grey = torch.ones(fit.canvas, dtype=torch.bool)
            grey[top : top + height, left : left + width] = False
            assert (image[:, grey] == 114).all()
            if samples[index].size == (height, width):
                assert torch.equal(image[:, ~grey].view(3, height, width), read_image(samples[index].image))


def test_fits_take_boxes_there_and_back(samples):
    for _, fits, indices in ValLoader(samples, imgsz=64, batch=3, multiple=32):
        for fit, index in zip(fits, indices):
            height, width = samples[index].size
            whole = torch.tensor([[0.0, 0.0, width, height]])
            top, left, (tall, wide) = *fit.pad, fit.resized
            assert torch.equal(fit.to_canvas(whole), torch.tensor([[left, top, left + wide, top + tall]]).float())
            box = torch.tensor([[0.2 * width, 0.1 * height, 0.9 * width, 0.7 * height]])
            torch.testing.assert_close(fit.to_original(fit.to_canvas(box)), box, atol=1e-4, rtol=0)


def test_square_validation_keeps_the_order(samples):
    loader = ValLoader(samples, imgsz=64, batch=4, multiple=32, rect=False)
    batches = list(loader)
    assert len(loader) == 3 and [indices for *_, indices in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert all(images.shape[2:] == (64, 64) for images, *_ in batches)


def test_a_larger_stride_makes_larger_steps(samples):
    images, _, _ = next(iter(ValLoader(samples[2:3], imgsz=64, batch=1, multiple=64)))
    assert images.shape == (1, 3, 128, 128)
    images, _, _ = next(iter(ValLoader(samples[2:3], imgsz=64, batch=1, multiple=8)))
    assert images.shape == (1, 3, 96, 96)  # never below 32


def test_validation_is_the_same_with_workers_and_again(samples):
    alone = ValLoader(samples, imgsz=64, batch=4, multiple=32)
    together = ValLoader(samples, Reading(workers=2), imgsz=64, batch=4, multiple=32)
    reference = list(alone)
    for again in (list(together), list(together), list(alone)):
        assert len(again) == len(reference) == 3
        for (images, fits, indices), (others, other_fits, other_indices) in zip(reference, again):
            assert torch.equal(images, others) and fits == other_fits and indices == other_indices
