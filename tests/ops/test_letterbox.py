"""Legal sizes of the network input. How an image is fitted into one is tested with boxes and pictures."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.letterbox import Fit, legal_size, letterbox_fit, rounding_note
from bitfalcon_plugin.tasks.pose import place_poses
from tests.helpers.paths import RECORDED

MOVED = json.loads(gzip.decompress((RECORDED / "obb.json.gz").read_bytes()))["obb-geometry"]["network_to_image"]


@pytest.mark.parametrize(
    ("size", "legal", "using"),
    [(640, (640, 640), ""), (50, (64, 64), "64"), ((50, 64), (64, 64), "64 x 64"), ([64, 33], (64, 64), "64 x 64")],
)
def test_sides_are_rounded_up_to_a_multiple(size, legal, using):
    assert legal_size(size, 32) == legal
    text = f"imgsz={size} is no multiple of 32, which this model needs; using {using}." if using else ""
    assert rounding_note(size, 32) == text


@pytest.mark.parametrize("case", [case for case in MOVED if case["kind"] == "xywhr"], ids=lambda c: str(c["image_h_w"]))
def test_oriented_boxes_come_back_to_the_image_as_recorded(case):
    fit = letterbox_fit(tuple(case["image_h_w"]), tuple(case["network_h_w"]))
    found = fit.rotated_to_original(torch.tensor(case["in"]))
    torch.testing.assert_close(found, torch.tensor(case["out"]), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "case", [case for case in MOVED if case["kind"] == "keypoints"], ids=lambda c: str(c["network_h_w"])
)
def test_keypoints_come_back_to_the_image_as_recorded_and_are_clipped_to_it(case):
    points, size = torch.tensor(case["in"]), tuple(case["image_h_w"])
    fit = letterbox_fit(size, tuple(case["network_h_w"]))
    if case["ratio_pad"] is not None:
        (gain, _), (left, top) = case["ratio_pad"]
        resized = round(size[0] * gain), round(size[1] * gain)
        fit = Fit(size, resized, tuple(case["network_h_w"]), (top, left))
    moved = place_poses(Instances(torch.zeros(len(points), 4), torch.zeros(len(points)), keypoints=points), fit)
    torch.testing.assert_close(moved.keypoints, torch.tensor(case["out"]), rtol=0, atol=1e-3)
