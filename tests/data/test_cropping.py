"""The input of a classifier: the recorded pixels bit for bit, and where every pixel of the image goes."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from bitfalcon_plugin.data.cropping import input_fit, input_pixels, visible_part
from bitfalcon_plugin.data.images import GREY, read_picture
from bitfalcon_plugin.ops.letterbox import Fit, letterbox_fit
from tests.data.recorded.fill import noise
from tests.helpers.paths import RECORDED

CASES = json.loads(gzip.decompress((RECORDED / "classify.json.gz").read_bytes()))["classify"]["transform"]


def noisy(name: str) -> Image.Image:
    """The picture that a recorded case names."""
    height, width = map(int, name.rsplit(".", 1)[1].split("x"))
    return Image.fromarray(np.floor((noise(name, (height, width, 3)) + 1) * 128).astype(np.uint8))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["image"])
def test_the_recorded_pixels(case):
    picture, imgsz = noisy(case["image"]), case["size"]
    fit = input_fit(picture.size[::-1], imgsz if isinstance(imgsz, int) else tuple(imgsz))
    pixels = input_pixels(picture, fit)
    assert list(pixels.shape) == case["shape"] and pixels.dtype == torch.uint8 and pixels.is_contiguous()
    assert pixels.flatten()[case["at"]].tolist() == case["values_255"]
    assert pixels.double().mean().item() == pytest.approx(case["mean_255"], abs=1e-4)


@pytest.mark.parametrize("size", [(100, 140), (141, 99), (50, 71), (64, 64), (30, 301), (97, 64), (65, 67)])
@pytest.mark.parametrize("side", [32, 63, 64])
def test_as_torchvision_resizes_and_crops(size, side):
    picture = noisy(f"crop.{size[0]}x{size[1]}")
    expected = functional.center_crop(functional.resize(picture, side), [side, side])
    assert torch.equal(input_pixels(picture, input_fit(size, side)), functional.pil_to_tensor(expected))


def test_the_fit_of_a_crop_maps_boxes():
    fit = input_fit((100, 201), 64)
    assert fit == Fit((100, 201), (64, 128), (64, 64), (0, -32))
    assert input_fit((201, 100), 64).pad == (-32, 0)
    assert input_fit((100, 203), 64) == Fit((100, 203), (64, 129), (64, 64), (0, -32))  # 32.5 to even
    boxes = torch.tensor([[0.0, 0.0, 201.0, 100.0], [50.25, 0.0, 150.75, 100.0]])
    torch.testing.assert_close(fit.to_canvas(boxes), torch.tensor([[-32.0, 0, 96, 64], [0.0, 0, 64, 64]]))
    torch.testing.assert_close(fit.to_original(fit.to_canvas(boxes)), boxes)


def test_two_sides_stretch_and_equal_sides_crop():
    assert input_fit((50, 100), (64, 96)) == Fit((50, 100), (64, 96), (64, 96), (0, 0))
    assert input_fit((50, 100), (64, 64)) == input_fit((50, 100), 64)


@pytest.mark.parametrize("size", [(100, 140), (141, 99), (64, 64)])
@pytest.mark.parametrize("imgsz", [64, (96, 64)])
def test_the_letterbox_shows_the_whole_image_on_grey(size, imgsz):
    picture, canvas = noisy(f"letterbox.{size[0]}x{size[1]}"), (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    fit = input_fit(size, imgsz, letterbox=True)
    assert fit == letterbox_fit(size, canvas)
    pixels, (top, left), (height, width) = input_pixels(picture, fit), fit.pad, fit.resized
    assert pixels.shape == (3, *canvas)
    inside = functional.pil_to_tensor(functional.resize(picture, [height, width]))
    assert torch.equal(pixels[:, top : top + height, left : left + width], inside)
    outside = torch.ones(canvas, dtype=torch.bool)
    outside[top : top + height, left : left + width] = False
    assert (pixels[:, outside] == GREY).all()


def test_a_very_long_picture_is_cut_before_the_resize():
    picture = noisy("long.12x1200")
    fit = input_fit((12, 1200), 64)
    assert fit.resized == (64, 6400)
    part = np.asarray(visible_part(picture, fit)).astype(int)
    whole = picture.resize((6400, 64), Image.Resampling.BILINEAR).crop((3168, 0, 3232, 64))
    assert part.shape == (64, 64, 3) and np.abs(part - np.asarray(whole)).max() <= 1


def test_pictures_are_read_upright_in_rgb(tmp_path):
    grey = Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey.save(tmp_path / "turned.png", exif=exif)
    picture = read_picture(tmp_path / "turned.png")
    assert picture.mode == "RGB" and picture.size == (20, 30)
    assert np.array_equal(np.asarray(picture)[..., 1], np.rot90(np.asarray(grey), -1))
    wide = Image.fromarray((np.arange(600, dtype=np.uint16) * 100).reshape(20, 30))
    wide.save(tmp_path / "deep.png")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "deep.png"))[..., 2], np.asarray(wide) // 256)
