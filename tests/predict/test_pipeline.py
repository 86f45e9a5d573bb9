"""From files to boxes in original pixels: sources, sizes, batches, and what cannot be read."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.ops.letterbox import letterbox_fit
from bitfalcon_plugin.ops.nms import non_max_suppression
from bitfalcon_plugin.predict.sources import list_sources
from tests.helpers.finder import BrightBoxes, painted
from tests.helpers.predicting import predict
from tests.helpers.tiny_models import CONV, small_model

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
    torch.testing.assert_close(
        boxes.xyxy[0], torch.tensor(box[1:], dtype=torch.float32), atol=1.01 * max(pixel, 1), rtol=0
    )


def test_one_size_gives_the_minimal_rectangle_and_several_a_square(tmp_path):
    wide = [painted(tmp_path / f"{i}.png", (640, 480), [(0, 10, 10, 90, 90)]) for i in range(2)]
    tall = painted(tmp_path / "tall.png", (480, 640), [(2, 10, 10, 90, 90)])
    model = BrightBoxes()
    assert [r.names[int(r.boxes.cls[0])] for r in predict(model, [*wide, tall], imgsz=320, batch=3)] == [
        "red",
        "red",
        "blue",
    ]
    assert len(list(predict(model, [*wide, tall], imgsz=320))) == 3
    assert model.seen == [(3, 3, 320, 320), (1, 3, 256, 320), (1, 3, 256, 320), (1, 3, 320, 256)]


def test_what_cannot_be_read_is_set_aside_and_shifts_nothing(tmp_path):
    good = [painted(tmp_path / f"{i}.png", (64, 64), [(i, 8, 8, 40, 40)]) for i in range(3)]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(painted(tmp_path / "whole.jpg", (64, 64), []).read_bytes()[:200])
    text = tmp_path / "text.png"
    text.write_text("no image")
    skipped = []
    found = list(predict(BrightBoxes(), [good[0], broken, good[1], text, good[2]], imgsz=64, batch=2, skipped=skipped))
    assert [int(r.boxes.cls[0]) for r in found] == [0, 1, 2]
    assert [r.path for r in found] == [str(path) for path in good]
    assert len(skipped) == 2 and "broken.jpg" in skipped[0] and "text.png" in skipped[1]


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


@pytest.mark.parametrize(
    "source, words",
    [("nothing.jpg", "does not exist"), ("*.jpg", "No images in pattern"), (".", "No images in folder")],
)
def test_a_source_that_is_not_there_is_an_error(tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match=words):
        list_sources(source)


@pytest.mark.parametrize("array", [np.zeros((64, 64, 3), np.float32), np.zeros((64, 64, 2), np.uint8)])
def test_an_array_that_is_no_image_is_an_error_rather_than_left_out(array):
    with pytest.raises(UserError, match="expected"):
        list(predict(BrightBoxes(), [array], imgsz=64))


def test_a_source_of_another_type_is_an_error():
    with pytest.raises(UserError, match="source is a float"):
        list_sources(3.5)


def place_slowly(image: np.ndarray, imgsz: int) -> np.ndarray:
    """The square letterbox of an (h, w, 3) image by loops over pixels, in float64 and not rounded."""
    h, w = image.shape[:2]
    ratio = min(imgsz / h, imgsz / w)
    height, width = round(h * ratio), round(w * ratio)
    top, left = round((imgsz - height) / 2 - 0.1), round((imgsz - width) / 2 - 0.1)
    out = np.full((imgsz, imgsz, 3), 114.0)
    for row in range(height):
        y = max((row + 0.5) * h / height - 0.5, 0)
        y0 = int(y)
        y1 = min(y0 + 1, h - 1)
        for column in range(width):
            x = max((column + 0.5) * w / width - 0.5, 0)
            x0 = int(x)
            x1 = min(x0 + 1, w - 1)
            above = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
            below = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
            out[top + row, left + column] = above * (1 - (y - y0)) + below * (y - y0)
    return out


class Recorder(BrightBoxes):
    """Keeps the inputs."""

    def forward(self, images):
        self.images = images.clone()
        return super().forward(images)


INPUT_SIZES = [[(50, 37), (20, 45)], [(64, 64), (96, 31)], [(1, 1), (7, 90)]]


def network_input(images: list[np.ndarray], imgsz: int) -> np.ndarray:
    """What the network gets for RGB images (h, w, 3), as (n, imgsz, imgsz, 3) from 0 to 255."""
    model = Recorder()
    list(predict(model, [np.ascontiguousarray(image[..., ::-1]) for image in images], imgsz=imgsz, batch=len(images)))
    assert model.images.dtype == torch.float32 and model.images.is_contiguous(memory_format=torch.channels_last)
    return model.images.permute(0, 2, 3, 1).numpy() * 255


@pytest.mark.parametrize("sizes", INPUT_SIZES)
def test_the_network_sees_what_a_slow_letterbox_gives(sizes):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for image, seen in zip(images, network_input(images, 64), strict=True):
        exact = place_slowly(image.astype(np.float64), 64)
        assert np.abs(seen - exact).max() < 1  # to the byte in tests/ops/test_resize.py


@pytest.mark.parametrize("sizes", INPUT_SIZES)
def test_the_network_sees_the_bytes_of_an_opencv_letterbox(sizes):
    opencv = pytest.importorskip("cv2")
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for image, seen in zip(images, network_input(images, 64), strict=True):
        fit = letterbox_fit(image.shape[:2], (64, 64))
        inner = opencv.resize(image, fit.resized[::-1], interpolation=opencv.INTER_LINEAR)
        (top, left), (height, width) = fit.pad, fit.resized
        edges = (top, 64 - height - top, left, 64 - width - left)
        expected = opencv.copyMakeBorder(inner, *edges, opencv.BORDER_CONSTANT, value=(114, 114, 114))
        assert np.array_equal(np.rint(seen).astype(np.uint8), expected)


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((480, 640), (480, 640)),
        ((427, 640), (448, 640)),
        ((1080, 810), (640, 480)),
        ((720, 1280), (384, 640)),
        ((33, 640), (64, 640)),
    ],
)
def test_the_rectangles_of_the_specification(size, shape):
    model = BrightBoxes()
    (found,) = predict(model, [np.zeros((*size, 3), np.uint8)], imgsz=640)
    assert model.seen == [(1, 3, *shape)] and found.input_shape == shape


def test_the_array_that_comes_back_is_the_image_in_bgr(tmp_path):
    path = painted(tmp_path / "a.png", (40, 30), [(0, 3, 4, 20, 22)])
    (found,) = predict(BrightBoxes(), [path], imgsz=64)
    assert np.array_equal(found.orig_img, np.asarray(Image.open(path))[..., ::-1])
    assert found.orig_img.flags.c_contiguous and found.orig_img.flags.writeable


def test_augment_finds_on_three_copies_and_maps_back(tmp_path):
    path = painted(tmp_path / "a.png", (320, 256), [(0, 32, 64, 128, 160)])
    model = BrightBoxes()
    (plain,) = predict(BrightBoxes(), [path], imgsz=320)
    (found,) = predict(model, [path], imgsz=320, augment=True, iou=0.999)
    # 256 * 0.83 = 212 -> 224, 320 * 0.83 = 266 -> 288; 256 * 0.67 = 172 -> 192, 320 * 0.67 = 214 -> 224
    assert model.seen == [(1, 3, 256, 320), (1, 3, 224, 288), (1, 3, 192, 224)]
    assert len(found) == 3  # an IoU of 0.999 keeps all three
    for box in found.boxes.xyxy:
        torch.testing.assert_close(box, plain.boxes.xyxy[0], atol=2 / 0.67, rtol=0)
    (merged,) = predict(model, [path], imgsz=320, augment=True)
    assert len(merged) == 1


def test_augment_is_suppressed_as_the_plain_output_of_a_slow_merge(tmp_path):
    """Against the three passes by hand, with an image whose mirror image differs."""
    path = painted(tmp_path / "a.png", (320, 320), [(1, 10, 40, 90, 200)])
    image = torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)[None].float() / 255
    boxes = []
    for side, flip in ((320, False), (266, True), (214, False)):
        look = image.flip(3) if flip else image
        look = torch.nn.functional.interpolate(look, size=(side, side), mode="bilinear", align_corners=False)
        cx, cy, w, h = (BrightBoxes().decode(look)[0, :4, 1] * 320 / side).tolist()
        cx = 320 - cx if flip else cx
        boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    (found,) = predict(BrightBoxes(), [path], imgsz=320, augment=True, iou=0.9999)
    assert len(found) == len({tuple(box) for box in boxes})
    for box in boxes:
        assert (found.boxes.xyxy - torch.tensor(box)).abs().amax(1).min() < 1e-3


def test_embed_gives_the_means_of_the_maps():
    model = small_model(CONV, (-1, 1, "Conv", [32, 3, 2])).eval()
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    (found,) = predict(model, [image], imgsz=96, embed=[1, 0])
    x = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        first = model.model[0](x)
        second = model.model[1](first)
    torch.testing.assert_close(found, torch.cat((second.mean((2, 3)), first.mean((2, 3))), 1)[0])
    assert found.ndim == 1 and not found.is_inference()


@pytest.mark.parametrize("rows", [[2], [-1], [0, 9]])
def test_embed_of_a_row_without_a_map_is_an_error(rows):
    model = small_model(CONV, (-1, 1, "Conv", [32, 3, 2])).eval()
    with pytest.raises(UserError, match="the rows of this model that give maps are 0 to 1"):
        list(predict(model, [np.zeros((32, 32, 3), np.uint8)], imgsz=32, embed=rows))


def test_tensors_are_the_network_input_itself():
    model = Recorder()
    images = torch.full((3, 3, 64, 96), 114 / 255)
    images[1, :, 8:40, 16:48] = torch.tensor([0.0, 0, 1])[:, None, None]
    items = list_sources([images, np.zeros((20, 20, 3), np.uint8)], multiple=32)
    found = list(predict(model, items, imgsz=64))
    assert model.seen == [(3, 3, 64, 96), (1, 3, 64, 64)]
    assert [len(result) for result in found] == [0, 1, 0, 0]
    assert found[1].boxes.xyxy.tolist() == [[16, 8, 48, 40]] and found[1].orig_shape == (64, 96)
    assert found[1].orig_img[10, 20].tolist() == [255, 0, 0]  # BGR
    assert [result.path for result in found] == [f"image{i}.jpg" for i in range(4)]


def test_a_batch_bounds_the_images_of_a_tensor():
    model = BrightBoxes()
    list(predict(model, list_sources(torch.zeros(5, 3, 32, 32)), batch=2))
    assert [shape[0] for shape in model.seen] == [2, 2, 1]


def test_no_thread_and_no_open_file_is_left_when_the_caller_stops(tmp_path):
    paths = [painted(tmp_path / f"{i}.png", (64, 64), [(0, 8, 8, 40, 40)]) for i in range(12)]
    before = set(threading.enumerate())
    results = predict(BrightBoxes(), paths, imgsz=64)
    next(results)
    results.close()
    assert set(threading.enumerate()) == before
    assert len(list(predict(BrightBoxes(), paths, imgsz=64))) == 12
    assert set(threading.enumerate()) == before


def test_an_error_of_the_network_ends_the_reading_too(tmp_path):
    class Failing(BrightBoxes):
        def forward(self, images):
            raise RuntimeError("broken")

    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="broken"):
        list(predict(Failing(), [np.zeros((32, 32, 3), np.uint8)] * 20, imgsz=32))
    assert set(threading.enumerate()) == before


def test_reading_stays_a_few_images_ahead():
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield np.zeros((32, 32, 3), np.uint8)

    results = predict(BrightBoxes(), endless(), imgsz=32)
    for _ in range(5):
        next(results)
    results.close()
    assert len(asked) < 15


def test_the_threads_of_torch_stay_as_they_were():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        list(predict(BrightBoxes(), [np.zeros((40, 50, 3), np.uint8)] * 3, imgsz=32))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_pillow_image_that_is_given_many_times_is_decoded_once(tmp_path):
    path = painted(tmp_path / "a.png", (500, 400), [(0, 30, 40, 200, 220)])
    for _ in range(5):
        found = list(predict(BrightBoxes(), list_sources([Image.open(path)] * 14), imgsz=64))
        assert len(found) == 14 and len({tuple(result.boxes.xyxy[0].tolist()) for result in found}) == 1


def test_a_stream_holds_on_to_no_result():
    alive, most = weakref.WeakSet(), 0
    for result in predict(BrightBoxes(), [np.zeros((8, 8, 3), np.uint8)] * 60, imgsz=32, batch=4):
        alive.add(result)
        most = max(most, len(alive))
    assert most <= 9  # this batch, the one before, and the variable above


@pytest.mark.parametrize("conf", [0.0, 0.25, 0.6])
def test_detections_are_those_of_suppression_over_all_anchors(conf):
    class Random(BrightBoxes):
        def decode(self, images):
            generator = torch.Generator().manual_seed(3)
            out = torch.rand((len(images), 7, 500), generator=generator)
            out[:, :4] *= 60
            out[0, 4:, 7], out[1, 5, 9], out[1, 2, 11] = 0.0, torch.nan, torch.inf
            return out

    found = list(predict(Random(), [np.zeros((64, 64, 3), np.uint8)] * 3, imgsz=64, conf=conf, batch=3))
    expected = non_max_suppression(Random().decode(torch.zeros(3, 3, 64, 64)), conf=conf, iou=0.7)
    for result, rows in zip(found, expected, strict=True):
        assert len(rows) > 5 and torch.equal(result.boxes.data[:, 4:], rows[:, 4:])
        assert torch.equal(result.boxes.data[:, :4], rows[:, :4].clamp(0, 64))
