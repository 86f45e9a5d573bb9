"""What a YAML says of keypoints: read, defaulted, and refused with the key and the repair."""

from __future__ import annotations

import re

import pytest

from bitfalcon_plugin.ops.keypoint_layout import COCO_SIGMAS, KeypointLayout, read_layout

FULL = {
    "kpt_shape": [3, 3],
    "flip_idx": [1, 0, 2],
    "kpt_names": {0: ["left", "right", "tip"], 1: ["a", "b", "c"]},
    "kpt_oks_sigmas": [0.1, 0.1, 0.05],
    "skeleton": [[0, 2], ["right", "tip"]],
}


def problems_of(**keys) -> list[str]:
    problems: list[str] = []
    read_layout({**FULL, **keys}, 2, problems)
    return problems


def test_every_key_is_read_and_given_back():
    problems: list[str] = []
    layout = read_layout(FULL, 2, problems)
    assert problems == [] and layout.shape == (3, 3) and layout.flip == (1, 0, 2)
    assert layout.skeleton == ((0, 2), (1, 2)) and layout.sigmas == (0.1, 0.1, 0.05)
    assert (layout.name(0), layout.name(0, 1), layout.name(2, 0)) == ("left", "a", "tip")
    assert read_layout(layout.as_keys(), 2, problems) == layout and problems == []
    assert read_layout({}, 2, problems) is None
    plain = read_layout({"kpt_shape": [2, 2]}, 1, problems)
    assert plain == KeypointLayout(2, 2) and plain.as_keys() == {"kpt_shape": [2, 2]} and plain.name(1) == "1"
    assert read_layout({"kpt_shape": [2, 2], "kpt_names": ["head", "tail"]}, 2, problems).name(1, 1) == "tail"


def test_a_skeleton_without_limbs_is_kept_for_seventeen_points():
    layout = read_layout({"kpt_shape": [17, 3], "skeleton": []}, 1, [])
    assert layout.limbs == () and read_layout(layout.as_keys(), 1, []).limbs == ()
    assert len(read_layout({"kpt_shape": [17, 3]}, 1, []).limbs) == 19


@pytest.mark.parametrize(
    "shape, sigmas", [((17, 3), COCO_SIGMAS), ((17, 2), (1 / 17,) * 17), ((2, 3), (0.5, 0.5)), ((5, 3), (0.2,) * 5)]
)
def test_sigmas_without_kpt_oks_sigmas(shape, sigmas):
    assert KeypointLayout(*shape).sigmas == sigmas


@pytest.mark.parametrize(
    "keys, text",
    [
        ({"flip_idx": [0, 1]}, r"flip_idx: \[0, 1\] is 2 indices; expected the 3 indices 0 to 2"),
        ({"flip_idx": [0, 0, 2]}, "flip_idx: .* is not each of 0 to 2 once"),
        ({"flip_idx": [1, 2, 3]}, "flip_idx: .* is not each of 0 to 2 once"),
        ({"flip_idx": "1 0 2"}, "flip_idx: '1 0 2' is not a list of whole numbers"),
        ({"flip_idx": [True, 0, 2]}, "flip_idx: .* is not a list of whole numbers"),
        ({"kpt_names": {0: ["a", "b"]}}, "kpt_names: .* a list of 3 names"),
        ({"kpt_names": {2: ["a", "b", "c"]}}, "kpt_names: .* 0 to 1"),
        ({"kpt_names": "abc"}, "kpt_names: "),
        ({"kpt_oks_sigmas": [0.1, 0.1]}, "kpt_oks_sigmas: .* expected 3 numbers above 0"),
        ({"kpt_oks_sigmas": [0.1, 0, 0.1]}, "kpt_oks_sigmas"),
        ({"kpt_oks_sigmas": [0.1, float("nan"), 0.1]}, "kpt_oks_sigmas"),
        ({"kpt_oks_sigmas": 0.1}, "kpt_oks_sigmas"),
        ({"kpt_oks_sigmas": [0.1, 1e-25, 0.1]}, r"kpt_oks_sigmas: .* above 0 \(1e-06 to 1e\+06\)"),
        ({"kpt_oks_sigmas": [0.1, 10**400, 0.1]}, "kpt_oks_sigmas"),
        ({"kpt_names": [["a", "b"], ["a", "b"], ["a", "b"]]}, r"kpt_names: \['a', 'b'\] is no name; .* `1: "),
        ({"kpt_names": ["a", False, "b"]}, r"kpt_names: False is no name; expected text \(put yes, no"),
        ({"kpt_names": ["a", None, "b"]}, "kpt_names: None is no name"),
        (
            {"skeleton": [[0, 1], [1, 3]]},
            r"skeleton: \[\[1, 3\]\]; .* index 0 to 2 or by name; COCO's files count from 1",
        ),
        ({"skeleton": [[0, "tail"]]}, "skeleton: .*tail"),
        ({"skeleton": [[0, 1, 2]]}, "skeleton"),
        ({"skeleton": 3}, r"skeleton: \[3\]"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(keys, text):
    (problem,) = problems_of(**keys)
    assert re.search(text, problem), problem
