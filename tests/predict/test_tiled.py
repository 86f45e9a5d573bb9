"""Prediction in tiles: painted scenes whose objects lie across the borders of tiles, and what tiles go with."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.ops.tiles import Tiling
from bitfalcon_plugin.predict import patch_masks
from bitfalcon_plugin.predict.masks import Masks
from bitfalcon_plugin.predict.sources import list_sources
from bitfalcon_plugin.tasks import tiles
from tests.helpers.bright import bright, canvas, untrained
from tests.helpers.coloured import GRAPH
from tests.helpers.components import Components
from tests.helpers.exports import save, tiny_segment
from tests.helpers.finder import BrightBoxes
from tests.helpers.predicting import predict

SIZE = (300, 420)  # (h, w)
TILING = Tiling(128, 0.4)  # borders at 77, 128, 154, 205, ...: every object below lies across one, or in a corner
OBJECTS = [  # class, x1, y1, x2, y2
    (0, 110, 20, 150, 50),  # across one border
    (0, 60, 110, 100, 150),  # in the corner of four tiles
    (1, 200, 60, 236, 96),
    (2, 70, 180, 118, 220),
    (1, 300, 230, 345, 275),
    (0, 380, 260, 420, 300),  # at the corner of the image
    (2, 0, 0, 30, 30),
]


def scene() -> np.ndarray:
    return canvas(*SIZE, *OBJECTS)


def found_by(task: str, image: np.ndarray, tiling: Tiling | None = TILING, **options):
    imgsz = 128 if tiling else 448
    (result,) = predict(Components(task), [image], imgsz=imgsz, tiling=tiling, **options)
    return result


def sorted_rows(rows) -> np.ndarray:
    return np.array(sorted(np.asarray(rows).round(1).tolist()))


@pytest.mark.parametrize("task", ["detect", "segment", "pose"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_each_object_of_a_scene_is_found_once(task, agnostic):
    result = found_by(task, scene(), agnostic=agnostic)
    assert sorted_rows(np.c_[result.boxes.cls, result.boxes.xyxy]).tolist() == sorted_rows(OBJECTS).tolist()
    assert result.orig_shape == SIZE and (result.boxes.conf.diff() <= 0).all()


def test_suppression_alone_would_keep_the_parts(monkeypatch):
    """The scene is hard enough: without the rule about parts more than the objects are found."""
    monkeypatch.setattr(tiles, "cut_parts", lambda found, *others: torch.zeros(len(found), dtype=torch.bool))
    assert len(found_by("detect", scene()).boxes) > 7


def test_masks_lie_on_the_plane_of_the_image():
    result = found_by("segment", scene())
    height, width = SIZE
    assert result.masks.shape == (7, height, width) and result.masks.data.dtype == torch.uint8
    for (_, *box), plane in zip(_matching(result), result.masks.data):
        truth = np.zeros(SIZE, bool)
        truth[box[1] : box[3], box[0] : box[2]] = True
        inside = plane.numpy() > 0
        assert (inside & truth).sum() / (inside | truth).sum() > 0.8
    assert [ring.shape[1] for ring in result.masks.xy] == [2] * 7


def _matching(result) -> list[tuple[int, ...]]:
    """The objects in the order of a result's rows."""
    centres = np.array([[(x1 + x2) / 2, (y1 + y2) / 2] for _, x1, y1, x2, y2 in OBJECTS])
    boxes = result.boxes.xyxy.numpy()
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    return [OBJECTS[np.abs(centres - each).sum(1).argmin()] for each in middle]


