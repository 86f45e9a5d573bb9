"""Windows of large pictures: every reader against Pillow's pixels, what is refused, and reduced copies."""

from __future__ import annotations

import importlib.util
import pickle
import struct

import numpy as np
import pytest
from PIL import Image

from bitfalcon_plugin.data import large
from bitfalcon_plugin.data.images import UnreadableImage, read_image
from bitfalcon_plugin.data.large import LargeImage, large_image
from bitfalcon_plugin.ops.tiles import windows

SIZE = (90, 131)  # (h, w)
PIXELS = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)  # RGB
needs_rasterio = pytest.mark.skipif(importlib.util.find_spec("rasterio") is None, reason="rasterio is not installed")


@pytest.fixture
def without_rasterio(monkeypatch):
    monkeypatch.setattr(large, "has_rasterio", lambda: False)


@pytest.fixture
def never_whole(monkeypatch):
    def fail(image):
        raise AssertionError("decoded as a whole")

    monkeypatch.setattr(large, "read_upright", fail)


def written(folder, name: str, mode: str = "RGB", **options):
    path = folder / name
    Image.fromarray(PIXELS).convert(mode).save(path, **options)
    return path


def agrees(path, tolerance: int = 0) -> None:
    """Whether all windows, in an order that goes up too, have the pixels that the picture has as a whole."""
    truth = read_image(path).permute(1, 2, 0).numpy()[..., ::-1].astype(int)
    image = LargeImage(path)
    assert image.shape == truth.shape
    every = windows(SIZE, 40, 29, cut=True)
    with image.opened() as read:
        for x1, y1, x2, y2 in [*every, *every[::-2], *every[3:7]]:
            window = read(large.Window(x1, y1, x2, y2))
            assert window.dtype == np.uint8 and window.shape == (y2 - y1, x2 - x1, 3)
            assert np.abs(window - truth[y1:y2, x1:x2]).max() <= tolerance
    assert np.abs(np.asarray(image) - truth).max() <= tolerance
    assert np.array_equal(image[5:9, 100:], np.asarray(image)[5:9, 100:]) and image[7:7, 3:5].shape == (0, 2, 3)


PLAIN = [("a.tif", "RGB"), ("a.tiff", "RGBA"), ("grey.tif", "L"), ("a.bmp", "RGB"), ("grey.bmp", "L"), ("a.ppm", "RGB")]


@pytest.mark.parametrize("name, mode", [*PLAIN, ("a.pgm", "L")])
def test_files_without_compression_are_read_at_their_places(tmp_path, without_rasterio, never_whole, name, mode):
    agrees(written(tmp_path, name, mode))


def test_arrays_in_files_are_pixels_in_opencvs_order(tmp_path, never_whole):
    np.save(tmp_path / "a.npy", PIXELS[..., ::-1].copy())
    agrees(tmp_path / "a.npy")
    assert np.array_equal(LargeImage(tmp_path / "a.npy")[:], PIXELS[..., ::-1])


@pytest.mark.parametrize("array", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((5, 5, 4), np.uint8)])
def test_other_arrays_are_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UnreadableImage, match=r"expected uint8 \(H, W, 3\)"):
        LargeImage(tmp_path / "a.npy")


def test_objects_in_files_of_arrays_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    for read in (LargeImage, large_image, read_image):
        with pytest.raises(UnreadableImage):
            read(tmp_path / "a.npy")


@needs_rasterio
@pytest.mark.parametrize("rows", [3, 64])
@pytest.mark.parametrize("name, options, tolerance", [
    ("a.png", {}, 0), ("lzw.tif", {"compression": "tiff_lzw"}, 0), ("a.jpg", {"quality": 95, "subsampling": 0}, 2)
])  # fmt: skip
def test_compressed_files_are_read_by_rasterio(tmp_path, never_whole, monkeypatch, name, options, tolerance, rows):
    monkeypatch.setattr(large, "ROWS", rows)
    agrees(written(tmp_path, name, **options), tolerance)


@needs_rasterio
@pytest.mark.parametrize("compress", ["none", "deflate"])
def test_tiff_in_tiles(tmp_path, never_whole, compress):
    import rasterio

    path, layout = tmp_path / "a.tif", {"tiled": True, "blockxsize": 32, "blockysize": 16, "photometric": "RGB"}
    size = {"height": SIZE[0], "width": SIZE[1], "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", compress=compress, interleave="pixel", **layout, **size) as file:
        file.write(PIXELS.transpose(2, 0, 1))
    assert np.array_equal(LargeImage(path)[:], PIXELS[..., ::-1])
    agrees(path)


