"""Losses of dropin.utils.loss, compared with torchvision, the recorded loss of the house, and sums written out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.ops import complete_box_iou_loss, sigmoid_focal_loss

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.nn.tasks import SegmentationModel
from bitfalcon_plugin.dropin.utils import loss
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks.detect import detection_loss
from tests.helpers.tiny_models import CONV, small, small_model

SEGMENT = ([-1], 1, "Segment", ["nc", 8, 16])


def test_focal_loss_is_that_of_torchvision():
    logits, labels = torch.randn(2, 30, 4), (torch.rand(2, 30, 4) > 0.8).float()
    expected = sigmoid_focal_loss(logits, labels, 0.25, 1.5).mean(1).sum()
    torch.testing.assert_close(loss.FocalLoss()(logits, labels), expected)
    plain = sigmoid_focal_loss(logits, labels, -1, 2.0).mean(1).sum()
    torch.testing.assert_close(loss.FocalLoss(2.0, 0)(logits, labels), plain)


def test_varifocal_loss():
    logits, quality = torch.randn(2, 30, 4), torch.rand(2, 30, 4)
    labels = (torch.rand(2, 30, 4) > 0.8).float()
    p = logits.sigmoid()
    positive = -quality * (quality * p.log() + (1 - quality) * (1 - p).log())
    negative = -0.75 * p**2 * (1 - p).log()
    expected = torch.where(labels.bool(), positive, negative).mean(1).sum()
    found = loss.VarifocalLoss()(logits, torch.where(labels.bool(), quality, 0.0), labels)
    torch.testing.assert_close(found, expected)


def test_distribution_focal_loss():
    logits, target = torch.randn(5 * 4, 16), torch.rand(5, 4) * 15
    found = loss.DFLoss(16)(logits, target)
    assert found.shape == (5, 1)
    shares = logits.softmax(-1).reshape(5, 4, 16)
    for row in range(5):
        parts = []
        for side in range(4):
            value = min(float(target[row, side]), 14.99)
            low = int(value)
            pair = shares[row, side, low].log() * (low + 1 - value) + shares[row, side, low + 1].log() * (value - low)
            parts.append(-pair)
        torch.testing.assert_close(found[row, 0], torch.stack(parts).mean())


def test_loss_of_boxes():
    points = torch.rand(20, 2) * 8 + 4
    boxes = torch.cat([points - 2, points + 3], 1)[None]
    truths = torch.cat([points - 3, points + 2], 1)[None]
    scores, mask = torch.rand(1, 20, 2), torch.rand(1, 20) > 0.5
    logits = torch.randn(1, 20, 64)
    box, dfl = loss.BboxLoss(16)(logits, boxes, points, truths, scores, scores.sum(), mask)
    weight = scores.sum(-1)[mask]
    expected = (complete_box_iou_loss(boxes[mask], truths[mask]) * weight).sum() / scores.sum()
    torch.testing.assert_close(box, expected)
    distances = torch.cat([points - truths[0, :, :2], truths[0, :, 2:] - points], 1)[mask[0]]
    per_box = loss.DFLoss(16)(logits[mask].reshape(-1, 16), distances)[:, 0]
    torch.testing.assert_close(dfl, (per_box * weight).sum() / scores.sum())


def test_loss_of_keypoints():
    predicted, truth = torch.rand(3, 5, 2) * 10, torch.rand(3, 5, 2) * 10
    mask, area = torch.tensor([[1, 1, 0, 2, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]), torch.rand(3, 1) * 50
    found = loss.KeypointLoss(torch.full((5,), 0.2))(predicted, truth, mask, area)
    total = 0.0
    for row in range(3):
        visible = [k for k in range(5) if mask[row, k]]
        for k in visible:
            squares = float((predicted[row, k] - truth[row, k]).square().sum())
            similarity = torch.exp(torch.tensor(-squares / (8 * 0.04 * float(area[row, 0]))))
            total += 5 / len(visible) * (1 - float(similarity))
    assert float(found) == pytest.approx(total / 15, rel=1e-5)


BATCH = {
    "batch_idx": torch.tensor([0.0, 0, 1]),
    "cls": torch.tensor([[0.0], [1], [0]]),
    "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.3], [0.6, 0.5, 0.5, 0.3]]),
}


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = small_model(CONV, (-1, 1, "Conv", [16, 3, 2]), (-1, 1, "Conv", [16, 3, 2]))
    return model, torch.rand(2, 3, 128, 128)


def test_the_detection_loss_is_that_of_the_house(trained):
    model, images = trained
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    criterion = loss.v8DetectionLoss(model)
    raw = model(images)
    total, items = criterion(raw, BATCH)
    boxes = BATCH["bboxes"]
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1) * 128
    labels = Instances(corners, BATCH["cls"][:, 0].long(), image=BATCH["batch_idx"].long())
    expected = detection_loss(raw, labels, sizes=raw.sizes, strides=model.strides)
    torch.testing.assert_close(items, torch.stack(list(expected.values())))
    torch.testing.assert_close(total, 2 * sum(expected.values()))
    total.sum().backward()
    assert not items.requires_grad and all(p.grad is not None for p in model.head.cv2.parameters())
    assert (criterion.nc, criterion.reg_max, criterion.no, criterion.use_dfl) == (2, 16, 66, True)


def test_every_form_of_the_outputs(trained):
    model, images = trained
    criterion, raw = loss.v8DetectionLoss(model), model(images)
    expected = criterion(raw, BATCH)[1]
    (height, width), *_ = raw.sizes
    maps = [torch.cat([raw["boxes"], raw["scores"]], 1).unflatten(2, (height, width))]
    feats = {"boxes": raw["boxes"], "scores": raw["scores"], "feats": maps}
    for given in (maps, feats, ("decoded", maps), ("decoded", raw)):
        torch.testing.assert_close(criterion(given, BATCH)[1], expected)
    empty = {key: value[:0] for key, value in BATCH.items()}
    assert criterion(raw, empty)[1][[0, 2]].tolist() == [0, 0]
    points = torch.rand(6, 2) * 8
    logits = torch.randn(1, 6, 64)
    decoded = criterion.bbox_decode(points, logits)
    means = (logits.reshape(6, 4, 16).softmax(-1) * torch.arange(16)).sum(-1)
    torch.testing.assert_close(decoded[0], torch.cat([points - means[:, :2], points + means[:, 2:]], 1))


def test_the_gains_are_those_of_the_model(trained):
    model, images = trained
    model.args = {"box": 15.0, "cls": 0.5, "dfl": 0.0, "imgsz": 128}
    doubled = loss.v8DetectionLoss(model)(model(images), BATCH)[1]
    model.args = {}
    usual = loss.v8DetectionLoss(model)(model(images), BATCH)[1]
    torch.testing.assert_close(doubled, usual * torch.tensor([2.0, 1, 0]))
    del model.args


def test_other_tasks():
    logits, classes = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    total, items = loss.v8ClassificationLoss()((logits.softmax(1), logits), {"cls": classes})
    torch.testing.assert_close(total, nn.functional.cross_entropy(logits, classes))
    assert torch.equal(items, total)
    with pytest.raises(UserError, match="v8PoseLoss.*pose"):
        loss.v8PoseLoss(None)
    with pytest.raises(UserError, match="two sets of branches"):
        loss.E2EDetectLoss(None)


def test_the_loss_of_a_segmenter_is_that_of_its_model():
    torch.manual_seed(0)
    document = small(CONV, (-1, 1, "Conv", [16, 3, 2]), (-1, 1, "Conv", [16, 3, 2]), head=[SEGMENT])
    model = SegmentationModel(document, verbose=False)
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[0, 6:26, 6:26], masks[0, 5:15, 6:13], masks[1, 8:20, 8:30] = 1, 2, 1
    batch = {**BATCH, "img": torch.rand(2, 3, 128, 128), "masks": masks}
    total, items = loss.v8SegmentationLoss(model)(model(batch["img"]), batch)
    assert len(items) == 4 and total.requires_grad
    torch.testing.assert_close(total, 2 * items.sum())
    with pytest.raises(UserError, match="segment"):
        loss.v8SegmentationLoss(small_model(CONV))