def test_what_is_made_of_patches_equals_what_is_made_of_planes():
    result = found_by("segment", scene())
    plain = Masks(result.masks.data, SIZE)
    assert result.masks.rle == plain.rle
    for mine, other in zip(result.masks.xy, plain.xy):
        assert np.array_equal(mine, other)
    for page in (SIZE[::-1], (210, 150), (105, 75), (97, 83), (840, 600)):
        rounding = 12 if page == (97, 83) else 0  # a row of pixels whose sums are close to a half
        for index in range(len(plain)):
            (corner, inside), (other_corner, other_inside) = (
                each.region(index, page) for each in (result.masks, plain)
            )
            painted = np.zeros((2, page[1], page[0]), bool)
            for plane, (x, y), part in zip(painted, (corner, other_corner), (inside, other_inside)):
                plane[y : y + part.shape[0], x : x + part.shape[1]] = part
            assert (painted[0] != painted[1]).sum() <= rounding
    with_planes = result.new()
    with_planes.update(boxes=result.boxes, masks=plain)
    assert np.array_equal(result.plot(), with_planes.plot())


@pytest.mark.parametrize("index", [1, -1, slice(1, 4), slice(None, None, -2), [0, 2], torch.arange(7) > 3, [False] * 7])
def test_an_index_selects_masks_as_planes(index):
    result = found_by("segment", scene())
    index = torch.tensor(index) if index == [False] * 7 else index
    part = result[index]
    assert torch.equal(part.masks.data, torch.as_tensor(result.masks.data[as_list(index)]))
    assert len(part.masks) == len(part.boxes) and part.numpy().masks.data.dtype == np.uint8
    assert part.cpu().masks.shape == part.masks.shape and torch.is_tensor(part.numpy().to("cpu").masks.data)


def as_list(index):
    rows = torch.arange(7)
    if isinstance(index, slice):
        return list(range(*index.indices(7)))
    return rows[index].reshape(-1).tolist()


def test_planes_that_do_not_fit_into_memory_are_refused_by_name(monkeypatch):
    result = found_by("segment", scene())
    monkeypatch.setattr(patch_masks, "MAX_BYTES", 300 * 420 * 2)
    with pytest.raises(UserError, match="7 masks of 420x300 pixels .*masks.xy"):
        _ = result.masks.data
    assert result.masks[0].data.shape == (1, 300, 420) and "xy" in repr(result.masks)


def test_points_ride_along():
    result = found_by("pose", scene())
    for (_, x1, _, x2, _), points in zip(_matching(result), result.keypoints.xy.tolist()):
        assert points[0][0] == pytest.approx(x1, abs=1) and points[1][0] == pytest.approx(x2 - 1, abs=1)
    assert result.keypoints.conf.tolist() == [pytest.approx([0.9, 0.9])] * 7


class FarPoints(Components):
    """Finds the second point of an object 30 px further to the right, outside of its box and perhaps of the tile."""

    def decode(self, images):
        out = super().decode(images)
        out[:, -3] += 30
        return out


def test_points_beyond_the_border_of_a_tile_stay_where_they_are():
    (result,) = predict(FarPoints("pose"), [scene()], imgsz=128, tiling=TILING)
    for (_, _, _, x2, _), points in zip(_matching(result), result.keypoints.xy.tolist()):
        assert points[1][0] == pytest.approx(min(x2 - 1 + 30, SIZE[1]), abs=1)


BARS = [(120, 60, 56, 14, 0.5), (200, 150, 60, 16, 1.2), (90, 200, 50, 12, 2.4), (330, 240, 60, 12, 0.1)]  # xywhr


def harbour() -> np.ndarray:
    picture = Image.new("RGB", SIZE[::-1], (40, 40, 40))
    for number, (x, y, w, h, angle) in enumerate(BARS):
        cos, sin = math.cos(angle), math.sin(angle)
        corners = [(x + a * w / 2 * cos - b * h / 2 * sin, y + a * w / 2 * sin + b * h / 2 * cos)
                   for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]  # fmt: skip
        ImageDraw.Draw(picture).polygon(corners, fill=["#ff0000", "#00ff00", "#0000ff"][number % 3])
    return np.asarray(picture)[..., ::-1].copy()


