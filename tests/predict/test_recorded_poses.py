"""Poses of a file that another program trained: its recorded detections, and the AP that pycocotools gave on them."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
import torch

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.data.formats.pose_rows import read_pose
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.keypoint_layout import KeypointLayout
from bitfalcon_plugin.tasks.pose import evaluate_poses
from tests.helpers.paths import RECORDED, SHARED

RECORD = json.loads(gzip.decompress((RECORDED / "pose.json.gz").read_bytes()))["predict-gluetubes"]
FOLDER, CHECKPOINT = SHARED / "datasets" / "gluetubes", SHARED / "checkpoints" / "v1-n-gluetubes-pose.pt"
pytestmark = pytest.mark.skipif(not CHECKPOINT.is_file(), reason="the shared checkpoints are not here")


@pytest.fixture(scope="module")
def model() -> YOLO:
    return YOLO(CHECKPOINT)


def test_the_recorded_detections(model):
    for item in RECORD["images"]:
        (result,) = model.predict(FOLDER / item["file"], imgsz=320, conf=0.25, iou=0.7, verbose=False)
        expected, points = torch.tensor(item["xyxy_conf_cls"]), torch.tensor(item["keypoints"])
        assert list(result.orig_shape) == item["orig_shape"] and len(result) == len(expected)
        pixel = max(item["orig_shape"]) / 320  # of the network input
        torch.testing.assert_close(result.boxes.xyxy, expected[:, :4], atol=0.05 * pixel, rtol=0)
        torch.testing.assert_close(result.boxes.conf, expected[:, 4], atol=0.002, rtol=0)
        assert torch.equal(result.boxes.cls, expected[:, 5])
        torch.testing.assert_close(result.keypoints.xy, points[..., :2], atol=0.05 * pixel, rtol=0)
        torch.testing.assert_close(result.keypoints.conf, points[..., 2], atol=0.002, rtol=0)


def test_the_recorded_ap(model):
    spec = load_data(FOLDER)
    samples = scan(spec, "val", read=read_pose).samples
    paths = [str(sample.image) for sample in samples]
    results = model.predict(paths, imgsz=320, conf=0.001, iou=0.7, verbose=False)
    parts = [
        replace(
            Instances.from_rows(result.boxes.data),
            image=torch.full((len(result),), index),
            keypoints=result.keypoints.data,
        )
        for index, result in enumerate(results)
    ]
    for sigma, name in ((0.5, "pose_default_sigmas"), (0.05, "pose_sigma_0.05"), (0.02, "pose_sigma_0.02")):
        layout = KeypointLayout(2, 3, given=(sigma, sigma))
        given = [replace(sample, layout=layout) for sample in samples]
        metrics = evaluate_poses(given, Instances.cat(parts), spec.names, conf=0.25)
        for stats, part in ((metrics.stats, "box"), (metrics.pose_stats, name)):
            for key, value in RECORD["cocoeval_predict_path"][part].items():
                assert stats[key] == pytest.approx(value, abs=0.002)


def test_validation_is_upstream_s_where_their_rules_hold(model, tmp_path):
    metrics = model.val(data=FOLDER / "data.yaml", imgsz=320, letterbox_ap=True, plots=False, project=str(tmp_path))
    upstream = RECORD["upstream_val"]
    assert metrics.letterbox.map50 == pytest.approx(upstream["metrics/mAP50(B)"], abs=0.002)
    assert metrics.letterbox.map == pytest.approx(upstream["metrics/mAP50-95(B)"], abs=0.002)
    for part, letter in ((metrics.box, "B"), (metrics.pose, "P")):
        assert part.mp == pytest.approx(upstream[f"metrics/precision({letter})"], abs=0.002)
        assert part.mr == pytest.approx(upstream[f"metrics/recall({letter})"], abs=0.002)
    assert metrics.pose.map == pytest.approx(upstream["metrics/mAP50-95(P)"], abs=0.005)  # COCO's, in the image's frame
