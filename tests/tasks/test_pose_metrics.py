"""The numbers of keypoints against recorded ones: pycocotools', and other programs' where these differ."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.keypoint_layout import KeypointLayout
from bitfalcon_plugin.tasks.pose import evaluate_poses
from tests.helpers.paths import RECORDED

CASES = json.loads(gzip.decompress((RECORDED / "pose.json.gz").read_bytes()))["pose-map"]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])


def samples_of(case: dict) -> list[Sample]:
    width, height = case["image_w_h"]
    layout, samples = KeypointLayout(case["kpt"], 3, given=tuple(case["sigmas"])), []
    for index, image in enumerate(case["images"]):
        boxes = torch.tensor([row["xyxy"] for row in image["gt"]], dtype=torch.float64).view(-1, 4)
        points = torch.tensor([row["keypoints"] for row in image["gt"]], dtype=torch.float64)
        labels = Instances(boxes, torch.tensor([row["cls"] for row in image["gt"]]), keypoints=points)
        samples.append(Sample(Path(f"{index}.jpg"), (height, width), labels.scaled(1 / width, 1 / height), layout))
    return samples


def detections_of(case: dict) -> Instances:
    rows = [(index, row) for index, image in enumerate(case["images"]) for row in image["pred"]]
    return Instances(
        torch.tensor([row["xyxy"] for _, row in rows], dtype=torch.float64),
        torch.tensor([row["cls"] for _, row in rows]),
        torch.tensor([row["conf"] for _, row in rows], dtype=torch.float64),
        torch.tensor([index for index, _ in rows]),
        keypoints=torch.tensor([row["keypoints"] for _, row in rows], dtype=torch.float64),
    )


def evaluated(case: dict):
    return evaluate_poses(samples_of(case), detections_of(case), dict(enumerate("ab"[: case["nc"]])), conf=0.25)


@EACH
def test_boxes_and_keypoints_have_the_recorded_numbers_of_pycocotools(case):
    metrics = evaluated(case)
    for part, stats in (("box", metrics.stats), ("pose", metrics.pose_stats)):
        expected = case["cocoeval_all_areas_maxdets_300"][part]
        for name, key in (("AP50", "mAP50"), ("AP75", "mAP75"), ("AP", "mAP50-95")):
            assert stats[name] == pytest.approx(expected[key], abs=1e-6)
    assert metrics.fitness == pytest.approx(
        0.1 * (metrics.ap50 + metrics.part_ap50) + 0.9 * (metrics.ap + metrics.part_ap)
    )
    assert metrics.pose.map == pytest.approx(metrics.part_ap, abs=1e-9)


@EACH
def test_labels_without_keypoints_as_misses_give_the_recorded_numbers_of_other_programs(case):
    metrics, blind = evaluated(case), case["case"].endswith("blind")
    assert (metrics.every_label is not None) == blind == (metrics.unlabelled > 0)
    if blind:
        assert metrics.every_label.map50 == pytest.approx(case["upstream"]["pose"]["mAP50"], abs=1e-6)
        assert metrics.every_label.map == pytest.approx(case["upstream"]["pose"]["mAP50-95"], abs=1e-6)
        assert "with these as misses (not COCO's): AP 0.505  AP50 0.697" in metrics.table()


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case["case"])
def test_precision_and_recall_are_near_those_of_other_programs(case):
    metrics = evaluated(case)
    for part, own in (("box", metrics.box), ("pose", metrics.pose)):
        assert own.mp == pytest.approx(case["upstream"][part]["precision"], abs=0.02)
        assert own.mr == pytest.approx(case["upstream"][part]["recall"], abs=0.02)


def test_columns_curves_and_table():
    metrics = evaluated(CASES[1])
    assert metrics.keys[4:] == [f"metrics/{name}(P)" for name in ("precision", "recall", "mAP50", "mAP50-95")]
    assert list(metrics.results_dict) == [*metrics.keys, "fitness"] and len(metrics.mean_results()) == 8
    assert metrics.curves[4:] == [name.replace("(B)", "(P)") for name in metrics.curves[:4]]
    assert len(metrics.curves_results) == 8
    assert list(metrics.columns())[-5:] == ["Pose-P", "Pose-R", "Pose-F1", "Pose-mAP50", "Pose-mAP50-95"]
    assert [tuple(row) for row in metrics.summary()] == [tuple(metrics.columns())] * 2
    np.testing.assert_allclose(metrics.maps, metrics.box.maps + metrics.pose.maps)
    text = metrics.table()
    assert "Keypoints" in text and "COCO of the keypoints (pycocotools, by OKS): AP 0.750" in text
    assert "sigma of the keypoints in OKS: 0.2" in text and "keypoints: AP 0.7496" in metrics.line()


def test_pictures_of_boxes_and_of_poses(tmp_path):
    pytest.importorskip("matplotlib")
    names = {path.name for path in evaluated(CASES[1]).plot(tmp_path)}
    assert {"BoxPR_curve.png", "PosePR_curve.png", "PoseF1_curve.png", "confusion_matrix.png"} <= names


def test_nothing_found_and_nothing_labelled():
    case = CASES[0]
    samples, found = samples_of(case), detections_of(case)
    nothing = evaluate_poses(samples, found.only(torch.zeros(len(found), dtype=torch.bool)), {0: "a"}, conf=0.25)
    assert nothing.fitness == 0 and nothing.mean_results() == [0] * 8
    plain = replace(found, keypoints=None).only(torch.zeros(0, dtype=torch.int64))
    assert evaluate_poses(samples, plain, {0: "a"}, conf=0.25).part_ap == 0
    blank = [replace(sample, labels=Instances.empty()) for sample in samples]
    metrics = evaluate_poses(blank, found, {0: "a"}, conf=0.25)
    assert metrics.instances == 0 and metrics.part_ap == 0 and metrics.summary() == []
    hidden = [
        replace(sample, labels=replace(sample.labels, keypoints=sample.labels.keypoints * torch.tensor([1, 1, 0])))
        for sample in samples
    ]
    metrics = evaluate_poses(hidden, found, {0: "a"}, conf=0.25)
    assert metrics.part_ap == 0 and metrics.ap > 0.5 and metrics.every_label.map == 0
    assert "nan" in metrics.table()
