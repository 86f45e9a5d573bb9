"""Decoding against known arrays; the resize against exact fractions (tests/ops/test_resize.py: against OpenCV)."""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from fractions import Fraction
from io import BytesIO
from math import floor

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.data.images import IMAGE_SUFFIXES, UnreadableImage, image_size, letterbox, read_image, resize
from bitfalcon_plugin.ops.letterbox import Fit, letterbox_fit

PIXELS = np.random.RandomState(0).randint(0, 256, (23, 31, 3)).astype(np.uint8)  # RGB
# Orientation -> what brings the stored array upright (EXIF 2.3, tag 0x0112)
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
}


def as_tensor(rgb):
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def exact(at, size, new):
    """The two neighbours and the weight of the second, as fractions."""
    source = max(Fraction(2 * at + 1, 2) * Fraction(size, new) - Fraction(1, 2), Fraction(0))
    low = floor(source)
    return min(low, size - 1), min(low + 1, size - 1), source - low


def slow_resize(image, new):
    """Half-pixel bilinear as exact fractions, (3, H, W) lists."""
    _, height, width = image.shape
    result = []
    for channel in image.tolist():
        for y in range(new[0]):
            top, bottom, wy = exact(y, height, new[0])
            for x in range(new[1]):
                left, right, wx = exact(x, width, new[1])
                upper = channel[top][left] * (1 - wx) + channel[top][right] * wx
                lower = channel[bottom][left] * (1 - wx) + channel[bottom][right] * wx
                result.append(upper * (1 - wy) + lower * wy)
    return result


