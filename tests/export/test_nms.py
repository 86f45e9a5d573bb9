"""Suppression inside a file: it leaves what suppression outside leaves."""

from __future__ import annotations

import pytest
import torch

from bitfalcon_plugin.export.compare import MismatchError, compare
from bitfalcon_plugin.export.nms import Suppression
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.run import run_export
from bitfalcon_plugin.ops.nms import non_max_suppression
from tests.helpers.exports import WITH_NMS, made, tiny


@pytest.mark.parametrize("format_", WITH_NMS)
def test_suppression_inside_leaves_what_suppression_outside_leaves(folder, format_):
    model = tiny()
    with torch.no_grad():
        for branch in model.head.cv3:
            branch[-1].weight.normal_(std=0.5)
            branch[-1].bias.fill_(-1)
    rule = {"conf": 0.3, "iou": 0.4, "max_det": 40}
    path = run_export(model, made(format=format_, dynamic=True, nms=True, **rule), "small.yaml").path
    engine, images = open_exported(path, "cpu"), torch.rand(2, 3, 64, 48)
    rows = engine(images)
    assert rows.shape == (2, 40, 6) and engine.suppressed
    with torch.inference_mode():
        expected = non_max_suppression(model.decode(model(images)), **rule)
    for detections, boxes in zip(rows, expected, strict=True):
        assert 3 < len(boxes) and not detections[len(boxes) :].any()
        torch.testing.assert_close(detections[: len(boxes)], boxes, rtol=1e-3, atol=1e-2)
    again = non_max_suppression(engine.decode(rows), conf=0.25, iou=0.7)  # as predict and val do
    assert all(len(one) == len(other) for one, other in zip(again, expected, strict=True))


@pytest.mark.parametrize(
    "wrong, share",
    [
        (lambda rows: rows, 1.0),
        (lambda rows: rows[:, :5], 0),
        (lambda rows: rows + 0.5, 0),
        (lambda rows: torch.cat((rows[:, :1], rows[:, :-1]), 1), 0),
    ],
)
def test_what_suppression_inside_left_is_compared_without_ties(wrong, share):
    model, rule = tiny().fuse(), Suppression(2, 0.2, 0.5, 60)
    with torch.no_grad():
        for branch in model.head.cv3:
            branch[-1].bias.fill_(-1)
            branch[-1].weight.normal_(std=0.5)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        rows = rule(model.decode(model(images)))
    if share:
        assert compare(model, lambda _: wrong(rows), [images], "float32", rule).matched > 50
    else:
        with pytest.raises(MismatchError):
            compare(model, lambda _: wrong(rows), [images], "float32", rule)


def test_suppression_of_nothing_is_empty():
    assert not Suppression(2, 0.5)(torch.zeros(2, 6, 5)).any()
    assert Suppression(2, 0.5, max_det=7)(torch.rand(1, 6, 3)).shape == (1, 7, 6)
