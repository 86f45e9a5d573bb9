"""The loss of oriented boxes against recorded numbers."""

from __future__ import annotations

import contextlib
import gzip
import json
from dataclasses import replace

import pytest
import torch

from bitfalcon_plugin.ops.boxes import anchor_points
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.polygons import Polygons
from bitfalcon_plugin.ops.rotated import angles_from_logits, corners_of, distances_to_rotated, hulls_of
from bitfalcon_plugin.tasks.assign import assign
from bitfalcon_plugin.tasks.detect import mean_distances
from bitfalcon_plugin.tasks.obb import GAINS, obb_loss
from tests.data.recorded.fill import noise
from tests.helpers.paths import RECORDED

RECORDS = json.loads(gzip.decompress((RECORDED / "obb.json.gz").read_bytes()))["obb-loss"]
CASES = pytest.mark.parametrize("case", RECORDS, ids=lambda case: case["name"])
MIXED = RECORDS[0]


def sizes_of(case: dict) -> list[tuple[int, int]]:
    return [(case["H"] // s, case["W"] // s) for s in case["strides"]]


def recorded_raw(case: dict) -> dict[str, torch.Tensor]:
    anchors = sum(height * width for height, width in sizes_of(case))
    raw = {}
    for name, key, channels, scale, shift in (
        ("boxes", "boxes", 64, 3, 0), ("scores", "scores", case["nc"], 4, -2), ("angles", "angle", 1, 4, 0)
    ):  # fmt: skip
        values = noise(f"obb.{case['name']}.{key}", (case["batch"], channels, anchors))
        raw[name] = torch.from_numpy(values * scale + shift).float().requires_grad_()
    return raw


def recorded_labels(case: dict) -> Instances:
    rows = torch.tensor(case["targets_batchidx_cls_cx_cy_w_h_angle"]).view(-1, 7)
    boxes = torch.cat([rows[:, 2:6] * torch.tensor([case["W"], case["H"]] * 2), rows[:, 6:]], 1)
    return Instances(hulls_of(corners_of(boxes)), rows[:, 1].long(), image=rows[:, 0].long(), xywhr=boxes)


def loss_of(case: dict, raw: dict, labels: Instances) -> dict[str, torch.Tensor]:
    gains = {f"{name}_loss": gain for name, gain in case["gains"].items()}
    return obb_loss(raw, labels, sizes=sizes_of(case), strides=case["strides"], gains=gains)


@CASES
def test_losses_and_gradients_are_the_recorded_ones(case):
    raw = recorded_raw(case)
    losses = loss_of(case, raw, recorded_labels(case))
    assert list(losses) == list(GAINS)
    for name, value in case["losses"].items():
        torch.testing.assert_close(losses[f"{name}_loss"], torch.tensor(value), rtol=1e-5, atol=0)
    total = sum(losses.values()) * case["batch"]
    torch.testing.assert_close(total, torch.tensor(case["total_times_batch"]), rtol=1e-5, atol=0)
    total.backward()
    for name, key in (("boxes", "grad_boxes"), ("scores", "grad_scores"), ("angles", "grad_angle")):
        record, gradient = case[key], raw[name].grad
        torch.testing.assert_close(gradient.norm(), torch.tensor(record["l2"]), rtol=1e-5, atol=0)
        found = gradient.flatten()[record["at"]]
        torch.testing.assert_close(found, torch.tensor(record["values"]), rtol=0, atol=1e-5 * record["l2"])


@CASES
def test_positives_and_soft_targets_are_the_recorded_ones(case):
    raw, labels = recorded_raw(case), recorded_labels(case)
    points, stride = anchor_points(sizes_of(case), case["strides"])
    shares = raw["boxes"].transpose(1, 2).unflatten(-1, (4, -1)).softmax(-1)
    angles = angles_from_logits(raw["angles"]).transpose(1, 2)
    boxes = distances_to_rotated(points, mean_distances(shares), angles).detach()
    boxes[..., :4] *= stride[:, None]
    found = assign(raw["scores"].detach().sigmoid().transpose(1, 2), boxes, points * stride[:, None], labels)
    kept = (labels.xywhr[:, 2:4] >= 2).all(1)
    place = {}  # row -> its number among the rows of its image that are not dropped
    for row in kept.nonzero().flatten().tolist():
        place[row] = sum(int(labels.image[other]) == int(labels.image[row]) for other in place)
    weights = {
        (int(labels.image[row]), int(found.anchor[row, slot]), place[row]): float(found.weight[row, slot])
        for row, slot in (found.weight > 1e-12).nonzero().tolist()
    }
    expected = {tuple(row[:3]): row[3] for row in case["positive_image_anchor_gt_weight"]}
    assert weights == {cell: pytest.approx(weight, abs=1e-5) for cell, weight in expected.items()}
    assert len(weights) == case["positives_with_weight"]


def test_labels_as_polygons_give_the_same_losses():
    raw, labels = recorded_raw(MIXED), recorded_labels(MIXED)
    corners = corners_of(labels.xywhr)[:, [2, 3, 0, 1]]
    polygons = Polygons(corners.flatten(0, 1), torch.full((len(labels),), 4), rectangles=True)
    found = loss_of(MIXED, raw, replace(labels, xywhr=None, polygons=polygons))
    expected = loss_of(MIXED, raw, labels)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    empty = replace(Instances.empty(), image=torch.zeros(0, dtype=torch.int64))  # of images without any label
    losses = loss_of(MIXED, raw, empty)
    assert [name for name, value in losses.items() if value] == ["cls_loss"]
    sum(losses.values()).backward()
    assert not raw["angles"].grad.any()


def test_half_precision_is_computed_in_float32():
    raw, labels = recorded_raw(MIXED), recorded_labels(MIXED)
    half = {name: value.detach().bfloat16() for name, value in raw.items()}
    with torch.autocast("cpu", torch.bfloat16):
        losses = loss_of(MIXED, half, labels)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    assert losses == loss_of(MIXED, {name: value.float() for name, value in half.items()}, labels)


def test_nothing_waits_for_the_device(monkeypatch):
    """Meta tensors hold no data: whatever asked for a value or for a shape that depends on values would fail."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # knows no such device
    raw = {name: value.detach().to("meta") for name, value in recorded_raw(MIXED).items()}
    polygons = Polygons(torch.zeros(36, 2), torch.full((9,), 4), rectangles=True)
    labels = replace(recorded_labels(MIXED), xywhr=None, polygons=polygons).to("meta")
    assert all(value.shape == () for value in loss_of(MIXED, raw, labels).values())
