"""Images that break between the scan and the reading: what takes their place, resumed epochs, names and counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.data.images import UnreadableImage, image_size, read_image
from bitfalcon_plugin.data.loading.bad_images import MAX_NAMED, BadImages, stand_ins
from bitfalcon_plugin.data.loading.loader import Reading, ValLoader
from tests.data.loading.test_crop_loader import CropValLoader
from tests.data.loading.test_crop_loader import train as train_classifier
from tests.data.loading.test_loader import FULL, OFF, assert_same, complaint, epoch, samples, train  # noqa: F401
from tests.helpers.bad_images import CHANGES, CONTENTS, encoded

PLAIN = replace(OFF, imgsz=64)


def test_every_sample_stands_in_once_and_neighbours_are_far_apart():
    for count in (1, 2, 3, 7, 10, 64, 97):
        for index in (0, count // 2, count - 1):
            line = list(stand_ins(index, count))
            assert line[0] == index and sorted(line) == list(range(count))
    first = [next(iter(list(stand_ins(index, 1000))[1:])) for index in range(100)]
    assert not {*first} & {*range(100)}


@pytest.mark.parametrize("name", CHANGES)
def test_another_image_takes_the_place_of_one_that_breaks(samples, name, capsys):  # noqa: F811
    before = epoch(train(samples), 0, PLAIN)
    CHANGES[name](samples[3].image)
    loader = train(samples)
    after = epoch(loader, 0, PLAIN)
    place = list(stand_ins(3, len(samples)))[1]
    for old, new in zip(before, after, strict=True):
        assert new[-1] == [place if index == 3 else index for index in old[-1]]
        for index, image, other in zip(old[-1], old[0], new[0]):
            assert torch.equal(image, other) or index == 3
    err = capsys.readouterr().err
    assert err.count("03.png") == 1 and "image set aside" in err and "Traceback" not in err
    assert list(loader.bad.reasons) == [3]
    assert "03.png" in complaint(train(samples, on_bad_image="stop").epoch(0, PLAIN))
    val = ValLoader(samples, imgsz=64, batch=4, multiple=32)
    assert sorted(index for *_, indices in val for index in indices) == [0, 1, 2, 4, 5, 6, 7, 8]
    assert list(val.bad.reasons) == [3] and all(len(images) == len(fits) for images, fits, _ in val)


@pytest.mark.parametrize("cache", [False, "ram", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_with_bad_images_are_the_same_for_workers_caches_and_a_later_start(
    samples,  # noqa: F811
    tmp_path,
    monkeypatch,
    workers,
    cache,
):
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "cache"))
    for index, name in ((1, "removed"), (4, "PNG of few rows"), (7, "another size")):
        CHANGES[name](samples[index].image)
    alone = epoch(train(samples, batch=2), 1, FULL)
    loader = train(samples, batch=2, workers=workers, cache=cache)
    assert_same(epoch(loader, 1, FULL), alone)
    assert_same(epoch(loader, 1, FULL), alone)  # from the cache
    later = [(batch.images, indices) for batch, indices in loader.epoch(1, FULL, 3)]
    assert_same(later, [(images, indices) for images, *_, indices in alone[3:]])
    assert set(loader.bad.reasons) == {1, 4, 7}


def test_a_batch_of_similar_shapes_has_room_for_an_image_of_another_shape(samples):  # noqa: F811
    for index in (1, 3, 7):  # the wide ones, and with them a whole batch
        samples[index].image.unlink()
    assert {row[0].shape[2:] for row in epoch(train(samples, batch=3, rect=True), 0, PLAIN)} == {(64, 64)}


def test_the_shares_of_two_processes_have_the_images_of_one(samples):  # noqa: F811
    samples[2].image.unlink()
    whole = epoch(train(samples), 0, PLAIN)
    shares = [epoch(train(samples, rank=rank, world=2), 0, PLAIN) for rank in range(2)]
    for row, *parts in zip(whole, *shares, strict=True):
        assert [index for part in parts for index in part[-1]][: len(row[-1])] == row[-1]


def test_without_any_image_the_run_ends(samples):  # noqa: F811
    for sample in samples:
        sample.image.unlink()
    text = complaint(train(samples).epoch(0, PLAIN))
    assert "None of 9 training images" in text and "No such file" in text
    loader = ValLoader(samples, imgsz=64, batch=4, multiple=32)
    assert list(loader) == []
    with pytest.raises(UserError, match="None of the 9 validation images can be read"):
        loader.bad.require_some()


@pytest.mark.parametrize("workers", [0, 1])
def test_classifiers_go_on_with_the_class_of_the_image_that_is_read(tmp_path, workers):
    from bitfalcon_plugin.data.class_dataset import scan_classes
    from bitfalcon_plugin.data.formats.class_folders import load_class_folders
    from tests.data.loading.test_crop_loader import FULL as CROPS
    from tests.helpers.class_folders import class_folders

    class_folders(tmp_path / "set", {"train": {"a": 5, "b": 3, "c": 1}}, size=(41, 37))
    found = scan_classes(load_class_folders(tmp_path / "set"), "train").samples
    CHANGES["PNG of few rows"](found[0].image)
    CHANGES["another size"](found[8].image)
    loader = train_classifier(found, workers=workers, batch=9)
    ((batch, indices),) = loader.epoch(0, CROPS)
    assert len(indices) == 9 and not {0, 8} & {*indices}
    assert batch.labels.classes.tolist() == [int(found[index].labels.classes) for index in indices]
    ((images, fits, chunk),) = CropValLoader(found, Reading(workers=workers), imgsz=32, batch=9)
    assert sorted(chunk) == list(range(1, 8)) and len(images) == len(fits) == 7


def test_bad_images_are_named_once_and_counted(capsys):
    bad = BadImages("training", [f"{number}.png" for number in range(1000)], "skip")
    for _ in range(2):
        for index in range(300):
            bad.add([(index, "broken")])
    bad.join(lambda own: [*own, (999, "broken elsewhere")])
    bad.report()
    bad.report()
    lines = capsys.readouterr().err.splitlines()
    assert sum("image set aside" in line for line in lines) == MAX_NAMED and len(lines) == MAX_NAMED + 2
    assert "301 of 1000 training images could not be read" in lines[-1]


@pytest.mark.parametrize("name", CONTENTS)
def test_what_a_scan_passes_or_refuses_is_never_an_error_of_another_kind(tmp_path, name):
    path = tmp_path / "a.png"
    path.write_bytes(CONTENTS[name]())
    with pytest.raises(UnreadableImage):
        read_image(path)
    try:
        assert image_size(path) == (48, 64)
    except UnreadableImage:
        pass


@pytest.mark.parametrize(
    "content",
    [
        encoded("JPEG", mode="CMYK"),
        encoded("PNG", mode="I;16") if "I;16" in Image.MODES else encoded("PNG", mode="I"),
        encoded("PNG", mode="1"),
        encoded("PNG", mode="P"),
        encoded("TIFF", mode="CMYK"),
        encoded("GIF", save_all=True, append_images=[Image.new("RGB", (64, 48), (9, 9, 9))]),
        encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48), (9, 9, 9))]),
    ],
)
def test_odd_images_that_can_be_decoded_are_read(tmp_path: Path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert image_size(path) == (48, 64) and read_image(path).shape == (3, 48, 64)
