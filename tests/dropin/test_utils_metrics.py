"""Overlaps and metrics of dropin.utils.metrics, compared with torchvision, recorded numbers and slow loops."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
import torchvision.ops as reference

from bitfalcon_plugin.dropin.utils import metrics
from tests.helpers.paths import RECORDED


def boxes(count: int, seed: int = 0) -> torch.Tensor:
    points = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * 100
    return torch.cat([points.amin(1), points.amax(1) + 1], 1)


def test_overlap_of_boxes_is_that_of_torchvision():
    first, second = boxes(6), boxes(9, 1)
    expected = reference.box_iou(first, second)
    torch.testing.assert_close(metrics.box_iou(first, second), expected)
    torch.testing.assert_close(metrics.box_iou(first.numpy(), second.numpy()), expected)
    assert metrics.box_iou(first[:0], second).shape == (0, 9)
    np.testing.assert_allclose(metrics.bbox_ioa(first.numpy(), second.numpy(), iou=True), expected.numpy(), atol=1e-5)
    area = reference.box_area(second)
    shared = expected * (reference.box_area(first)[:, None] + area) / (1 + expected)
    np.testing.assert_allclose(metrics.bbox_ioa(first.numpy(), second.numpy()), (shared / area).numpy(), atol=1e-5)


LOSSES = {
    "GIoU": reference.generalized_box_iou_loss,
    "DIoU": reference.distance_box_iou_loss,
    "CIoU": reference.complete_box_iou_loss,
}


@pytest.mark.parametrize("kind", ["", *LOSSES])
@pytest.mark.parametrize("xywh", [False, True])
def test_kinds_of_overlap_are_those_of_torchvision(kind, xywh):
    first, second = boxes(20), boxes(20, 1)
    expected = 1 - LOSSES[kind](first, second) if kind else reference.box_iou(first, second).diagonal()
    if xywh:
        first, second = (reference.box_convert(part, "xyxy", "cxcywh") for part in (first, second))
    found = metrics.bbox_iou(first, second, xywh=xywh, **({kind: True} if kind else {}))
    assert found.shape == (20, 1)
    torch.testing.assert_close(found[:, 0], expected, atol=1e-5, rtol=1e-5)


def test_overlap_broadcasts():
    one, two = boxes(1), boxes(2, 1)
    assert metrics.bbox_iou(one, two).shape == (2, 1)
    torch.testing.assert_close(metrics.bbox_iou(one, two, xywh=False)[:, 0], reference.box_iou(one, two)[0])
    assert metrics.bbox_iou(torch.rand(3, 1, 4), torch.rand(5, 4)).shape == (3, 5, 1)


def test_overlap_of_masks():
    first, second = (torch.rand(3, 50) > 0.5), (torch.rand(4, 50) > 0.3)
    found = metrics.mask_iou(first, second)
    for row in range(3):
        for column in range(4):
            shared, union = (first[row] & second[column]).sum(), (first[row] | second[column]).sum()
            assert float(found[row, column]) == pytest.approx(float(shared / union), abs=1e-5)


def test_similarity_of_points_as_recorded():
    recorded = json.loads(gzip.decompress((RECORDED / "pose.json.gz").read_bytes()))["keypoints"]["oks"]
    for case in recorded:
        truth, predicted = torch.tensor(case["gt_x_y_v"]), torch.tensor(case["pred_x_y"])
        found = metrics.kpt_iou(truth, predicted, torch.tensor(case["area"]).float(), case["sigmas"])
        expected = torch.tensor(case["oks_gt_by_pred"]).reshape(found.shape)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert metrics.OKS_SIGMA.dtype == np.float32 and np.allclose(metrics.OKS_SIGMA, recorded[0]["sigmas"])


def test_smoothing():
    values = np.random.default_rng(0).random(1000)
    found = metrics.smooth(values, 0.05)
    half = 25
    slow = [
        np.mean([values[min(max(index + step, 0), 999)] for step in range(-half, half + 1)]) for index in range(1000)
    ]
    np.testing.assert_allclose(found, slow)
    assert len(metrics.smooth(values[:7])) == 7 and metrics.smooth_bce(0.1) == (0.95, 0.05)


def slow_ap(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area below the best precision at a recall or a higher one: between points in a line, 0 behind the last."""
    heights = []
    xs, ys = [0.0, *recall, recall[-1], 1.0], [1.0, *precision, 0.0, 0.0]
    best = [max(ys[index:]) for index in range(len(ys))]
    for x in np.linspace(0, 1, 101):
        left = max(index for index in range(len(xs)) if xs[index] <= x)
        right = min(left + 1, len(xs) - 1)
        span = xs[right] - xs[left]
        heights.append(best[left] + (best[right] - best[left]) * ((x - xs[left]) / span if span else 0))
    return sum((a + b) / 2 for a, b in zip(heights, heights[1:])) / 100


