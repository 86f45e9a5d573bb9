"""Batches of whole images: the same whatever workers, caches and processes; labels, order, files that change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.augmentation.crop_recipe import CropRecipe, augment_picture
from bitfalcon_plugin.data.class_dataset import scan_classes
from bitfalcon_plugin.data.cropping import input_fit, input_pixels
from bitfalcon_plugin.data.data_format import CLASS_FOLDERS
from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.data.formats.class_folders import load_class_folders
from bitfalcon_plugin.data.loading.crop_loader import CropTrainLoader, CropValLoader
from bitfalcon_plugin.data.loading.loader import Reading
from tests.helpers.class_folders import class_folders

FULL = CropRecipe(
    imgsz=32, scale=0.5, flipud=0.2, fliplr=0.5, auto_augment="randaugment", hsv_h=0, hsv_s=0, hsv_v=0, erasing=0.4
)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    class_folders(tmp_path / "set", {"train": {"a": 5, "b": 3, "c": 1}}, size=(41, 37))
    return scan_classes(load_class_folders(tmp_path / "set"), "train").samples


def train(samples: list[Sample], **changes) -> CropTrainLoader:
    options = {name: changes.pop(name) for name in vars(Reading()) if name in changes}
    return CropTrainLoader(samples, Reading(**options), **{"imgsz": 32, "batch": 4, "seed": 3, **changes})


def epoch(loader: CropTrainLoader, number: int = 0, start: int = 0, recipe: CropRecipe = FULL) -> list:
    return [(batch.images, batch.labels, indices) for batch, indices in loader.epoch(number, recipe, start)]


def by_index(batches: list) -> dict[int, torch.Tensor]:
    """Index of a sample -> its image."""
    return {index: image for images, _, indices in batches for index, image in zip(indices, images)}


def same(one: list, two: list) -> bool:
    pairs = list(zip(one, two, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1].classes, b[1].classes) and a[2] == b[2] for a, b in pairs)


def test_an_epoch_holds_every_image_once_with_its_class(samples):
    loader = train(samples)
    batches = epoch(loader)
    assert len(loader) == len(batches) == 3 and [len(indices) for *_, indices in batches] == [4, 4, 1]
    assert sorted(index for *_, indices in batches for index in indices) == list(range(9))
    for images, labels, indices in batches:
        assert images.shape == (len(indices), 3, 32, 32) and images.dtype == torch.float32 and images.max() <= 1
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.classes.tolist() == [int(samples[index].labels.classes) for index in indices]
        assert labels.image.tolist() == list(range(len(indices)))
        assert labels.boxes.tolist() == [[0, 0, 32, 32]] * len(indices)
        assert torch.equal((images * 255).round() / 255, images)  # bytes, divided on the device


def test_epochs_and_seeds_differ_and_repeat(samples):
    first = epoch(train(samples))
    assert same(first, epoch(train(samples)))
    for other in (epoch(train(samples), 1), epoch(train(samples, seed=4))):
        assert [indices for *_, indices in other] != [indices for *_, indices in first]
    one, two = by_index(first), by_index(epoch(train(samples), 1))
    assert not any(torch.equal(one[i], two[i]) for i in range(9))


def test_an_image_does_not_depend_on_its_batch(samples):
    one, two = (by_index(epoch(train(samples, batch=batch))) for batch in (4, 9))
    assert all(torch.equal(one[i], two[i]) for i in range(9))


def test_an_epoch_can_be_entered_in_its_middle(samples):
    assert same(epoch(train(samples), 2, start=1), epoch(train(samples), 2)[1:])


@pytest.mark.parametrize("cache", [False, "ram", "disk"])
def test_workers_and_caches_change_no_batch(samples, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    plain = [epoch(train(samples), number) for number in range(2)]
    for workers in (0, 2):
        loader = train(samples, workers=workers, cache=cache)
        assert bool(loader.note) == bool(cache)
        assert all(same(epoch(loader, number), plain[number]) for number in range(2))
    assert not list((tmp_path / "set").rglob("*.tile"))


def test_a_cache_is_read(samples, monkeypatch):
    loader = train(samples, cache="ram")
    first = epoch(loader)
    for sample in samples:
        sample.image.unlink()
    assert same(epoch(loader), first)


def test_two_processes_share_the_batches_of_one(samples):
    whole = epoch(train(samples))
    parts = [epoch(train(samples, rank=rank, world=2)) for rank in range(2)]
    for (images, _, indices), *shares in zip(whole, *parts, strict=True):
        together = torch.cat([share[0] for share in shares])
        assert torch.equal(together[: len(images)], images)
        assert [i for share in shares for i in share[2]][: len(indices)] == indices
        assert len(shares[0][2]) == len(shares[1][2])


def test_a_recipe_of_another_size_is_refused(samples):
    with pytest.raises(ValueError, match="recipe.imgsz is 64"):
        epoch(train(samples), recipe=replace(FULL, imgsz=64))


@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_change_are_named(samples, workers):
    Image.new("RGB", (20, 20)).save(samples[0].image)
    samples[5].image.write_bytes(b"hello")
    for loader in (
        train(samples, workers=workers, batch=9, on_bad_image="stop").epoch(0, FULL),
        iter(CropValLoader(samples, Reading(workers=workers, on_bad_image="stop"), imgsz=32, batch=9)),
    ):
        with pytest.raises(UserError) as caught:
            list(loader)
        assert "000.png: (20, 20) pixels (h, w), was (37, 41) when scanned" in str(caught.value)
        assert "not a picture that can be decoded here" in str(caught.value)


# Validation


@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("cache", [False, "ram", "disk"])
def test_validation_gives_the_pixels_and_fits_of_prediction(samples, tmp_path, monkeypatch, letterbox, cache):
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    loader = CropValLoader(samples, Reading(cache=cache), imgsz=32, batch=4, letterbox=letterbox)
    for _ in range(2):  # the second time from the cache
        indices = []
        for images, fits, chunk in loader:
            assert images.dtype == torch.uint8
            for image, fit, index in zip(images, fits, chunk):
                assert fit == loader.fits[index] == input_fit((37, 41), 32, letterbox=letterbox)
                assert torch.equal(image, input_pixels(Image.open(samples[index].image), fit))
            indices += chunk
        assert sorted(indices) == list(range(9)) and len(loader) == 3


def test_classes_take_turns_in_validation(samples):
    labels = [
        int(samples[index].labels.classes) for *_, chunk in CropValLoader(samples, imgsz=32, batch=4) for index in chunk
    ]
    assert labels == [0, 1, 2, 0, 1, 0, 1, 0, 0]


def test_processes_validate_every_image_once(samples):
    chunks = [
        [chunk for *_, chunk in CropValLoader(samples, Reading(rank=rank, world=2), imgsz=32, batch=2)]
        for rank in range(2)
    ]
    assert [len(part) for part in chunks] == [3, 2]
    assert sorted(index for part in chunks for chunk in part for index in chunk) == list(range(9))


def test_detection_and_classification_do_not_share_cached_files(samples, tmp_path, monkeypatch):
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    for letterbox in (False, True):
        list(CropValLoader(samples, Reading(cache="disk"), imgsz=32, batch=4, letterbox=letterbox))
    epoch(train(samples, cache="disk"))
    assert sorted(path.name for path in (tmp_path / "cache" / "tiles").iterdir()) == [
        "crop-32",
        "letterbox-32",
        "whole",
    ]


def test_the_form_of_data_passes_the_settings_on(samples):
    settings = load_settings({"imgsz": 32, "batch": 4, "seed": 3, "letterbox": True, "scale": 0.2, "mosaic": 1.0})
    recipe = CLASS_FOLDERS.recipe(settings, True)
    assert recipe.scale == 0.2 and recipe == CLASS_FOLDERS.recipe(settings, False)
    loader = CLASS_FOLDERS.train_loader(samples, Reading(), settings, 32)
    (batch, indices), *_ = loader.epoch(0, recipe)
    assert len(indices) == 4
    val = CLASS_FOLDERS.val_loader(samples, Reading(), settings, imgsz=32, batch=2, multiple=32)
    assert val.fits[0].resized == (29, 32)


def test_augmented_pixels_come_from_the_upright_image(samples):
    picture = Image.open(samples[0].image)
    assert np.array_equal(
        augment_picture(picture, FULL, 7).numpy(), augment_picture(picture.convert("RGB"), FULL, 7).numpy()
    )
