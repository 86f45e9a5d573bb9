"""JPEG files have the pixels that Pillow gives them, and only files of well-known kinds go to another decoder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.data.images import UnreadableImage, read_image
from bitfalcon_plugin.ops import jpeg

RANDOM = np.random.default_rng(1)
COARSE = Image.fromarray(RANDOM.integers(0, 256, (12, 17, 3), dtype=np.uint8))
PICTURE = COARSE.resize((131, 97), Image.Resampling.BICUBIC)
TURNED = Image.Exif()
TURNED[0x0112] = 6
KINDS = {  # -> mode, options of Pillow, whether torchvision's decoder is used
    "4:2:0": ("RGB", {"subsampling": 2}, True),
    "4:2:2": ("RGB", {"subsampling": 1}, True),
    "4:4:4": ("RGB", {"subsampling": 0}, True),
    "grey": ("L", {}, True),
    "poor": ("RGB", {"quality": 3}, True),
    "best": ("RGB", {"quality": 100, "optimize": True}, True),
    "restarts": ("RGB", {"restart_marker_rows": 1}, True),
    "progressive": ("RGB", {"progressive": True}, False),
    "cmyk": ("CMYK", {}, False),
    "turned": ("RGB", {"exif": TURNED}, False),
}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(jpeg, "FIRST", 0)


def written(path: Path, mode: str = "RGB", **options) -> Path:
    PICTURE.convert(mode).save(path, "JPEG", **options)
    return path


def pillow_s(path: Path) -> torch.Tensor:
    """The picture from memory, which Pillow always decodes."""
    return read_image(Image.open(io.BytesIO(path.read_bytes())))


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_all_kinds_have_the_bytes_of_pillow(tmp_path, monkeypatch, kind):
    mode, options, is_ours = KINDS[kind]
    path, calls, decoder = written(tmp_path / "x.jpg", mode, **options), [], jpeg._decoder()
    if decoder is None:
        pytest.skip("this torchvision has no decoder of JPEG, or one with other bytes")
    monkeypatch.setattr(jpeg, "_decoder", lambda: lambda *given: (calls.append(1), decoder(*given))[1])
    image = read_image(path)
    assert torch.equal(image, pillow_s(path)) and image.is_contiguous() and len(calls) == is_ours


@pytest.mark.parametrize("cut", [2, 200, -2])
def test_a_file_that_does_not_end_is_pillow_s_to_judge(tmp_path, monkeypatch, cut):
    path = written(tmp_path / "x.jpg")
    path.write_bytes(path.read_bytes()[:cut])
    monkeypatch.setattr(jpeg, "_decoder", lambda: pytest.fail)  # an error that nothing here catches
    with pytest.raises(UnreadableImage):
        read_image(path)


def test_a_decoder_with_other_bytes_or_with_an_error_is_not_used(tmp_path, monkeypatch):
    path, decoder = written(tmp_path / "x.jpg"), jpeg._decoder()
    if decoder is not None:
        assert jpeg._agrees(decoder)
        assert not jpeg._agrees(lambda *given: decoder(*given) ^ 1)

    def fails(*given):
        raise RuntimeError("no")

    for other in (None, fails, lambda *given: torch.zeros(3, 2, 2, dtype=torch.uint8)):
        monkeypatch.setattr(jpeg, "_decoder", lambda other=other: other)
        assert torch.equal(read_image(path), pillow_s(path))


def test_the_library_is_not_loaded_for_a_single_picture(tmp_path, monkeypatch):
    path, asked = written(tmp_path / "x.jpg"), []
    monkeypatch.setattr(jpeg, "FIRST", 4)
    monkeypatch.setattr(jpeg, "_files", iter(range(9)))
    monkeypatch.setattr(jpeg, "_decoder", lambda: asked.append(1))
    for _ in range(4):
        read_image(path)
    assert not asked
    read_image(path)
    assert asked == [1]
