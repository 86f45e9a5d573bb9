"""The metrics object: every attribute of the specification's section 10, pickled, and the printed table."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from bitfalcon_plugin.tasks.coco import coco_metrics
from bitfalcon_plugin.tasks.metrics import STATS, BoxMetrics, Metrics
from tests.helpers.labels import detections_of
from tests.val.test_loop import NAMES, random_case, sample

SECTION_10 = (
    "results_dict",
    "box",
    "keys",
    "fitness",
    "maps",
    "ap_class_index",
    "names",
    "speed",
    "save_dir",
    "confusion_matrix",
    "curves",
    "curves_results",
    "class_result",
    "mean_results",
    "summary",
    "to_csv",
    "to_json",
    "to_df",
)
BOX = ("p", "r", "f1", "all_ap", "map", "map50", "map75", "mp", "mr", "maps", "ap", "ap50", "ap_class_index")


@pytest.fixture
def metrics(tmp_path) -> Metrics:
    samples, detections = random_case(1)
    speed = dict.fromkeys(("preprocess", "inference", "loss", "postprocess"), 1.5)
    return replace(coco_metrics(samples, detections_of(detections), NAMES), save_dir=tmp_path, speed=speed, conf=0.001)


def test_every_attribute_is_there_and_survives_pickling(metrics, tmp_path):
    again = pickle.loads(pickle.dumps(metrics))
    for name in SECTION_10:
        assert hasattr(again, name), name
    for name in BOX:
        np.testing.assert_array_equal(getattr(again.box, name), getattr(metrics.box, name))
    assert all(hasattr(again.confusion_matrix, name) for name in ("matrix", "names", "plot", "summary"))
    assert again.results_dict == metrics.results_dict and again.save_dir == tmp_path and again.speed == metrics.speed
    assert again.summary() == metrics.summary()
    assert again.to_csv() == metrics.to_csv()
    assert again.table() == metrics.table()


def test_numbers_of_the_boxes_are_those_of_the_whole(metrics):
    assert metrics.box.mean_results() == pytest.approx(metrics.mean_results(), nan_ok=True)
    for i in range(len(metrics.ap_class_index)):
        assert metrics.box.class_result(i) == pytest.approx(metrics.class_result(i))


def test_shapes_that_scripts_read(metrics):
    box, count, nc = metrics.box, len(metrics.classes), len(NAMES)
    assert count < nc  # a class has no labels
    assert all(getattr(box, name).shape == (count,) for name in ("p", "r", "f1", "ap", "ap50"))
    assert box.maps.shape == metrics.maps.shape == (nc,) and box.ap_class_index.dtype.kind == "i"
    without = next(index for index in range(nc) if index not in box.ap_class_index)
    assert box.maps[without] == pytest.approx(box.map) and box.map75 == pytest.approx(box.all_ap[:, 5].mean())
    assert box.class_result(0) == pytest.approx((box.p[0], box.r[0], box.ap50[0], box.ap[0]))
    assert (
        metrics.keys == [key for key in metrics.results_dict if key != "fitness"] and len(metrics.mean_results()) == 4
    )
    assert metrics.get("metrics/mAP50(B)") == metrics.results_dict["metrics/mAP50(B)"] and metrics.get("x", 3) == 3
    assert len(metrics.curves) == len(metrics.curves_results) == 4
    for x, y, across, up in metrics.curves_results:
        assert x.shape == (1000,) and y.shape == (count, 1000) and {type(across), type(up)} == {str}
    matrix = metrics.confusion_matrix
    assert matrix.matrix.shape == (nc + 1, nc + 1)
    true, false = matrix.tp_fp()
    assert (
        true.tolist() == [matrix.matrix[i, i] for i in range(nc)] and (true + false == matrix.matrix[:-1].sum(1)).all()
    )


def test_a_matrix_is_printed(metrics, capsys):
    metrics.confusion_matrix.print()
    printed = [[int(word) for word in line.split()] for line in capsys.readouterr().out.splitlines()]
    assert printed == metrics.confusion_matrix.matrix.tolist()


def test_the_best_confidence_is_where_the_curves_are_marked(metrics):
    boxes = [(k % 2, 30 * k, 0, 30 * k + 20, 20) for k in range(10)]
    rows = [[0, 30 * k, 0, 20, 20, 0.95 - k / 25, k % 2] for k in range(10)]  # right, from 0.95 to 0.59
    rows += [[0, 30 * k, 100, 20, 20, 0.4 - k / 100, k % 2] for k in range(10)]  # wrong, from 0.4 down
    found = replace(coco_metrics([sample(None, (400, 400), boxes)], detections_of(rows), NAMES), conf=0.001)
    assert 0.4 < found.best_conf < 0.65 and found.best_conf == pytest.approx(found.lines.best / 999)
    for one in (found, metrics):
        np.testing.assert_allclose(one.box.f1, one.lines.f1[:, one.lines.best], rtol=1e-5)
        records = one.summary(decimals=15)
        np.testing.assert_allclose([record["Box-F1"] for record in records], one.box.f1, rtol=1e-12)


def test_the_best_confidence_is_none_that_was_not_measured():
    box = (0, 10, 10, 60, 60)
    numbers = coco_metrics([sample(None, (100, 100), [box])], detections_of([[0, 10, 10, 50, 50, 0.9, 0]]), NAMES)
    assert numbers.lines.best == 0  # nothing is lost down there: every confidence below 0.9 is as good
    assert replace(numbers, conf=0.25).best_conf == 0.25 and numbers.best_conf == 0


def test_f1_of_a_class_without_detections_is_zero():
    box = BoxMetrics(np.array([0.0, 0.5]), np.array([0.0, 1.0]), np.zeros((2, 10)), np.arange(2), 2)
    assert box.f1[0] == 0 and box.f1[1] == pytest.approx(2 / 3) and box.mf1 == pytest.approx(1 / 3)


def test_without_labels_every_mean_is_zero():
    box = BoxMetrics(np.zeros(0), np.zeros(0), np.zeros((0, 10)), np.zeros(0, np.int64), 3)
    assert box.mean_results() == [0.0] * 4 and box.map75 == 0.0 and box.maps.tolist() == [0.0] * 3


def test_the_table_says_all_of_it(metrics):
    lines = metrics.table().splitlines()
    assert lines[0].split() == ["Class", "Images", "Instances", "P", "R", "F1", "AP50", "AP50-95"]
    means = [metrics.precision, metrics.recall, metrics.box.f1.mean(), metrics.ap50, metrics.ap]
    assert lines[1].split() == ["all", "12", str(metrics.instances), *(f"{value:.3f}" for value in means)]
    for line, row, values in zip(
        lines[2:4],
        metrics.classes,
        zip(*(getattr(metrics.box, k) for k in ("p", "r", "f1", "ap50", "ap"))),
        strict=True,
    ):
        assert line.split() == [row.name, str(row.images), str(row.instances), *(f"{value:.3f}" for value in values)]
    assert f"confidence {metrics.best_conf:.3f}" in lines[4]
    assert all(f"{name} {metrics.stats[name]:.3f}" in lines[5] for name in STATS[:6]) and len(lines) == 6
    short = metrics.table(verbose=False).splitlines()
    assert short == [lines[0], lines[1], *lines[4:]]


def test_the_table_of_nothing_names_no_confidence():
    empty = coco_metrics([sample(None, (100, 100), [])], detections_of(np.zeros((0, 7))), NAMES)
    assert "confidence" not in empty.table() and "AP nan" in empty.table()
    assert replace(empty, conf=0.3).best_conf == 0.3
