"""A client that uses the API with types; a type checker reads it (tests/house/test_types.py), nobody runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, device, nn
from typing_extensions import assert_type

from bitfalcon_plugin import YOLO, UserError, __version__, register
from bitfalcon_plugin.benchmark.report import Bench
from bitfalcon_plugin.bit import bitify, calibrate, freeze, pack, unbitify
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.predict.detections import Boxes
from bitfalcon_plugin.predict.results import Results
from bitfalcon_plugin.tasks.metrics import Metrics
from bitfalcon_plugin.tasks.script_model import ScriptModel


def train_and_measure(data: Path) -> dict[str, float]:
    model = YOLO("yolov12.yaml")
    model.add_callback("on_fit_epoch_end", print)
    metrics = assert_type(model.train(data=data, scale="n", epochs=1), Metrics)
    assert_type(metrics.box.map, float)
    first: np.ndarray = metrics.maps
    again = assert_type(model.val(data=data), Metrics)
    return {**assert_type(again.results_dict, dict[str, float]), "first": float(first[0])}


def detect(model: YOLO, folder: Path) -> list[tuple[str, float]]:
    detections: list[tuple[str, float]] = []
    for result in assert_type(model.predict(folder, conf=0.4), list[Results]):
        boxes = assert_type(result.boxes, Boxes)
        for index, confidence in zip(boxes.cls, boxes.conf):
            detections.append((assert_type(result.names, dict[int, str])[int(index)], float(confidence)))
        corners: Tensor | np.ndarray = boxes.xyxy
        picture: np.ndarray = result.plot()
        assert_type(result.plot(pil=True), Image.Image)
        assert_type(result.orig_shape, tuple[int, int])
        print(corners.shape, picture.shape, assert_type(result.path, str), result.save("out.jpg"))
    assert_type(model.track(folder, persist=True), list[Results])
    for result in model.track("video.mp4", stream=True):
        print(result.boxes.id)
    for result in model.predict(folder, stream=True):
        print(assert_type(len(result), int), result.speed)
    assert_type(model("image.jpg")[0], Results)
    assert_type(model.embed(folder), list[Tensor])
    return detections


def deploy(model: YOLO) -> str:
    model.save("copy.pt")
    assert_type(model.names, dict[int, str])
    assert_type(model.to("cpu").device, device)
    bench = assert_type(model.benchmark(imgsz=320), Bench)
    print(bench.rows[0].name, model.info().parameters, assert_type(__version__, str))
    return assert_type(model.export(format="onnx", imgsz=640), str)


def make_ternary(model: YOLO, batches: list[Tensor]) -> None:
    network: Detector = assert_type(model.model, ScriptModel)
    print(bitify(network, "head").changed)
    calibrate(network, batches)
    pack(network, "small.pt")
    unbitify(network)
    freeze(network)


class Gate(nn.Module):
    """A module for graphs."""


def main() -> None:
    register("Gate", Gate, "same")
    try:
        model = assert_type(YOLO("best.pt").load("other.pt").fuse(), YOLO)
    except UserError as error:
        raise SystemExit(str(error)) from error
    print(detect(model, Path("images")), deploy(model), train_and_measure(Path("data.yaml")))
