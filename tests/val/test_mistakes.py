"""The images that a classifier takes for another class, against a list made by hand."""

from __future__ import annotations

import csv
import io

import torch

from bitfalcon_plugin.data.dataset import Sample
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.val.mistakes import find_mistakes
from tests.helpers.classed import classed  # noqa: F401  the fixture

NAMES = {0: "a", 1: "b", 2: "c"}


def validated(folder, rows: list[tuple[int, list[float]]]) -> tuple[list[Sample], Instances]:
    """Samples with these classes, and detections with these probabilities, the last sample first."""
    images = sorted((folder / "data/val").rglob("*.png"))
    samples = [
        Sample(image, (40, 60), Instances(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([label])))
        for image, (label, _) in zip(images, rows)
    ]
    probabilities = torch.tensor([shares for _, shares in reversed(rows)])
    scores, classes = probabilities.max(1)
    image = torch.arange(len(rows)).flip(0)
    return samples, Instances(torch.zeros(len(rows), 4), classes, scores, image, probabilities=probabilities)


def test_the_surest_mistakes_come_first(classed):
    rows = [(0, [0.4, 0.6, 0.0]), (1, [0.0, 0.9, 0.1]), (2, [0.9, 0.0, 0.1]), (2, [0.1, 0.2, 0.7])]
    samples, detections = validated(classed, rows)
    mistakes = find_mistakes(samples, detections, NAMES)
    assert list(csv.DictReader(io.StringIO(mistakes.to_csv()))) == [
        {
            "image": str(samples[2].image),
            "label": "c",
            "predicted": "a",
            "confidence": "0.9",
            "label_confidence": "0.1",
        },
        {
            "image": str(samples[0].image),
            "label": "a",
            "predicted": "b",
            "confidence": "0.6",
            "label_confidence": "0.4",
        },
    ]
    table = mistakes.table().splitlines()
    assert "2 of 4" in table[0] and table[2].split() == ["c", "a", "0.900", "green/green0.png"]
    assert len(mistakes.table(limit=1).splitlines()) == 3
    sheet = mistakes.draw()
    assert sheet.size[0] >= 960 and len(sheet.getcolors(1 << 20) or [None] * 99) > 20


def test_without_mistakes_the_table_says_so(classed):
    mistakes = find_mistakes(*validated(classed, [(1, [0.2, 0.8, 0.0])]), NAMES)
    assert mistakes.errors == () and mistakes.table() == "Worst images: none of 1 has a wrong class"
    assert mistakes.to_csv() == "image,label,predicted,confidence,label_confidence\n"
