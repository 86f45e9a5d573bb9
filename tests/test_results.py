"""Boxes, their units, and the picture with them drawn in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitfalcon_plugin.results import Boxes, Results

ROWS = torch.tensor([[10.0, 20.0, 50.0, 80.0, 0.9, 0.0], [0.0, 0.0, 100.0, 200.0, 0.5, 1.0], [5.0, 5.0, 9.0, 9.0, 0.3, 1.0]])
NAMES = {0: "person", 1: "bus"}


def result(rows=ROWS) -> Results:
    return Results(np.full((200, 100, 3), 50, np.uint8), "pictures/street.png", NAMES, rows)


def test_units_of_boxes():
    boxes = Boxes(ROWS, (200, 100))
    assert torch.equal(boxes.xyxy, ROWS[:, :4]) and torch.equal(boxes.conf, ROWS[:, 4]) and torch.equal(boxes.cls, ROWS[:, 5])
    assert boxes.xywh[0].tolist() == [30, 50, 40, 60]
    assert boxes.xyxyn[1].tolist() == [0, 0, 1, 1]
    assert boxes.xywhn[0].tolist() == pytest.approx([0.3, 0.25, 0.4, 0.3])
    assert len(boxes) == 3 and boxes.shape == (3, 6) and len(boxes[0]) == 1 and len(boxes[boxes.conf > 0.4]) == 2
    assert boxes.id is None


def test_numpy_and_torch_hold_the_same():
    boxes = Boxes(ROWS, (200, 100)).numpy()
    for name in ("xyxy", "xywh", "xyxyn", "xywhn", "conf", "cls"):
        value = getattr(boxes, name)
        assert isinstance(value, np.ndarray)
        assert torch.equal(torch.as_tensor(value), getattr(Boxes(ROWS, (200, 100)), name))
    assert isinstance(boxes.cpu().data, torch.Tensor)


def test_verbose_counts_by_class():
    assert result().verbose() == "1 person, 2 buss, "
    assert result(ROWS[:0]).verbose() == "(no detections), "


def test_the_picture_has_the_boxes_and_the_original_is_untouched(tmp_path):
    found = result()
    before = found.orig_img.copy()
    drawn = found.plot()
    assert drawn.shape == (200, 100, 3) and drawn.dtype == np.uint8
    assert np.array_equal(found.orig_img, before) and not np.array_equal(drawn, before)
    blue, _, red = drawn[50, 10]  # left edge of the first box, in its class's colour #e6194b, BGR
    assert (red, blue) == (0xE6, 0x4B)
    assert np.array_equal(result(ROWS[:0]).plot(), before) and np.array_equal(found.plot(boxes=False), before)
    assert found.save(tmp_path / "out.png") == str(tmp_path / "out.png") and (tmp_path / "out.png").stat().st_size > 100


@pytest.mark.parametrize("shape", [(8, 8), (3000, 20), (40, 4000)])
def test_extreme_pictures_can_be_drawn(shape):
    rows = torch.tensor([[-5.0, -5.0, 5000.0, 5000.0, 0.9, 37.0], [2.0, 2.0, 2.0, 2.0, 0.9, 0.0]])
    assert Results(np.zeros((*shape, 3), np.uint8), "x.jpg", {0: "naïve 猫"}, rows).plot().shape == (*shape, 3)
