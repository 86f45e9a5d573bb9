"""Windows over an image: the positions of conformance/tiles.json, and what holds for every size."""

import json

import pytest
import torch

from bitfalcon_plugin.ops.tiles import windows
from tests.helpers.paths import RECORDED

CASES = [each for each in json.loads((RECORDED / "tiles.json").read_text()) if "windows_x0_y0_x1_y1" in each]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["image_h_w"]))
def test_the_recorded_windows(case):
    found = windows(tuple(case["image_h_w"]), case["crop"], case["crop"] - case["gap"])
    assert sorted(map(list, found)) == sorted(case["windows_x0_y0_x1_y1"])


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (64, 64), (65, 63), (200, 131)])
@pytest.mark.parametrize("side, step", [(64, 64), (64, 51), ((32, 64), (32, 40)), (10, 1), (1, 1)])
def test_every_pixel_is_covered_and_no_window_sticks_out(size, side, step):
    count = torch.zeros(size, dtype=torch.int32)
    found = windows(size, side, step, cut=True)
    for x1, y1, x2, y2 in found:
        assert 0 <= x1 < x2 <= size[1] and 0 <= y1 < y2 <= size[0]
        count[y1:y2, x1:x2] += 1
    assert count.min() >= 1 and len(set(found)) == len(found)
    assert found == sorted(found, key=lambda window: (window.y1, window.x1))  # row by row


def test_windows_that_are_larger_than_the_image():
    assert windows((700, 900), 1024, 824) == [(0, 0, 1024, 1024)]
    assert windows((700, 900), 1024, 824, cut=True) == [(0, 0, 900, 700)]


@pytest.mark.parametrize("size, side, step", [((0, 5), 4, 2), ((5, 5), 0, 1), ((5, 5), 4, 0), ((5, 5), 4, 5)])
def test_what_is_refused(size, side, step):
    with pytest.raises(ValueError, match="expected sides of 1 or more"):
        windows(size, side, step)
