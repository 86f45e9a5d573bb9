"""The loss of poses against recorded numbers and against its formula, written slowly."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace

import pytest
import torch

from bitfalcon_plugin.ops.boxes import anchor_points, distances_to_boxes
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks.assign import assign
from bitfalcon_plugin.tasks.detect import mean_distances
from bitfalcon_plugin.tasks.pose import GAINS, LOSSES, pose_loss
from tests.data.recorded.fill import noise
from tests.helpers.paths import RECORDED

RECORDS = json.loads(gzip.decompress((RECORDED / "pose.json.gz").read_bytes()))["pose-loss"]
CASES = pytest.mark.parametrize("case", RECORDS, ids=lambda case: case["name"])


def sizes_of(case: dict) -> list[tuple[int, int]]:
    return [(case["H"] // s, case["W"] // s) for s in case["strides"]]


def recorded_raw(case: dict) -> dict[str, torch.Tensor]:
    anchors = sum(height * width for height, width in sizes_of(case))
    count, columns = case["kpt_shape"]
    raw = {}
    for name, key, channels, scale, shift in (
        ("boxes", "boxes", 64, 3, 0), ("scores", "scores", case["nc"], 4, -2),
        ("keypoints", "kpts", count * columns, 1.5, 0),
    ):  # fmt: skip
        values = noise(f"pose.{case['name']}.{key}", (case["batch"], channels, anchors))
        raw[name] = torch.from_numpy(values * scale + shift).float().requires_grad_()
    return raw


def recorded_labels(case: dict) -> Instances:
    rows = torch.tensor(case["targets_batchidx_cls_cxcywh"]).view(-1, 6)
    points = torch.tensor(case["keypoints_x_y_v"]).view(len(rows), case["kpt_shape"][0], 3)
    size = torch.tensor([case["W"], case["H"]])
    centre, half = rows[:, 2:4] * size, rows[:, 4:6] * size / 2
    points = torch.cat([points[..., :2] * size, points[..., 2:]], -1)
    boxes = torch.cat([centre - half, centre + half], 1)
    return Instances(boxes, rows[:, 1].long(), image=rows[:, 0].long(), keypoints=points)


def loss_of(case: dict, raw: dict, labels: Instances) -> dict[str, torch.Tensor]:
    gains = {name: case["gains"][name.removesuffix("_loss")] for name in LOSSES}
    options = {"sizes": sizes_of(case), "strides": case["strides"], "gains": gains}
    return pose_loss(raw, labels, **options, sigmas=case["sigmas"])


@CASES
def test_losses_and_gradients_are_the_recorded_ones(case):
    raw = recorded_raw(case)
    losses = loss_of(case, raw, recorded_labels(case))
    assert list(losses) == list(LOSSES) == list(GAINS)
    for name, value in case["losses"].items():
        torch.testing.assert_close(losses[f"{name}_loss"], torch.tensor(value), rtol=1e-5, atol=0)
    total = sum(losses.values()) * case["batch"]
    torch.testing.assert_close(total, torch.tensor(case["total_times_batch"]), rtol=1e-5, atol=0)
    total.backward()
    for name, key in (("boxes", "grad_boxes"), ("scores", "grad_scores"), ("keypoints", "grad_kpts")):
        record, gradient = case[key], raw[name].grad
        torch.testing.assert_close(gradient.norm(), torch.tensor(record["l2"]), rtol=1e-5, atol=0)
        found = gradient.flatten()[record["at"]]
        torch.testing.assert_close(found, torch.tensor(record["values"]), rtol=0, atol=1e-5 * record["l2"])


@CASES
def test_positives_are_the_recorded_ones(case):
    raw, labels = recorded_raw(case), recorded_labels(case)
    points, stride = anchor_points(sizes_of(case), case["strides"])
    shares = raw["boxes"].transpose(1, 2).unflatten(-1, (4, -1)).softmax(-1)
    boxes = distances_to_boxes(points, mean_distances(shares)).detach() * stride[:, None]
    found = assign(raw["scores"].detach().sigmoid().transpose(1, 2), boxes, points * stride[:, None], labels)
    first = [int((labels.image < image).sum()) for image in labels.image.tolist()]
    triples = [
        [int(labels.image[row]), int(found.anchor[row, column]), row - first[row]]
        for row, column in found.won.nonzero().tolist()
    ]
    assert sorted(triples) == sorted(case["positive_image_anchor_gt"])


def slow_keypoint_losses(case: dict, raw: dict, labels: Instances) -> tuple[float, float]:
    """The two losses without gains, anchor by anchor and point by point."""
    anchors, strides = anchor_points(sizes_of(case), case["strides"])
    count, columns = case["kpt_shape"]
    pose, entropy = [], []
    for image, anchor, index in case["positive_image_anchor_gt"]:
        row = labels.only(labels.image == image).only(torch.tensor([index]))
        stride = float(strides[anchor])
        width, height = ((row.boxes[0, 2:] - row.boxes[0, :2]) / stride).tolist()
        values = raw["keypoints"][image, :, anchor].tolist()
        seen = sum(v != 0 for _, _, v in row.keypoints[0].tolist())
        for point, (x, y, v) in enumerate(row.keypoints[0].tolist()):
            found = values[point * columns : (point + 1) * columns]
            places = [2 * value + float(cell) - 0.5 for value, cell in zip(found, anchors[anchor])]
            square = sum((place - side / stride) ** 2 for place, side in zip(places, (x, y)))
            oks = math.exp(-square / (8 * case["sigmas"][point] ** 2 * width * height))
            pose.append(count / seen * (1 - oks) if v else 0.0)
            if columns == 3:
                entropy.append(math.log1p(math.exp(-found[2] if v else found[2])))
    return sum(pose) / len(pose), sum(entropy) / max(len(entropy), 1)


@pytest.mark.parametrize("case", RECORDS[:5], ids=lambda case: case["name"])
def test_the_formula_written_slowly(case):
    raw, labels = recorded_raw(case), recorded_labels(case)
    pose, visibility = slow_keypoint_losses(case, raw, labels)
    losses = {name: value.detach() for name, value in loss_of(case, raw, labels).items()}
    assert float(losses["pose_loss"]) == pytest.approx(12 * pose, rel=1e-5)
    assert float(losses["kobj_loss"]) == pytest.approx(visibility, rel=1e-5)


@pytest.mark.parametrize("case", RECORDS[:4], ids=lambda case: case["name"])
def test_sigmas_follow_the_shape_where_none_are_given(case):
    raw, labels = recorded_raw(case), recorded_labels(case)
    options = {"sizes": sizes_of(case), "strides": case["strides"]}
    torch.testing.assert_close(pose_loss(raw, labels, **options), loss_of(case, raw, labels))


def test_without_objects_the_losses_of_boxes_and_points_are_zero_and_gradients_flow():
    case = RECORDS[0]
    raw, nothing = recorded_raw(case), replace(Instances.empty(), image=torch.zeros(0, dtype=torch.int64))
    for labels in (nothing, replace(nothing, keypoints=torch.zeros(0, 17, 3))):
        losses = loss_of(case, raw, labels)
        assert [name for name, value in losses.items() if value != 0] == ["cls_loss"]
        sum(losses.values()).backward()
        assert torch.equal(raw["keypoints"].grad, torch.zeros_like(raw["keypoints"]))
