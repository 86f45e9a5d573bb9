"""Bad input, as a table: a clear message, or the right result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.predict.sources import list_sources
from tests.helpers.finder import BrightBoxes, painted
from tests.helpers.predicting import predict

RED = np.zeros((64, 64, 3), np.uint8)
RED[16:48, 16:48, 2] = 255  # BGR

REFUSED = {
    "missing path": ("lost.jpg", MissingFileError, r"'lost.jpg' does not exist"),
    "nearly right path": ("goood.png", MissingFileError, r"Did you mean 'good.png'"),
    "missing folder": ("lost/a.jpg", MissingFileError, r"does not exist"),
    "empty folder": ("empty", MissingFileError, r"No images in folder 'empty'"),
    "folder of other files": ("texts", MissingFileError, r"No images in folder 'texts'.*jpg"),
    "empty glob": ("*.webp", MissingFileError, r"No images in pattern"),
    "empty list": ([], MissingFileError, r"empty list"),
    "empty text": ("", MissingFileError, r"source is empty"),
    "a name too long": ("x" * 5000, UserError, r"cannot be read"),
    "a zero in a name": ("a\0b.jpg", UserError, r"does not exist|cannot be read"),
    "an address": ("http://example.org/a.jpg", UserError, r"allow_url=True"),
    "None in a list": ([RED, None], UserError, r"source\[1\] is a NoneType"),
    "a float": (1.5, UserError, r"source is a float \(1.5\)"),
    "a bool": (True, UserError, r"source is a bool"),
    "a dict": ({"image": RED}, UserError, r"source is a dict"),
    "bytes": (b"abc", UserError, r"source is a bytes"),
    "float array": (RED / 255, UserError, r"array of float64; expected uint8.*astype"),
    "float array in a list": ([RED, RED.astype(np.float32)], UserError, r"source\[1\]: array of float32"),
    "16-bit array": (RED.astype(np.uint16), UserError, r"array of uint16"),
    "bool array": (RED > 0, UserError, r"array of bool"),
    "two channels": (RED[..., :2], UserError, r"\(64, 64, 2\); expected \(H, W, 3\) BGR"),
    "five channels": (np.zeros((8, 8, 5), np.uint8), UserError, r"\(8, 8, 5\)"),
    "planes first": (RED.transpose(2, 0, 1), UserError, r"\(3, 64, 64\)"),
    "array without pixels": (np.zeros((0, 5, 3), np.uint8), UserError, r"\(0, 5, 3\)"),
    "batch of arrays": (np.zeros((2, 64, 64, 3), np.uint8), UserError, r"\(2, 64, 64, 3\)"),
    "tensor below 0": (
        torch.full((1, 3, 32, 32), -0.1),
        UserError,
        r"values from -0.1 to -0.1; expected RGB in \[0, 1\]",
    ),
    "tensor above 255": (torch.full((1, 3, 32, 32), 300.0), UserError, r"values from 300 to 300"),
    "tensor of nan": (torch.full((1, 3, 32, 32), torch.nan), UserError, r"values from nan"),
    "tensor with one inf": (torch.tensor([0.5] * 3071 + [torch.inf]).view(1, 3, 32, 32), UserError, r"to inf"),
    "tensor of ints": (torch.zeros(1, 3, 32, 32, dtype=torch.int64), UserError, r"tensor of int64.*expected floats"),
    "grey tensor": (torch.zeros(1, 1, 32, 32), UserError, r"expected RGB as \(B, 3, H, W\)"),
    "channels last": (torch.zeros(32, 64, 3), UserError, r"permute\(2, 0, 1\)"),
    "flat tensor": (torch.zeros(32, 32), UserError, r"float32 \(32, 32\); expected RGB"),
    "no images": (torch.zeros(0, 3, 32, 32), UserError, r"\(0, 3, 32, 32\)"),
    "odd sides": (torch.zeros(1, 3, 32, 33), UserError, r"multiples of 32; pad it to 32x64"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    painted(tmp_path / "good.png", (64, 64), [(0, 16, 16, 48, 48)])
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/notes.md").write_text("x")
    return tmp_path


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(here, case):
    source, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words) as caught:
        list_sources(source, multiple=32)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_several_mistakes_are_told_at_once(here):
    with pytest.raises(UserError) as caught:
        list_sources([RED / 255, "lost.jpg", None])
    assert all(words in str(caught.value) for words in ("source[0]", "lost.jpg", "source[2]"))


def text(path):
    path.write_text("this is no picture")


def nothing(path):
    path.write_bytes(b"")


def cut(path):
    painted(path, (640, 480), [])
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(("name", "make"), [("a.jpg", text), ("b.png", nothing), ("c.jpg", cut)])
def test_what_cannot_be_read_is_skipped_and_counted(here, name, make):
    make(here / name)
    skipped = []
    found = list(predict(BrightBoxes(), list_sources([RED, name, RED]), imgsz=64, skipped=skipped))
    assert [result.path for result in found] == ["image0.jpg", "image2.jpg"]
    assert len(skipped) == 1 and name in skipped[0] and len(skipped[0].splitlines()) == 1


def pixel():
    return Image.new("RGB", (1, 1), (255, 0, 0))


def deep():
    return Image.fromarray(np.full((64, 64), 40_000, np.uint16))


def ink():
    return Image.new("CMYK", (64, 64), (0, 255, 255, 0))


def with_alpha():
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((255, 0, 0, 9), (16, 16, 48, 48))
    return image


@pytest.mark.parametrize(
    ("name", "make", "shape", "classes", "colour"),
    [
        ("pixel.png", pixel, (1, 1), [0.0], (0, 0, 255)),
        ("long.png", lambda: Image.new("RGB", (20_000, 10), (0, 0, 255)), (10, 20_000), [2.0], (255, 0, 0)),
        ("tall.png", lambda: Image.new("RGB", (10, 20_000), (0, 0, 255)), (20_000, 10), [2.0], (255, 0, 0)),
        ("deep.png", deep, (64, 64), [], (156, 156, 156)),
        ("deep.tif", deep, (64, 64), [], (156, 156, 156)),
        ("ink.tif", ink, (64, 64), [0.0], (0, 0, 255)),
        ("ink.jpg", ink, (64, 64), [0.0], (0, 0, 254)),
        ("grey.png", lambda: Image.new("L", (64, 64), 200), (64, 64), [], (200, 200, 200)),
        ("alpha.png", with_alpha, (64, 64), [0.0], (0, 0, 255)),
    ],
)
def test_odd_pictures_give_the_right_result(here, name, make, shape, classes, colour):
    make().save(here / name)
    (found,) = predict(BrightBoxes(), list_sources(name), imgsz=320)
    height, width = shape
    assert found.orig_shape == shape and found.orig_img.shape == (*shape, 3) and found.boxes.cls.tolist() == classes
    assert np.abs(found.orig_img[height // 2, width // 2].astype(int) - colour).max() <= 2
    for box in found.boxes.xyxy:
        assert (box >= 0).all() and (box <= torch.tensor([width, height, width, height])).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a[:, ::-1],
        lambda a: a[::-1, ::-1],
        lambda a: np.asfortranarray(a),
        lambda a: np.dstack((a, a[..., :1])),
        lambda a: np.broadcast_to(a, a.shape),
    ],
)
def test_arrays_of_any_layout(make):
    (found,) = predict(BrightBoxes(), list_sources(make(RED)), imgsz=64)
    assert found.boxes.cls.tolist() == [0.0] and found.boxes.xyxy.tolist() == [[16, 16, 48, 48]]


def test_a_batch_larger_than_what_there_is(here):
    model = BrightBoxes()
    assert len(list(predict(model, list_sources([RED] * 3), imgsz=64, batch=10**9))) == 3
    assert model.seen == [(3, 3, 64, 64)]


def test_exif_turns_the_picture(here):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(RED[:32, :, ::-1]).save(here / "a.jpg", exif=exif, quality=95)
    (found,) = predict(BrightBoxes(), list_sources("a.jpg"), imgsz=64)
    assert found.orig_shape == (64, 32)
    torch.testing.assert_close(found.boxes.xyxy, torch.tensor([[0.0, 16, 16, 48]]), atol=1.1, rtol=0)
