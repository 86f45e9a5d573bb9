"""The generated dataset of poses: the same every time, and labels that fit the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from bitfalcon_plugin.data import stick_figures
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.data.formats.keypoint_notes import flip_warnings
from bitfalcon_plugin.data.formats.pose_rows import read_pose
from bitfalcon_plugin.data.stick_figures import FLIP, POINTS, Figure, coverage, draw, label_row, random_figure

FIRST_LABEL = "0 0.311350 0.601449 0.297546 0.601449 "  # of this version, which must not change


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """The packaged dataset with a few of its images."""
    patch = pytest.MonkeyPatch()
    patch.setenv("BITFALCON_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setattr(stick_figures, "COUNTS", {"train": 16, "val": 2})
    yield load_data("figures")
    patch.undo()


def test_the_packaged_name_leads_to_figures_with_every_key(spec):
    layout = spec.keypoints
    assert spec.root.name == "figures-v1" and spec.path.name == "figures.yaml" and spec.settings["imgsz"] == 320
    assert layout.shape == (11, 3) and layout.flip == FLIP and layout.names[0] == POINTS
    assert layout.given == (0.05,) * 11 and len(layout.limbs) == 10
    assert flip_warnings(layout) == []


def test_images_and_labels_can_be_read(spec):
    samples = scan(spec, "train", read=read_pose).samples
    assert len(samples) == 16 and not len(samples[15].labels)
    labels = [sample.labels for sample in samples if len(sample.labels)]
    visibility = torch.cat([part.keypoints[..., 2] for part in labels])
    assert set(visibility.flatten().tolist()) == {0, 1, 2} and (visibility == 2).float().mean() > 0.7
    assert all(1 <= len(part) <= 3 for part in labels)


def test_pictures_are_drawn_again_alike_and_labels_are_those_of_the_first_version(spec):
    pixels, rows = draw(RandomState([3, 0, 4]))
    again, same = draw(RandomState([3, 0, 4]))
    assert np.array_equal(pixels, again) and rows == same
    text = (spec.root / "labels/train/0004.txt").read_text()
    assert text == "".join(rows) and text.startswith("0 0.") and len(text.split()) == 38 * len(rows)
    assert text.startswith(FIRST_LABEL)


def test_the_left_of_a_figure_is_on_the_right_of_the_picture():
    for seed in range(20):
        points = random_figure(RandomState(seed), (240, 320)).points
        down = points[POINTS.index("hip")] - points[POINTS.index("neck")]
        right = np.array([down[1], -down[0]])  # of the picture, for an upright figure
        for name in ("elbow", "knee"):
            left_end, right_end = (points[POINTS.index(f"{side}_{name}")] for side in ("left", "right"))
            assert (left_end - right_end) @ right > 0


def test_boxes_and_keypoints_fit_what_is_painted():
    for seed in range(10):
        figure = random_figure(RandomState(seed), (240, 320))
        inside = coverage(figure, (240, 320)) > 0.5
        if not inside.any():
            continue
        fields = [float(field) for field in label_row(figure, inside, (240, 320)).split()]
        cx, cy, w, h = np.array(fields[1:5]) * (320, 240, 320, 240)
        ys, xs = inside.nonzero()
        expected = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2) == pytest.approx(expected, abs=1e-3)
        for (x, y), (found_x, found_y, v) in zip(figure.points, np.reshape(fields[5:], (-1, 3))):
            if 0 <= x < 320 and 0 <= y < 240:
                assert (found_x * 320, found_y * 240) == pytest.approx((x, y), abs=1e-3) and v == 2
                assert inside[int(y), int(x)]
            else:
                assert (found_x, found_y, v) == (0, 0, 0)


def test_covered_keypoints_are_hidden():
    points = np.array([[50.0, 20], [50, 40], *([[50.0, 50]] * 4), [50, 60], *([[50.0, 90]] * 4)])
    figure = Figure(points, 8.0, 6.0)
    seen = coverage(figure, (120, 100)) > 0.5
    seen[:30] = False  # another figure covers the head
    fields = label_row(figure, seen, (120, 100)).split()
    assert fields[7] == "1" and fields[10] == "2" and fields[2] != fields[6]
