"""AP of oriented boxes against recorded numbers of pycocotools, and a slow matching with shapely's overlaps."""

from __future__ import annotations

import gzip
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.polygons import Polygons
from bitfalcon_plugin.ops.rotated import corners_of, hulls_of
from bitfalcon_plugin.tasks.letterbox_ap import average_precision, match_by_score
from bitfalcon_plugin.tasks.metrics import STATS
from bitfalcon_plugin.tasks.obb import evaluate_oriented
from bitfalcon_plugin.tasks.obb_metrics import oriented_metrics
from tests.helpers.paths import RECORDED

CASES = json.loads(gzip.decompress((RECORDED / "obb.json.gz").read_bytes()))["obb-map"]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
SIZE = (1000, 2000)


def truth_of(rows: list[dict]) -> Instances:
    """Labels of one image in pixels, as polygons."""
    boxes = torch.tensor([row["xywhr"] for row in rows], dtype=torch.float64).view(-1, 5)
    corners = corners_of(boxes)
    polygons = Polygons(corners.view(-1, 2), torch.full((len(rows),), 4), rectangles=True)
    return Instances(hulls_of(corners), torch.tensor([row["cls"] for row in rows]).long(), polygons=polygons)


def samples_of(case: dict) -> list[Sample]:
    height, width = SIZE
    truths = [truth_of(image["gt"]).scaled(1 / width, 1 / height) for image in case["images"]]
    return [Sample(Path(f"{number}.png"), SIZE, truth) for number, truth in enumerate(truths)]


def detections_of(case: dict) -> list[Instances]:
    """The detections of each image."""
    parts = []
    for number, image in enumerate(case["images"]):
        rows = image["pred"]
        boxes = torch.tensor([row["xywhr"] for row in rows], dtype=torch.float64).view(-1, 5)
        scores = torch.tensor([row["conf"] for row in rows], dtype=torch.float64)
        classes = torch.tensor([row["cls"] for row in rows]).long()
        hulls = hulls_of(corners_of(boxes))
        parts.append(Instances(hulls, classes, scores, torch.full_like(classes, number), xywhr=boxes))
    return parts


def names_of(case: dict) -> dict[int, str]:
    return {index: f"class {index}" for index in range(case["nc"])}


@EACH
def test_the_numbers_are_the_recorded_ones(case):
    metrics = evaluate_oriented(samples_of(case), Instances.cat(detections_of(case)), names_of(case), conf=0.25)
    record = case["cocoeval_all_areas_maxdets_300_probiou"]
    found = metrics.box.map50, metrics.box.map75, metrics.box.map
    assert found == pytest.approx([record[name] for name in ("mAP50", "mAP75", "mAP50-95")], abs=1e-6)
    assert (metrics.ap50, metrics.stats["AP75"], metrics.ap) == pytest.approx(found)
    assert metrics.fitness == pytest.approx(0.1 * metrics.ap50 + 0.9 * metrics.ap)


@EACH
def test_ap_without_coco_s_rules_is_the_recorded_one_too(case):
    detections = detections_of(case)
    hits = [match_by_score(*pair) for pair in zip(detections, (truth_of(image["gt"]) for image in case["images"]))]
    every, hits = Instances.cat(detections), torch.cat(hits).numpy()
    labels = np.array([row["cls"] for image in case["images"] for row in image["gt"]])
    scores, classes = every.scores.numpy(), every.classes.numpy()
    rows = [average_precision(scores[classes == c], hits[classes == c], (labels == c).sum()) for c in set(labels)]
    assert np.mean(rows, 0)[0] == pytest.approx(case["upstream"]["mAP50"], abs=1e-6)
    assert np.mean(rows) == pytest.approx(case["upstream"]["mAP50-95"], abs=1e-6)


def slow_ap50(detections: list[Instances], truths: list[Instances], index: int) -> float:
    """AP at 0.50 of a class over 101 recalls, one detection after the other, with shapely's overlaps."""
    shapely = pytest.importorskip("shapely")
    scores, hits, total = [], [], 0
    for found, truth in zip(detections, truths, strict=True):
        found, truth = (part.only(part.classes == index) for part in (found, truth))
        rings = ([shapely.Polygon(ring) for ring in corners_of(part.oriented).numpy()] for part in (found, truth))
        predicted, free = rings
        total += len(free)
        for row in np.argsort(-found.scores.numpy(), kind="stable"):
            overlap = [predicted[row].intersection(ring).area / predicted[row].union(ring).area for ring in free]
            hits.append(max(overlap, default=0) >= 0.5)
            scores.append(float(found.scores[row]))
            if hits[-1]:
                free.pop(int(np.argmax(overlap)))
    counted = np.cumsum(np.array(hits)[np.argsort(-np.array(scores), kind="stable")])
    precision = np.maximum.accumulate((counted / np.arange(1, len(counted) + 1))[::-1])[::-1]
    first = np.searchsorted(counted / total, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0)[first].mean())


