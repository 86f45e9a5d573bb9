"""Which objects a tile has: the recorded ones, and the share of each counted point by point."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.data.convert.source import rings_of
from bitfalcon_plugin.data.convert.tiling import LEAST_OF_OBJECT, in_order, objects_of, tiling_of
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.polygons import Polygons
from bitfalcon_plugin.ops.rotated import corners_of
from bitfalcon_plugin.ops.tiles import Window
from tests.helpers.paths import RECORDED

CASES = json.loads((RECORDED / "tiles.json").read_text())


def quads(corners: torch.Tensor) -> Polygons:
    return Polygons(corners.reshape(-1, 2).double(), torch.full((corners.numel() // 8,), 4))


@pytest.mark.parametrize("case", CASES[:-1], ids=lambda case: str(case["image_h_w"]))
def test_the_recorded_windows_at_the_usual_overlap_are_the_tiles(case):
    settings = load_settings({"tile": case["crop"], "overlap": case["gap"] / case["crop"]})
    height, width = case["image_h_w"]
    tiles = tiling_of(settings).windows((height, width))
    expected = [[x1, y1, min(x2, width), min(y2, height)] for x1, y1, x2, y2 in case["windows_x0_y0_x1_y1"]]
    assert sorted(list(window) for _, window in tiles) == sorted(expected)
    assert {side for side, _ in tiles} == {case["crop"]}


def test_the_recorded_objects():
    case = CASES[-1]
    labels, size = torch.tensor(case["labels_cls_xy4"], dtype=torch.float64), tuple(case["image_h_w"])
    rings = quads(labels[:, 1:])
    rings = rings_of(Instances(torch.zeros(len(labels), 4), labels[:, 0].long(), polygons=rings), size)
    tiling = tiling_of(load_settings({"tile": case["crop"], "overlap": case["gap"] / case["crop"]}))
    windows = sorted(window for _, window in tiling.windows(size))  # recorded column by column
    assert len(windows) == len(case["objects_in_window"])
    for window, expected in zip(windows, case["objects_in_window"]):
        numbers, _ = objects_of(in_order(rings), window)
        found = torch.cat([labels[numbers, :1], rings[numbers].points.view(-1, 8)], 1)  # in pixels of the image
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64).view(-1, 9), atol=1e-9, rtol=0)


def test_shares_of_oriented_boxes_against_counted_points():
    random = np.random.RandomState(0)
    box = np.stack(
        [*random.uniform(-30, 230, (2, 300)), *random.uniform(8, 120, (2, 300)), random.uniform(0, 3.2, 300)], 1
    )
    window = Window(20, 30, 180, 150)
    grid = (np.stack(np.meshgrid(np.arange(60), np.arange(60)), -1).reshape(-1, 2) + 0.5) / 60 - 0.5
    cos, sin = np.cos(box[:, 4:]), np.sin(box[:, 4:])
    along, across = grid[:, 0] * box[:, 2:3], grid[:, 1] * box[:, 3:4]
    x, y = box[:, :1] + along * cos - across * sin, box[:, 1:2] + along * sin + across * cos
    share = ((x > window.x1) & (x < window.x2) & (y > window.y1) & (y < window.y2)).mean(1)
    clear = abs(share - LEAST_OF_OBJECT) > 0.02
    numbers, visible = objects_of(quads(corners_of(torch.tensor(box))), window)
    found = np.isin(np.arange(300), numbers.numpy())
    assert (found == (share > LEAST_OF_OBJECT))[clear].all() and clear.sum() > 250 and 20 < found.sum() < 280
    assert len(visible) == len(numbers)


def test_seventy_percent_are_enough():
    rings = quads(torch.tensor([[[90.0, 0], [100, 0], [100, 5], [90, 5]]]))
    assert len(objects_of(rings, Window(0, 0, 97, 50))[0]) == 1 and len(objects_of(rings, Window(0, 0, 96, 50))[0]) == 0


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [2, 0, 3, 1]])
def test_the_order_of_corners_does_not_matter(order):
    ring = torch.tensor([[10.0, 0], [30, 10], [20, 30], [0, 20]])[order]
    for x2, count in ((25, 1), (17, 0)):
        assert len(objects_of(in_order(quads(ring)), Window(0, 0, x2, 40))[0]) == count


def test_grids_of_several_rates():
    assert tiling_of(load_settings({"tile": 1024})).grids == ((1024, 200),)
    assert tiling_of(load_settings({"tile": 1024, "rates": (0.5, 1, 1.5, 1)})).grids == (
        (2048, 400), (1024, 200), (682, 133),
    )  # fmt: skip
    assert tiling_of(load_settings({"tile": 640, "overlap": 0.25})).grids == ((640, 160),)
    assert tiling_of(load_settings({})) is None


@pytest.mark.parametrize(
    "given, text",
    [
        ({"overlap": 0.3}, "overlap: for tiles alone; give tile=1024 too"),
        ({"tile": 64, "rates": [3]}, "windows of 21 px"),
        ({"tile": (512, 1024)}, "are squares"),
    ],
)
def test_what_is_refused(given, text):
    with pytest.raises(UserError, match=text):
        tiling_of(load_settings(given))
