"""Worst images of poses and of oriented boxes: pairs as COCOeval makes them by OKS and by ProbIoU, and the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.val.worst import FALSE, HEAD, HIT, MISS, SIDE, worst_images
from tests.helpers.finder import painted
from tests.helpers.pairs import counts_of_cocoeval
from tests.tasks import test_obb_metrics as oriented
from tests.tasks import test_pose_metrics as posed

LABELLED = [case for case in posed.CASES if not case["case"].endswith("blind")]


@pytest.mark.parametrize("case", LABELLED, ids=lambda case: case["case"])
@pytest.mark.parametrize("conf", [0.1, 0.5])
def test_poses_are_paired_by_their_keypoints(case, conf):
    samples, found, names = posed.samples_of(case), posed.detections_of(case), dict(enumerate("ab"[: case["nc"]]))
    certain = found.only(found.scores > conf)
    expected = counts_of_cocoeval(len(samples), lambda: posed.evaluate_poses(samples, certain, names, conf=0.25))
    assert_counts(worst_images(samples, found, names, conf=conf), expected)
    worst = worst_images(samples, found, names, conf=conf)
    assert f"confidence {conf:.3f} and OKS 0.50" in worst.table()


@oriented.EACH
def test_oriented_boxes_are_paired_by_probiou(case):
    samples, names = oriented.samples_of(case), oriented.names_of(case)
    found = Instances.cat(oriented.detections_of(case))
    certain = found.only(found.scores > 0.3)
    expected = counts_of_cocoeval(len(samples), lambda: oriented.oriented_metrics(samples, certain, names), number=0)
    worst = worst_images(samples, found, names, conf=0.3)
    assert_counts(worst, expected)
    assert "ProbIoU 0.50" in worst.table()


def assert_counts(worst, expected: np.ndarray) -> None:
    rows = {
        int(each.image.stem): (len(each.labels), int(each.label_hit.sum()), each.counts[1]) for each in worst.errors
    }
    wrong = {index: tuple(row) for index, row in enumerate(expected.tolist()) if row[0] != row[1] or row[2]}
    assert rows == wrong and wrong


def pose(path, points, size=(64, 64)):
    """A sample with one label in the box (10, 10, 50, 50), and a detection of the box with keypoints at (20, 30)."""
    case = {**posed.CASES[0], "image_w_h": size[::-1], "kpt": 2, "sigmas": [0.05, 0.05]}
    case["images"] = [{"gt": [{"xyxy": [10, 10, 50, 50], "cls": 0, "keypoints": points}], "pred": []}]
    (sample,) = posed.samples_of(case)
    layout = replace(sample.layout, skeleton=((0, 1),))
    found = Instances(torch.tensor([[10.0, 10, 50, 50]]), torch.tensor([0]), torch.tensor([0.9]), torch.tensor([0]))
    keypoints = torch.tensor([[[20.0, 30, 0.9], [40, 30, 0.9]]])
    return replace(sample, image=path, layout=layout), replace(found, keypoints=keypoints)


@pytest.mark.parametrize(
    ("points", "errors"),
    [
        ([[20, 30, 2], [40, 30, 2]], 0),
        ([[20, 30, 2], [40, 44, 2]], 0),  # half of them
        ([[40, 30, 2], [20, 30, 2]], 1),  # left and right are exchanged, in the right box
        ([[0, 0, 0], [0, 0, 0]], 0),  # found by its box
    ],
)
def test_a_right_box_with_wrong_keypoints_is_an_error(tmp_path, points, errors):
    sample, found = pose(tmp_path / "a.png", points)
    worst = worst_images([sample], found, {0: "a"}, conf=0.5)
    assert len(worst.errors) == errors and worst.totals == {"missed": errors, "false": errors, "right": 1 - errors}


def test_keypoints_are_drawn_in_the_colour_of_their_error(tmp_path):
    scale = SIDE / 64
    sample, found = pose(painted(tmp_path / "a.png", (64, 64), []), [[20, 44, 2], [40, 44, 2]])
    both = Instances.cat([found, replace(found, keypoints=sample.pixel_labels().keypoints.float())])
    second = replace(sample, labels=Instances.cat([sample.labels, pose("", [[40, 18, 2], [20, 18, 2]])[0].labels]))
    picture = worst_images([second], both, {0: "a"}, conf=0.5).draw()
    for y, colour in ((44, HIT), (18, MISS), (30, FALSE)):
        for x in (20, 30):  # the keypoint, and the limb
            rgb = tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))
            assert picture.getpixel((round(x * scale), HEAD + round(y * scale))) == rgb, (x, y)
