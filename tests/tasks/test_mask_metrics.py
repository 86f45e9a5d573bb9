"""The numbers of masks against pycocotools on files, and labels that are only boxes."""

from __future__ import annotations

import contextlib
import io
import json
import math

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bitfalcon_plugin.ops.encoded_masks import EncodedMasks
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks import coco
from bitfalcon_plugin.tasks.segment import evaluate_segments
from tests.helpers.masks import NAMES, annotations, outlined_sample, random_case


def cocoeval_on_files(tmp_path, samples, detections, kind: str) -> COCOeval:
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(annotations(samples, kind), default=bytes.decode))
    rows = zip(detections.rows().double().tolist(), detections.image.tolist(), detections.encoded_masks.codes)
    records = [
        {"image_id": image, "category_id": int(cls), "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1],
         "segmentation": {**code, "counts": code["counts"].decode()}}
        for (x1, y1, x2, y2, score, cls), image, code in rows
    ]  # fmt: skip
    found.write_text(json.dumps(records))
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(truth))
        evaluation = COCOeval(known, known.loadRes(str(found)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("boxes_only", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_are_those_of_cocoeval_on_files(tmp_path, seed, boxes_only):
    samples, detections = random_case(seed, boxes_only)
    metrics = evaluate_segments(samples, detections, NAMES, conf=0.25)
    for stats, part, kind in ((metrics.stats, metrics.box, "bbox"), (metrics.mask_stats, metrics.seg, "segm")):
        evaluation = cocoeval_on_files(tmp_path, samples, detections, kind)
        expected = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
        np.testing.assert_allclose([*stats.values()], expected, atol=1e-12)
        by_class = evaluation.eval["precision"][:, :, :, 0, -1].mean(1).T  # (class, IoU)
        np.testing.assert_allclose(part.all_ap, by_class[part.ap_class_index], atol=1e-12)
    assert 0.05 < metrics.mask_ap < 0.95 and metrics.instances == sum(len(sample.labels) for sample in samples)
    assert metrics.fitness == pytest.approx(
        0.1 * (metrics.ap50 + metrics.mask_ap50) + 0.9 * (metrics.ap + metrics.mask_ap)
    )


def test_labels_become_annotations_once_and_the_confusion_matrix_is_computed_once(monkeypatch):
    calls = []
    for name in ("coco_truth", "coco_results", "confusion_matrix", "COCOeval"):
        own = getattr(coco, name)
        monkeypatch.setattr(coco, name, lambda *a, _own=own, _name=name, **k: calls.append(_name) or _own(*a, **k))
    evaluate_segments(*random_case(0), NAMES, conf=0.25)
    assert sorted(calls) == ["COCOeval", "COCOeval", "coco_results", "coco_truth", "confusion_matrix"]


SQUARE = np.array([[10.0, 10], [30, 10], [30, 30], [10, 30]])


def found_squares(*classes: int) -> Instances:
    """A perfect detection of SQUARE for each class, in the first image."""
    count = len(classes)
    plane = torch.zeros(1, 64, 64, dtype=torch.bool)
    plane[0, 10:30, 10:30] = True
    boxes, zeros = torch.tensor([[10.0, 10, 30, 30]]).repeat(count, 1), torch.zeros(count, dtype=torch.int64)
    codes = EncodedMasks.of(plane.expand(count, -1, -1))
    return Instances(boxes, torch.tensor(classes), torch.full((count,), 0.9), zeros, encoded_masks=codes)


def test_a_mask_in_a_label_that_is_only_a_box_is_neither_right_nor_wrong():
    """Two outlines and a box of one class; both a found outline and the found box count for the boxes."""
    far = SQUARE + 30
    samples = [outlined_sample("a", (64, 64), [SQUARE, far], [0, 0], [True, False])]
    metrics = evaluate_segments(samples, found_squares(0), NAMES, conf=0.25)
    assert metrics.box.r.tolist() == [0.5] and metrics.box.p.tolist() == [1]
    assert metrics.mask_stats["AR100"] == 0 and metrics.seg.r.tolist() == [0]  # the outline that is left is missed
    both = Instances.cat([found_squares(0), found_squares(0)])
    both = Instances(
        torch.cat([both.boxes[:1], both.boxes[1:] + 30]), both.classes, both.scores, both.image,
        encoded_masks=EncodedMasks([both.encoded_masks.codes[0], *EncodedMasks.of(shifted()).codes]),
    )  # fmt: skip
    metrics = evaluate_segments(samples, both, NAMES, conf=0.25)
    assert metrics.ap == pytest.approx(1) and metrics.mask_ap == pytest.approx(1)
    assert metrics.seg.p.tolist() == metrics.seg.r.tolist() == [1]


def shifted() -> torch.Tensor:
    plane = torch.zeros(1, 64, 64, dtype=torch.bool)
    plane[0, 40:60, 40:60] = True
    return plane


def test_a_class_without_any_outline_has_no_numbers_of_masks(tmp_path):
    samples = [outlined_sample("a", (64, 64), [SQUARE, SQUARE + 30], [0, 2], [False, True])]
    metrics = evaluate_segments(samples, found_squares(0, 2), NAMES, conf=0.25)
    assert metrics.ap_class_index.tolist() == [0, 2] and metrics.seg.ap_class_index.tolist() == [0]
    assert metrics.class_result(0)[4:] == pytest.approx((1, 1, 1, 1)) and len(metrics.mean_results()) == 8
    assert all(map(math.isnan, metrics.class_result(1)[4:])) and metrics.mask_ap == pytest.approx(1)
    first, second = metrics.summary()
    assert first["Mask-P"] == first["Mask-mAP50-95"] == pytest.approx(1) and math.isnan(second["Mask-R"])
    assert list(first)[:6] == ["Class", "Images", "Instances", "Box-P", "Box-R", "Box-F1"]
    assert tuple(first) == metrics.columns() and "nan" in metrics.table()
    assert metrics.maps.tolist() == pytest.approx([2, 1, 1], abs=0.5)
    pytest.importorskip("matplotlib")
    assert (tmp_path / "MaskPR_curve.png") in metrics.plot(tmp_path)


def test_without_labels_or_detections_nothing_fails():
    empty = [outlined_sample("a", (64, 64), [], [], [])]
    metrics = evaluate_segments(empty, found_squares(0), NAMES, conf=0.25)
    assert metrics.mask_ap == metrics.fitness == 0 and metrics.instances == 0 and metrics.summary() == []
    nothing = found_squares(0).only(torch.zeros(1, dtype=torch.bool))
    metrics = evaluate_segments([outlined_sample("a", (64, 64), [SQUARE], [1], [False])], nothing, NAMES, conf=0.25)
    assert metrics.mask_ap == 0 and metrics.mean_results() == [0] * 8
