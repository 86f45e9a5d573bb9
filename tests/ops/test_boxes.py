"""Geometry against torchvision, hand-made numbers and slow loops."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision

from bitfalcon_plugin.ops.boxes import (
    anchor_points,
    box_iou,
    boxes_to_distances,
    ciou,
    distances_to_boxes,
    pair_greedily,
    xywh_from_xyxy,
    xyxy_from_xywh,
)
from bitfalcon_plugin.ops.letterbox import Fit, letterbox_fit, minimal_canvas


def random_boxes(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(count, 4) xyxy, sides 1 to 101."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=dtype) * 200
    return torch.cat((corner, corner + 1 + torch.rand(count, 2, generator=generator, dtype=dtype) * 100), 1)


def test_formats_agree_with_torchvision():
    boxes = random_boxes(50)
    assert torch.equal(xywh_from_xyxy(boxes), torchvision.ops.box_convert(boxes, "xyxy", "cxcywh"))
    assert torch.equal(xyxy_from_xywh(boxes), torchvision.ops.box_convert(boxes, "cxcywh", "xyxy"))
    torch.testing.assert_close(xyxy_from_xywh(xywh_from_xyxy(boxes.view(5, 10, 4))), boxes.view(5, 10, 4))


# ---- CIoU ----------------------------------------------------------------------------------------------------------


def plain_ciou(a, b, alpha=None) -> tuple[float, float]:
    """CIoU of two boxes in plain floats, and its alpha; a given alpha is used as it is."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    iou = width * height / (area - width * height)
    centre = ((a[0] + a[2]) / 2 - (b[0] + b[2]) / 2, (a[1] + a[3]) / 2 - (b[1] + b[3]) / 2)
    hull = (max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1]))
    rho = (centre[0] ** 2 + centre[1] ** 2) / (hull[0] ** 2 + hull[1] ** 2)
    aspect = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
    v = 4 / math.pi**2 * (aspect[0] - aspect[1]) ** 2
    alpha = v / (1 - iou + v) if alpha is None else alpha
    return iou - rho - alpha * v, alpha


def test_ciou_agrees_with_torchvision_and_broadcasts():
    a, b = random_boxes(40, 1), random_boxes(30, 2)
    expected = torchvision.ops.complete_box_iou(a, b)
    assert (expected > 0).sum() > 50  # not all apart
    torch.testing.assert_close(ciou(a[:, None], b), expected)
    torch.testing.assert_close(ciou(a, a), torch.ones(40))


def test_ciou_gradient_takes_alpha_as_a_constant():
    a, b = random_boxes(30, 3, torch.float64).requires_grad_(), random_boxes(30, 4, torch.float64)
    (gradient,) = torch.autograd.grad(ciou(a, b).sum(), a)
    step = 1e-5
    for row in range(30):
        first, second = a[row].tolist(), b[row].tolist()
        _, alpha = plain_ciou(first, second)
        for side in range(4):
            shifted = [list(first), list(first)]
            shifted[0][side] -= step
            shifted[1][side] += step
            low, high = (plain_ciou(box, second, alpha)[0] for box in shifted)
            assert gradient[row, side].item() == pytest.approx((high - low) / (2 * step), rel=1e-4, abs=1e-7)


def test_ciou_of_degenerate_boxes_is_finite():
    boxes = torch.tensor([[0.0, 0, 0, 0], [5, 5, 5, 5], [0, 0, 10, 0], [0, 0, 0, 10], [0, 0, 10, 10]])
    a = boxes[:, None].expand(5, 5, 4).clone().requires_grad_()
    values = ciou(a, boxes)
    values.sum().backward()
    assert values.isfinite().all() and a.grad.isfinite().all()
    assert values.max() <= 1 and values.min() > -1.5


# ---- anchors and distances -----------------------------------------------------------------------------------------


def test_anchor_points_are_row_major_cell_centres():
    points, stride = anchor_points([(3, 4), (2, 1)], [8.0, 16.0])
    expected = [(x + 0.5, y + 0.5) for y in range(3) for x in range(4)] + [(0.5, 0.5), (0.5, 1.5)]
    assert points.tolist() == [list(point) for point in expected]
    assert stride.tolist() == [8.0] * 12 + [16.0] * 2
    assert anchor_points([(2, 2)], [8], dtype=torch.float64)[0].dtype == torch.float64
    with pytest.raises(ValueError):
        anchor_points([(3, 4)], [8, 16])


def test_distances_and_boxes_are_inverse():
    points = torch.tensor([[10.0, 20], [3, 4]])
    distances = torch.tensor([[1.0, 2, 3, 4], [-1, 0.5, 2, 2]])
    boxes = distances_to_boxes(points, distances)
    assert boxes.tolist() == [[9, 18, 13, 24], [4, 3.5, 5, 6]]
    assert torch.equal(boxes_to_distances(points, boxes), distances)
    many = distances.expand(3, 2, 4)
    assert torch.equal(boxes_to_distances(points, distances_to_boxes(points, many)), many)


