"""Suppression of oriented boxes against recorded detections and a slow one over all pairs."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from bitfalcon_plugin.ops import rotated_nms
from bitfalcon_plugin.ops.rotated_nms import fast_suppress, rotated_suppression
from bitfalcon_plugin.ops.rotated_overlap import probiou_matrix
from tests.helpers.paths import RECORDED

CASES = json.loads(gzip.decompress((RECORDED / "obb.json.gz").read_bytes()))["rotated-nms"]
WORDS = {"conf_thres": "conf", "iou_thres": "iou"}


def prediction_of(boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """(A, 5) xywhr and (A, nc) -> (1, 4 + nc + 1, A)."""
    return torch.cat([boxes[:, :4], scores, boxes[:, 4:]], 1).t()[None]


def crowd(count: int, nc: int, seed: int = 0) -> torch.Tensor:
    """Noisy copies of a few objects, thin and tiny ones among them: (1, 4 + nc + 1, count)."""
    generator = torch.Generator().manual_seed(seed)
    objects = [[60.0, 60, 80, 12, 0.3], [80, 70, 40, 38, 1.2], [200, 120, 150, 3, 2], [300, 40, 0.3, 0.2, 0]]
    pick = torch.randint(len(objects), (count,), generator=generator)
    boxes = torch.tensor(objects)[pick] + torch.randn(count, 5, generator=generator) * torch.tensor([3, 3, 2, 1, 0.1])
    boxes[:, 2:4] = boxes[:, 2:4].clamp(min=0)
    scores = (torch.rand(count, nc, generator=generator) * 50).round() / 50  # with equal ones
    return prediction_of(boxes, scores)


def slow_suppression(image, conf, iou, max_det=300, multi_label=False, agnostic=False, classes=None) -> torch.Tensor:
    """Rows (n, 7), comparing all pairs."""
    nc = len(image) - 5
    rows = []
    for anchor in image.t():
        scores = anchor[4 : 4 + nc]
        for label in range(nc) if multi_label else [int(scores.argmax())]:
            if scores[label] > conf and (classes is None or label in classes):
                rows.append(torch.cat([anchor[:4], scores[label, None], torch.tensor([float(label)]), anchor[-1:]]))
    rows = sorted(rows, key=lambda row: -float(row[4]))
    table = torch.stack(rows)
    overlap = probiou_matrix(table[:, [0, 1, 2, 3, 6]], table[:, [0, 1, 2, 3, 6]])
    meets = (overlap > iou) & (agnostic | (table[:, 5, None] == table[:, 5])) & torch.ones_like(overlap).tril(-1).bool()
    return table[~meets.any(1)][:max_det]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_kept_boxes_are_the_recorded_ones(case):
    boxes = torch.cat([torch.tensor(case["xywh"]), torch.tensor(case["angle"])[:, None]], 1)
    options = {WORDS.get(name, name): value for name, value in case["arguments"].items()}
    (rows,) = rotated_suppression(prediction_of(boxes, torch.tensor(case["scores"])), **options)
    expected = torch.tensor(case["rows_x_y_w_h_conf_cls_angle"]).view(-1, 7)
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)
    anchors = [(boxes[:, :2] == row[:2]).all(1).nonzero().flatten().tolist() for row in rows]
    assert all(kept in found for kept, found in zip(case["kept_anchor"], anchors, strict=True))


@pytest.mark.parametrize("block", [3, 512])
@pytest.mark.parametrize(
    "options",
    [{}, {"multi_label": True}, {"agnostic": True}, {"classes": [1]}, {"multi_label": True, "max_det": 4}],
    ids=str,
)
def test_any_block_gives_what_all_pairs_give(options, block, monkeypatch):
    monkeypatch.setitem(rotated_nms.BLOCK, "cpu", block)
    batch = torch.cat([crowd(70, 3), crowd(70, 3, seed=1), crowd(70, 3, seed=2) * 0])
    for iou in (0.0, 0.5, 1.0):
        found = rotated_suppression(batch, conf=0.3, iou=iou, **options)
        for image, rows in zip(batch[:2], found[:2], strict=True):
            assert torch.equal(rows, slow_suppression(image, 0.3, iou, **options))
        assert found[2].shape == (0, 7)


def test_what_is_not_finite_is_no_detection():
    batch = crowd(20, 1)
    batch[:, 4] = 0.5
    batch[0, 0, 3], batch[0, 5, 4], batch[0, 4, 5] = torch.inf, torch.nan, torch.nan
    (rows,) = rotated_suppression(batch, conf=0.1, iou=1.0)
    assert len(rows) == 17 and rows.isfinite().all()
    with pytest.raises(ValueError, match=r"shape \(1, 4, 9\)"):
        rotated_suppression(torch.zeros(1, 4, 9), conf=0.1, iou=0.5)


def test_many_candidates_need_no_matrix(monkeypatch):
    largest = 0
    original = rotated_nms.gaussian_overlap

    def watched(a, b, *args):
        nonlocal largest
        largest = max(largest, len(a))
        return original(a, b, *args)

    monkeypatch.setattr(rotated_nms, "gaussian_overlap", watched)
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(9_000, 5, generator=generator) * torch.tensor([1000, 1000, 60, 20, 3]) + 2
    scores = torch.rand(9_000, 1, generator=generator) + 0.1
    (rows,) = rotated_suppression(prediction_of(boxes, scores), conf=0.05, iou=0.5, max_det=9_000)
    assert 3_000 < len(rows) < 9_000 and largest <= 512 * 512
    hidden = fast_suppress(boxes[:50], torch.zeros(50, dtype=torch.long), 1.0)
    assert not hidden.any()