@needs_rasterio
@pytest.mark.parametrize("count", [1, 3, 4])
def test_samples_of_16_bits(tmp_path, count):
    import rasterio

    deep = np.random.default_rng(1).integers(0, 1 << 16, (count, *SIZE), dtype=np.uint16)
    size = {"height": SIZE[0], "width": SIZE[1], "count": count, "dtype": "uint16"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **size) as file:
        file.write(deep)
    expected = (deep // 256).astype(np.uint8)[[0, 0, 0] if count == 1 else [2, 1, 0]].transpose(1, 2, 0)
    assert np.array_equal(LargeImage(tmp_path / "a.tif")[:], expected)


def test_what_nothing_reads_by_windows_is_decoded_as_a_whole_and_a_note_says_so(tmp_path, without_rasterio, capsys):
    path = written(tmp_path, "a.png")
    agrees(path)
    assert "pip install 'bitfalcon[large]'" in capsys.readouterr().err
    palette = tmp_path / "p.bmp"
    Image.fromarray(PIXELS).quantize(16).save(palette)
    agrees(palette)


@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_pictures_come_upright(tmp_path, orientation, capsys):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = written(tmp_path, "a.jpg", exif=exif)
    truth = read_image(path).permute(1, 2, 0).numpy()[..., ::-1]
    image = LargeImage(path)
    assert image.shape == truth.shape and np.array_equal(image[3:80, 7:60], truth[3:80, 7:60])
    assert "EXIF orientation" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.ppm"])
def test_a_file_that_is_cut_off_is_unreadable(tmp_path, name, without_rasterio):
    path = written(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UnreadableImage):
        LargeImage(path)[:]


def test_no_picture_and_no_file(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"no picture" * 9)
    for path in (tmp_path / "a.tif", tmp_path / "missing.tif"):
        with pytest.raises(UnreadableImage):
            LargeImage(path)


def test_only_large_pictures_are_read_by_windows(tmp_path, monkeypatch):
    path = written(tmp_path, "a.bmp")
    assert large_image(path) is None
    monkeypatch.setattr(large, "LARGE", SIZE[0] * SIZE[1] - 1)
    assert isinstance(large_image(path), LargeImage)


def test_a_picture_beyond_the_limit_of_pillow_is_read(tmp_path, without_rasterio):
    """Its rows are a hole in the file: 400 megapixels that take no space."""
    side = 20_000
    path = tmp_path / "a.ppm"
    with open(path, "wb") as file:
        file.write(f"P6 {side} {side} 255\n".encode())
        start = file.tell()
        file.seek(start + 3 * (side * 19_990 + 19_000))
        file.write(bytes([1, 2, 3]))
        file.truncate(start + 3 * side * side)
    image = large_image(path)
    assert image.shape == (side, side, 3) and image[19_980:19_992, 18_990:19_010][10, 10].tolist() == [3, 2, 1]


@pytest.mark.parametrize("name, options", [("a.tif", {"compression": "tiff_deflate"}), ("a.png", {})])
def test_a_compressed_picture_beyond_the_limit_of_pillow_is_read(
    tmp_path, monkeypatch, without_rasterio, name, options
):
    """Pillow warns from MAX_IMAGE_PIXELS on, and refuses twice as many: to decode a TIFF, and to cut a picture."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    image = LargeImage(written(tmp_path, name, **options))
    assert np.array_equal(image[5:9, 100:], PIXELS[5:9, 100:, ::-1])
    assert np.array_equal(np.asarray(image), PIXELS[..., ::-1]) and Image.MAX_IMAGE_PIXELS == 1000


def test_what_can_only_be_decoded_as_a_whole_has_a_limit(tmp_path, monkeypatch, without_rasterio):
    monkeypatch.setattr(large, "MAX_WHOLE", 1000)
    with pytest.raises(UnreadableImage, match="131x90 pixels, more than 1000.*bitfalcon"):
        LargeImage(written(tmp_path, "a.png"))


@pytest.mark.parametrize("side, factor", [(200, 1), (131, 1), (130, 2), (33, 4)])
def test_a_reduced_copy_has_means(tmp_path, monkeypatch, side, factor):
    monkeypatch.setattr(large, "BAND_BYTES", 5000)
    copy = LargeImage(written(tmp_path, "a.bmp")).reduced(side)
    assert max(copy.shape) <= side and copy.shape[:2] == tuple(-(-length // factor) for length in SIZE)
    block = PIXELS[:factor, :factor, ::-1].reshape(-1, 3).mean(0)
    assert np.abs(copy[0, 0] - block).max() <= 1


def test_a_large_image_can_be_pickled_and_keeps_no_pixels(tmp_path):
    image = LargeImage(written(tmp_path, "a.bmp"))
    assert len(pickle.dumps(image)) < 1000
    assert np.array_equal(pickle.loads(pickle.dumps(image))[:], image[:])


def test_a_header_that_lies_about_the_size_is_unreadable(tmp_path, without_rasterio):
    path = written(tmp_path, "a.bmp")
    data = bytearray(path.read_bytes())
    data[18:26] = struct.pack("<ii", 30_000, 30_000)
    path.write_bytes(data)
    with pytest.raises(UnreadableImage, match="truncated"):
        LargeImage(path)
