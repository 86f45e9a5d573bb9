"""OKS against recorded numbers and against pycocotools."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
from pycocotools.cocoeval import COCOeval

from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks.oks import keypoint_similarity, similarity_of
from tests.helpers.paths import RECORDED

CASES = json.loads(gzip.decompress((RECORDED / "pose.json.gz").read_bytes()))["keypoints"]["oks"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_the_recorded_numbers(case):
    truth, points = torch.tensor(case["gt_x_y_v"]), torch.tensor(case["pred_x_y"])
    found = keypoint_similarity(truth, points, torch.tensor(case["area"]), case["sigmas"])
    expected = torch.tensor(case["oks_gt_by_pred"]).view(found.shape)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_similarity_is_that_of_pycocotools():
    random = np.random.default_rng(0)
    truth, points = random.random((3, 4, 3)) * 100, random.random((5, 4, 3)) * 100
    truth[..., 2] = random.integers(0, 3, (3, 4))
    truth[:, 0, 2], sigmas = 2, np.array([0.1, 0.5, 1.0, 0.3])
    boxes = torch.tensor([[0.0, 0, 60, 50], [10, 20, 90, 100], [5, 5, 45, 95]])
    labels = Instances(boxes, torch.zeros(3).long(), keypoints=torch.from_numpy(truth))
    found = Instances(torch.zeros(5, 4), torch.zeros(5).long(), torch.rand(5), keypoints=torch.from_numpy(points))
    evaluation = COCOeval(iouType="keypoints")
    evaluation.params.imgIds, evaluation.params.kpt_oks_sigmas = [0], sigmas
    area = 0.53 * (boxes[:, 2:] - boxes[:, :2]).prod(1)
    evaluation._gts[0, 0] = [
        {"keypoints": row.flatten().tolist(), "area": float(size), "bbox": [0, 0, 1, 1]}
        for row, size in zip(truth, area)
    ]
    evaluation._dts[0, 0] = [{"keypoints": row.flatten().tolist(), "score": -at} for at, row in enumerate(points)]
    np.testing.assert_allclose(similarity_of(found, labels, sigmas), evaluation.computeOks(0, 0), atol=1e-6)


def test_objects_without_keypoints_are_similar_to_nothing():
    nothing = Instances.empty()
    labels = Instances(torch.zeros(2, 4), torch.zeros(2).long(), keypoints=torch.zeros(2, 3, 3))
    assert similarity_of(nothing, labels, (1, 1, 1)).shape == (0, 2)
    assert similarity_of(labels, nothing, (1, 1, 1)).shape == (2, 0)
    assert torch.equal(similarity_of(labels, labels, (1, 1, 1)), torch.zeros(2, 2).double())
