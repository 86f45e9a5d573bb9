"""From files to boxes in original pixels: sources, sizes, batches, and what cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from finder import BrightBoxes, painted
from PIL import Image

from bitfalcon_plugin.errors import MissingFileError, UserError
from bitfalcon_plugin.predict import Skipped, list_sources, predict

SIZES = [(640, 480), (480, 640), (100, 333), (1280, 720), (57, 41), (320, 320)]


@pytest.mark.parametrize("size", SIZES)
def test_boxes_come_back_in_original_pixels(tmp_path, size):
    w, h = size
    box = (1, w // 5, h // 4, w * 4 // 5, h * 3 // 4)
    found = list(predict(BrightBoxes(), [painted(tmp_path / "a.png", size, [box])], imgsz=320))
    assert len(found) == 1 and found[0].orig_shape == (h, w)
    boxes = found[0].boxes
    assert boxes.cls.tolist() == [1.0] and boxes.conf.tolist() == pytest.approx([0.9])
    pixel = max(w, h) / 320  # one pixel of the network input
    torch.testing.assert_close(boxes.xyxy[0], torch.tensor(box[1:], dtype=torch.float32), atol=1.01 * max(pixel, 1), rtol=0)


def test_one_size_gives_the_minimal_rectangle_and_several_a_square(tmp_path):
    wide = [painted(tmp_path / f"{i}.png", (640, 480), [(0, 10, 10, 90, 90)]) for i in range(2)]
    tall = painted(tmp_path / "tall.png", (480, 640), [(2, 10, 10, 90, 90)])
    model = BrightBoxes()
    assert [r.names[int(r.boxes.cls[0])] for r in predict(model, [*wide, tall], imgsz=320, batch=3)] == ["red", "red", "blue"]
    assert len(list(predict(model, [*wide, tall], imgsz=320))) == 3
    assert model.seen == [(3, 3, 320, 320), (1, 3, 256, 320), (1, 3, 256, 320), (1, 3, 320, 256)]


def test_what_cannot_be_read_is_set_aside_and_shifts_nothing(tmp_path):
    good = [painted(tmp_path / f"{i}.png", (64, 64), [(i, 8, 8, 40, 40)]) for i in range(3)]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(painted(tmp_path / "whole.jpg", (64, 64), []).read_bytes()[:200])
    text = tmp_path / "text.png"
    text.write_text("no image")
    skipped = Skipped()
    found = list(predict(BrightBoxes(), [good[0], broken, good[1], text, good[2]], imgsz=64, batch=2, skipped=skipped))
    assert [int(r.boxes.cls[0]) for r in found] == [0, 1, 2]
    assert [r.path for r in found] == [str(path) for path in good]
    assert len(skipped.reasons) == 2 and "broken.jpg" in skipped.reasons[0] and "text.png" in skipped.reasons[1]


def test_pillow_images_and_bgr_arrays_are_the_same_as_files(tmp_path):
    path = painted(tmp_path / "a.png", (96, 64), [(0, 8, 8, 40, 40)])
    picture = Image.open(path)
    array = np.asarray(picture)[..., ::-1]  # BGR with a negative stride
    rows = [r.boxes.data for r in predict(BrightBoxes(), list_sources([path, picture, array]), imgsz=96)]
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2]) and len(rows[0]) == 1


def test_sources_are_files_folders_and_globs(tmp_path):
    for name in ("b.jpg", "a.PNG", "sub/c.jpg"):
        painted(tmp_path / name, (32, 32), [], format="PNG")
    (tmp_path / "notes.txt").write_text("x")
    assert [p.name for p in list_sources(tmp_path)] == ["a.PNG", "b.jpg"]
    assert [p.name for p in list_sources(str(tmp_path / "*.jpg"))] == ["b.jpg"]
    assert [p.name for p in list_sources(str(tmp_path / "**/*.jpg"))] == ["b.jpg", "c.jpg"]
    assert [p.name for p in list_sources([tmp_path / "b.jpg", str(tmp_path / "sub")])] == ["b.jpg", "c.jpg"]


@pytest.mark.parametrize("source, words", [("nothing.jpg", "does not exist"), ("*.jpg", "No images in pattern"), (".", "No images in folder")])
def test_a_source_that_is_not_there_is_an_error(tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match=words):
        list_sources(source)


@pytest.mark.parametrize("array", [np.zeros((64, 64, 3), np.float32), np.zeros((64, 64, 2), np.uint8)])
def test_an_array_that_is_no_image_is_an_error_rather_than_left_out(array):
    with pytest.raises(UserError, match="expected"):
        list(predict(BrightBoxes(), [array], imgsz=64))


def test_a_source_of_another_type_is_an_error():
    with pytest.raises(UserError, match="source is a int"):
        list_sources(3)
