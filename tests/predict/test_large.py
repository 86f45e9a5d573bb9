"""Large images in files: predicted by windows as they are in memory, and results that keep no pixels of them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from bitfalcon_plugin.data import large
from bitfalcon_plugin.data.large import LargeImage
from bitfalcon_plugin.ops.tiles import Tiling
from bitfalcon_plugin.predict import reader, results
from bitfalcon_plugin.predict.sources import list_sources
from tests.helpers.components import Components
from tests.helpers.predicting import predict
from tests.predict.test_tiled import SIZE, TILING, harbour, scene, with_components


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    for module in (large, reader):
        monkeypatch.setattr(module, "LARGE", 1000)


def file_of(folder, image, name="scene.bmp"):
    Image.fromarray(image[..., ::-1]).save(folder / name)
    return folder / name


def both(folder, task):
    """The results of a scene in a file and in memory."""
    image = harbour() if task == "obb" else scene()
    sources = list_sources([file_of(folder, image), image])
    return list(predict(Components(task), sources, imgsz=128, tiling=TILING))


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb"])
def test_windows_give_what_the_image_in_memory_gives(tmp_path, task):
    by_windows, in_memory = both(tmp_path, task)
    assert by_windows.is_large and not in_memory.is_large and len(by_windows) == (4 if task == "obb" else 7)
    assert by_windows.to_json() == in_memory.to_json() and by_windows.orig_shape == SIZE
    assert np.array_equal(by_windows.orig_img, in_memory.orig_img)
    assert np.array_equal(by_windows.plot(), in_memory.plot())
    for folder, result in (("a", by_windows), ("b", in_memory)):
        result.save_crop(tmp_path / folder, "x.png")
    crops = [sorted((tmp_path / folder).rglob("*.jpg")) for folder in "ab"]
    assert len(crops[0]) == len(by_windows)
    for one, other in zip(*crops):
        difference = np.asarray(Image.open(one)).astype(int) - np.asarray(Image.open(other))
        assert np.abs(difference).max() <= (3 if task == "obb" else 0)


def test_a_result_keeps_no_pixels(tmp_path):
    (result, _) = both(tmp_path, "segment")
    assert isinstance(result._image, LargeImage) and result[:2].is_large
    text = pickle.dumps(result)
    assert len(text) < 60_000 < 3 * SIZE[0] * SIZE[1]  # patches of masks, no image
    assert np.array_equal(pickle.loads(text).orig_img, scene())
    _ = result.orig_img
    assert isinstance(result._image, LargeImage)


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb"])
def test_pictures_show_a_reduced_copy(tmp_path, monkeypatch, task):
    monkeypatch.setattr(results, "REDUCED_SIDE", 210)
    (result, whole) = both(tmp_path, task)
    picture = result.plot(labels=False, line_width=1)
    assert picture.shape == (150, 210, 3) and result.plot(img=result.orig_img).shape == (*SIZE, 3)
    plain = np.asarray(Image.fromarray(scene() if task != "obb" else harbour()).reduce(2))
    changed = np.abs(picture.astype(int) - plain).max(2) > 30
    for x1, y1, x2, y2 in result.detections.xyxy.tolist():
        assert changed[max(int(y1 / 2) - 1, 0) : int(y2 / 2) + 2, max(int(x1 / 2) - 1, 0) : int(x2 / 2) + 2].any()
    assert changed.mean() < 0.3


def test_the_command_writes_a_reduced_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "REDUCED_SIDE", 210)
    yolo = with_components(tmp_path, imgsz=128)
    yolo.predict(file_of(tmp_path, scene()), tile=128, overlap=0.4, save=True, project=str(tmp_path / "runs"))
    assert Image.open(tmp_path / "runs/predict/scene.jpg").size == (210, 150)


def test_an_image_of_one_tile_is_decoded_as_a_whole(tmp_path):
    (result,) = predict(Components(), list_sources(file_of(tmp_path, scene())), imgsz=448, tiling=Tiling(420))
    (plain,) = predict(Components(), [scene()], imgsz=448)
    assert not result.is_large and result.to_json() == plain.to_json()


def test_an_array_in_a_file_is_predicted_as_the_array(tmp_path):
    np.save(tmp_path / "a.npy", scene())
    for tiling in (None, TILING):
        sources = list_sources([tmp_path / "a.npy", scene()])
        one, other = predict(Components(), sources, imgsz=128 if tiling else 448, tiling=tiling)
        assert one.to_json() == other.to_json() and one.path == str(tmp_path / "a.npy")


def test_a_mapped_array_is_not_copied(tmp_path):
    np.save(tmp_path / "a.npy", scene())
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    (result,) = predict(Components(), [mapped], imgsz=128, tiling=TILING)
    assert len(result) == 7 and np.shares_memory(result.orig_img, mapped)


def test_a_file_that_is_cut_off_is_skipped_with_its_reason(tmp_path):
    np.save(tmp_path / "good.npy", scene())
    broken, skipped = file_of(tmp_path, scene(), "a.tif"), []
    broken.write_bytes(broken.read_bytes()[:-9000])
    sources = list_sources([broken, tmp_path / "good.npy"])
    (result,) = predict(Components(), sources, imgsz=128, tiling=TILING, skipped=skipped)
    assert len(result) == 7 and len(skipped) == 1 and "a.tif: image file is truncated" in skipped[0]


def test_a_file_that_breaks_in_its_middle_is_skipped_too(tmp_path, monkeypatch):
    monkeypatch.setattr(large, "has_rasterio", lambda: False)
    path, skipped = file_of(tmp_path, scene(), "a.png"), []
    path.write_bytes(path.read_bytes()[:-400])
    sources = list_sources([path, scene()])
    (result,) = predict(Components(), sources, imgsz=128, tiling=TILING, skipped=skipped)
    assert len(result) == 7 and len(skipped) == 1 and "a.png: " in skipped[0]


def test_a_file_that_is_gone_says_so(tmp_path):
    (result, _) = both(tmp_path, "detect")
    (tmp_path / "scene.bmp").unlink()
    with pytest.raises(Exception, match="scene.bmp' cannot be read any more"):
        _ = result.orig_img
