"""Worst images of masks: pairs as COCOeval makes them, and masks in the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bitfalcon_plugin.ops.encoded_masks import EncodedMasks
from bitfalcon_plugin.ops.instances import Instances
from bitfalcon_plugin.tasks.coco import coco_mask_metrics
from bitfalcon_plugin.val.worst import FALSE, HEAD, HIT, MISS, SIDE, worst_images
from tests.helpers.finder import painted
from tests.helpers.masks import NAMES, outlined_sample, random_case
from tests.helpers.pairs import counts_of_cocoeval


@pytest.mark.parametrize("seed, conf", [(0, 0.05), (1, 0.35), (2, 0.55)])
def test_pairs_are_those_of_cocoeval(seed, conf):
    samples, detections = random_case(seed)
    certain = detections.only(detections.scores > conf)
    expected = counts_of_cocoeval(len(samples), lambda: coco_mask_metrics(samples, certain, NAMES))  # masks come last
    worst = worst_images(samples, detections, NAMES, conf=conf)
    found = {row["image"]: (row["labels"], row["hits"], row["false_positives"]) for row in worst.summary()}
    wrong = {f"{i}.png": tuple(row) for i, row in enumerate(expected.tolist()) if row[0] != row[1] or row[2]}
    assert found == wrong and len(wrong) > 3 and "mask IoU 0.50" in worst.table()


def test_a_label_that_is_only_a_box_is_found_by_its_box():
    square = np.array([[10.0, 10], [30, 10], [30, 30], [10, 30]])
    plane = torch.zeros(1, 64, 64, dtype=torch.bool)
    plane[0, 10:12, 10:30] = True  # a tenth of the square
    found = Instances(torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([0]), torch.tensor([0.9]), torch.tensor([0]))
    found = replace(found, encoded_masks=EncodedMasks.of(plane))
    for is_box, errors in ((True, 0), (False, 1)):
        samples = [outlined_sample("a.png", (64, 64), [square], [0], [is_box])]
        assert len(worst_images(samples, found, NAMES, conf=0.5).errors) == errors


def test_masks_are_drawn_in_the_colour_of_their_error(tmp_path):
    path = painted(tmp_path / "a.png", (64, 64), [])
    wedges = [np.array([[x, 5.0], [x + 16, 5], [x, 21]]) for x in (4, 24, 44)]  # a corner of each box is empty
    planes = torch.zeros(2, 64, 64, dtype=torch.bool)
    rows, columns = torch.arange(64)[:, None], torch.arange(64)
    for plane, x in zip(planes, (4, 44)):
        plane |= (columns - x + rows - 5 < 16) & (columns >= x) & (rows >= 5)
    boxes = torch.tensor([[4.0, 5, 20, 21], [44, 5, 60, 21]])
    found = Instances(boxes, torch.tensor([0, 1]), torch.full((2,), 0.9), torch.zeros(2, dtype=torch.int64))
    found = replace(found, encoded_masks=EncodedMasks.of(planes))
    sample = outlined_sample(str(path), (64, 64), wedges[:2], [0, 0], [False, False])
    picture = worst_images([sample], found, NAMES, conf=0.5).draw()
    ground, scale = np.asarray(picture)[HEAD + SIDE // 2, SIDE // 2].astype(int), SIDE / 64
    for x, colour in ((4, HIT), (24, MISS), (44, FALSE)):
        inside = picture.getpixel((round((x + 4) * scale), HEAD + round(9 * scale)))
        outside = picture.getpixel((round((x + 14) * scale), HEAD + round(18 * scale)))
        mixed = (ground + [int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 2
        assert np.abs(mixed - inside).max() <= 1 and np.abs(ground - outside).max() <= 1
