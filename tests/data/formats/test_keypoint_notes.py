"""What is told of keypoints before a run: by name, and with the repair."""

from __future__ import annotations

import pytest

from bitfalcon_plugin.data.formats.keypoint_notes import flip_warnings, layout_notes, sigmas_line
from bitfalcon_plugin.ops.keypoint_layout import KeypointLayout

FACE = ("nose", "left_eye", "right_eye")


def layout(flip, names=FACE, **options):
    return KeypointLayout(len(names), 3, flip, {0: names}, **options)


def test_a_right_flip_idx_is_told_by_names():
    assert flip_warnings(layout((0, 2, 1))) == []
    assert "a mirror exchanges left_eye and right_eye" in layout_notes(layout((0, 2, 1)))


def test_left_and_right_in_place_are_warned_about():
    (line,) = flip_warnings(layout((0, 1, 2)))
    assert "left_eye stays, not right_eye; right_eye stays, not left_eye" in line and "[0, 2, 1]" in line


@pytest.mark.parametrize(
    "names",
    [
        *(
            ("LEye", "REye"),
            ("l_eye", "r_eye"),
            ("eyeL", "eyeR"),
            ("Lshoulder", "Rshoulder"),
            ("LEFT HIP", "RIGHT HIP"),
        ),
        *(("leftEye", "rightEye"), ("fl", "fr"), ("hip.left", "hip.right")),
    ],
)
def test_names_of_sides(names):
    assert flip_warnings(layout((0, 1), names)) and not flip_warnings(layout((1, 0), names))


def test_names_without_sides_are_left_alone():
    assert flip_warnings(layout((0, 1), ("head", "tail"))) == []
    assert flip_warnings(layout((0, 1, 2), ("left_only", "tail", "bright"))) == []
    paws = ("paw1LH", "paw2LF", "paw3RF", "paw4RH")
    assert flip_warnings(layout((3, 2, 1, 0), paws)) == []


def test_a_flip_idx_that_is_not_its_own_inverse():
    (line,) = flip_warnings(layout((1, 2, 0), ("a", "b", "c")))
    assert "not its own inverse: a becomes b, b becomes c, c becomes a" in line


def test_without_flip_idx_mirrors_are_off():
    (line,) = flip_warnings(layout(None))
    assert "fliplr and flipud are off" in line and "[0, 1, 2]" in line


def test_sigmas_in_use():
    assert "0.5, 1 / 2" in sigmas_line(KeypointLayout(2, 3)) and "0.85 of" in sigmas_line(KeypointLayout(2, 3))
    assert "COCO's, 0.025 to 0.107" in sigmas_line(KeypointLayout(17, 3))
    assert "0.05, from kpt_oks_sigmas" in sigmas_line(KeypointLayout(2, 3, given=(0.05, 0.05)))
