"""Curves against slow loops and pycocotools; metrics against COCOeval."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.tasks import coco, curves
from bitfalcon_plugin.tasks.coco import coco_metrics
from bitfalcon_plugin.tasks.curves import ClassMatches, class_curves, gather_curves
from bitfalcon_plugin.tasks.metrics import Metrics
from tests.helpers.labels import detections_of
from tests.val.test_loop import NAMES, random_case, sample


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
    assert [row["Class"] for row in rows] == ["red", "green"] and rows[1]["Instances"] == metrics.classes[1].instances
    keys = ["Class", "Images", "Instances", "Box-P", "Box-R", "Box-F1", "mAP50", "mAP75", "mAP50-95"]
    assert list(rows[0]) == keys and metrics.summary(decimals=2)[0]["mAP50"] == round(float(metrics.box.ap50[0]), 2)
    box = metrics.box
    expected = zip(box.p, box.r, box.f1, box.ap50, box.all_ap[:, 5], box.ap)
    np.testing.assert_allclose([[row[key] for key in keys[3:]] for row in rows], list(expected), atol=1e-5)
    assert str(metrics) == metrics.table() and metrics
    assert json.loads(metrics.to_json()) == rows
    assert [row["mAP50"] for row in csv.DictReader(io.StringIO(metrics.to_csv()))] == [
        str(row["mAP50"]) for row in rows
    ]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        metrics.to_df()


def test_metrics_as_a_frame(metrics):
    pytest.importorskip("pandas", reason="pandas is not installed")
    assert metrics.to_df()["mAP50"].tolist() == [row["mAP50"] for row in metrics.summary()]


def test_metrics_of_nothing_are_small_and_zero():
    empty = coco_metrics([sample(None, (100, 100), [])], detections_of([[0, 1, 1, 5, 5, 0.5, 0]]), NAMES)
    assert empty.box.map == empty.box.mp == empty.fitness == 0 and empty.maps.tolist() == [0, 0, 0]
    assert empty.lines.envelope.shape == (0, 1000) and empty.summary() == []
    assert empty.confusion_matrix.matrix[0, 3] == 1 and empty.confusion_matrix.matrix.sum() == 1
