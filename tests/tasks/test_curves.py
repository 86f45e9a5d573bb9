"""Curves and the confusion matrix against slow loops, torchvision and pycocotools; metrics against COCOeval."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks import coco, curves
from bitfalcon_plugin.tasks.coco import coco_metrics
from bitfalcon_plugin.tasks.curves import ClassMatches, class_curves, confusion_matrix, gather_curves
from bitfalcon_plugin.tasks.metrics import Metrics
from tests.helpers.labels import detections_of
from tests.val.test_loop import NAMES, random_case, sample


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


@pytest.mark.parametrize("seed", range(3))
def test_curves_of_a_class_as_a_slow_loop_draws_them(seed):
    draw = np.random.RandomState(seed)
    scores, hits, truths = draw.rand(40).round(2), draw.rand(40) < 0.5, 30
    precision, recall, envelope = class_curves(ClassMatches(scores, hits, truths))
    order = sorted(range(40), key=lambda i: -scores[i])
    true, prefix = 0, []
    for count, i in enumerate(order, 1):
        true += hits[i]
        prefix.append((scores[i], true / count, true / truths))
    for place, x in enumerate(np.linspace(0, 1, 1000)):
        assert envelope[place] == pytest.approx(max((p for _, p, r in prefix if r >= x), default=0), abs=1e-12)
        above = [r for score, _, r in prefix if score > x]
        reached = [r for score, _, r in prefix if score < x]
        assert max(above, default=0) - 1e-12 <= recall[place] <= min(reached, default=true / truths) + 1e-12
    assert (np.diff(recall) <= 0).all() and precision[-1] == 1 and precision[0] == pytest.approx(hits.mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_envelope_and_the_arrays_are_those_of_cocoeval(monkeypatch, seed):
    samples, detections = random_case(seed)
    kept = {}
    found = coco_metrics(samples, detections_of(detections), NAMES)
    monkeypatch.setattr(curves, "POINTS", 101)  # COCO's recalls
    own = coco._matches
    monkeypatch.setattr(
        coco, "_matches", lambda evaluation, classes: kept.update(e=evaluation) or own(evaluation, classes)
    )
    lines = coco_metrics(samples, detections_of(detections), NAMES).lines
    precision = kept["e"].eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class)
    assert lines.classes.tolist() == [0, 1]  # blue has no labels
    for row, index in enumerate(lines.classes):
        np.testing.assert_allclose(lines.envelope[row], precision[0, :, index], atol=1e-6)  # kept in float32
    box, stats = found.box, found.stats
    assert (box.map, box.map50, box.map75) == pytest.approx((stats["AP"], stats["AP50"], stats["AP75"]), abs=1e-12)
    assert box.all_ap.shape == (2, 10)
    np.testing.assert_allclose(box.all_ap, precision[:, :, :2].mean(1).T, atol=1e-12)
    np.testing.assert_allclose(box.maps, [*box.all_ap.mean(1), box.map], atol=1e-12)


def test_the_common_confidence_is_where_the_smoothed_mean_f1_is_best():
    draw = np.random.RandomState(5)
    found = {}
    for index in (4, 1, 7):
        scores = draw.rand(60)
        found[index] = ClassMatches(scores, draw.rand(60) < scores, 45)
    lines, precision, recall = gather_curves(found)
    rows = [class_curves(found[index]) for index in (1, 4, 7)]
    mean = np.mean([2 * p * r / (p + r + 1e-16) for p, r, _ in rows], axis=0)
    smooth = [np.mean([mean[min(max(k, 0), 999)] for k in range(i - 51, i + 52)]) for i in range(1000)]
    assert lines.best == int(np.argmax(smooth)) and lines.classes.tolist() == [1, 4, 7]
    assert precision.tolist() == [p[lines.best] for p, _, _ in rows]
    assert recall.tolist() == [r[lines.best] for _, r, _ in rows]
    np.testing.assert_allclose(lines.f1.mean(0), mean, atol=1e-6)


@pytest.fixture
def metrics(tmp_path) -> Metrics:
    samples, detections = random_case(1)
    return replace(coco_metrics(samples, detections_of(detections), NAMES), save_dir=tmp_path)


def test_what_scripts_read_of_metrics(metrics):
    assert metrics.keys == list(metrics.results_dict)[:4]
    assert metrics.mean_results() == list(metrics.results_dict.values())[:4]
    box = metrics.box
    assert metrics.class_result(1) == (box.p[1], box.r[1], box.ap50[1], pytest.approx(box.ap[1]))
    assert metrics.ap_class_index.tolist() == [0, 1] and metrics.maps.shape == (3,) and metrics.names == NAMES
    assert metrics.box.mp == pytest.approx(metrics.precision) and metrics.box.mr == pytest.approx(metrics.recall)
    assert box.map == pytest.approx(metrics.ap) and metrics.fitness == pytest.approx(0.1 * box.map50 + 0.9 * box.map)
    assert len(metrics.curves) == len(metrics.curves_results) == 4
    for x, y, across, up in metrics.curves_results:
        assert x.shape == (1000,)
        assert y.shape == (2, 1000)
        assert {across, up} < {"Recall", "Precision", "Confidence", "F1"}
    f1 = 2 * metrics.box.p * metrics.box.r / (metrics.box.p + metrics.box.r)
    np.testing.assert_allclose(metrics.box.f1, f1)


def test_metrics_as_text(metrics, monkeypatch):
    rows = metrics.summary()
    assert [row["name"] for row in rows] == ["red", "green"] and rows[1]["instances"] == metrics.classes[1].instances
    assert json.loads(metrics.to_json()) == rows
    assert [row["ap50"] for row in csv.DictReader(io.StringIO(metrics.to_csv()))] == [str(row["ap50"]) for row in rows]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        metrics.to_df()


def test_metrics_as_a_frame(metrics):
    pytest.importorskip("pandas", reason="pandas is not installed")
    assert metrics.to_df()["ap"].tolist() == [row["ap"] for row in metrics.summary()]


def test_metrics_of_nothing_are_small_and_zero():
    empty = coco_metrics([sample(None, (100, 100), [])], detections_of([[0, 1, 1, 5, 5, 0.5, 0]]), NAMES)
    assert empty.box.map == empty.box.mp == empty.fitness == 0 and empty.maps.tolist() == [0, 0, 0]
    assert empty.lines.envelope.shape == (0, 1000) and empty.summary() == []
    assert empty.confusion_matrix.matrix[0, 3] == 1 and empty.confusion_matrix.matrix.sum() == 1


def test_a_matrix_is_drawn_with_other_names(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "bitfalcon_plugin.plots.charts.draw_confusion", lambda target, matrix, names: drawn.append(names) or target
    )
    matrix = confusion_matrix([], detections_of(np.zeros((0, 7))), {0: "a", 1: "b"})
    for names in ((), ["x", "y"], {1: "y"}, ["x"]):
        assert matrix.plot(save_dir=tmp_path, names=names) == tmp_path / "confusion_matrix_normalized.png"
    assert drawn == [["a", "b"], ["x", "y"], ["a", "y"], ["x", "b"]]
