"""AP on the letterboxed input against recorded numbers, and against counting by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks.letterbox_ap import THRESHOLDS, average_precision, match_by_score
from tests.helpers.paths import RECORDED

CASES = json.loads((RECORDED / "letterbox_ap.json").read_text())


def truths_of(rows) -> Instances:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return Instances(table[:, :4], table[:, 4].long())


def detections_of(rows) -> Instances:
    return Instances.from_rows(torch.tensor(rows, dtype=torch.float32).reshape(-1, 6))


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_the_recorded_ones(case):
    truths = [truths_of(image["gt"]) for image in case["images"]]
    detections = [detections_of(image["pred"]) for image in case["images"]]
    hits = torch.cat([match_by_score(*pair) for pair in zip(detections, truths, strict=True)]).numpy()
    every, labels = Instances.cat(detections), Instances.cat(truths).classes
    scores, classes = every.scores.numpy(), every.classes.numpy()
    rows = []
    for index in labels.unique().tolist():
        of_class = classes == index
        rows.append(average_precision(scores[of_class], hits[of_class], int((labels == index).sum())))
    assert np.mean(rows, axis=0)[0] == pytest.approx(case["mAP50"], abs=1e-6)
    assert np.mean(rows) == pytest.approx(case["mAP50-95"], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_each_detection_takes_the_best_label_that_is_left(seed):
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(6, 2, generator=random) * 40
    truths = Instances(torch.cat((corners, corners + 30), 1), torch.randint(2, (6,), generator=random))
    boxes = truths.boxes[torch.randint(6, (15,), generator=random)] + torch.randn(15, 4, generator=random) * 4
    found = Instances(boxes, torch.randint(2, (15,), generator=random), torch.rand(15, generator=random))
    overlaps = box_iou(found.boxes, truths.boxes)
    expected = np.zeros((15, 10), bool)
    for column, threshold in enumerate(THRESHOLDS):
        free = set(range(6))
        for row in np.argsort(-found.scores.numpy()):
            of_class = [label for label in free if truths.classes[label] == found.classes[row]]
            best = max(of_class, key=lambda label: overlaps[row, label], default=None)
            if best is not None and overlaps[row, best] >= threshold:
                free.remove(best)
                expected[row, column] = True
    assert np.array_equal(match_by_score(found, truths).numpy(), expected)


def test_nothing_found_is_zero_and_everything_found_is_nearly_one():
    assert average_precision(np.zeros(0), np.zeros((0, 10), bool), 3).tolist() == [0.0] * 10
    # The curve ends in 0 at the last recall, so the last of the hundred strips counts half.
    assert average_precision(np.array([0.9, 0.8]), np.ones((2, 10), bool), 2) == pytest.approx(np.full(10, 0.995))
    assert match_by_score(detections_of([]), truths_of([])).shape == (0, 10)
    assert not match_by_score(detections_of([[0, 0, 9, 9, 0.5, 0]]), truths_of([])).any()
