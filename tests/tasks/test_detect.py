"""The detection loss against recorded numbers and a slow loop."""

from __future__ import annotations

import json
import math
import runpy

import pytest
import torch

from bitfalcon_plugin.ops.boxes import anchor_points, xyxy_from_xywh
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks import detect as module
from bitfalcon_plugin.tasks.assign import assign
from bitfalcon_plugin.tasks.detect import GAINS, detection_loss
from tests.helpers.labels import stacked, targets_of, total
from tests.helpers.paths import RECORDED

CASES = {case["name"]: case for case in json.loads((RECORDED / "loss.json").read_text(encoding="utf-8"))}
noise = runpy.run_path(str(RECORDED / "fill.py"))["noise"]


def levels(case: dict) -> list[tuple[int, int]]:
    return [(case["H"] // stride, case["W"] // stride) for stride in case["strides"]]


def predictions(case: dict) -> dict[str, torch.Tensor]:
    anchors = sum(h * w for h, w in levels(case))
    boxes = noise(f"loss.{case['name']}.boxes", (case["batch"], 4 * case["reg_max"], anchors)) * 3
    scores = noise(f"loss.{case['name']}.scores", (case["batch"], case["nc"], anchors)) * 4 - 2
    return {key: torch.tensor(value).float().requires_grad_() for key, value in (("boxes", boxes), ("scores", scores))}


def truths(case: dict) -> Instances:
    rows = torch.tensor(case["targets_batchidx_cls_cxcywh"]).reshape(-1, 6)
    pixels = rows[:, 2:] * torch.tensor([case["W"], case["H"], case["W"], case["H"]])
    return targets_of(xyxy_from_xywh(pixels), rows[:, 1].long(), rows[:, 0].long())


def run(case: dict, raw: dict[str, torch.Tensor], targets: Instances) -> dict[str, torch.Tensor]:
    gains = {f"{name}_loss": gain for name, gain in case["gains"].items()}
    return detection_loss(raw, targets, sizes=levels(case), strides=case["strides"], gains=gains)


@pytest.mark.parametrize("name", CASES)
def test_recorded_losses_and_gradients(name):
    case = CASES[name]
    raw = predictions(case)
    losses = run(case, raw, truths(case))
    torch.testing.assert_close(stacked(losses), torch.tensor(case["loss_box_cls_dfl"]))
    whole = total(losses, case["batch"])
    torch.testing.assert_close(whole.detach(), torch.tensor(case["total_times_batch"]))
    whole.backward()
    for key in ("boxes", "scores"):
        want, gradient = case[f"grad_{key}"], raw[key].grad
        torch.testing.assert_close(gradient.norm(), torch.tensor(want["l2"]))
        values, sampled = torch.tensor(want["values"]), gradient.flatten()[want["at"]]
        torch.testing.assert_close(sampled, values)
        # Most values lie below the default atol of 1e-5; soft targets go with CIoU^6, so rounding comes back sixfold.
        torch.testing.assert_close(sampled, values, rtol=3e-5, atol=1e-9 * want["l2"])


@pytest.mark.parametrize("name", CASES)
def test_recorded_positives(name, monkeypatch):
    case, targets, seen = CASES[name], truths(CASES[name]), []
    monkeypatch.setattr(module, "assign", lambda *given: seen.append(assign(*given)) or seen[0])
    run(case, predictions(case), targets)
    first = {image: targets.image.tolist().index(image) for image in set(targets.image.tolist())}
    rows = [(targets.image[row].item(), row, slot) for row, slot in seen[0].won.nonzero().tolist()]
    found = sorted([image, seen[0].anchor[row, slot].item(), row - first[image]] for image, row, slot in rows)
    assert found == case["positive_image_anchor_gt"] and len(found) == case["positives"]


def slow_loss(raw: dict[str, torch.Tensor], sizes, strides, targets: Instances) -> list[float]:
    """Gained box, cls and dfl losses, one anchor and class at a time, in plain floats (assignment: test_assign.py)."""
    points, stride = anchor_points(sizes, strides)
    boxes, scores = raw["boxes"].tolist(), raw["scores"].tolist()
    images, anchors, nc = len(boxes), len(points), len(scores[0])
    shares = {}
    for image in range(images):
        for anchor in range(anchors):
            logits = [boxes[image][channel][anchor] for channel in range(len(boxes[0]))]
            for side in range(4):
                part = [math.exp(value) for value in logits[side * 16 : side * 16 + 16]]
                shares[image, anchor, side] = [value / sum(part) for value in part]
    decoded = torch.zeros(images, anchors, 4)
    for (image, anchor, side), share in shares.items():
        distance = sum(index * value for index, value in enumerate(share))
        sign = -1 if side < 2 else 1
        decoded[image, anchor, side] = (points[anchor, side % 2] + sign * distance) * stride[anchor]
    found = assign(raw["scores"].sigmoid().transpose(1, 2), decoded, points * stride[:, None], targets)
    positives = {}
    for row, slot in found.won.nonzero().tolist():
        positives[targets.image[row].item(), found.anchor[row, slot].item()] = (row, found.weight[row, slot].item())
    whole = max(sum(weight for _, weight in positives.values()), 1.0)
    box = cls = dfl = 0.0
    for image in range(images):
        for anchor in range(anchors):
            row, weight = positives.get((image, anchor), (None, 0.0))
            for label in range(nc):
                probability = 1 / (1 + math.exp(-scores[image][label][anchor]))
                target = weight if row is not None and targets.classes[row] == label else 0.0
                cls -= target * math.log(probability) + (1 - target) * math.log(1 - probability)
            if row is None:
                continue
            truth, cell = targets.boxes[row].tolist(), stride[anchor].item()
            box += (1 - plain_ciou(decoded[image, anchor].tolist(), truth)) * weight
            for side in range(4):
                distance = (points[anchor, side % 2].item() - truth[side] / cell) * (1 if side < 2 else -1)
                distance = min(max(distance, 0.0), 14.99)
                low = math.floor(distance)
                share = shares[image, anchor, side]
                cross = -math.log(share[low]) * (low + 1 - distance) - math.log(share[low + 1]) * (distance - low)
                dfl += cross / 4 * weight
    return [7.5 * box / whole, 0.5 * cls / whole, 1.5 * dfl / whole]


def plain_ciou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    sides = [(box[2] - box[0], box[3] - box[1]) for box in (a, b)]
    iou = shared / (sides[0][0] * sides[0][1] + sides[1][0] * sides[1][1] - shared)
    rho = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    v = 4 / math.pi**2 * (math.atan2(*sides[0]) - math.atan2(*sides[1])) ** 2
    return iou - rho / hull - v * v / (v - iou + 1)


def small_problem(seed: int = 0):
    """Two images of 64 x 96 px, boxes too large for DFL's range and some on the border, and predictions for them."""
    generator = torch.Generator().manual_seed(seed)
    sizes, strides = [(8, 12), (4, 6), (2, 3)], (8, 16, 32)
    anchors = sum(h * w for h, w in sizes)
    raw = {
        "boxes": torch.randn(2, 64, anchors, generator=generator),
        "scores": torch.randn(2, 3, anchors, generator=generator),
    }
    raw["boxes"].view(2, 4, 16, anchors)[:, :, 1:4, :96] += 3  # stride 8: sides of about 2 cells
    boxes = torch.tensor([[0.0, 0, 96, 64], [10, 10, 45, 40], [15, 12, 50, 45], [88, 50, 96, 64], [20, 20, 90, 60]])
    targets = targets_of(boxes, torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0, 0, 0, 1, 1]))
    return raw, sizes, strides, targets


