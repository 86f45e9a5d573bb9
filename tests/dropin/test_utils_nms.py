"""Suppression of dropin.utils, compared with torchvision and with the recorded kept anchors of oriented boxes."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import batched_nms, box_convert, nms

from bitfalcon_plugin.dropin.utils import ops
from bitfalcon_plugin.dropin.utils.nms import nms_rotated, non_max_suppression
from bitfalcon_plugin.dropin.utils.rotated import batch_probiou


def prediction(images=2, nc=3, extras=0, anchors=400) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    centres = torch.rand(images, 2, anchors, generator=generator) * 300
    sizes = torch.rand(images, 2, anchors, generator=generator) * 80 + 5
    return torch.cat([centres, sizes, torch.rand(images, nc + extras, anchors, generator=generator)], 1)


def by_torchvision(image, nc, conf, iou, agnostic=False, multi_label=False, classes=None):
    """(4 + nc + extras, A) -> rows and anchors, by torchvision.ops.nms."""
    rows = []
    for anchor, column in enumerate(image.t()):
        scores = column[4 : 4 + nc]
        labels = range(nc) if multi_label else [int(scores.argmax())]
        for label in labels:
            if scores[label] > conf and (classes is None or label in classes):
                box = box_convert(column[:4], "cxcywh", "xyxy")
                rows.append(
                    (torch.cat([box, scores[label, None], torch.tensor([float(label)]), column[4 + nc :]]), anchor)
                )
    table = torch.stack([row for row, _ in rows])
    groups = torch.zeros(len(table)) if agnostic else table[:, 5]
    keep = batched_nms(table[:, :4], table[:, 4], groups, iou)
    return table[keep], torch.tensor([anchor for _, anchor in rows])[keep]


@pytest.mark.parametrize("options", [{}, {"agnostic": True}, {"multi_label": True}, {"classes": [0, 2]}], ids=str)
@pytest.mark.parametrize("extras", [0, 4])
def test_it_keeps_what_torchvision_keeps(options, extras):
    batch = prediction(extras=extras)
    before = batch.clone()
    found, places = non_max_suppression(batch, 0.6, 0.45, nc=3, max_det=1000, return_idxs=True, **options)
    for image, rows, place in zip(batch, found, places, strict=True):
        expected, anchors = by_torchvision(image, 3, 0.6, 0.45, **options)
        torch.testing.assert_close(rows, expected)
        assert torch.equal(place, anchors)
    assert torch.equal(batch, before)


def test_forms_of_the_prediction():
    batch = prediction(nc=3)
    whole = non_max_suppression(batch, 0.6)
    assert all(torch.equal(a, b) for a, b in zip(non_max_suppression((batch, "raw"), 0.6), whole))
    assert all(torch.equal(a, b) for a, b in zip(ops.non_max_suppression(batch, 0.6, nc=3), whole))
    assert [len(rows) for rows in non_max_suppression(batch, 0.6, max_det=5)] == [5, 5]
    assert non_max_suppression(batch, 1.0)[0].shape == (0, 6)
    ready = torch.tensor([[[0.0, 0, 9, 9, 0.9, 1], [0, 0, 5, 5, 0.5, 0], [1, 1, 5, 5, 0.1, 0]]])
    assert non_max_suppression(ready, 0.25)[0].tolist() == ready[0, :2].tolist()
    assert non_max_suppression(ready, 0.25, classes=[0])[0][:, 5].tolist() == [0]
    with pytest.raises(AssertionError, match="conf_thres=1.5"):
        non_max_suppression(batch, conf_thres=1.5)
    with pytest.raises(AssertionError, match="iou_thres=-1"):
        non_max_suppression(batch, iou_thres=-1)


def test_known_objects_compete_with_a_score_of_one():
    batch = prediction(images=1)
    known = [torch.tensor([[2.0, 150, 150, 40, 30]])]
    first = non_max_suppression(batch, 0.9, labels=known)[0][0]
    assert first.tolist() == [130, 135, 170, 165, 1, 2]


def test_what_is_not_finite_is_no_detection():
    batch = prediction(images=1, anchors=20)
    batch[0, 0, 3], batch[0, 5, 4] = torch.inf, torch.nan
    _, (places,) = non_max_suppression(batch, 0.0, 1.0, return_idxs=True)
    assert 3 not in places.tolist() and len(places) == 19


def oriented(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    boxes = torch.rand(count, 5, generator=generator) * torch.tensor([120, 120, 40, 20, 3.14]) + 4
    return boxes, torch.rand(count, generator=generator)


def test_oriented_boxes_go_where_any_better_one_overlaps():
    boxes, scores = oriented(60)
    order = scores.argsort(descending=True).tolist()
    overlap = batch_probiou(boxes, boxes)
    expected = [
        row for place, row in enumerate(order) if not any(overlap[row, better] > 0.3 for better in order[:place])
    ]
    assert nms_rotated(boxes, scores, 0.3).tolist() == expected
    batch = torch.cat([boxes[:, :4], scores[:, None], boxes[:, 4:]], 1).t()[None]  # one class
    (rows,), (places,) = non_max_suppression(batch, 0.0, 0.3, nc=1, rotated=True, return_idxs=True)
    assert places.tolist() == expected
    assert torch.equal(rows[:, [0, 1, 2, 3, 6]], boxes[expected])
    assert len(expected) < len(nms(box_convert(boxes[:, :4], "cxcywh", "xyxy"), scores, 0.99))
