"""What a trained model of oriented boxes predicts and measures on real images, against the recorded numbers."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks import TASKS
from bitfalcon_plugin.yolo import YOLO
from tests.helpers.paths import RECORDED, SHARED

WEIGHTS, DATA = SHARED / "checkpoints/v1-n-hituav-obb.pt", SHARED / "datasets/hituav"
RECORD = json.loads(gzip.decompress((RECORDED / "obb.json.gz").read_bytes()))["predict-hituav"]
pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs {WEIGHTS.name} of ../shared")


@pytest.fixture(scope="module")
def model() -> YOLO:
    return YOLO(WEIGHTS)


@pytest.mark.parametrize("record", RECORD["images"], ids=lambda record: record["file"].split("/")[-1])
def test_predictions_are_the_recorded_ones(model, record):
    result = model.predict(DATA / record["file"], imgsz=RECORD["imgsz"], conf=0.25, iou=0.7, verbose=False)[0]
    expected = torch.tensor(record["xywhr_conf_cls"]).view(-1, 7)
    assert result.boxes is None and result.orig_shape == tuple(record["orig_shape"])
    found = result.obb.data
    torch.testing.assert_close(found[:, :4], expected[:, :4], atol=0.1, rtol=0)
    torch.testing.assert_close(found[:, 4], expected[:, 4], atol=0.002, rtol=0)
    torch.testing.assert_close(found[:, 5], expected[:, 5], atol=0.002, rtol=0)
    assert torch.equal(found[:, 6], expected[:, 6])


def test_coco_numbers_are_the_recorded_ones(model):
    """On the predict path: one label a box, minimal rectangles."""
    task, settings = TASKS["obb"], load_settings({})
    samples = task.data.scan(task.data.load(DATA / "data.yaml", settings), "val", settings).samples
    options = {"imgsz": RECORD["imgsz"], "conf": 0.01, "iou": 0.7, "verbose": False}
    parts = []
    for image, result in enumerate(model.predict([str(sample.image) for sample in samples], **options)):
        boxes = result.obb
        index = torch.full((len(boxes),), image)
        parts.append(Instances(boxes.xyxy, boxes.cls.long(), boxes.conf, index, xywhr=boxes.xywhr))
    metrics = task.evaluate(samples, Instances.cat(parts), model.names, conf=0.25)
    for key, expected in RECORD["cocoeval_predict_path"]["probiou"].items():
        assert metrics.stats[key] == pytest.approx(expected, abs=0.002), key


def test_validation_is_upstream_s_where_their_rules_hold(model, tmp_path):
    metrics = model.val(data=DATA / "data.yaml", imgsz=320, letterbox_ap=True, plots=False, project=str(tmp_path))
    upstream = RECORD["upstream_val"]
    assert metrics.letterbox.map50 == pytest.approx(upstream["metrics/mAP50(B)"], abs=0.002)
    assert metrics.letterbox.map == pytest.approx(upstream["metrics/mAP50-95(B)"], abs=0.002)
