"""The segmentation loss against recorded numbers and a slow program of full planes."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
import torch.nn.functional as F

import bitfalcon_plugin.tasks.segment as module
from bitfalcon_plugin.ops.boxes import xyxy_from_xywh
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.polygons import Polygons
from bitfalcon_plugin.tasks.segment import GAINS, label_masks, reduced_fill, segmentation_loss, visible_parts
from tests.data.recorded.fill import noise
from tests.helpers.paths import RECORDED

VECTORS = json.loads(gzip.decompress((RECORDED / "segment.json.gz").read_bytes()))
CASES = pytest.mark.parametrize("case", VECTORS["segment-loss"], ids=lambda case: case["name"])
NAMES = ("boxes", "scores", "coefficients", "prototypes")


def recorded_raw(case: dict) -> dict[str, torch.Tensor]:
    height, width, batch = case["H"], case["W"], case["batch"]
    anchors = sum((height // s) * (width // s) for s in case["strides"])
    shapes = {
        "boxes": (batch, 64, anchors),
        "scores": (batch, case["nc"], anchors),
        "coefficients": (batch, 32, anchors),
        "prototypes": (batch, 32, height // 4, width // 4),
    }
    raw = {
        name: torch.from_numpy(noise(f"segloss.{case['name']}.{name}", shape)).float() for name, shape in shapes.items()
    }
    raw["boxes"] = raw["boxes"] * 3
    raw["scores"] = raw["scores"] * 4 - 2
    return {name: value.requires_grad_() for name, value in raw.items()}


def recorded_labels(case: dict) -> Instances:
    """The recorded targets, whose masks are the ellipses that fill their boxes."""
    rows = torch.tensor(case["targets_batchidx_cls_cxcywh"]).reshape(-1, 6)
    height, width = case["H"] // case["mask_ratio"], case["W"] // case["mask_ratio"]
    r, c = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    cx, cy, w, h = (rows[:, index, None, None] for index in range(2, 6))
    masks = ((c - cx * width) / (w * width / 2)) ** 2 + ((r - cy * height) / (h * height / 2)) ** 2 <= 1
    boxes = xyxy_from_xywh(rows[:, 2:]) * torch.tensor([case["W"], case["H"]] * 2)
    return Instances(boxes, rows[:, 1].long(), image=rows[:, 0].long(), masks=masks)


def loss_of(case: dict, raw: dict) -> dict[str, torch.Tensor]:
    sizes = [(case["H"] // s, case["W"] // s) for s in case["strides"]]
    options = {"overlap_mask": case["overlap_mask"], "mask_ratio": case["mask_ratio"]}
    return segmentation_loss(raw, recorded_labels(case), sizes=sizes, strides=case["strides"], **options)


@CASES
def test_losses_and_gradients_are_the_recorded_ones(case):
    labels = recorded_labels(case)
    assert labels.masks.flatten(1).sum(1).tolist() == case["mask_areas"]
    raw = recorded_raw(case)
    losses = loss_of(case, raw)
    assert list(losses) == list(GAINS)
    for name, value in case["loss"].items():
        torch.testing.assert_close(losses[f"{name}_loss"], torch.tensor(value), rtol=1e-5, atol=1e-6)
    total = sum(losses.values()) * case["batch"]
    torch.testing.assert_close(total, torch.tensor(case["total_times_batch"]), rtol=1e-5, atol=1e-5)
    total.backward()
    for name, tolerance in zip(NAMES, (1e-5, 1e-5, 1e-6, 1e-7)):
        record, gradient = case[f"grad_{name}"], raw[name].grad
        torch.testing.assert_close(gradient.norm(), torch.tensor(record["l2"]), rtol=1e-5, atol=1e-7)
        found = gradient.flatten()[record["at"]]
        torch.testing.assert_close(found, torch.tensor(record["values"]), rtol=0, atol=tolerance)


def slow_mask_loss(raw, labels, assignment, masks, size) -> torch.Tensor:
    """Full planes, one positive after the other, by autograd."""
    height, width = masks.shape[-2:]
    parts = []
    for row, place in assignment.won.nonzero().tolist():
        image, anchor = int(labels.image[row]), int(assignment.anchor[row, place])
        logits = torch.einsum("m,mhw->hw", raw["coefficients"][image, :, anchor], raw["prototypes"][image])
        x1, y1, x2, y2 = (labels.boxes[row] / torch.tensor([size[1], size[0]] * 2)).tolist()
        r, c = torch.arange(height)[:, None], torch.arange(width)
        crop = (c >= x1 * width) & (c < x2 * width) & (r >= y1 * height) & (r < y2 * height)
        entropy = F.binary_cross_entropy_with_logits(logits, masks[row].float(), reduction="none")
        parts.append((entropy * crop).sum() / (height * width) / ((x2 - x1) * (y2 - y1)))
    return torch.stack(parts).mean()


@pytest.mark.parametrize("tile, pixels", [(1, 97), (7, 1), (128, 1 << 20), (1 << 20, 1 << 20)])
def test_tiles_change_nothing(tile, pixels, monkeypatch):
    case = next(case for case in VECTORS["segment-loss"] if case["name"] == "overlap")
    monkeypatch.setattr(module, "TILE", tile)
    monkeypatch.setitem(module.PIXELS_AT_ONCE, "cpu", pixels)
    raw, slow = recorded_raw(case), recorded_raw(case)
    labels = recorded_labels(case)
    sizes = [(case["H"] // s, case["W"] // s) for s in case["strides"]]
    loss = segmentation_loss(raw, labels, sizes=sizes, strides=case["strides"])["seg_loss"]
    _, assignment = module.box_losses(slow, labels, sizes, case["strides"], GAINS, None)
    masks = visible_parts(labels.masks, labels.image)
    expected = slow_mask_loss(slow, labels, assignment, masks, (case["H"], case["W"])) * 7.5
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    expected.backward()
    for name in ("coefficients", "prototypes"):
        torch.testing.assert_close(raw[name].grad, slow[name].grad, rtol=1e-4, atol=1e-8)


def test_the_gradient_is_that_of_the_numbers():
    torch.manual_seed(0)
    coefficients = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    prototypes = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(4, 6, 7) > 0.5
    boxes = torch.tensor([[0.5, 1.2, 6.7, 5.0], [-3, -2, 3, 9], [2, 2, 2, 4], [0, 0, 7, 6]])
    image = torch.tensor([0, 1, 1, 0])
    weight = torch.rand(4, 2, dtype=torch.float64)
    weight[1, 1] = 0
    assert torch.autograd.gradcheck(
        lambda a, b: module._CroppedCrossEntropy.apply(a, b, masks, boxes, image, weight), (coefficients, prototypes)
    )


def test_targets_follow_the_recorded_reduction():
    """From upstream's planes at full size, which we do not fill alike, the reduction by 4 gives upstream's targets."""
    from pycocotools import mask as rle

    for case in VECTORS["segment-decode"]["targets"]:
        polygons = [torch.tensor(ring) for ring in case["polygons_relative"]]
        height, width = case["size"]
        points = torch.cat(polygons) * torch.tensor([width, height])
        ours = reduced_fill(Polygons(points, torch.tensor([len(ring) for ring in polygons])), (height, width), 4)
        assert ours.shape == (len(polygons), height // 4, width // 4)
        recorded = case["ratio4"]["rle"] if "ratio4" in case else case["4"]["rle"]
        for found, counts in zip(ours, recorded):
            theirs = torch.from_numpy(rle.decode({"size": [height // 4, width // 4], "counts": counts})).bool()
            union = (found | theirs).sum()
            if theirs.sum() >= 20:  # their filling includes the outline, which is most of a smaller object
                assert (found & theirs).sum() / union > 0.7
            assert (found & ~theirs).sum() <= 0.1 * union


def test_reduction_takes_the_central_pixels():
    points = torch.tensor([[1.0, 1.0], [3, 1], [3, 2], [1, 2], [4.0, 0], [5, 0], [5, 4], [4, 4]])
    masks = reduced_fill(Polygons(points, torch.tensor([4, 4])), (4, 8), 4)
    assert masks.tolist() == [[[True, False]], [[False, False]]]  # two of the four central pixels; none of them


def test_smaller_objects_hide_larger_ones():
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0], masks[1, :2, :2], masks[2] = True, True, True
    seen = visible_parts(masks, torch.tensor([0, 0, 1]))
    assert torch.equal(seen[0], ~masks[1]) and torch.equal(seen[1], masks[1]) and bool(seen[2].all())


def test_labels_without_a_polygon_have_no_part():
    case = next(case for case in VECTORS["segment-loss"] if case["name"] == "overlap")
    raw = recorded_raw(case)
    boxes = recorded_labels(case)
    labels = Instances(boxes.boxes, boxes.classes, image=boxes.image)
    assert label_masks(labels, (case["H"], case["W"])).sum() == 0
    sizes = [(case["H"] // s, case["W"] // s) for s in case["strides"]]
    losses = segmentation_loss(raw, labels, sizes=sizes, strides=case["strides"])
    assert losses["seg_loss"] == 0 and losses["box_loss"] > 0
    sum(losses.values()).backward()
    assert raw["prototypes"].grad.abs().sum() == 0