def detections(seed=0, images=40, nc=3):
    """tp (n, 10), conf, pred_cls, target_cls of random detections of which some hit."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, nc, images)
    count = 70
    predicted, conf = rng.integers(0, nc, count), rng.random(count)
    quality = rng.random(count)
    tp = np.zeros((count, 10), bool)
    for label in range(nc):
        free = int((target == label).sum())
        for row in np.argsort(-conf):
            if predicted[row] == label and quality[row] > 0.5 and free:
                tp[row] = quality[row] >= np.linspace(0.5, 0.95, 10)
                free -= 1
    return tp, conf, predicted, target


def test_average_precision_of_a_curve():
    recall = np.array([0.1, 0.2, 0.2, 0.3, 0.5])
    precision = np.array([1.0, 1.0, 0.667, 0.75, 0.6])
    ap, envelope, x = metrics.compute_ap(recall, precision)
    assert ap == pytest.approx(slow_ap(recall, precision))
    assert (np.diff(envelope) <= 0).all() and len(x) == len(envelope) == 8
    assert metrics.compute_ap([1.0], [1.0])[0] == pytest.approx(1, abs=6e-3) and metrics.compute_ap([], [])[0] < 0.01


def test_average_precision_per_class():
    tp, conf, predicted, target = detections()
    found = metrics.ap_per_class(tp, conf, predicted, target, names={0: "a", 1: "b", 2: "c"})
    right, wrong, p, r, f1, ap, classes, p_curve, r_curve, f1_curve, x, prec_values = found
    assert classes.tolist() == [0, 1, 2] and ap.shape == (3, 10) and x.shape == (1000,)
    assert p_curve.shape == r_curve.shape == f1_curve.shape == prec_values.shape == (3, 1000)
    for label in range(3):
        mine = np.flatnonzero(predicted == label)
        mine = mine[np.argsort(-conf[mine])]
        labels = int((target == label).sum())
        for column in range(10):
            hits = np.cumsum(tp[mine, column])
            expected = slow_ap(hits / labels, hits / np.arange(1, len(mine) + 1))
            assert ap[label, column] == pytest.approx(expected)
        best = np.argmax(metrics.smooth(f1_curve.mean(0), 0.1))
        above = mine[conf[mine] > x[best]]
        hits = int(tp[above, 0].sum())
        assert r[label] == pytest.approx(hits / labels, abs=0.05) and right[label] == pytest.approx(hits, abs=2)
        assert p[label] == pytest.approx(hits / len(above), abs=0.05)
        assert wrong[label] == pytest.approx(len(above) - hits, abs=2)
    np.testing.assert_allclose(f1, 2 * p * r / (p + r))
    nothing = metrics.ap_per_class(np.zeros((0, 10)), np.zeros(0), np.zeros(0), target)
    assert (nothing[5] == 0).all() and len(nothing) == 12


def test_curves_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    paths = []
    metrics.ap_per_class(*detections(), plot=True, save_dir=tmp_path, on_plot=paths.append, prefix="Box")
    names = {f"Box{name}_curve.png" for name in ("PR", "F1", "P", "R")}
    assert {path.name for path in paths} == names == {path.name for path in tmp_path.iterdir()}


def test_metrics_of_a_detector_in_both_forms():
    empty = metrics.DetMetrics(names={0: "a", 1: "b", 2: "c", 3: "unused"})
    keys = ["metrics/precision(B)", "metrics/recall(B)", "metrics/mAP50(B)", "metrics/mAP50-95(B)"]
    assert empty.keys == keys and empty.results_dict == {**dict.fromkeys(keys, 0.0), "fitness": 0.0}
    assert empty.box.map50 == 0 and empty.maps.tolist() == [0] * 4 and empty.get("missing", 5) == 5
    tp, conf, predicted, target = detections()
    empty.process(tp, conf, predicted, target)
    box = empty.box
    assert box.map == pytest.approx(box.all_ap.mean()) and box.map50 == pytest.approx(box.ap50.mean())
    assert box.map75 == pytest.approx(box.all_ap[:, 5].mean()) and box.f1.shape == box.p.shape == (3,)
    assert box.maps.shape == (4,) and box.maps[3] == pytest.approx(box.map) and box.maps[0] == pytest.approx(box.ap[0])
    assert empty.mean_results() == [box.mp, box.mr, box.map50, box.map]
    assert empty.class_result(1) == pytest.approx((box.p[1], box.r[1], box.ap50[1], box.ap[1]))
    assert empty.fitness == pytest.approx(0.1 * box.map50 + 0.9 * box.map) == box.fitness()
    assert [row[2:] for row in empty.curves_results][0] == ["Recall", "Precision"] and len(empty.curves) == 4
    assert empty.summary()[0]["Class"] == "a" and empty.summary()[0]["mAP50"] == round(float(box.ap50[0]), 5)
    assert empty.ap_class_index.tolist() == [0, 1, 2] and bool(empty)
    by_image = metrics.DetMetrics("folder", False, None, {0: "a", 1: "b", 2: "c", 3: "unused"})
    for rows, labels in zip(np.array_split(np.arange(70), 5), np.array_split(target, 5), strict=True):
        by_image.update_stats({"tp": tp[rows], "conf": conf[rows], "pred_cls": predicted[rows], "target_cls": labels})
    assert set(by_image.process(plot=False)) == {"tp", "conf", "pred_cls", "target_cls"}
    assert by_image.results_dict == empty.results_dict and str(by_image.save_dir) == "folder"
    by_image.clear_stats()
    assert by_image.process() == {}


def test_metrics_of_other_tasks():
    tp, conf, predicted, target = detections()
    for kind, letter, part in ((metrics.SegmentMetrics, "M", "seg"), (metrics.PoseMetrics, "P", "pose")):
        found = kind(names={0: "a", 1: "b", 2: "c"})
        found.process(tp, tp * 0, conf, predicted, target)
        assert len(found.keys) == 8 and found.keys[4] == f"metrics/precision({letter})" and len(found.curves) == 8
        assert getattr(found, part).map == 0 < found.box.map and found.fitness == found.box.fitness()
        assert len(found.mean_results()) == len(found.class_result(0)) == 8
    assert metrics.OBBMetrics(names={}).task == "obb" and metrics.OBBMetrics().keys[0] == "metrics/precision(B)"
    classifier = metrics.ClassifyMetrics()
    ranked = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]])
    classifier.process([torch.tensor([0, 0]), torch.tensor([0])], [ranked[:2], ranked[2:]])
    assert classifier.top1 == pytest.approx(1 / 3) and classifier.top5 == pytest.approx(2 / 3)
    assert classifier.results_dict["fitness"] == classifier.fitness == pytest.approx(0.5)


TRUTH = torch.tensor([[10.0, 10, 50, 50], [60, 60, 90, 90], [100, 100, 120, 120]])
FOUND = torch.tensor(
    [
        [11.0, 11, 51, 51, 0.9, 0],  # right
        [60, 60, 90, 92, 0.8, 2],  # another class
        [10, 10, 49, 50, 0.7, 0],  # a second one on the first label
        [200, 200, 220, 220, 0.6, 1],  # nothing there
        [100, 100, 120, 120, 0.1, 1],  # too weak
    ]
)
EXPECTED = [[1, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0]]


def test_the_confusion_matrix_in_both_forms():
    first = metrics.ConfusionMatrix(3)
    first.process_batch(FOUND, TRUTH, torch.tensor([0.0, 1, 1]))
    assert first.matrix.tolist() == EXPECTED and first.nc == 3
    second = metrics.ConfusionMatrix(names={0: "a", 1: "b", 2: "c"})
    found = {"bboxes": FOUND[:, :4], "conf": FOUND[:, 4], "cls": FOUND[:, 5]}
    second.process_batch(found, {"bboxes": TRUTH, "cls": torch.tensor([[0.0], [1], [1]])}, conf=0.25, iou_thres=0.45)
    third = metrics.ConfusionMatrix(nc=3, conf=0.25)
    third.process_batch(FOUND, torch.cat([torch.tensor([[0.0], [1], [1]]), TRUTH], 1))
    assert second.matrix.tolist() == third.matrix.tolist() == EXPECTED
    right, wrong = first.tp_fp()
    assert right.tolist() == [1, 0, 0] and wrong.tolist() == [1, 1, 1]
    first.process_batch(None, TRUTH, torch.tensor([0.0, 1, 1]))
    first.process_batch(FOUND, TRUTH[:0], torch.zeros(0))
    assert first.matrix[:, 3].tolist() == [3, 2, 1, 0] and first.matrix[3].tolist() == [1, 3, 0, 0]
    assert metrics.ConfusionMatrix(3, 0.5, 0.6).conf == 0.5 and metrics.ConfusionMatrix(3, 0.001).conf == 0.25
    assert second.summary()[0]["predicted"] == "a"


def test_the_confusion_matrix_of_other_tasks(capsys):
    oriented = metrics.ConfusionMatrix(1, task="obb")
    box = torch.tensor([[50.0, 50, 40, 10, 0.3]])
    oriented.process_batch(torch.tensor([[50.0, 50, 40, 10, 0.9, 0, 0.3]]), box, torch.zeros(1))
    oriented.process_batch(torch.tensor([[50.0, 50, 40, 10, 0.9, 0, 1.8]]), box, torch.zeros(1))
    assert oriented.matrix.tolist() == [[1, 1], [1, 0]]
    classes = metrics.ConfusionMatrix({0: "a", 1: "b"}, "classify")
    classes.process_cls_preds([torch.tensor([[0, 1], [1, 0]])], [torch.tensor([0, 0])])
    assert classes.matrix.tolist() == [[1, 0], [1, 0]] and [part.tolist() for part in classes.tp_fp()] == [
        [1, 0],
        [0, 1],
    ]
    classes.print()
    assert capsys.readouterr().out == "1 0\n1 0\n"
    assert [row["predicted"] for row in classes.summary()] == ["a", "b"]


def test_the_confusion_matrix_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    paths = []
    metrics.ConfusionMatrix(3).plot(save_dir=tmp_path, names=["a", "b", "c"], on_plot=paths.append)
    assert [path.name for path in paths] == ["confusion_matrix_normalized.png"] and paths[0].exists()
