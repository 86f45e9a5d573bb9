"""Boxes: their values, units, tracks and shapes; expected values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitfalcon_plugin.predict.detections import Boxes
from tests.helpers.results import ROWS, SHAPE, TRACKED, VALUES, kinds


@pytest.mark.parametrize("rows", [ROWS, TRACKED], ids=["plain", "tracked"])
@pytest.mark.parametrize("name", VALUES)
def test_values_of_boxes(name, rows):
    for boxes, kind in zip(kinds(rows), (torch.Tensor, np.ndarray)):
        value = getattr(boxes, name)
        assert isinstance(value, kind) and value.dtype == boxes.data.dtype
        np.testing.assert_allclose(value, np.array(VALUES[name]), rtol=1e-6)
        empty = getattr(boxes[:0], name)
        assert isinstance(empty, kind) and tuple(empty.shape) == (0, *value.shape[1:])


def test_tracks_have_numbers():
    for boxes in kinds(TRACKED):
        assert boxes.is_track
        assert boxes.shape == (3, 7)
        assert boxes.id.tolist() == [7, 1234567, 9]
        assert boxes[1].id.tolist() == [1234567]
    for boxes in kinds(ROWS):
        assert not boxes.is_track and boxes.id is None and boxes.shape == (3, 6) and boxes.orig_shape == SHAPE


def test_one_row_is_a_list_of_one_and_other_shapes_are_refused():
    assert Boxes(ROWS[0], SHAPE).shape == (1, 6) and Boxes([1, 2, 3, 4, 0.5, 0], SHAPE).cls.tolist() == [0]
    for wrong in (ROWS[:, :5], ROWS[None], torch.zeros(0), np.zeros((2, 8))):
        with pytest.raises(ValueError, match="expected \\(n, 6\\)"):
            Boxes(wrong, SHAPE)
