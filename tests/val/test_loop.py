"""COCO numbers: known answers, the way back to original pixels, and pycocotools on files as the oracle."""

from __future__ import annotations

import contextlib
import io
import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.data.loading.loader import ValLoader
from bitfalcon_plugin.ops.boxes import xywh_from_xyxy
from bitfalcon_plugin.ops.nms import Suppression
from bitfalcon_plugin.tasks.coco import coco_metrics
from bitfalcon_plugin.tasks.detect import GAINS
from bitfalcon_plugin.tasks.metrics import STATS
from bitfalcon_plugin.val.loop import Hooks, ValOptions, validate
from tests.helpers.finder import BrightBoxes, painted
from tests.helpers.labels import detections_of, sample_of
from tests.helpers.tiny_models import CONV, small_model

NAMES = {0: "red", 1: "green", 2: "blue"}


def sample(path, size, boxes) -> Sample:
    w, h = size
    corners = torch.tensor([box[1:] for box in boxes], dtype=torch.float32).view(-1, 4)
    classes = torch.tensor([box[0] for box in boxes], dtype=torch.int64)
    return sample_of(path, (h, w), classes, xywh_from_xyxy(corners) / torch.tensor([w, h, w, h]))


def scene(tmp_path):
    sizes = [(640, 480), (480, 640), (333, 500), (200, 200), (900, 300), (64, 48)]
    samples = []
    for index, (w, h) in enumerate(sizes):
        boxes = [(index % 3, w // 8, h // 8, w // 2, h // 2), ((index + 1) % 3, w // 2 + 2, h // 2 + 2, w - 4, h - 3)]
        samples.append(sample(painted(tmp_path / f"{index}.png", (w, h), boxes), (w, h), boxes))
    samples.append(sample(painted(tmp_path / "empty.png", (100, 80), []), (100, 80), []))
    return samples


@pytest.mark.parametrize("rect", [True, False])
def test_a_detector_that_sees_everything_scores_one(tmp_path, rect):
    model = BrightBoxes()
    samples = scene(tmp_path)
    metrics = validate(model, samples, ValLoader(samples, imgsz=320, batch=3, multiple=32, rect=rect)).metrics
    assert metrics.ap50 == pytest.approx(1, abs=1e-6) and metrics.ap > 0.85  # edges are found to one pixel of the input
    assert (metrics.precision, metrics.recall) == (1, 1)
    assert metrics.images == 7 and metrics.instances == 12
    assert [row.name for row in metrics.classes] == ["red", "green", "blue"] and metrics.classes[0].instances == 4
    assert metrics.results_dict["fitness"] == pytest.approx(0.1 * metrics.ap50 + 0.9 * metrics.ap)
    assert all(shape[2:] == (320, 320) for shape in model.seen) != rect
    assert "green" in metrics.table() and "green" not in metrics.table(verbose=False)


def random_case(seed: int):
    """Labels and detections that partly agree, scores with ties, classes without labels, images without either."""
    draw = np.random.RandomState(seed)
    samples, detections = [], []
    for image in range(12):
        w, h = draw.randint(100, 600, 2).tolist()
        count = draw.randint(0, 6)
        xy, wh = draw.rand(count, 2) * 0.6, 0.02 + draw.rand(count, 2) * 0.38
        boxes = np.concatenate((xy, xy + wh), 1) * [w, h, w, h]
        classes = draw.randint(0, 2, count)
        samples.append(sample(None, (w, h), [(int(c), *b) for c, b in zip(classes, boxes, strict=True)]))
        for c, (x1, y1, x2, y2) in zip(classes, boxes + draw.randn(count, 4) * 6, strict=True):
            cls = c if draw.rand() < 0.8 else draw.randint(0, 3)
            detections.append([image, x1, y1, x2 - x1, y2 - y1, round(draw.rand(), 1), cls])
        for _ in range(draw.randint(0, 4)):
            detections.append(
                [image, *draw.rand(2) * 50, *(10 + draw.rand(2) * 90), round(draw.rand(), 1), draw.randint(0, 3)]
            )
    return samples, np.array(detections, dtype=np.float64)


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_are_those_of_cocoeval_on_files(tmp_path, seed):
    samples, detections = random_case(seed)
    labels = [
        (i, c, b)
        for i, s in enumerate(samples)
        for c, b in zip(s.labels.classes.tolist(), s.pixel_labels().boxes.tolist(), strict=True)
    ]
    truth = {
        "images": [{"id": i} for i in range(len(samples))],
        "categories": [{"id": i} for i in NAMES],
        "annotations": [
            {
                "id": n + 1,
                "image_id": i,
                "category_id": c,
                "iscrowd": 0,
                "area": (b[2] - b[0]) * (b[3] - b[1]),
                "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
            }
            for n, (i, c, b) in enumerate(labels)
        ],
    }
    found = [
        {"image_id": int(r[0]), "bbox": r[1:5].tolist(), "score": r[5], "category_id": int(r[6])} for r in detections
    ]
    for name, content in (("truth", truth), ("found", found)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        expected = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "bbox")
        expected.evaluate(), expected.accumulate(), expected.summarize()
    ours = coco_metrics(samples, detections_of(detections), NAMES)
    for name, value in zip(STATS, expected.stats, strict=True):
        assert ours.stats[name] == pytest.approx(value, abs=1e-9) or (value == -1 and math.isnan(ours.stats[name]))
    assert len(ours.classes) == 2  # blue has no labels


def test_precision_and_recall_are_at_one_confidence():
    # two objects found at 0.8 and 0.7 and a false box at 0.2: the best F1 leaves the false box out (the curve is
    # interpolated between 0.2 and 0.7, hence not quite 1)
    boxes = [(0, 0, 0, 50, 50), (0, 60, 60, 120, 120)]
    rows = np.array(
        [[0, 0, 0, 50, 50, 0.8, 0], [0, 60, 60, 60, 60, 0.7, 0], [0, 200, 200, 30, 30, 0.2, 0]], dtype=float
    )
    ours = coco_metrics([sample(None, (300, 300), boxes)], detections_of(rows), {0: "a"})
    assert ours.precision == pytest.approx(1, abs=0.03) and ours.recall == 1


def test_nothing_found_and_nothing_labelled():
    labelled = sample(None, (100, 100), [(0, 10, 10, 50, 50)])
    none = coco_metrics([labelled], detections_of(np.zeros((0, 7))), NAMES)
    assert none.stats["AP"] == 0 and none.precision == 0 and none.instances == 1
    empty = coco_metrics([sample(None, (100, 100), [])], detections_of([[0, 1, 1, 5, 5, 0.5, 0]]), NAMES)
    assert math.isnan(empty.stats["AP"]) and empty.classes == ()


def test_events_come_in_order_and_outside_inference_mode(tmp_path):
    samples, heard = scene(tmp_path), []
    loader = ValLoader(samples, imgsz=320, batch=3, multiple=32)
    hooks = Hooks(notify=lambda event: heard.append((event, torch.is_inference_mode_enabled())))
    validate(BrightBoxes(), samples, loader, hooks=hooks)
    batch = [("on_val_batch_start", False), ("on_val_batch_end", False)]
    assert heard == [("on_val_start", False), *batch * 3, ("on_val_end", False)]


def test_a_watcher_sees_every_batch(tmp_path):
    samples, seen = scene(tmp_path), []
    loader = ValLoader(samples, imgsz=320, batch=3, multiple=32)
    validate(BrightBoxes(), samples, loader, hooks=Hooks(watch=lambda *what: seen.append(what)))
    assert [number for number, *_ in seen] == [0, 1, 2]
    assert sorted(i for _, _, indices, *_ in seen for i in indices) == list(range(7))
    for (_, images, indices, found, _), (expected, fits, _) in zip(seen, loader, strict=True):
        assert images.dtype == torch.uint8 and torch.equal(images, expected)
        for index, fit, boxes in zip(
            indices, fits, found, strict=True
        ):  # on the canvas: to one pixel where the labels are
            truth = samples[index].pixel_labels()
            labels = fit.to_canvas(truth.boxes)[truth.classes.argsort()]
            assert len(boxes) == len(labels)
            assert torch.allclose(boxes.boxes[boxes.classes.argsort()], labels, atol=1.5)


def numbers(metrics):
    """All that must not differ, as plain values."""
    return (
        metrics.stats,
        metrics.classes,
        metrics.losses,
        metrics.precision,
        metrics.confusion_matrix.matrix.tolist(),
        metrics.lines.envelope.tolist(),
        metrics.box.all_ap.tolist(),
        metrics.letterbox.all_ap.tolist(),
        metrics.images,
    )


def test_two_processes_that_gather_get_what_one_gets_alone(tmp_path):
    torch.manual_seed(0)
    model = small_model(CONV, (-1, 1, "Conv", [16, 3, 2]), nc=3)
    samples = scene(tmp_path)
    batches = list(ValLoader(samples, imgsz=64, batch=2, multiple=32))
    options = ValOptions(Suppression(conf=0.002, multi_label=True), GAINS, letterbox_ap=True)
    alone = validate(model, samples, batches, options).metrics
    parts = {}
    for rank in (0, 1):
        hooks = Hooks(gather=lambda own, rank=rank: parts.setdefault(rank, own))
        validate(model, samples, batches[rank::2], options, hooks=hooks)
    shared = pickle.loads(pickle.dumps(parts))
    hooks = Hooks(gather=lambda own: shared[1] + shared[0])
    found = [validate(model, samples, batches[rank::2], options, hooks=hooks).metrics for rank in (0, 1)]
    assert alone.box.all_ap.shape == (3, 10) and all(loss > 0 for loss in alone.losses.values())
    assert numbers(found[0]) == numbers(found[1]) == numbers(alone)
    assert found[0].speed == found[1].speed and all(ms > 0 for ms in found[0].speed.values())


def test_the_matrix_counts_from_a_quarter_or_from_the_given_confidence(tmp_path):
    samples = scene(tmp_path)
    loader = ValLoader(samples, imgsz=320, batch=3, multiple=32)
    rules = {conf: Suppression(conf=conf, multi_label=True) for conf in (0.001, 0.1, 0.95)}
    options = {conf: ValOptions(rule) for conf, rule in rules.items()}
    found = {
        conf: validate(BrightBoxes(), samples, loader, chosen).metrics.confusion_matrix
        for conf, chosen in options.items()
    }
    assert [matrix.conf for matrix in found.values()] == [0.25, 0.1, 0.95]
    assert found[0.001].matrix.tolist() == [[4, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0]]
    assert found[0.95].matrix.tolist() == [[0] * 4, [0] * 4, [0] * 4, [4, 4, 4, 0]]  # everything is found at 0.9
    assert validate(BrightBoxes(), samples, loader).metrics.losses is None


def test_of_what_is_found_only_some_classes_may_count(tmp_path):
    samples = scene(tmp_path)
    loader = ValLoader(samples, imgsz=320, batch=3, multiple=32)
    rule = Suppression(conf=0.001, multi_label=True, classes=[0, 2])
    metrics, detections, _ = validate(BrightBoxes(), samples, loader, ValOptions(rule))
    assert len(detections) == 8 and set(detections.classes.tolist()) == {0, 2}
    assert metrics.confusion_matrix.matrix.tolist() == [[4, 0, 0, 0], [0, 0, 0, 0], [0, 0, 4, 0], [0, 4, 0, 0]]
    for image, own in enumerate(samples):
        found, labels = detections.only(detections.image == image), own.pixel_labels()
        chosen = [i for i in labels.classes.argsort().tolist() if labels.classes[i] != 1]
        corners = found.boxes[found.classes.argsort()]
        torch.testing.assert_close(corners, labels.boxes[chosen], atol=4, rtol=0)  # a pixel of the input is up to 2.8


class SpeaksTwice(BrightBoxes):
    """Each bright area is a box of its own class at 0.9, and of the next class at 0.8."""

    def decode(self, images):
        out = super().decode(images)
        scores = out[:, 4:]
        out[:, 4:] = torch.maximum(scores, scores.roll(1, 1) * 8 / 9)
        return out


def test_all_that_is_found_may_be_one_class(tmp_path):
    samples = [
        replace(own, labels=replace(own.labels, classes=torch.zeros_like(own.labels.classes)))
        for own in scene(tmp_path)
    ]
    loader = ValLoader(samples, imgsz=320, batch=3, multiple=32)
    rule = Suppression(conf=0.001, iou=1.0, multi_label=True)
    metrics = validate(SpeaksTwice(), samples, loader, ValOptions(rule, GAINS, single=True)).metrics
    assert metrics.names == {0: "item"} and [row.name for row in metrics.classes] == ["item"] and metrics.losses is None
    assert metrics.confusion_matrix.matrix.tolist() == [[12, 0], [0, 0]]  # no box twice
    assert (metrics.precision, metrics.recall) == (1, 1)
    assert metrics.ap50 == pytest.approx(1, abs=1e-6)
    assert metrics.conf == 0.001
