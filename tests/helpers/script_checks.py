"""What each script of tests/scripts must have done: functions named as the scripts.

Each gets `left`, the variables of the script at its end; `output`, what it printed; and `here`, the folder it ran in.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.shapes import FRAMES, LARGE, NAMES, SCENE, WIDTH, clip, photo
from tests.helpers.stubs import cv2, gradio, streamlit

PIXELS = 3  # how far an edge of a detection may lie from that of the object


def rows(boxes) -> list[list[float]]:
    """(class, x1, y1, x2, y2) of a Boxes object, sorted."""
    return sorted([float(c), *map(float, box)] for c, box in zip(boxes.cls, boxes.xyxy))


def assert_boxes(boxes, truth, pixels: float = PIXELS) -> None:
    """Boxes, or rows of class and corners, are the true ones."""
    got = sorted(boxes) if isinstance(boxes, list) else rows(boxes)
    assert [row[0] for row in got] == [row[0] for row in sorted(truth)]
    assert np.abs(np.array(got) - np.array(sorted(truth), float)).max() <= pixels


def lines(output: str, start: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith(start)]


def predict_image(left, output, here):
    assert_boxes(left.boxes, SCENE)
    assert (left.masks, left.keypoints, left.probs, left.obb) == (None,) * 4
    names = [line.split()[0] for line in output.splitlines() if line.startswith(NAMES)]
    assert names == [left.model.names[int(c)] for c in left.boxes.cls] and "xyxy: tensor(" in output
    assert changed(here / "result.jpg", here / "image.jpg").sum() > 60


def draw_boxes_opencv(left, output, here):
    assert "3 objects" in output and left.detections.shape == (3, 6)
    assert np.abs(changed(here / "output.png", here / "image.jpg")).sum() > 60


def changed(picture: Path, plain: Path) -> np.ndarray:
    """Which pixels of two pictures differ visibly."""
    with Image.open(picture) as first, Image.open(plain) as second:
        difference = np.asarray(first.convert("RGB"), int) - np.asarray(second.convert("RGB"), int)
    return np.abs(difference).max(2) > 60


def webcam_loop(left, output, here):
    assert left.seen == 2 * FRAMES == 2 * len(cv2.LOG) and cv2.LOG[0].shape == (48, 64, 3)
    assert len(lines(output, "0: ")) == FRAMES and "1 red, 1 blue, " in output


def video_to_its_end(left, output, here):
    assert left.counts == [2] * FRAMES and output.splitlines()[-1].startswith("Can't receive frame")
    assert left.detect_params == []


def zones_supervision(left, output, here):
    assert "[1, 2] [['red'], ['blue', 'green']]" in output.replace("np.str_(", "").replace(")", "")
    assert not np.array_equal(left.frame, left.image)


def line_counter_supervision(left, output, here):
    assert {left.line_counter.in_count, left.line_counter.out_count} == {1} and left.shown == FRAMES


def track_history(left, output, here):
    first, second = left.track_history.values()
    assert len(first) + len(second) >= 2 * FRAMES - 4
    assert {first[-1][0] > first[0][0] + 20, second[-1][0] > second[0][0] + 20} == {True, False}


def count_unique_objects(left, output, here):
    assert left.frames == FRAMES and output.splitlines()[-2:] == ["blue: 1", "red: 1"]


def flask_service(left, output, here):
    assert_boxes([[NAMES.index(row[4]), *row[:4]] for row in left.answer], SCENE)
    assert all(0.5 < row[5] <= 1 for row in left.answer) and left.missing == 400


def fastapi_service(left, output, here):
    assert left.answer["count"] == 3 and left.answer["shape"] == [48, 64] and left.strict["count"] == 0
    boxes = [[row["class"], *(row["box"][k] * s for k, s in zip(("x1", "y1", "x2", "y2"), (64, 48) * 2))]
             for row in left.answer["detections"]]  # fmt: skip
    assert_boxes(boxes, SCENE)
    assert left.annotated["pixels"] == [48, 64, 3] and left.wrong == 415


def streamlit_page(left, output, here):
    kinds = [kind for kind, _ in streamlit.LOG]
    assert kinds.count("image") == 2 and kinds.count("write") == 3 and "error" not in kinds
    drawn = next(value for kind, value in reversed(streamlit.LOG) if kind == "image")
    assert (np.abs(drawn.astype(int) - np.asarray(left.uploaded_image.convert("RGB"), int)).max(2) > 60).sum() > 60


def gradio_app(left, output, here):
    (answer,) = gradio.LOG
    assert isinstance(answer, Image.Image) and answer.size == (64, 48)


def grad_cam(left, output, here):
    height, width = left.heat.shape
    y, x = (left.row + 0.5) * 64 / height - 8, (left.column + 0.5) * 64 / width
    cls, x1, y1, x2, y2 = SCENE[0]
    assert left.heat.max() == pytest.approx(1, abs=1e-4) and 0.5 < left.score < 1
    assert x1 - 8 < x < x2 + 8 and y1 - 8 < y < y2 + 8


def feature_hooks(left, output, here):
    assert [*left.features] == ["0_Conv", "1_Conv", "2_C3k2", "3_Conv", "4_Conv"]
    assert all(tensor.dim() == 4 for tensor in left.features.values()) and left.features["4_Conv"].shape[2:] == (3, 4)
    assert "Detect 3 2 [8.0, 16.0] [3, 4]" in output and left.raw[0].shape == (1, 7, 80)


def pruning(left, output, here):
    assert left.before > 0.95 and 0.09 < left.pruned < 0.11 and left.after > 0.5 > left.broken
    assert torch.load(here / "pruned_state.pt").keys() == left.torch_model.state_dict().keys()


def onnx_numpy(left, output, here):
    assert left.input_shape == [1, 3, 64, 64] and left.names == dict(enumerate(NAMES))
    assert_boxes([[NAMES.index(name), *box] for name, box in left.found], SCENE, 5)  # the picture is stretched


def export_reload(left, output, here):
    assert left.exported.endswith("best.torchscript") and left.difference < 0.01
    assert "best.torchscript" in left.refused and ".pt" in left.refused


def kfold_training(left, output, here):
    assert len(left.results) == 3 and min(left.results.values()) > 0.9
    assert len(list((here / "kfold").glob("run_*/weights/best.pt"))) == 3


def callbacks(left, output, here):
    assert left.log[0] == ("start", 2, 64) and ("saved", "best.pt", "with_callbacks") in left.log
    assert [row[0] for row in left.log if isinstance(row[0], int)] == [1, 2]
    assert {"train/box_loss", "train/cls_loss", "train/dfl_loss"} <= set(left.log[1][2])
    assert "lr/pg0" in left.log[1][1] and len(left.history) in (2, 3) and min(left.history) > 0.3
    assert left.pairs == [(len(photo(index)), (48, 64, 3)) for index in range(4)]


def custom_trainer(left, output, here):
    assert left.CustomTrainer.seen == 64 and left.CustomTrainer.steps == 1 and left.metrics.box.map50 > 0.9
    assert len(lines(output, "batch ")) >= 3 or "batch 0: 8 images" in output


def trainer_overrides(left, output, here):
    assert left.epochs_seen == [0, 1] and (here / left.trained_model) == here / "runs/detect/overrides/weights/best.pt"
    assert left.stats["metrics/mAP50(B)"] > 0.9 and "fitness" in left.stats
    assert_boxes(left.results[0].boxes, SCENE)


def custom_validator(left, output, here):
    assert left.CountingValidator.images == 12 and left.metrics.box.map50 > 0.95


def custom_predictor(left, output, here):
    assert_boxes(left.everything.boxes, SCENE)
    area = [(x2 - x1) * (y2 - y1) for _, x1, y1, x2, y2 in SCENE]
    assert_boxes(left.big.boxes, [box for box, size in zip(SCENE, area) if size > 0.1 * 64 * 48])


def weighted_dataset(left, output, here):
    assert len(left.YOLOWeightedDataset.drawn) >= 64 and left.model.metrics.box.map50 > 0.9
    assert len(set(left.YOLOWeightedDataset.drawn)) < 64  # drawn with repetition


def dataset_loader(left, output, here):
    assert len(left.dataset) == 64 and left.images == left.red == 16 and left.data["names"] == dict(enumerate(NAMES))
    assert left.first["img"].shape[:2] == (16, 3) and left.first["img"].dtype == torch.uint8
    assert len(left.ordinary) == 4 and left.first["bboxes"].shape == (len(left.first["batch_idx"]), 4)


def tuning(left, output, here):
    (best,) = (here / "runs/detect").glob("tune*/best_hyperparameters.yaml")
    assert "lr0" in best.read_text() and "degrees" in best.read_text()


def annotator(left, output, here):
    assert changed(here / "annotated.png", here / "image.jpg").sum() > 60
    assert len(set(left.palette)) == 3 and all(len(colour) == 3 for colour in left.palette)


def settings_page(left, output, here):
    assert str(left.where).startswith(str(here / "my_runs")) and left.after == left.before != str(here / "my_runs")
    assert "no such setting" in output and (left.where / "image.jpg").is_file()


def val_metrics(left, output, here):
    values = left.results_dict
    assert values["metrics/mAP50(B)"] == left.map50 > 0.9
    assert left.metrics.box.map50 == pytest.approx(left.map50, abs=1e-12)  # another order of the same sum
    assert 0 < left.map5095 <= left.map50 and left.f1 > 0.9 and left.metrics.box.maps.shape == (3,)
    assert left.metrics.box.maps.mean() == pytest.approx(left.map5095, abs=1e-4)
    assert [line.split()[0] for line in output.splitlines() if line.strip().startswith(NAMES)][-3:] == [*NAMES]


def confusion_and_curves(left, output, here):
    assert left.matrix.shape == (4, 4) and left.tp.sum() >= 22 and left.fn.sum() + left.tp.sum() == 24
    assert len(left.curves) == 4 and 0 <= left.best_conf < 0.95 and left.f1_curve.max() > 0.9


def dataframe_json(left, output, here):
    objects = json.loads((here / "detections.json").read_text())["objects"]
    assert {row["name"] for row in objects} == set(NAMES) and {"class", "confidence", "box"} <= set(objects[0])
    assert left.largest == "red" and len(left.df) == 3


def save_crop(left, output, here):
    assert {path.parent.name for path in (here / "crops").rglob("*.jpg")} == set(NAMES)
    for index, name in enumerate(NAMES):
        (line,) = [line for line in output.splitlines() if f" {name} (" in line]
        blue, green, red = map(float, line.rpartition("[")[2].rstrip("]").split())
        assert (red, green, blue)[index] == max(red, green, blue)


def batch_folder(left, output, here):
    assert left.pictures == [f"{i}.jpg" for i in range(4)] and (here / "output/run/labels").is_dir()
    counted = [output.count(f"{i}.txt ") for i in range(4)]
    assert counted == [len(photo(index)) for index in range(4)]


def pil_image(left, output, here):
    assert [line.split(": ")[1] for line in lines(output, "Object type")] == [
        left.results[0].names[int(c)] for c in left.results[0].boxes.cls
    ]
    assert changed(here / "drawn.png", here / "image.jpg").sum() > 60 and left.im.size == (64, 48)


def url_source(left, output, here):
    assert "ultralytics.com/images/bus.jpg" in left.message and "allow_url" in left.message
    assert_boxes(left.results[0].boxes, SCENE)
    assert "yolov8n.pt" in left.weights


def resume_training(left, output, here):
    assert left.epochs == [1, 2] and "interrupted" in output
    assert (here / "runs/detect/unfinished/results.csv").read_text().count("\n") == 4


def transfer_learning(left, output, here):
    assert 40 < len(left.same) < len(left.new) and left.results.box.map50 >= 0


def freeze_layers(left, output, here):
    assert left.changed == {"4", "5"} and "4 layers are freezed." in output


def multiprocess_predict(left, output, here):
    found = [line for line in output.splitlines() if line.startswith("photos/")]
    assert found == [f"photos/{i}.jpg " + " ".join(sorted(NAMES[box[0]] for box in photo(i))) for i in range(4)]


def torch_save_model(left, output, here):
    for boxes in (left.after, left.again, left.reopened):
        assert torch.allclose(boxes, left.before, atol=1e-2)
    assert next(iter(left.model.state_dict())) == "model." + next(iter(left.inner))


def federated_averaging(left, output, here):
    assert left.metrics.box.map50 > 0.9 and left.distance > 0
    assert len(list((here / "federated").glob("client_*/weights/best.pt"))) == 2


def sahi_slicing(left, output, here):
    found = [[box.category.id, *box.bbox.to_xyxy()] for box in left.result.object_prediction_list]
    assert_boxes(found, LARGE)
    assert len(left.whole.object_prediction_list) == 3 and len(left.annotations) == 5
    assert (here / "sahi_out/prediction_visual.png").is_file()


def image_similarity(left, output, here):
    assert left.paths[left.best] in ("photos/2.jpg", "image.jpg")  # the same picture twice
    assert left.similarity[0, 3] == pytest.approx(1, abs=1e-4) and left.similarity[0, 4] < 0.9999


def tiling(left, output, here):
    """Every object lies whole in one tile; which box of overlapping ones is kept depends on close scores."""
    rows = [[round(float(left.classes[i])), *left.boxes[i].tolist()] for i in range(len(left.boxes))]
    found = {
        box
        for row in rows
        for box in LARGE
        if row[0] == box[0] and np.abs(np.array(row[1:]) - np.array(box[1:])).max() <= PIXELS
    }
    assert len(left.tiles) == 9 and found == set(LARGE) and len(LARGE) <= len(left.keep) < len(rows)


def threads(left, output, here):
    assert [line.split() for line in lines(output, "photos/")] == [[f"photos/{i}.jpg", str(i + 1)] for i in range(3)]


def box_arithmetic(left, output, here):
    assert left.ious.max(1).values.min() > 0.75 and sorted(left.pairs.tolist()) == [0, 1, 2]
    assert torch.allclose(left.back, left.xyxy, atol=1e-3)
    assert left.scaled.tolist() == [[0, 0, 64, 48]] == left.clipped.tolist()


def tensor_input(left, output, here):
    assert len(left.results) == 2 and left.results[0].orig_shape == (64, 64)
    for result in left.results:
        assert_boxes(result.boxes, [(c, x1, y1 + 8, x2, y2 + 8) for c, x1, y1, x2, y2 in SCENE])


def model_info(left, output, here):
    assert left.parameters == left.counted and left.flops > 0 and left.fused == 0
    assert "Setup complete" in output and "8.3.63" in output and "DetectionModel" in output


def object_counter(left, output, here):
    assert left.results.in_count == left.results.out_count == 1
    assert {name: sum(counts.values()) for name, counts in left.results.classwise_count.items()} == {
        "red": 1,
        "blue": 1,
    }


def heatmap_and_regions(left, output, here):
    assert left.warm.shape == (48, 64, 3) and left.counts[-1] == {"upper": 1, "lower": 1}
    assert np.ptp(left.warm.astype(int), axis=(0, 1)).max() > 60


def auto_label(left, output, here):
    for index in range(4):
        values = np.loadtxt(here / f"new_labels/{index}.txt", ndmin=2)
        centres = values[:, 1:3] * [64, 48]
        boxes = [[c, x - w * 32, y - h * 24, x + w * 32, y + h * 24] for (x, y), (c, *_, w, h) in zip(centres, values)]
        assert_boxes(boxes, photo(index))


def filters(left, output, here):
    assert [len(r) for r in (left.everything, left.only_red, left.some, left.one, left.none)] == [3, 1, 2, 1, 0]
    assert left.only_red.boxes.cls.tolist() == [0] and len(left.sure) == 3
    assert left.left.boxes.cls.tolist() == [0]


def old_imports(left, output, here):
    assert left.device.type == "cpu" and left.centre.shape == (3, 2)
    with Image.open(here / "image.jpg") as plain:
        drawn = np.abs(left.annotator.result()[..., ::-1].astype(int) - np.asarray(plain, int)).max(2) > 60
    assert drawn.sum() > 60


def other_models_beside(left, output, here):
    assert output.splitlines() == ["False True", "3"]


def quiet_logging(left, output, here):
    assert output.splitlines() == [f"{sum(len(photo(i)) for i in range(4))} {dict(enumerate(NAMES))} {left.ROOT.name}"]


def results_csv_plot(left, output, here):
    assert [row["epoch"] for row in left.rows] == [1, 2] and all(row["metrics/mAP50(B)"] > 0.3 for row in left.rows)
    assert "'args.yaml'" in output and "'train_batch0.jpg'" in output
    assert (here / left.model.ckpt_path).is_file()


def error_analysis(left, output, here):
    assert left.tp >= 22 and left.fp <= 2 and left.fn + left.tp == 24


def train_and_plot(left, output, here):
    map50 = left.results.box.map50
    assert map50 > 0.9 and left.metrics.box.map50 == pytest.approx(map50, abs=1e-6)
    assert [row["epoch"] for row in left.rows] == list(range(1, 15)) and max(left.curve) > 0.9
    assert all(changed(here / f"results{i}.jpg", here / f"images/val/{i}.png").sum() > 20 for i in range(4))


def batch_to_csv(left, output, here):
    import csv

    with open(here / "detections.csv", newline="") as file:
        found = list(csv.DictReader(file))
    for index in range(FRAMES):
        boxes = [[NAMES.index(row["class"]), *(float(row[k]) for k in ("x1", "y1", "x2", "y2"))]
                 for row in found if row["image"] == f"{index:03d}.png"]  # fmt: skip
        assert_boxes(boxes, clip(index))


def stream_loop(left, output, here):
    assert left.frames == 12 and left.counts == {"red": 12, "green": 0, "blue": 12}
    assert len(list((here / "shown").glob("*.jpg"))) == 12 and left.frame.shape == (48, WIDTH, 3)
    assert len((here / "shown/labels.txt").read_text().splitlines()) == 24


CHECKS = {name: value for name, value in list(globals().items()) if callable(value)}
