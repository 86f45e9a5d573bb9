"""Anchor points, decoding and assignment of dropin.utils.tal, compared with loops over cells and pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import complete_box_iou_loss

from bitfalcon_plugin.dropin.utils.rotated import batch_probiou, xywhr2xyxyxyxy
from bitfalcon_plugin.dropin.utils.tal import (
    RotatedTaskAlignedAssigner,
    TaskAlignedAssigner,
    bbox2dist,
    dist2bbox,
    dist2rbox,
    make_anchors,
)


@pytest.mark.parametrize("offset", [0.5, 0.0])
def test_anchor_points(offset):
    maps = [torch.zeros(1, 8, 3, 4), torch.zeros(1, 8, 2, 2)]
    points, strides = make_anchors(maps, torch.tensor([8.0, 16.0]), offset)
    expected = [(x + offset, y + offset) for h, w in ((3, 4), (2, 2)) for y in range(h) for x in range(w)]
    assert points.tolist() == [list(point) for point in expected]
    assert strides.shape == (16, 1) and strides[:, 0].tolist() == [8] * 12 + [16] * 4


def test_boxes_from_distances_and_back():
    points, distances = torch.rand(10, 2) * 20, torch.rand(3, 10, 4) * 5
    corners = dist2bbox(distances, points, xywh=False)
    for image in range(3):
        for anchor in range(10):
            (x, y), (left, top, right, bottom) = points[anchor], distances[image, anchor]
            expected = torch.stack([x - left, y - top, x + right, y + bottom])
            torch.testing.assert_close(corners[image, anchor], expected)
    centres = dist2bbox(distances, points)
    torch.testing.assert_close(centres[..., 2:], corners[..., 2:] - corners[..., :2])
    torch.testing.assert_close(bbox2dist(points, corners, 16), distances)
    assert float(bbox2dist(points, corners, 3).max()) == pytest.approx(2.99)
    along_second = dist2bbox(distances.transpose(1, 2), points.t()[None], dim=1)
    torch.testing.assert_close(along_second.transpose(1, 2), centres)


def test_oriented_boxes_from_distances():
    points, angle = torch.rand(6, 2) * 20, torch.rand(2, 6, 1) * 3
    distances = torch.rand(2, 6, 4) * 5
    boxes = torch.cat([dist2rbox(distances, angle, points), angle], -1)
    corners = xywhr2xyxyxyxy(boxes)
    for image in range(2):
        for anchor in range(6):  # the corner right and below, seen from the anchor in the turned frame
            turn = float(angle[image, anchor])
            _, _, right, bottom = distances[image, anchor].tolist()
            x = float(points[anchor, 0]) + right * math.cos(turn) - bottom * math.sin(turn)
            y = float(points[anchor, 1]) + right * math.sin(turn) + bottom * math.cos(turn)
            torch.testing.assert_close(corners[image, anchor, 0], torch.tensor([x, y]), atol=1e-4, rtol=1e-4)


def problem(images=2, truths=4, nc=3, oriented=False):
    """Scores, boxes, points, labels, truths and their mask; the last row of the second image is no ground truth."""
    generator = torch.Generator().manual_seed(4)
    points = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="xy"), -1).reshape(-1, 2) * 8.0 + 4
    boxes = torch.cat([points, torch.rand(64, 2, generator=generator) * 40 + 8], 1).repeat(images, 1, 1)
    centres = torch.rand(images, truths, 2, generator=generator) * 40 + 12
    sizes = torch.rand(images, truths, 2, generator=generator) * 30 + 18
    given = torch.cat([centres, sizes], -1)
    if oriented:
        angles = torch.rand(images, truths, 1, generator=generator) * 3
        given = torch.cat([given, angles], -1)
        boxes = torch.cat([boxes, torch.rand(images, 64, 1, generator=generator) * 3], -1)
    else:
        given, boxes = (
            torch.cat([b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2], -1) for b in (given, boxes)
        )
    labels = torch.randint(0, nc, (images, truths, 1), generator=generator)
    mask = torch.ones(images, truths, 1, dtype=torch.bool)
    mask[1, -1] = False
    scores = torch.rand(images, 64, nc, generator=generator)
    return scores, boxes, points, labels, given, mask


def by_loops(scores, boxes, points, labels, truths, mask, overlap_of, is_inside, topk, alpha, beta):
    """Task-aligned assignment, pair by pair: (image, anchor) -> (row of the ground truth, weight)."""
    result = {}
    for image in range(len(scores)):
        pairs = {}
        for row in range(truths.shape[1]):
            if not mask[image, row]:
                continue
            found = []
            for anchor in range(len(points)):
                overlap = max(overlap_of(truths[image, row], boxes[image, anchor]), 0.0)
                metric = float(scores[image, anchor, labels[image, row, 0]]) ** alpha * overlap**beta
                if is_inside(points[anchor], truths[image, row]) and metric > 0:
                    found.append((metric, overlap, anchor))
            for metric, overlap, anchor in sorted(found, reverse=True)[:topk]:
                pairs.setdefault(anchor, []).append((overlap, -row, metric))
        won = {anchor: max(claims) for anchor, claims in pairs.items()}
        for anchor, (_, negative, metric) in won.items():
            mine = [values for values in won.values() if values[1] == negative]
            scale = max(values[0] for values in mine) / (max(values[2] for values in mine) + 1e-9)
            result[image, anchor] = (-negative, metric * scale)
    return result


def check(found, expected, labels, truths):
    target_labels, target_boxes, target_scores, foreground, index = found
    assert {tuple(pair) for pair in foreground.nonzero().tolist()} == set(expected)
    for (image, anchor), (row, weight) in expected.items():
        assert index[image, anchor] == row and target_labels[image, anchor] == labels[image, row, 0]
        assert torch.equal(target_boxes[image, anchor], truths[image, row])
        scores = target_scores[image, anchor]
        assert float(scores[labels[image, row, 0]]) == pytest.approx(weight, abs=1e-5) == float(scores.sum())
    assert (target_scores.sum(-1)[~foreground] == 0).all()


@pytest.mark.parametrize("topk, alpha, beta", [(10, 0.5, 6.0), (3, 1.0, 2.0)])
def test_the_assignment_is_that_of_loops(topk, alpha, beta):
    given = problem()

    def overlap(truth, box):
        return 1 - float(complete_box_iou_loss(truth[None], box[None])[0])

    def inside(point, box):
        return bool((point > box[:2]).all() and (point < box[2:]).all())

    expected = by_loops(*given, overlap, inside, topk, alpha, beta)
    found = TaskAlignedAssigner(topk, num_classes=3, alpha=alpha, beta=beta)(*given)
    check(found, expected, given[3], given[4])
    assert [tuple(part.shape) for part in found] == [(2, 64), (2, 64, 4), (2, 64, 3), (2, 64), (2, 64)]


def test_the_assignment_of_oriented_boxes_is_that_of_loops():
    given = problem(oriented=True)

    def overlap(truth, box):
        return float(batch_probiou(truth[None], box[None]))

    def inside(point, box):
        a, b, _, d = xywhr2xyxyxyxy(box)
        offset = point - a
        return all(0 <= float(offset @ side) <= float(side @ side) for side in (b - a, d - a))

    expected = by_loops(*given, overlap, inside, 10, 0.5, 6.0)
    found = RotatedTaskAlignedAssigner(10, num_classes=3, alpha=0.5, beta=6.0)(*given)
    check(found, expected, given[3], given[4])


def test_without_ground_truths_nothing_is_assigned():
    scores, boxes, points, labels, truths, mask = problem()
    assigner = TaskAlignedAssigner(num_classes=3)
    for found in (
        assigner(scores, boxes, points, labels, truths, mask & False),
        assigner(scores, boxes, points, labels[:, :0], truths[:, :0], mask[:, :0]),
    ):
        assert not found[3].any() and (found[2] == 0).all() and found[1].shape == (2, 64, 4)
