"""Legal sizes of the network input. How an image is fitted into one is tested with boxes and pictures."""

from __future__ import annotations

import pytest

from bitfalcon_plugin.ops.letterbox import legal_size, rounding_note


@pytest.mark.parametrize(
    ("size", "legal", "using"),
    [(640, (640, 640), ""), (50, (64, 64), "64"), ((50, 64), (64, 64), "64 x 64"), ([64, 33], (64, 64), "64 x 64")],
)
def test_sides_are_rounded_up_to_a_multiple(size, legal, using):
    assert legal_size(size, 32) == legal
    text = f"imgsz={size} is no multiple of 32, which this model needs; using {using}." if using else ""
    assert rounding_note(size, 32) == text
