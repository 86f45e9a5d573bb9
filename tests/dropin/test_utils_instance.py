"""Objects of one image against torchvision's conversions and against doing the same to single points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_area, box_convert

from bitfalcon_plugin.dropin.utils.instance import Bboxes, Instances, equal_lengths

TORCHVISION = {"xyxy": "xyxy", "xywh": "cxcywh", "ltwh": "xywh"}


def boxes(count: int = 5, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    low = random.uniform(0, 60, (count, 2))
    return np.concatenate([low, low + random.uniform(5, 40, (count, 2))], 1).astype(np.float32)


def objects(normalized: bool = False, form: str = "xyxy") -> Instances:
    corners = boxes() / (100 if normalized else 1)
    values = box_convert(torch.from_numpy(corners), "xyxy", TORCHVISION[form]).numpy()
    segments = [corners[row, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)[: 3 + row % 2] for row in range(5)]
    keypoints = np.concatenate([corners.reshape(5, 2, 2), np.full((5, 2, 1), 2, np.float32)], -1)
    return Instances(values, segments, keypoints, form, normalized)


def corners_of(instances: Instances) -> np.ndarray:
    values = torch.from_numpy(np.asarray(instances.bboxes, np.float32))
    return box_convert(values, TORCHVISION[instances._bboxes.format], "xyxy").numpy()


@pytest.mark.parametrize("source", TORCHVISION)
@pytest.mark.parametrize("target", TORCHVISION)
def test_formats_are_those_of_torchvision(source, target):
    values = box_convert(torch.from_numpy(boxes()), "xyxy", TORCHVISION[source])
    ours = Bboxes(values.numpy(), source)
    np.testing.assert_allclose(ours.areas(), box_area(torch.from_numpy(boxes())).numpy(), rtol=1e-4)
    ours.convert(target)
    expected = box_convert(values, TORCHVISION[source], TORCHVISION[target]).numpy()
    np.testing.assert_allclose(ours.bboxes, expected, atol=1e-4)


@pytest.mark.parametrize("form", TORCHVISION)
def test_everything_moves_like_its_points(form):
    instances, before = objects(form=form), objects()
    instances.scale(2.0, 0.5)
    instances.add_padding(7, 3)
    move = np.array([2.0, 0.5]), np.array([7.0, 3.0])
    np.testing.assert_allclose(
        corners_of(instances), (boxes().reshape(-1, 2, 2) * move[0] + move[1]).reshape(-1, 4), rtol=1e-5
    )
    np.testing.assert_allclose(instances.segments, before.segments * move[0] + move[1], rtol=1e-5)
    np.testing.assert_allclose(instances.keypoints[..., :2], before.keypoints[..., :2] * move[0] + move[1], rtol=1e-5)
    assert (instances.keypoints[..., 2] == 2).all()


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("form", TORCHVISION)
def test_flips_mirror_boxes_outlines_and_points(form, normalized):
    instances, before, side = objects(normalized, form), objects(normalized), 1 if normalized else 100
    instances.fliplr(100)
    instances.flipud(100)
    corners = corners_of(before)
    np.testing.assert_allclose(corners_of(instances), side - corners[:, [2, 3, 0, 1]], atol=1e-4)
    np.testing.assert_allclose(instances.segments, side - before.segments, atol=1e-4)
    np.testing.assert_allclose(instances.keypoints[..., :2], side - before.keypoints[..., :2], atol=1e-4)


def test_clipping_hides_keypoints_outside_and_leaves_boxes_without_area_to_be_removed():
    instances = objects()
    instances.add_padding(-60, 0)
    x = instances.keypoints[..., 0].copy()
    instances.clip(100, 50)
    assert ((instances.keypoints[..., 2] == 0) >= (x < 0)).all() and (x < 0).any()
    assert instances.bboxes.min() >= 0 and instances.bboxes[:, 2].max() <= 100 and instances.bboxes[:, 3].max() <= 50
    areas = box_area(torch.from_numpy(instances.bboxes)).numpy()
    kept = instances.remove_zero_area_boxes()
    assert np.array_equal(kept, areas > 0) and len(instances) == kept.sum() < 5
    assert len(instances.segments) == len(instances.keypoints) == len(instances)


def test_shares_become_pixels_and_back():
    instances = objects(normalized=True, form="xywh")
    start = instances.bboxes.copy()
    instances.denormalize(200, 50)
    assert not instances.normalized
    np.testing.assert_allclose(instances.bboxes, start * [200, 50, 200, 50], rtol=1e-5)
    instances.normalize(200, 50)
    np.testing.assert_allclose(instances.bboxes, start, rtol=1e-5)
    with pytest.raises(AssertionError, match="denormalize"):
        instances.add_padding(1, 1)


@pytest.mark.parametrize("index", [0, slice(1, 4), np.array([True, False, True, False, False]), [4, 2]])
def test_a_choice_takes_all_fields(index):
    instances = objects()[index]
    expected = boxes()[[index]] if isinstance(index, int) else boxes()[index]
    assert np.array_equal(instances.bboxes, expected)
    assert len(instances) == len(instances.segments) == len(instances.keypoints)


def test_objects_with_and_without_outlines_are_put_together():
    bare = Instances(boxes(2, 1), bbox_format="xyxy", normalized=False)
    assert not len(bare.segments) and bare.keypoints is None
    joined = Instances.concatenate([objects(), bare])
    assert joined.segments.shape == (7, 4, 2) and joined.keypoints is None and len(joined) == 7
    assert np.array_equal(joined.segments[5], boxes(2, 1)[0, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2))
    with pytest.raises(ValueError, match="pixels and others in shares"):
        Instances.concatenate([objects(), objects(normalized=True)])
    assert len(Instances.concatenate([])) == 0


def test_a_shorter_ring_repeats_its_last_point():
    rings = equal_lengths([np.arange(6).reshape(3, 2), np.arange(10).reshape(5, 2)])
    assert rings.shape == (2, 5, 2) and (rings[0, 3:] == [4, 5]).all()