def test_each_bar_of_a_harbour_is_found_once():
    result = found_by("obb", harbour())
    assert result.boxes is None and len(result.obb) == len(BARS)
    for x, y, w, h, angle in BARS:
        row = min(result.obb.xywhr.tolist(), key=lambda row: math.dist(row[:2], (x, y)))
        assert math.dist(row[:2], (x, y)) < 1.5 and row[2:4] == pytest.approx([w, h], abs=2.5)
        assert abs(math.sin(row[4] - angle)) < 0.06


def test_a_small_object_inside_of_a_large_one_stays():
    """Boxes in boxes are no parts, also where classes do not count: a frame, and a square in its middle."""
    image = canvas(*SIZE, (0, 100, 40, 150, 90))
    image[50:80, 110:140] = 114
    image[60:70, 120:130] = [255, 0, 0]
    boxes = sorted_rows(found_by("detect", image, agnostic=True).boxes.xyxy)
    assert boxes.tolist() == [[100, 40, 150, 90], [120, 60, 130, 70]]


def test_an_object_that_is_larger_than_the_overlap_keeps_parts():
    image = canvas(128, 420, (0, 20, 40, 400, 80))
    parts = found_by("detect", image).boxes.xyxy
    assert len(parts) >= 3 and parts[:, 0].min() == 20 and parts[:, 2].max() == 400
    assert len(found_by("detect", image, Tiling((128, 420)))) == 1


@pytest.mark.parametrize("size", [(128, 128), (100, 90), (64, 128)])
def test_an_image_of_one_tile_is_predicted_as_without_tiles(size):
    image = canvas(*size, (0, 10, 10, 40, 50), (1, 50, 20, 80, 60))
    plain, tiled = (found_by("segment", image, each, batch=2) for each in (None, TILING))
    (plain,) = predict(Components("segment"), [image], imgsz=128, batch=2)
    assert torch.equal(plain.boxes.data, tiled.boxes.data) and torch.equal(plain.masks.data, tiled.masks.data)
    assert plain.input_shape == tiled.input_shape


def test_tiles_go_through_the_network_in_batches_and_small_images_between_them():
    model, small = Components(), canvas(64, 96, (0, 10, 10, 40, 50))
    results = list(predict(model, [small, scene(), small, small], imgsz=128, tiling=TILING, batch=5))
    assert [len(each) for each in results] == [1, 7, 1, 1]
    assert len(TILING.windows(SIZE)) == 20 and model.seen == [(1, 3, 96, 128), *[(5, 3, 128, 128)] * 4, (2, 3, 96, 128)]
    model = Components()
    list(predict(model, [scene()], imgsz=128, tiling=TILING))
    assert {shape[0] for shape in model.seen} == {4}


def test_the_best_detections_of_the_image_are_kept():
    assert len(found_by("detect", scene(), max_det=3)) == 3
    assert set(found_by("detect", scene(), classes=[1]).boxes.cls.tolist()) == {1}


def test_speed_is_that_of_the_image():
    speed = found_by("detect", scene()).speed
    assert set(speed) == {"preprocess", "inference", "postprocess"} and min(speed.values()) > 0


def test_augmented_tiles_find_the_objects(tmp_path):
    boxes = found_by("detect", scene(), augment=True).boxes.xyxy.numpy()
    for _, *box in OBJECTS:
        assert np.abs(boxes - box).max(1).min() < 3


def with_components(folder, task="detect", **settings):
    yolo = bright(folder, **settings)
    yolo._working.built = Components(task)
    yolo.task = task
    return yolo


