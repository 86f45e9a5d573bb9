"""The generated dataset: the same every time, labels that fit the pixels, and a folder that survives accidents."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
from numpy.random import RandomState
from PIL import Image

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.data import shapes
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from tests.helpers.labels import centres

# Recorded once: the pictures of a version must not change from machine to machine, nor from release to release.
FIRST_LABELS = {
    "train/0002": "3 0.278535 0.785845 0.106084 0.107333\n0 0.541550 0.282915 0.348069 0.355781\n",
    "val/0003": "0 0.732348 0.456335 0.100229 0.089314\n0 0.227127 0.198271 0.454254 0.396542\n",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder with the whole dataset in it."""
    folder = tmp_path_factory.mktemp("cache")
    assert shapes.ensure_shapes(folder / "shapes-v1") == folder / "shapes-v1" / "data.yaml"
    return folder


@pytest.fixture
def small(monkeypatch):
    """Only a few images, the first ones of the whole dataset."""
    monkeypatch.setattr(shapes, "COUNTS", {"train": 4, "val": 2})


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def painted(shape, size):
    """x1, y1, x2, y2 of the pixels that change when the shape is painted on black; None if none does."""
    canvas = np.full((*size, 3), -1000.0)
    shapes.paint(canvas, shape, RandomState(0))
    ys, xs = np.nonzero((canvas != -1000).any(2))
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else None


