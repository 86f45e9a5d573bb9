"""Crops that are cut out by their masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.ops.letterbox import letterbox_fit
from bitfalcon_plugin.predict.results import Results
from tests.helpers.bright import bright
from tests.helpers.finder import painted

SIZE = (90, 120)  # (h, w) of the image
BOX = [30.0, 20, 80, 70]


def disc(size: tuple[int, int], canvas: tuple[int, int] | None = None) -> np.ndarray:
    """A disc that fills BOX, on a plane of the image's size, or on a letterboxed plane of `canvas`."""
    fit = letterbox_fit(size, canvas or size)
    y = (np.arange(fit.canvas[0])[:, None] + 0.5 - fit.pad[0]) * size[0] / fit.resized[0]
    x = (np.arange(fit.canvas[1]) + 0.5 - fit.pad[1]) * size[1] / fit.resized[1]
    return (x - 55) ** 2 + (y - 45) ** 2 <= 25**2


def result(plane: np.ndarray, boxes=(BOX,)) -> Results:
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    rows = torch.tensor([[*box, 0.9, 0] for box in boxes])
    masks = torch.from_numpy(plane).to(torch.uint8)[None].repeat(len(boxes), 1, 1)
    return Results(image, "a.png", {0: "cat"}, rows, masks=masks)


@pytest.mark.parametrize("canvas", [None, (96, 128), (64, 64)])
def test_what_lies_in_the_mask_is_kept_and_the_rest_is_transparent(tmp_path, canvas):
    found = result(disc(SIZE, canvas), [BOX, BOX])
    found.save_crop(tmp_path, "street.jpg", masked=True)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["street.png", "street2.png"]
    with Image.open(tmp_path / "cat/street.png") as crop:
        assert crop.mode == "RGBA" and crop.size == (61, 61)  # 50 px, 2 % and 10 px
        pixels = np.asarray(crop)
    top, left = 14, 24
    original = found.orig_img[top : top + 61, left : left + 61, ::-1]
    inside = pixels[..., 3] == 255
    assert set(np.unique(pixels[..., 3])) == {0, 255}
    assert (pixels[inside, :3] == original[inside]).all() and (pixels[~inside, :3] == 114).all()
    truth = disc(SIZE)[top : top + 61, left : left + 61]
    assert (inside & truth).sum() / (inside | truth).sum() > (0.999 if canvas is None else 0.93)


def test_a_mask_that_reaches_beyond_its_crop_is_cut(tmp_path):
    found = result(np.ones(SIZE, bool), [[-5.0, -5, 30, 30], [100, 70, 140, 100]])
    found.save_crop(tmp_path, masked=True)
    for path in tmp_path.rglob("*.png"):
        assert (np.asarray(Image.open(path))[..., 3] == 255).all()
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_an_empty_mask_leaves_an_empty_crop_and_no_object_none(tmp_path):
    empty = result(np.zeros(SIZE, bool))
    empty.save_crop(tmp_path, masked=True)
    assert not np.asarray(Image.open(tmp_path / "cat/im.png"))[..., 3].any()
    empty[:0].save_crop(tmp_path / "none", masked=True)
    Results(empty.orig_img, "a", {0: "cat"}, torch.zeros(0, 6)).save_crop(tmp_path / "none", masked=True)
    assert not (tmp_path / "none").exists()


def test_objects_without_masks_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = torch.tensor([[*BOX, 0.9, 0]])
    plain = Results(np.zeros((*SIZE, 3), np.uint8), "a.png", {0: "cat"}, rows)
    with pytest.raises(UserError, match="need masks.*save_crop=True"):
        plain.save_crop(tmp_path / "crops", masked=True)
    painted(tmp_path / "a.png", (64, 48), [(0, 4, 6, 20, 30)])
    with pytest.raises(UserError, match="need masks"):
        bright(tmp_path).predict("a.png", save=True, save_crop="masked", verbose=False)
    assert not (tmp_path / "crops").exists() and not (tmp_path / "runs").exists()