def test_a_script_gets_one_result_with_all_that_belongs_to_it(tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(scene()[..., ::-1]).save(path)
    yolo = with_components(tmp_path, "segment", imgsz=128)
    options = {"save": True, "save_txt": True, "save_crop": True, "save_json": True, "project": str(tmp_path / "runs")}
    (result,) = yolo.predict(path, tile=128, overlap=0.4, **options)
    assert len(result) == 7 and result.orig_shape == SIZE
    folder = tmp_path / "runs/predict"
    assert Image.open(folder / "scene.jpg").size == SIZE[::-1]
    assert len((folder / "labels/scene.txt").read_text().splitlines()) == 7
    assert len(list(folder.glob("crops/*/*.jpg"))) == 7
    records = json.loads((folder / "predictions.json").read_text())
    assert len(records) == 7 and {tuple(each["segmentation"]["size"]) for each in records} == {SIZE}
    assert len(result.summary()) == 7 and all(each["segments"]["x"] for each in result.summary())


def test_frames_of_a_video_are_cut_into_tiles(tmp_path):
    cv2 = pytest.importorskip("cv2", reason="videos need OpenCV")
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE[::-1])
    for _ in range(2):
        writer.write(scene())
    writer.release()
    results = list(predict(Components(), list_sources(tmp_path / "a.avi"), imgsz=128, tiling=TILING))
    assert [len(each) for each in results] == [7, 7]


def test_what_cannot_be_cut_into_tiles_says_so(tmp_path, capsys):
    yolo = bright(tmp_path)
    with pytest.raises(UserError, match="tile=64: a tensor goes to the network as it is"):
        yolo.predict(torch.zeros(1, 3, 128, 128), tile=64)
    with pytest.raises(UserError, match="tile=64: embed= gives a vector"):
        untrained(tmp_path).embed(canvas(128, 128), tile=64, imgsz=64)
    with pytest.raises(UserError, match="100000"):
        list(predict(BrightBoxes(), [np.zeros((5000, 5000, 3), np.uint8)], imgsz=64, tiling=Tiling(32, 0.9)))


def test_an_overlap_without_tiles_says_that_it_does_nothing(tmp_path, capsys):
    bright(tmp_path).predict(canvas(128, 128), overlap=0.5)
    assert "overlap=0.5 has no effect without tile=" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"tile": 0}, {"tile": "big"}, {"tile": 64, "overlap": 1}, {"overlap": -0.1}])
def test_wrong_settings_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="expected"):
        bright(tmp_path).predict(canvas(128, 128), **wrong)


def test_an_exported_model_of_one_size_predicts_tiles(tmp_path):
    """TorchScript of one image at 64 x 64 px, against the network it was made from."""
    yolo = YOLO(save(tiny_segment(), tmp_path / "best.pt"))
    path = yolo.export(format="torchscript", imgsz=64, device="cpu", verbose=False)
    # Only the best 40 are compared. Many others have nearly equal scores, so rounding decides which of them is kept.
    options = {"tile": 128, "overlap": 0.4, "imgsz": 64, "conf": 0.3, "max_det": 40, "device": "cpu"}
    (network,), (exported,) = (each.predict(scene(), rect=False, **options) for each in (yolo, YOLO(path)))
    assert len(exported) == len(network) > 0
    torch.testing.assert_close(exported.boxes.data, network.boxes.data, rtol=0, atol=1e-3)


def test_tiles_mean_nothing_to_a_classifier(tmp_path, capsys):
    (tmp_path / "cls.yaml").write_text(GRAPH.replace("[[3, 4], 1, Detect, [nc]]", "[-1, 1, Classify, [nc]]"))
    (result,) = YOLO(tmp_path / "cls.yaml").predict(scene(), tile=128, imgsz=64, device="cpu")
    assert result.probs is not None
    assert "tile=128 has no effect on task=classify: a class belongs to the image as a whole" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("trackers") is None, reason="tracks need the package trackers")
def test_tracks_of_frames_in_tiles(tmp_path):
    yolo = with_components(tmp_path, imgsz=128)
    results = [yolo.track(scene(), tile=128, overlap=0.4, persist=True)[0] for _ in range(3)]
    assert [len(each) for each in results] == [7, 7, 7]
    assert set(results[2].boxes.id.tolist()) == set(results[1].boxes.id.tolist())
