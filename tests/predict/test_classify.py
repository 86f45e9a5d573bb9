"""Predictions of a classifier: recorded probabilities, inputs of every kind, and the files that are written."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from tests.helpers.classed import CLASSES, classed, picture, save_classifier  # noqa: F401  the fixture
from tests.helpers.paths import RECORDED, SHARED

QUIET = {"imgsz": 32, "verbose": False}


def test_recorded_probabilities():
    weights, data = SHARED / "checkpoints/v1-n-cls-signs-best.pt", SHARED / "datasets/signs"
    if not weights.is_file():
        pytest.skip("needs the shared checkpoints and datasets")
    recorded = json.loads(gzip.decompress((RECORDED / "classify.json.gz").read_bytes()))["predict-signs"]
    model = YOLO(weights)
    assert model.names == {int(index): name for index, name in recorded["names"].items()}
    results = model.predict([data / each["file"] for each in recorded["images"]], verbose=False)  # imgsz of the file
    for result, each in zip(results, recorded["images"], strict=True):
        assert result.input_shape == (recorded["imgsz"],) * 2
        torch.testing.assert_close(result.probs.data, torch.tensor(each["probs"]), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tests.helpers.classed import lay_out

    folder = tmp_path_factory.mktemp("classifier")
    lay_out(folder)
    return YOLO(save_classifier(folder))


def by_hand(model: YOLO, image: np.ndarray, side: int) -> torch.Tensor:
    """The probabilities of an RGB image, by Pillow's resize of its shorter side and its middle square."""
    height, width = image.shape[:2]
    short = min(height, width)
    size = tuple(side if edge == short else int(side * edge / short) for edge in (width, height))
    resized = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    left, top = (round((edge - side) / 2) for edge in size)
    pixels = np.array(resized.crop((left, top, left + side, top + side)))
    with torch.no_grad():
        return model.model(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0][0]


@pytest.mark.parametrize("side", [32, 64])
def test_the_middle_square_of_an_image_is_what_counts(model, side):
    images = [picture(name, number) for number, name in enumerate(CLASSES)]
    results = model.predict([image[..., ::-1] for image in images], **{**QUIET, "imgsz": side}, batch=3)
    for image, result in zip(images, results, strict=True):
        torch.testing.assert_close(result.probs.data, by_hand(model, image, side), rtol=1e-4, atol=1e-6)
        assert result.input_shape == (side, side) and result.orig_shape == image.shape[:2]


def test_what_a_result_is(model, capsys):
    image = picture("red", 1)
    (result,) = model.predict(image[..., ::-1], imgsz=32)
    assert result.boxes is None and result.masks is None and len(result) == 3 and result.probs.data.shape == (3,)
    assert result.probs.data.sum().item() == pytest.approx(1, abs=1e-6)
    best = result.probs.top5
    assert best == result.probs.data.argsort(descending=True).tolist() and result.probs.top1 == best[0]
    text = "".join(f"{CLASSES[index]} {result.probs.data[index]:.2f}, " for index in best)
    assert result.verbose() == text and f"0: 32x32 {text}" in capsys.readouterr().out
    assert [row["name"] for row in result.summary()] == [CLASSES[index] for index in best]
    assert np.abs(result.plot().astype(int) - image[..., ::-1]).sum() > 0


def test_two_sides_stretch_the_image_and_letterbox_shows_all_of_it(model):
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :20] = 255  # the middle square has none of it
    cut = model.predict(image, **QUIET)[0].probs.data
    whole = model.predict(image, **QUIET, letterbox=True)[0].probs.data
    black = model.predict(np.zeros_like(image), **QUIET)[0].probs.data
    torch.testing.assert_close(cut, black)
    assert not torch.allclose(whole, cut)
    stretched = model.predict(image, **{**QUIET, "imgsz": [32, 96]})[0]
    resized = np.array(Image.fromarray(image).resize((96, 32), Image.Resampling.BILINEAR))
    with torch.no_grad():
        expected = model.model(torch.from_numpy(resized).permute(2, 0, 1)[None] / 255)[0][0]
    assert stretched.input_shape == (32, 96)
    torch.testing.assert_close(stretched.probs.data, expected, rtol=1e-4, atol=1e-6)


def test_a_classifier_that_was_validated_on_whole_images_sees_whole_images(classed):
    images, probabilities = np.zeros((40, 80, 3), np.uint8), {}
    images[:, :20] = 255
    for letterbox in (False, True):
        model = YOLO(save_classifier(classed, settings={"imgsz": 32, "letterbox": letterbox}))
        probabilities[letterbox] = model.predict(images, verbose=False)[0].probs.data
        given = model.predict(images, verbose=False, letterbox=not letterbox)[0].probs.data
        assert not torch.allclose(given, probabilities[letterbox])
    assert not torch.allclose(*probabilities.values())


def test_tensors_are_taken_as_they_are(model):
    images = torch.rand(3, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    results = model.predict(images, **QUIET)
    with torch.no_grad():
        expected = model.model(images)[0]
    torch.testing.assert_close(torch.stack([each.probs.data for each in results]), expected, rtol=1e-4, atol=1e-6)


def test_what_means_nothing_is_said(model, capsys):
    plain = model.predict(picture("red", 1), **QUIET)[0].probs.data
    given = {"conf": 0.9, "iou": 0.2, "classes": [1], "max_det": 1, "augment": True, "save_crop": True}
    other = model.predict(picture("red", 1), **QUIET, **given)[0]
    assert torch.equal(other.probs.data, plain) and other.save_dir is None
    told = capsys.readouterr().err
    assert all(f"{key}=" in told for key in given)


def test_vectors_of_the_last_row_before_the_head(model):
    (vector,) = model.embed(picture("blue", 0), **QUIET)
    assert vector.shape == (32,) and vector.isfinite().all()


def test_there_is_nothing_to_track(model):
    with pytest.raises(UserError, match="task=classify, which finds no objects to follow"):
        model.track(picture("red", 1))


def test_files_of_predict(classed, capsys):
    weights, source = save_classifier(classed), "data/val/red"
    tokens = [f"model={weights}", f"source={source}", "imgsz=32", "project=runs", "name=p"]
    assert main(["predict", *tokens, "save_txt=True", "save_json=True"]) == 0
    assert "image 1/2" in capsys.readouterr().out
    lines = (classed / "runs/p/labels/red0.txt").read_text().splitlines()
    assert len(lines) == 3 and sorted(line.split()[1] for line in lines) == list(CLASSES)
    shares = [float(line.split()[0]) for line in lines]
    assert shares == sorted(shares, reverse=True) and (classed / "runs/p/red0.jpg").is_file()
    records = json.loads((classed / "runs/p/predictions.json").read_text())
    assert len(records) == 6 and set(records[0]) == {"image_id", "file_name", "category_id", "score"}
    assert [records[0]["image_id"], records[0]["score"]] == ["red0", pytest.approx(shares[0], abs=0.006)]
    assert main(["predict", *tokens, "json=True"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert [row["name"] for row in first["classes"]] == [line.split()[1] for line in lines]