@EACH
def test_the_polygons_are_compared_as_shapely_compares_them(case):
    detections, truths = detections_of(case), [truth_of(image["gt"]) for image in case["images"]]
    metrics = oriented_metrics(samples_of(case), Instances.cat(detections), names_of(case))
    expected = [slow_ap50(detections, truths, index) for index in metrics.ap_class_index.tolist()]
    assert metrics.polygon.ap50.tolist() == pytest.approx(expected, abs=1e-6)
    assert metrics.polygon_stats["AP50"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert metrics.polygon_stats["AP"] < metrics.ap


def test_the_confusion_matrix_pairs_by_probiou():
    """Two thin boxes that cross have the same hull; only the one along the label is its partner."""
    truth = {"cls": 0, "xywhr": [100, 100, 80, 8, 0.78]}
    across, along = {"cls": 1, "conf": 0.9, "xywhr": [100, 100, 80, 8, -0.78]}, {**truth, "conf": 0.8}
    case = {"nc": 2, "images": [{"gt": [truth], "pred": [across, along]}, {"gt": [truth], "pred": [across]}]}
    metrics = oriented_metrics(samples_of(case), Instances.cat(detections_of(case)), names_of(case))
    assert metrics.confusion_matrix.matrix.tolist() == [[1, 0, 0], [0, 0, 2], [1, 0, 0]]


def test_what_people_read_says_what_was_compared():
    case = CASES[0]
    metrics = oriented_metrics(samples_of(case), Instances.cat(detections_of(case)), names_of(case))
    table = metrics.table()
    assert "P, R and F1 at ProbIoU 0.50" in table and "COCO (pycocotools) by ProbIoU: AP 0.536" in table
    assert f"By the IoU of the rectangles, as papers on DOTA compare: AP {metrics.polygon_stats['AP']:.3f}" in table
    assert metrics.keys == [f"metrics/{name}(B)" for name in ("precision", "recall", "mAP50", "mAP50-95")]
    assert set(metrics.stats) == set(STATS) and metrics.stats["AR1"] <= metrics.stats["AR100"]
    assert pickle.loads(pickle.dumps(metrics)).table() == table


def test_nothing_found_and_nothing_labelled():
    case = CASES[1]
    none = Instances.cat(detections_of({"images": [{"pred": []}]}))
    metrics = oriented_metrics(samples_of(case), none, names_of(case))
    assert metrics.ap == metrics.ap50 == metrics.polygon_stats["AP"] == 0
    assert metrics.confusion_matrix.matrix[-1].sum() == metrics.instances
    backgrounds = [Sample(Path("0.png"), SIZE, Instances.empty())]
    metrics = oriented_metrics(backgrounds, Instances.cat(detections_of(case)[:1]), names_of(case))
    assert metrics.ap == 0 and np.isnan(metrics.stats["AP"]) and metrics.instances == 0


def test_sizes_and_limits_are_coco_s():
    """Of axis-aligned boxes AP by the IoU of rectangles, with all its sizes and limits, is COCO's own."""
    from bitfalcon_plugin.tasks.coco import coco_metrics

    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(6):
        boxes = torch.rand(8, 4, generator=generator) * torch.tensor([900, 900, 150, 60]) + torch.tensor([20, 20, 4, 4])
        gt = [{"cls": k % 2, "xywhr": [*box, 0.0]} for k, box in enumerate(boxes.tolist())]
        moved = boxes.repeat(4, 1) + torch.randn(32, 4, generator=generator) * 3
        pred = [
            {"cls": k % 2, "conf": float(torch.rand(1, generator=generator)), "xywhr": [*box, 0.0]}
            for k, box in enumerate(moved.clamp(min=1).tolist())
        ]
        rows.append({"gt": gt, "pred": pred})
    case = {"nc": 2, "images": rows}
    detections = Instances.cat(detections_of(case))
    metrics = oriented_metrics(samples_of(case), detections, names_of(case))
    plain = coco_metrics(samples_of(case), replace(detections, xywhr=None), names_of(case))
    for name in STATS:
        assert metrics.polygon_stats[name] == pytest.approx(plain.stats[name], abs=1e-6, nan_ok=True), name
    np.testing.assert_allclose(metrics.polygon.all_ap, plain.box.all_ap, atol=1e-6)
