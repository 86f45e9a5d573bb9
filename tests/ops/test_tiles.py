"""Windows over an image: the positions of conformance/tiles.json, and what holds for every size."""

import json

import pytest
import torch

from bitfalcon_plugin.ops.tiles import Window, mostly_inside, read_tile_name, tile_name, windows
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


@pytest.mark.parametrize(
    "size, side, kept",
    [
        ((700, 900), 1024, 1),  # 60.08 % of the window
        ((600, 2500), 1024, 3),  # 58.6 % of each, and none has more
        ((600, 600), 1000, 1),
        ((100, 100), 100, 1),
    ],
)
def test_windows_of_a_small_image_are_kept(size, side, kept):
    covering = windows(size, side, side - 200 * side // 1024)
    assert mostly_inside(size, covering) == covering and len(covering) == kept


def test_windows_that_are_mostly_outside_are_left_out():
    """No grid of `windows` has such windows beside others; other grids do."""
    whole, most, limit, less = (
        Window(0, 0, 100, 100),
        Window(0, 39, 100, 139),
        Window(0, 40, 100, 140),
        Window(0, 50, 100, 150),
    )
    assert mostly_inside((100, 100), [less, whole, limit, most]) == [whole, most]
    assert mostly_inside((100, 100), [less, limit]) == [limit]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("P0001__1024__824___1648", ("P0001", 824, 1648, 1.0)),
        ("a__b__1024__0___0", ("a__b", 0, 0, 1.0)),
        ("P0001__0.5__824___0", ("P0001", 824, 0, 0.5)),  # of the DOTA development kit: resized before it was cut
        ("P0001__1__0___0", ("P0001", 0, 0, 1.0)),
        ("P0001", ("P0001", 0, 0, 1.0)),
        ("P0001__1024__824__0", ("P0001__1024__824__0", 0, 0, 1.0)),
        ("P0001__1024__-1___0", ("P0001__1024__-1___0", 0, 0, 1.0)),
    ],
)
def test_names_of_tiles(name, expected):
    assert read_tile_name(name) == expected


def test_a_written_name_is_read():
    assert read_tile_name(tile_name("a b", 1024, Window(824, 7, 1000, 700))) == ("a b", 824, 7, 1.0)