def test_agrees_with_a_slow_loop():
    raw, sizes, strides, targets = small_problem()
    losses = detection_loss(raw, targets, sizes=sizes, strides=strides)
    expected = slow_loss(raw, sizes, strides, targets)
    assert min(expected) > 0.1
    torch.testing.assert_close(stacked(losses), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_distances_beyond_the_range_are_clamped():
    """A truth of 96 px seen at stride 2 lies 23 to 47 cells off: cross-entropy is that of 14.99 on every side."""
    sizes = [(48, 48)]
    raw = {"boxes": torch.zeros(1, 64, 48 * 48), "scores": torch.zeros(1, 1, 48 * 48)}
    raw["boxes"].view(1, 4, 16, -1)[:, :, 15] = 5.0
    targets = targets_of(torch.tensor([[0.0, 0, 96, 96]]), torch.tensor([0]), torch.tensor([0]))
    losses = detection_loss(raw, targets, sizes=sizes, strides=[2])
    share = math.log(15 + math.exp(5))
    each = 0.01 * share + 0.99 * (share - 5)
    found = assign(torch.full((1, 48 * 48, 1), 0.5), *decoded_by_hand(), targets)
    weight = found.weight.sum().item()
    assert weight > 0.5
    assert losses["dfl_loss"].item() == pytest.approx(1.5 * each * weight / max(weight, 1), rel=1e-4)


def decoded_by_hand() -> tuple[torch.Tensor, torch.Tensor]:
    points, _ = anchor_points([(48, 48)], [2])
    distance = (sum(range(15)) + 15 * math.exp(5)) / (15 + math.exp(5))
    return (torch.cat((points - distance, points + distance), 1) * 2)[None], points * 2


def test_gains_scale_the_parts():
    raw, sizes, strides, targets = small_problem()
    plain = detection_loss(raw, targets, sizes=sizes, strides=strides, gains=dict.fromkeys(GAINS, 1.0))
    gains = dict(zip(GAINS, (2.0, 0.0, 3.0)))
    gained = detection_loss(raw, targets, sizes=sizes, strides=strides, gains=gains)
    torch.testing.assert_close(stacked(gained), stacked(plain) * torch.tensor([2.0, 0.0, 3.0]))
    default = detection_loss(raw, targets, sizes=sizes, strides=strides)
    torch.testing.assert_close(stacked(default), stacked(plain) * torch.tensor([7.5, 0.5, 1.5]))


def test_a_batch_without_boxes_has_a_class_loss_and_zero_box_gradients():
    raw, sizes, strides, targets = small_problem()
    raw = {key: value.requires_grad_() for key, value in raw.items()}
    none = targets.only(torch.zeros(len(targets), dtype=torch.bool))
    losses = detection_loss(raw, none, sizes=sizes, strides=strides)
    total(losses).backward()
    assert losses["box_loss"] == 0 and losses["dfl_loss"] == 0 and losses["cls_loss"] > 0
    assert not raw["boxes"].grad.any()  # a tensor of zeros, not None: every parameter gets a gradient
    torch.testing.assert_close(raw["scores"].grad, raw["scores"].detach().sigmoid() * 0.5 * 2)


def test_logits_far_out_stay_finite():
    raw, sizes, strides, targets = small_problem()
    raw = {key: (value * 200).requires_grad_() for key, value in raw.items()}
    losses = detection_loss(raw, targets, sizes=sizes, strides=strides)
    total(losses).backward()
    assert stacked(losses).isfinite().all()
    assert all(value.grad.isfinite().all() for value in raw.values())


def test_autocast_and_half_precision_change_nothing():
    raw, sizes, strides, targets = small_problem()
    rounded = {key: value.bfloat16() for key, value in raw.items()}
    widened = {key: value.float() for key, value in rounded.items()}
    expected = detection_loss(widened, targets, sizes=sizes, strides=strides)
    with torch.autocast("cpu", torch.bfloat16):
        got = detection_loss(rounded, targets, sizes=sizes, strides=strides)
    assert all(value.dtype == torch.float32 for value in got.values())
    assert torch.equal(stacked(got), stacked(expected))


def test_the_losses_of_boxes_carry_their_gradient():
    raw, sizes, strides, targets = small_problem()
    raw["boxes"].requires_grad_()
    losses = detection_loss(raw, targets, sizes=sizes, strides=strides)
    assert {name: value.requires_grad for name, value in losses.items()} == {
        "box_loss": True,
        "cls_loss": False,
        "dfl_loss": True,
    }