@pytest.mark.parametrize("size", [(40, 40), (12, 9), (23, 62), (7, 31), (50, 3), (1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, None])
def test_resize_is_half_pixel_bilinear_within_a_grey_level(size, layout):
    image = as_tensor(PIXELS) if layout is None else as_tensor(PIXELS).contiguous()
    ours = resize(image, size)
    assert ours.dtype == torch.uint8 and ours.shape == (3, *size) and ours.is_contiguous()
    differences = [
        value - truth for value, truth in zip(ours.flatten().tolist(), slow_resize(image, size), strict=True)
    ]
    assert max(map(abs, differences)) < 1  # weights in steps of 1/2048 and sums rounded down
    assert abs(sum(differences) / len(differences)) < 0.25


def test_halving_is_exact_and_rounds_halves_up():
    image = as_tensor(np.random.RandomState(1).randint(0, 256, (16, 24, 3)).astype(np.uint8))
    truth = slow_resize(image, (8, 12))
    assert any(value % 1 == Fraction(1, 2) and floor(value) % 2 == 0 for value in truth)  # half to even would differ
    assert resize(image, (8, 12)).flatten().tolist() == [floor(value + Fraction(1, 2)) for value in truth]


def test_a_picture_is_decoded_from_its_bytes(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    assert torch.equal(read_image(BytesIO((tmp_path / "a.png").read_bytes())), as_tensor(PIXELS))
    with pytest.raises(UnreadableImage):
        read_image(BytesIO(b"no picture"))


def test_resize_to_the_same_size_is_the_image_itself():
    image = as_tensor(PIXELS)
    assert resize(image, (23, 31)) is image


def test_resize_keeps_extreme_values():
    for value in (0, 255):
        assert (resize(torch.full((3, 5, 7), value, dtype=torch.uint8), (13, 4)) == value).all()


@pytest.mark.parametrize("canvas", [(64, 64), (32, 96), (23, 31), (46, 62)])
def test_place_pads_with_grey(canvas):
    image = as_tensor(PIXELS)
    fit = letterbox_fit((23, 31), canvas)
    placed = letterbox(image, fit)
    assert placed.shape == (3, *canvas) and placed.dtype == torch.uint8
    (top, left), (height, width) = fit.pad, fit.resized
    assert torch.equal(placed[:, top : top + height, left : left + width], resize(image, fit.resized))
    around = torch.ones(canvas, dtype=torch.bool)
    around[top : top + height, left : left + width] = False
    assert (placed[:, around] == 114).all()


def test_place_follows_the_fit():
    fit = Fit(original=(23, 31), resized=(23, 31), canvas=(30, 40), pad=(2, 5))
    placed = letterbox(as_tensor(PIXELS), fit)
    assert torch.equal(placed[:, 2:25, 5:36], as_tensor(PIXELS))
    assert (placed[:, :2] == 114).all() and (placed[:, 25:] == 114).all() and (placed[:, :, :5] == 114).all()


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jpg", ".webp"])
def test_exif_orientation(tmp_path, orientation, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(PIXELS).save(path, exif=exif(orientation), lossless=True)
    upright = as_tensor(UPRIGHT[orientation](PIXELS))
    image = read_image(path)
    assert image.shape == upright.shape and image_size(path) == tuple(upright.shape[1:])
    if suffix != ".jpg":
        assert torch.equal(image, upright)


def test_exif_behind_the_pixels_of_a_png(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path, exif=exif(6))
    data = path.read_bytes()
    at = data.index(b"eXIf") - 4
    length = struct.unpack(">I", data[at : at + 4])[0] + 12
    chunk, rest = data[at : at + length], data[:at] + data[at + length :]
    path.write_bytes(rest[:-12] + chunk + rest[-12:])  # the last 12 bytes are IEND
    assert torch.equal(read_image(path), as_tensor(UPRIGHT[6](PIXELS)))
    assert image_size(path) == (31, 23)


def test_broken_exif_leaves_the_picture(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(path).shape == (3, 23, 31) and image_size(path) == (23, 31)


def test_a_pillow_image_is_turned_upright(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif(8))
    assert torch.equal(read_image(Image.open(tmp_path / "a.png")), as_tensor(np.rot90(PIXELS)))
    assert torch.equal(read_image(Image.fromarray(PIXELS)), as_tensor(PIXELS))


def files_of_many_modes():
    grey = PIXELS[..., 0]
    three = np.repeat(grey[..., None], 3, axis=2)
    alpha = Image.fromarray(grey[:, ::-1].copy())
    rgba, la = Image.fromarray(PIXELS).copy(), Image.fromarray(grey).copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    palette = Image.fromarray(grey % 7).copy()
    palette.putpalette(sum(([40 * i, 255 - i, i * i] for i in range(7)), []))
    mapped = np.array([[40 * i, 255 - i, i * i] for i in range(7)], dtype=np.uint8)[grey % 7]
    deep = grey.astype(np.uint16) * 256 + 77
    ink = Image.fromarray(255 - PIXELS).convert("RGB")
    cmyk = Image.merge("CMYK", (*ink.split(), Image.new("L", ink.size)))
    bits = Image.fromarray((grey > 99).astype(np.uint8) * 255).convert("1")
    return {
        "rgb.png": (Image.fromarray(PIXELS), {}, PIXELS),
        "grey.png": (Image.fromarray(grey), {}, three),
        "bits.png": (bits, {}, (three > 99).astype(np.uint8) * 255),
        "rgba.png": (rgba, {}, PIXELS),
        "la.png": (la, {}, three),
        "palette.png": (palette, {}, mapped),
        "transparent.png": (palette, {"transparency": b"\x00\x80\xff\xff\xff\xff\xff"}, mapped),
        "deep.png": (Image.fromarray(deep), {}, three),
        "deep.tif": (Image.fromarray(deep), {}, three),
        "int.tif": (Image.fromarray(deep.astype(np.int32)), {}, three),
        "float.tif": (Image.fromarray((grey / 255).astype(np.float32)), {}, three),
        "cmyk.tif": (cmyk, {}, PIXELS),
        "rgb.bmp": (Image.fromarray(PIXELS), {}, PIXELS),
        "rgb.webp": (Image.fromarray(PIXELS), {"lossless": True}, PIXELS),
        "rgb.jp2": (Image.fromarray(PIXELS), {"irreversible": False}, PIXELS),
    }


@pytest.mark.parametrize("name", files_of_many_modes())
def test_modes_become_rgb(tmp_path, name):
    image, options, expected = files_of_many_modes()[name]
    path = tmp_path / name
    image.save(path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = read_image(path)
        assert image_size(path) == (23, 31)
    assert decoded.dtype == torch.uint8 and decoded.is_contiguous()
    assert torch.equal(decoded, as_tensor(expected))


def test_a_cmyk_jpeg_has_the_colours_a_viewer_shows(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red, green, blue = read_image(tmp_path / "red.jpg")[:, 8, 8].tolist()
    assert red > 250 and green < 5 and blue < 5


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0.0, 200.0], [0.5, float("nan")]])
def test_floats_of_unknown_range_are_refused(tmp_path, values):
    grey = np.full((12, 12), values[0], dtype=np.float32)
    grey[3, 3] = values[1]
    Image.fromarray(grey).save(tmp_path / "a.tif")
    for reader in (read_image, image_size):
        with pytest.raises(UnreadableImage, match=r"floats in \[0, 1\]"):
            reader(tmp_path / "a.tif")


def test_arrays_are_bgr():
    bgr = np.ascontiguousarray(PIXELS[..., ::-1])
    grey = PIXELS[..., 0]
    cases = {
        "bgr": (bgr, PIXELS),
        "view of rgb": (PIXELS[..., ::-1], PIXELS),
        "flipped": (bgr[::-1, ::-1], PIXELS[::-1, ::-1]),
        "bgra": (np.dstack((bgr, grey)), PIXELS),
        "grey": (grey, np.dstack((grey, grey, grey))),
        "grey, one channel": (grey[..., None], np.dstack((grey, grey, grey))),
        "transposed": (bgr.transpose(1, 0, 2), PIXELS.transpose(1, 0, 2)),
    }
    for name, (array, expected) in cases.items():
        assert torch.equal(read_image(array), as_tensor(expected)), name


@pytest.mark.parametrize("shape", [(4, 5, 3), (1, 1, 3), (4, 5)])
def test_the_tensor_does_not_share_memory_with_the_array(shape):
    array = np.full(shape, 9, dtype=np.uint8)
    for view in (array, array[..., ::-1]):
        image = read_image(view)
        image.zero_()
        assert (array == 9).all()


@pytest.mark.parametrize(
    "array, word",
    [
        (np.zeros((4, 4, 3), dtype=np.float32), "float32"),
        (np.zeros((4, 4, 2), dtype=np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((4,), dtype=np.uint8), r"\(4,\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((1, 3, 4, 4), dtype=np.uint8), r"\(1, 3, 4, 4\)"),
    ],
)
def test_other_arrays_are_refused(array, word):
    with pytest.raises(UnreadableImage, match=word):
        read_image(array)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".jp2"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_files_are_seen_by_both_readers(tmp_path, suffix, share):
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    pixels = np.random.RandomState(2).randint(0, 256, (120, 150, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(whole)
    assert image_size(whole) == (120, 150)
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for reader in (read_image, image_size):
        with pytest.raises(UnreadableImage) as caught:
            reader(path)
        assert str(caught.value) and "\n" not in str(caught.value) and "0x" not in str(caught.value)


def test_a_jpeg_with_bytes_behind_its_end_is_whole(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
    with open(tmp_path / "a.jpg", "ab") as file:
        file.write(b"\0" * 100)
    assert image_size(tmp_path / "a.jpg") == (23, 31)


def test_what_is_no_picture_is_refused_with_the_reason(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    for name in ("text.jpg", "empty.png", "folder.png", "absent.png"):
        for reader in (read_image, image_size):
            with pytest.raises(UnreadableImage) as caught:
                reader(tmp_path / name)
            assert str(caught.value)
    with pytest.raises(UnreadableImage, match="[Nn]o such file"):
        read_image(tmp_path / "absent.png")


def png_that_claims(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("limit", [89_478_485, None])  # Pillow's own, and switched off by another package
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(60_000, 60_000))
    for reader in (read_image, image_size):
        with pytest.raises(UnreadableImage, match="bomb.*tile=1024"):
            reader(path)


def test_no_warning_leaves_even_from_overlapping_threads(tmp_path):
    large = tmp_path / "large.png"  # Pillow warns of more than 89 million pixels
    large.write_bytes(png_that_claims(9_500, 9_500))
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        threads = [threading.Thread(target=image_size, args=(large,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == inside
    assert not caught
    assert warnings.filters == before


def test_suffixes_are_those_of_both_upstreams():
    assert {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".mpo", ".heic", ".avif"} <= IMAGE_SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)
