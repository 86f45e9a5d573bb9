"""The loss, the results and the metrics of classification, against recorded numbers and a slow count in Python."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.ops.letterbox import Fit
from bitfalcon_plugin.ops.nms import Suppression
from bitfalcon_plugin.tasks.class_metrics import class_metrics
from bitfalcon_plugin.tasks.classify import classification_loss, decode_classes, evaluate_classes, place_classes
from bitfalcon_plugin.tasks.detect import Decoded
from tests.data.recorded.fill import noise
from tests.helpers.paths import RECORDED

CASES = json.loads(gzip.decompress((RECORDED / "classify.json.gz").read_bytes()))["classify"]["loss"]
WHOLE = [[0.0, 0.0, 1.0, 1.0]]


def labels_of(classes: list[int]) -> Instances:
    count = len(classes)
    return Instances(torch.tensor(WHOLE * count).view(-1, 4), torch.tensor(classes), image=torch.arange(count))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_recorded_losses_and_gradients(case):
    shape = case["batch"], case["nc"]
    logits = torch.from_numpy(noise(f"clsloss.{case['name']}.logits", shape) * 4).float().requires_grad_()
    losses = classification_loss({"logits": logits}, labels_of(case["labels"]))
    assert list(losses) == case["items"] and losses["loss"].item() == pytest.approx(case["loss"], rel=1e-6)
    losses["loss"].backward()
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor(case["grad"]), rtol=0, atol=1e-7)


def test_half_precision_is_left_and_weights_of_classes_weigh_the_mean():
    logits, truth = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), [0, 1, 2, 2, 1, 0]
    weights = torch.tensor([1.0, 0.25, 2.0])
    own = -logits.double().log_softmax(1)[range(6), truth]
    chosen = weights.double()[truth]
    with torch.autocast("cpu", torch.bfloat16):
        plain = classification_loss({"logits": logits}, labels_of(truth))["loss"]
        weighted = classification_loss({"logits": logits}, labels_of(truth), class_weights=weights)["loss"]
    assert plain.dtype == torch.float32 and plain.item() == pytest.approx(own.mean().item(), rel=1e-6)
    assert weighted.item() == pytest.approx(((own * chosen).sum() / chosen.sum()).item(), rel=1e-6)


def test_an_image_without_a_label_does_not_count():
    logits = torch.randn(3, 4)
    both = Instances(torch.zeros(2, 4), torch.tensor([1, 3]), image=torch.tensor([0, 2]))
    expected = -logits.log_softmax(1)[[0, 2], [1, 3]].mean()
    torch.testing.assert_close(classification_loss({"logits": logits}, both)["loss"], expected)


def test_each_image_has_one_row_whose_box_is_the_whole_image():
    probabilities = torch.tensor([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]])
    rows = decode_classes(Decoded(probabilities, 3, size=(32, 64)), Suppression())
    assert [row.classes.tolist() for row in rows] == [[1], [0]] and rows[0].boxes.tolist() == [[0, 0, 64, 32]]
    assert torch.equal(torch.cat([row.probabilities for row in rows]), probabilities)
    placed = place_classes(rows[1], Fit((40, 100), (32, 80), (32, 64), (0, -8)))
    assert placed.boxes.tolist() == [[0, 0, 100, 40]] and placed.scores.tolist() == [pytest.approx(0.7)]


def slow_count(probabilities: np.ndarray, truth: list[int], first: int) -> list[bool]:
    """Sort the classes of each image by falling probability, of equal ones the lower first."""
    return [
        true in sorted(range(len(row)), key=lambda cls: (-row[cls], cls))[:first]
        for row, true in zip(probabilities.tolist(), truth)
    ]


@pytest.mark.parametrize("nc", [2, 5, 12])
def test_counts_agree_with_sorting_every_image(nc):
    random = np.random.default_rng(nc)
    probabilities = random.random((200, nc)).round(1)  # many are equal
    truth = random.integers(0, nc - 1, 200).tolist()  # the last class has no image
    names = {index: f"c{index}" for index in range(nc)}
    metrics = class_metrics(torch.from_numpy(probabilities), torch.tensor(truth), names)
    for first, value, of_class in ((1, metrics.top1, metrics.class_top1), (5, metrics.top5, metrics.class_top5)):
        hits = slow_count(probabilities, truth, first)
        assert value == np.mean(hits)
        for index in range(nc):
            mine = [hit for hit, true in zip(hits, truth) if true == index]
            assert of_class[index] == pytest.approx(np.mean(mine) if mine else 0)
    assert metrics.fitness == (metrics.top1 + metrics.top5) / 2 and (metrics.top5 == 1) == (nc <= 5)
    matrix = np.zeros((nc, nc), int)
    for row, true in zip(probabilities, truth):
        matrix[int(row.argmax()), true] += 1
    assert np.array_equal(metrics.confusion_matrix.matrix, matrix)
    assert metrics.confusion_matrix.tp_fp()[0].sum() == round(metrics.top1 * 200)


def test_what_scripts_read_of_the_metrics(tmp_path):
    metrics = class_metrics(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 1, 2]), {0: "a", 1: "b", 2: "c"})
    assert metrics.keys == ["metrics/accuracy_top1", "metrics/accuracy_top5"]
    assert metrics.results_dict == {**dict(zip(metrics.keys, (2 / 3, 1.0))), "fitness": pytest.approx(5 / 6)}
    assert metrics.summary() == [{"top1_acc": 0.66667, "top5_acc": 1.0}] and metrics.curves == []
    assert metrics.class_result(2) == (0.0, 1.0) and metrics.line() == "top-1 0.6667  top-5 1.0000"
    assert list(csv.reader(io.StringIO(metrics.to_csv()))) == [["top1_acc", "top5_acc"], ["0.66667", "1.0"]]
    assert [line.split() for line in metrics.table().splitlines()] == [
        ["classes", "top1_acc", "top5_acc", "images"],
        ["all", "0.667", "1", "3"],
        ["a", "1", "1", "1"],
        ["b", "1", "1", "1"],
        ["c", "0", "1", "1"],
    ]
    assert len(metrics.table(verbose=False).splitlines()) == 2
    assert metrics.confusion_matrix.summary()[1] == {"predicted": "b", "a": 0, "b": 1, "c": 1}
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    names = ["confusion_matrix.png", "confusion_matrix_normalized.png"]
    assert [path.name for path in metrics.plot(tmp_path)] == names and all(
        (tmp_path / name).is_file() for name in names
    )


def test_broken_numbers_are_never_right_and_nothing_measured_is_zero():
    names = {0: "a", 1: "b"}
    broken = class_metrics(torch.full((2, 2), torch.nan), torch.tensor([0, 1]), names)
    assert (broken.top1, broken.top5) == (0, 0) and not broken.confusion_matrix.matrix.any()
    nothing = class_metrics(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), names)
    assert (nothing.top1, nothing.top5, nothing.fitness, nothing.images) == (0, 0, 0, 0)


def test_samples_are_found_by_their_index_and_those_without_a_label_are_left_out():
    samples = [
        Sample(Path("a"), (4, 4), labels_of([1])),
        Sample(Path("b"), (4, 4), Instances.empty()),
        Sample(Path("c"), (4, 4), labels_of([0])),
    ]
    probabilities = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    rows = Instances(torch.zeros(3, 4), probabilities.argmax(1), image=torch.tensor([2, 1, 0]))
    metrics = evaluate_classes(
        samples, Instances(**{**vars(rows), "probabilities": probabilities}), {0: "a", 1: "b"}, conf=0.25
    )
    assert metrics.images == 2 and metrics.top1 == 1