# ---- letterbox -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "canvas", "resized", "pad"),
    [  # canvases verified in interface.md 5.4; pads by hand: 21 / 2 = 10.5 -> 10, 24 / 2 = 12, 31 / 2 = 15.5 -> 15
        ((480, 640), (480, 640), (480, 640), (0, 0)),
        ((427, 640), (448, 640), (427, 640), (10, 0)),
        ((1080, 810), (640, 480), (640, 480), (0, 0)),
        ((720, 1280), (384, 640), (360, 640), (12, 0)),
        ((33, 640), (64, 640), (33, 640), (15, 0)),
    ],
)
def test_letterbox_of_the_verified_sizes(size, canvas, resized, pad):
    assert minimal_canvas(size, 640, 32) == canvas
    assert minimal_canvas(size, (640, 640), 32) == canvas
    assert letterbox_fit(size, canvas) == Fit(original=size, resized=resized, canvas=canvas, pad=pad)


def test_letterbox_enlarges_only_when_allowed():
    assert letterbox_fit((50, 100), (640, 640)).resized == (320, 640)
    small = letterbox_fit((50, 100), (640, 641), scaleup=False)
    assert small.resized == (50, 100) and small.pad == (295, 270)  # (641 - 100) / 2 = 270.5 -> 270
    assert letterbox_fit((3, 5000), (640, 640)).resized == (1, 640)


def test_minimal_canvas_holds_the_image_and_no_whole_stride_more():
    generator = torch.Generator().manual_seed(0)
    for h, w, imgsz in torch.randint(20, 2000, (200, 3), generator=generator).tolist():
        canvas = minimal_canvas((h, w), imgsz, 32)
        fit = letterbox_fit((h, w), canvas)
        for outer, inner in zip(canvas, fit.resized):
            assert outer % 32 == 0 and 0 <= outer - inner < 32
        assert max(canvas) == math.ceil(imgsz / 32) * 32


def test_boxes_go_to_the_canvas_and_back():
    generator = torch.Generator().manual_seed(1)
    for h, w in torch.randint(20, 2000, (50, 2), generator=generator).tolist():
        fit = letterbox_fit((h, w), (416, 640))
        (top, left), (new_h, new_w) = fit.pad, fit.resized
        whole = torch.tensor([[left, top, left + new_w, top + new_h]])  # int64: pixels of the placed copy
        torch.testing.assert_close(fit.to_original(whole), torch.tensor([[0.0, 0, w, h]]))
        boxes = torch.rand(20, 4, generator=generator) * torch.tensor([w, h, w, h])
        torch.testing.assert_close(fit.to_original(fit.to_canvas(boxes)), boxes, rtol=1e-4, atol=1e-2)
        for outer, inner, before in zip(fit.canvas, fit.resized, fit.pad):
            assert (outer - inner) - 2 * before in (0, 1)  # an odd pixel lies below or on the right


def test_back_projection_uses_each_axis_own_ratio_and_clips():
    fit = letterbox_fit((427, 641), (320, 320))  # resized to 213 x 320: ratios 213/427 and 320/641
    assert fit.resized == (213, 320) and fit.pad == (53, 0)
    boxes = fit.to_original(torch.tensor([[32.0, 53 + 21.3, 64, 53 + 42.6], [-5, -5, 400, 400]]))
    torch.testing.assert_close(boxes, torch.tensor([[64.1, 42.7, 128.2, 85.4], [0, 0, 641, 427]]))
    assert fit.to_original(torch.zeros(0, 4)).shape == (0, 4)


def test_iou_agrees_with_torchvision():
    a, b = random_boxes(30, dtype=torch.float64), random_boxes(20, seed=1, dtype=torch.float64)
    torch.testing.assert_close(box_iou(a, b), torchvision.ops.box_iou(a, b))
    assert torch.equal(box_iou(a, a).diagonal(), torch.ones(30, dtype=torch.float64))
    assert box_iou(a[:0], b).shape == (0, 20)


def test_boxes_of_no_area_overlap_nothing():
    boxes = torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 2], [5, 5, 3, 3]])  # a point, a square, corners that are swapped
    assert torch.equal(box_iou(boxes, boxes), torch.diag(torch.tensor([0.0, 1, 0])))


def slowly_paired(overlap: torch.Tensor, threshold: float, rows_in_turn: bool) -> list[tuple[int, int]]:
    pairs, rows, columns = [], set(range(overlap.shape[0])), set(range(overlap.shape[1]))
    while True:
        left = [(i, j) for i in rows for j in columns if overlap[i, j] >= threshold]
        if not left:
            return pairs
        pair = min(left, key=lambda at: (at[0] if rows_in_turn else 0, -overlap[at].item(), *at))
        pairs.append(pair)
        rows.remove(pair[0])
        columns.remove(pair[1])


@pytest.mark.parametrize("rows_in_turn", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_those_of_a_slow_loop(seed, rows_in_turn):
    generator = torch.Generator().manual_seed(seed)
    overlap = torch.randint(0, 11, (9, 7), generator=generator) / 10  # with many ties
    pairs = pair_greedily(overlap, 0.5, rows_in_turn=rows_in_turn)
    assert list(map(tuple, pairs.tolist())) == slowly_paired(overlap, 0.5, rows_in_turn)


def test_pairs_of_nothing_are_none():
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert pair_greedily(torch.zeros(shape), 0.0).shape == (0, 2)