def test_the_packaged_name_leads_to_it(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("BITFALCON_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    for name in ("shapes", "shapes.yaml"):
        spec = load_data(name)
        assert spec.root == cache / "shapes-v1" and spec.path.name == "shapes.yaml"
        assert list(spec.names.values()) == ["circle", "square", "triangle", "star"]
        assert spec.settings == {
            "imgsz": 320,
            "batch": 4,
            "nbs": 4,
            "epochs": 20,
            "warmup_epochs": 1.0,
            "warmup_floor": 0,
        }
    train, val = scan(spec, "train"), scan(spec, "val")
    assert (len(train.samples), len(val.samples)) == (160, 40)
    assert train.notes == val.notes == () and train.unreadable == val.unreadable == 0
    assert (train.empty, val.empty, train.missing, val.missing) == (10, 2, 0, 0)
    assert load_data(cache / "shapes-v1").settings == {}  # the example itself carries none


def test_images_and_objects_are_varied(cache):
    spec = load_data(cache / "shapes-v1")
    for split in ("train", "val"):
        samples = scan(spec, split).samples
        counts = Counter(int(cls) for sample in samples for cls in sample.labels.classes)
        assert min(counts.values()) > 0.6 * max(counts.values()) and len(counts) == 4
        assert {1, 8} <= {len(sample.labels.classes) for sample in samples} <= set(range(9))
        assert all(220 <= min(sample.size) <= max(sample.size) <= 340 for sample in samples)
        longest = [
            max(box[2] * sample.size[1], box[3] * sample.size[0])
            for sample in samples
            for box in centres(sample).tolist()
        ]
        assert min(longest) < 20 and max(longest) > 150
        assert {sample.size[0] > sample.size[1] for sample in samples} == {True, False}


def test_the_same_bytes_every_time(cache, tmp_path, small):
    again = files(shapes.ensure_shapes(tmp_path / "again").parent)
    first = files(cache / "shapes-v1")
    assert len(again) == 13 and all(first[name] == content for name, content in again.items())
    assert len(set(again.values())) == 13  # and no two images alike


def test_the_same_labels_on_every_machine(cache):
    for name, text in FIRST_LABELS.items():
        assert (cache / "shapes-v1" / "labels" / f"{name}.txt").read_text() == text


def test_boxes_are_tight_around_the_painted_pixels():
    random, size, seen = RandomState(5), (240, 320), 0
    for _ in range(300):
        shape = shapes._random_shape(random, size)
        if (result := painted(shape, size)) is not None:
            seen += 1
            assert np.abs(np.subtract(result, shape.box(size))).max() <= 1.01  # a pixel is painted whole or not at all
    assert seen > 250


def test_labels_are_the_boxes_of_what_is_drawn(cache):
    for split, code in (("train", 0), ("val", 1)):
        for index in (0, 7, 15, 31):
            pixels, drawn = shapes.draw(RandomState([1, code, index]), empty=index % 16 == 15)
            with Image.open(cache / "shapes-v1" / "images" / split / f"{index:04d}.jpg") as image:
                assert image.format == "JPEG"
                stored = np.asarray(image, dtype=float)
            assert stored.shape == pixels.shape and np.abs(stored - pixels).mean() < 12  # JPEG of a noisy picture
            rows = (cache / "shapes-v1" / "labels" / split / f"{index:04d}.txt").read_text().splitlines()
            assert len(rows) == len(drawn) and (len(rows) == 0) == (index % 16 == 15)
            height, width = pixels.shape[:2]
            for row, shape in zip(rows, drawn):
                cls, cx, cy, w, h = map(float, row.split())
                box = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * (width, height, width, height)
                assert cls == shape.kind
                np.testing.assert_allclose(box, shape.box((height, width)), atol=1e-3)


def test_every_labelled_object_can_be_seen():
    """Shapes painted as flat numbers, back to front, on a canvas with room around the image: what is left of each?"""
    shares = []
    for seed in range(40):
        size, room = (256, 320), 200
        arranged = shapes.arrange(RandomState(seed), size)
        around = (size[0] + 2 * room, size[1] + 2 * room)
        canvas = np.full(around, -1)
        whole = []
        for number, shape in enumerate(arranged):
            mask = shapes.coverage(shapes.Shape(shape.kind, shape.outline + room), around) > 0.5
            whole.append(mask.sum())
            canvas[mask] = number
        inside = canvas[room:-room, room:-room]
        shares += [(inside == number).sum() / whole[number] for number in range(len(arranged))]
    assert min(shares) > 0.35
    assert sum(share < 0.9 for share in shares) > 0.05 * len(shares)  # there is occlusion


def test_shapes_stand_out_whatever_their_hue():
    """Mean colour tells no class: each class comes in red, green and blue."""
    random, size = RandomState(3), (64, 64)
    main = {kind: Counter() for kind in range(4)}
    for number in range(240):
        kind = number % 4
        canvas = np.zeros((*size, 3))
        shapes.paint(canvas, shapes.Shape(kind, shapes._unit_outline(kind) * 25 + 32), random)
        main[kind][int(canvas.sum((0, 1)).argmax())] += 1
    assert all(min(hues[channel] for channel in range(3)) > 8 for hues in main.values())


def test_what_is_there_is_not_drawn_again(cache, monkeypatch):
    monkeypatch.setattr(shapes, "draw", lambda *_: pytest.fail("drawn again"))
    shapes.ensure_shapes(cache / "shapes-v1")


@pytest.mark.parametrize("damage", ["data.yaml", "images/train/0002.jpg", "labels/val/0001.txt"])
def test_a_damaged_folder_is_mended_and_nothing_else_touched(tmp_path, small, damage):
    folder = shapes.ensure_shapes(tmp_path / "s").parent
    whole = files(folder)
    (folder / damage).unlink()
    (folder / "images/train/0001.jpg").write_bytes(b"")
    (folder / "labels/train/0000.txt").write_text("0 .5 .5 .1 .1\n")  # the user's own change
    (folder / "notes.md").write_text("mine")
    shapes.ensure_shapes(folder)
    mended = files(folder)
    assert mended.pop("notes.md") == b"mine" and mended.pop("labels/train/0000.txt") == b"0 .5 .5 .1 .1\n"
    whole.pop("labels/train/0000.txt")
    assert mended == whole
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_an_interrupted_generation_leaves_nothing(tmp_path, small, monkeypatch):
    original, calls = shapes.draw, []

    def stop_at_the_third(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(shapes, "draw", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        shapes.ensure_shapes(tmp_path / "cache" / "s")
    assert list((tmp_path / "cache").iterdir()) == []


def test_several_at_once_end_with_one_whole_folder(tmp_path, small):
    result, expected = [], files(shapes.ensure_shapes(tmp_path / "alone").parent)

    def run():
        path = shapes.ensure_shapes(tmp_path / "cache" / "s")
        result.append(files(path.parent))  # whole at the moment of return

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert result == [expected] * 4
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["s"]


def test_a_place_that_cannot_be_written_is_told(tmp_path, small):
    (tmp_path / "file").write_text("in the way")
    for target in (tmp_path / "file", tmp_path / "file" / "s"):
        with pytest.raises(UserError, match="BITFALCON_CACHE"):
            shapes.ensure_shapes(target)
    assert (tmp_path / "file").read_text() == "in the way"
