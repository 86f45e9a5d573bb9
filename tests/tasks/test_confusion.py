"""The confusion matrix against a slow loop and torchvision, and cases made by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks.coco import coco_metrics
from bitfalcon_plugin.tasks.confusion import confusion_matrix
from tests.helpers.labels import detections_of
from tests.val.test_loop import NAMES, random_case


def matrix_of(labels, detections, nc=2, **options):
    """labels: (class, x1, y1, x2, y2) of one image; detections: (class, score, x1, y1, x2, y2)."""
    truth = truth_of([row[1:] for row in labels], [row[0] for row in labels])
    rows = [[0, x1, y1, x2 - x1, y2 - y1, score, cls] for cls, score, x1, y1, x2, y2 in detections]
    names = dict(enumerate("abcdef"[:nc]))
    return confusion_matrix([truth], detections_of(rows), names, **options).matrix.tolist()


def truth_of(boxes, classes) -> Instances:
    """The labels of one image: boxes (n, 4) xyxy in pixels, and their classes."""
    return Instances(torch.tensor(boxes, dtype=torch.float32).view(-1, 4), torch.tensor(classes, dtype=torch.int64))


BOX, FAR = (10, 10, 50, 50), (60, 60, 90, 90)


@pytest.mark.parametrize(
    "labels, detections, expected",
    [
        ([(0, *BOX)], [(0, 0.9, *BOX)], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),  # found
        ([(0, *BOX)], [(1, 0.9, *BOX)], [[0, 0, 0], [1, 0, 0], [0, 0, 0]]),  # taken for b
        ([(0, *BOX)], [], [[0, 0, 0], [0, 0, 0], [1, 0, 0]]),  # missed
        ([], [(1, 0.9, *BOX)], [[0, 0, 0], [0, 0, 1], [0, 0, 0]]),  # nothing is there
        ([(0, *BOX)], [(0, 0.9, *FAR)], [[0, 0, 1], [0, 0, 0], [1, 0, 0]]),  # elsewhere: missed, and a false one
        ([(0, *BOX)], [(0, 0.25, *BOX)], [[0, 0, 0], [0, 0, 0], [1, 0, 0]]),  # the score must exceed 0.25
        ([(0, *BOX)], [(0, 0.9, *BOX), (0, 0.8, *BOX)], [[1, 0, 1], [0, 0, 0], [0, 0, 0]]),  # found twice
        (
            [(0, *BOX)],
            [(1, 0.3, *BOX), (0, 0.8, *BOX)],
            [[1, 0, 0], [0, 0, 1], [0, 0, 0]],
        ),  # equal overlap: the surer one
        (
            [(0, *BOX)],
            [(1, 0.9, 10, 10, 50, 40), (0, 0.3, *BOX)],
            [[1, 0, 0], [0, 0, 1], [0, 0, 0]],
        ),  # overlap before score
        (
            [(0, *BOX), (1, 12, 10, 52, 50)],
            [(1, 0.9, *BOX), (0, 0.9, 12, 10, 52, 50)],
            [[0, 1, 0], [1, 0, 0], [0, 0, 0]],
        ),
        ([(0, 0, 0, 20, 10)], [(0, 0.9, 0, 0, 9, 10)], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),  # IoU 0.45
        ([(0, 0, 0, 20, 10)], [(0, 0.9, 0, 0, 8.9, 10)], [[0, 0, 1], [0, 0, 0], [1, 0, 0]]),  # IoU 0.445
    ],
)
def test_cases_made_by_hand(labels, detections, expected):
    assert matrix_of(labels, detections) == expected


def test_thresholds_can_be_given():
    labels, detections = [(0, *BOX)], [(0, 0.2, 10, 10, 50, 30)]
    assert matrix_of(labels, detections, 1, conf=0.1, iou=0.4) == [[1, 0], [0, 0]]
    assert matrix_of(labels, detections, 1, conf=0.1, iou=0.6) == [[0, 1], [1, 0]]
    assert matrix_of([(0, 5, 5, 5, 5)], [(0, 0.9, 5, 5, 5, 5)], 1) == [
        [0, 1],
        [1, 0],
    ]  # boxes of no area overlap nothing


def slow_matrix(samples, detections, nc):
    """Image by image: of all pairs that are left take the best one, until none overlaps enough."""
    matrix = np.zeros((nc + 1, nc + 1), int)
    for image, own in enumerate(samples):
        rows = [row for row in detections if row[0] == image and row[5] > 0.25]
        boxes = torch.tensor([[r[1], r[2], r[1] + r[3], r[2] + r[4]] for r in rows], dtype=torch.float64).view(-1, 4)
        overlap = box_iou(boxes, own.pixel_labels().boxes.double())
        left, there = set(range(len(rows))), set(range(len(own.labels)))
        while left and there:
            value, _, i, j = max((overlap[i, j].item(), rows[i][5], -i, -j) for i in left for j in there)
            if value < 0.45:
                break
            left.remove(-i)
            there.remove(-j)
            matrix[int(rows[-i][6]), own.labels.classes[-j]] += 1
        for i in left:
            matrix[int(rows[i][6]), nc] += 1
        for j in there:
            matrix[nc, own.labels.classes[j]] += 1
    return matrix


@pytest.mark.parametrize("seed", range(6))
def test_random_cases_as_the_slow_loop_counts_them(seed):
    samples, detections = random_case(seed)
    found = coco_metrics(samples, detections_of(detections), NAMES).confusion_matrix
    assert np.array_equal(found.matrix, slow_matrix(samples, detections, 3))
    labels = sum(len(own.labels) for own in samples)
    assert found.matrix[:, :3].sum() == labels and found.matrix[:3].sum() == (detections[:, 5] > 0.25).sum()


def test_shares_and_rows_of_the_matrix():
    truth = truth_of([BOX, FAR], [0, 0])
    found = confusion_matrix([truth], detections_of([[0, 10, 10, 40, 40, 0.9, 1]]), {0: "a", 1: "b"})
    assert found.matrix.tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert found.normalized().tolist() == [[0, 0, 0], [0.5, 0, 0], [0.5, 0, 0]]
    assert found.summary()[1] == {"predicted": "b", "a": 1, "b": 0, "background": 0}
    assert found.summary(normalize=True)[2] == {"predicted": "background", "a": 0.5, "b": 0.0, "background": 0.0}
    assert json.loads(found.to_json(normalize=True)) == found.summary(normalize=True)
    assert found.to_csv().splitlines()[:2] == ["predicted,a,b,background", "a,0,0,0"]


def test_a_matrix_is_drawn_with_other_names(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "bitfalcon_plugin.plots.charts.draw_confusion", lambda target, matrix, names: drawn.append(names) or target
    )
    matrix = confusion_matrix([], detections_of(np.zeros((0, 7))), {0: "a", 1: "b"})
    for names in ((), ["x", "y"], {1: "y"}, ["x"]):
        assert matrix.plot(save_dir=tmp_path, names=names) == tmp_path / "confusion_matrix_normalized.png"
    assert drawn == [["a", "b"], ["x", "y"], ["a", "y"], ["x", "b"]]
