"""Every picture of Results: drawn, cropped, saved and shown."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config import notes
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.plots.colours import PALETTE
from bitfalcon_plugin.predict import pictures
from bitfalcon_plugin.predict.results import Results
from tests.helpers.results import ROWS, SHAPE, TRACKED, result


def test_crops(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8)
    names = {0: "traffic light", 1: "../b:us"}
    found = Results(image, "a.png", names, torch.cat((ROWS, ROWS[:1])))
    found.save_crop(tmp_path, "street.v2.png")
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert files == [
        "_b_us/street.v2.jpg",
        "_b_us/street.v22.jpg",
        "traffic light/street.v2.jpg",
        "traffic light/street.v22.jpg",
    ]
    # 40 x 60 around (30, 50): 50.8 x 71.2, so x from 4.6 to 55.4 and y from 14.4 to 85.6
    expected = Image.fromarray(image[14:85, 4:55, ::-1])
    buffer = io.BytesIO()
    expected.save(buffer, "JPEG", quality=95)
    with Image.open(tmp_path / "traffic light" / "street.v2.jpg") as crop:
        assert crop.size == (51, 71) and np.array_equal(np.asarray(crop), np.asarray(Image.open(buffer)))
    with Image.open(tmp_path / "_b_us" / "street.v2.jpg") as crop:
        assert crop.size == (100, 200)
    found[:0].save_crop(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    found[2].save_crop(tmp_path / "usual")
    assert [path.name for path in (tmp_path / "usual").rglob("*.jpg")] == ["im.jpg"]


@pytest.mark.parametrize(
    "name, folder", [("..", "class 0"), ("", "class 0"), ("a/b", "a_b"), ("C:\\x", "C__x"), ("猫", "猫"), (". x.", "x")]
)
def test_crops_never_leave_their_folder(name, folder):
    assert pictures.folder_name(name, 0) == folder


def test_the_picture_has_the_boxes_and_the_original_is_untouched(tmp_path):
    found = result()
    before = found.orig_img.copy()
    drawn = found.plot()
    assert drawn.shape == (200, 100, 3)
    assert drawn.dtype == np.uint8
    assert drawn.flags.c_contiguous
    assert drawn.flags.writeable
    assert np.array_equal(found.orig_img, before) and not np.array_equal(drawn, before)
    assert drawn[50, 10].tolist() == [
        0xFF,
        0x2A,
        0x04,
    ]  # left edge of the first box, in its class's colour #042aff, BGR
    assert np.array_equal(result(ROWS[:0]).plot(), before) and np.array_equal(found.plot(boxes=False), before)
    picture = found.plot(pil=True)
    assert isinstance(picture, Image.Image) and np.array_equal(np.asarray(picture)[..., ::-1], drawn)
    assert np.array_equal(found.numpy().plot(), drawn) and result(TRACKED).plot().shape == drawn.shape


def test_arguments_of_plot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = result()
    usual = found.plot()
    for options in (
        {"conf": False},
        {"line_width": 5},
        {"font_size": 20},
        {"labels": False},
        {"color_mode": "instance"},
    ):
        assert not np.array_equal(found.plot(**options), usual), options
    assert np.array_equal(found.plot(font="no such font.ttf"), usual)
    assert np.array_equal(found.plot(True, None, None, None, masks=True, probs=False, kpt_line=True), usual)
    assert found.plot(font="Arial.ttf").shape == usual.shape  # wherever that is
    other = np.full((*SHAPE, 3), 200, np.uint8)
    assert found.plot(img=other)[150, 99].tolist() != [50] * 3 and (found.plot(img=other, boxes=False) == other).all()
    assert found.plot(img=other[..., 0]).shape == usual.shape
    assert np.array_equal(found.plot(img=Image.new("RGB", (100, 200), (50,) * 3)), usual)
    assert np.array_equal(found.plot(save=True), usual) and (tmp_path / "results_street.jpg").stat().st_size > 100
    found.plot(save=True, filename="sub/x.png", pil=True)
    assert np.array_equal(np.asarray(Image.open("sub/x.png"))[..., ::-1], usual)
    with pytest.raises(UserError, match="color_mode='id': expected 'class' or 'instance'"):
        found.plot(color_mode="id")
    with pytest.raises(UserError, match="kpt_radius=-3: expected pixels, 0 or more"):
        found.plot(kpt_radius=-3)
    with pytest.raises(TypeError, match="lables"):
        found.plot(lables=False)
    instance = found.plot(color_mode="instance", labels=False, line_width=1)[..., ::-1]
    assert ["#" + bytes(instance[y, x]).hex() for x, y in ((10, 50), (0, 150), (5, 7))] == list(PALETTE[:3])


def test_saved_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = result()
    assert found.save() == "results_street.jpg" and (tmp_path / "results_street.jpg").exists()
    assert found.save(tmp_path / "out.png", conf=False) == str(tmp_path / "out.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png"))[..., ::-1], found.plot(conf=False))
    assert found.save("bare") == "bare.jpg"
    with pytest.raises(UserError, match="x.doc' cannot be written: '.doc' is no picture format"):
        found.save("x.doc")
    with pytest.raises(UserError, match="cannot be written"):
        found.save(tmp_path / "out.png" / "x.jpg")  # a file is no folder


def test_without_a_display_a_file_is_written_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert result().show(line_width=1) is None
    told = capsys.readouterr()
    assert str(tmp_path / "results_street.jpg") in told.err
    assert not told.out
    assert (tmp_path / "results_street.jpg").exists()
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(pictures.ImageShow, "show", lambda picture: shown.append(picture.size) or True)
    result().show()
    assert shown == [(100, 200)] and not capsys.readouterr().err
    monkeypatch.setattr(pictures.ImageShow, "show", lambda picture: 1 / 0)
    result().plot(show=True)
    assert not capsys.readouterr().err  # it was said before
    monkeypatch.setattr(notes, "_PRINTED", set())
    result().plot(show=True)
    assert "no display" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(8, 8), (3000, 20), (40, 4000), (1, 1)])
def test_extreme_pictures_can_be_drawn(shape, tmp_path):
    rows = torch.tensor([[-5.0, -5.0, 5000.0, 5000.0, 0.9, 37.0], [2.0, 2.0, 2.0, 2.0, 0.9, 0.0]])
    found = Results(np.zeros((*shape, 3), np.uint8), "x.jpg", {0: "naïve 猫"}, rows)
    assert found.plot().shape == (*shape, 3)
    found.save_crop(tmp_path)
