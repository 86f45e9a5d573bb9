"""Box formats and moves of dropin.utils.ops, compared with torchvision, and with letterboxes done by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert, clip_boxes_to_image

from bitfalcon_plugin.dropin.utils import ops


def boxes(*shape: int) -> torch.Tensor:
    points = torch.rand(*shape, 2, 2, generator=torch.Generator().manual_seed(3)) * 500
    return torch.cat([points.amin(-2), points.amax(-2)], -1)


FORMATS = {"xyxy": "xyxy", "xywh": "cxcywh", "ltwh": "xywh"}
PAIRS = [(a, b) for a in FORMATS for b in FORMATS if a != b]


@pytest.mark.parametrize("source, target", PAIRS)
@pytest.mark.parametrize("shape", [(7,), (2, 3), ()])
def test_formats_are_those_of_torchvision(source, target, shape):
    convert = getattr(ops, f"{source}2{target}")
    given = box_convert(boxes(*shape), "xyxy", FORMATS[source])
    expected = box_convert(given, FORMATS[source], FORMATS[target])
    before = given.clone()
    torch.testing.assert_close(convert(given), expected)
    torch.testing.assert_close(torch.from_numpy(convert(given.numpy())), expected)
    assert torch.equal(given, before) and isinstance(convert(given.numpy()), np.ndarray)


def test_lists_become_float32_arrays_and_integers_stay_integers():
    assert ops.xyxy2xywh([0, 0, 4, 6]).dtype == np.float32
    whole = ops.xyxy2xywh(np.array([[0, 0, 5, 6]]))
    assert whole.dtype == np.int64 and whole.tolist() == [[2, 3, 5, 6]]
    assert ops.xywh2xyxy(torch.tensor([[5, 5, 4, 4]])).tolist() == [[3, 3, 7, 7]]
    assert ops.xywh2xyxy(torch.zeros(2, 4, dtype=torch.int32)).dtype == torch.int32
    with pytest.raises(AssertionError, match="expected"):
        ops.xyxy2xywh(torch.zeros(3, 3))


def test_further_columns_follow():
    rows = torch.cat([boxes(4), torch.rand(4, 2)], 1)
    assert torch.equal(ops.xyxy2xywh(rows)[:, 4:], rows[:, 4:])
    assert ops.xyxy2xywh(rows.numpy()).shape == (4, 6)


def test_shares_of_the_image():
    pixels = boxes(5)
    shares = ops.xyxy2xywhn(pixels, w=500, h=400)
    torch.testing.assert_close(shares * torch.tensor([500, 400, 500, 400]), box_convert(pixels, "xyxy", "cxcywh"))
    torch.testing.assert_close(ops.xywhn2xyxy(shares, 500, 400), pixels)
    moved = ops.xywhn2xyxy(shares, 500, 400, padw=8, padh=16)
    torch.testing.assert_close(moved, pixels + torch.tensor([8.0, 16, 8, 16]))
    outside = np.array([[-10.0, -10, 600, 500]], np.float32)
    clipped = ops.xyxy2xywhn(outside, w=500, h=400, clip=True, eps=1e-3)
    assert np.allclose(clipped, [0.5, 0.5, 1, 1], atol=1e-5) and outside[0, 0] == 0


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray])
def test_clipping_is_in_place(kind):
    values = torch.tensor([[-5.0, 10, 700, 900], [1, 2, 3, 4]])
    given = kind(values.clone() if kind is torch.as_tensor else values.numpy().copy())
    assert ops.clip_boxes(given, (480, 640, 3)) is given
    assert torch.equal(torch.as_tensor(given), clip_boxes_to_image(values, (480, 640)))
    points = kind(np.array([[[-1.0, 5], [900, 900]]]))
    assert ops.clip_coords(points, (480, 640)) is points
    assert points.tolist() == [[[0, 5], [640, 480]]]


# Sizes of spec/interface.md 5.4, gain and padding by hand: input, image, gains (height, width), left, top
LETTERBOXES = [
    ((480, 640), (480, 640), (1, 1), 0, 0),
    ((448, 640), (427, 640), (1, 1), 0, 10),
    ((640, 480), (1080, 810), (640 / 1080, 480 / 810), 0, 0),
    ((384, 640), (720, 1280), (0.5, 0.5), 0, 12),
    ((640, 640), (480, 640), (1, 1), 0, 80),
    ((640, 640), (333, 500), (426 / 333, 640 / 500), 0, 107),
]


@pytest.mark.parametrize("net, image, gains, left, top", LETTERBOXES)
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_boxes_and_points_go_back_to_the_image(net, image, gains, left, top, kind):
    original = clip_boxes_to_image(boxes(6), image)
    factors = torch.tensor([gains[1], gains[0]] * 2)
    placed = original * factors + torch.tensor([left, top] * 2)
    given = placed.clone() if kind == "tensor" else placed.numpy().copy()
    moved = ops.scale_boxes(net, given, (*image, 3))
    assert moved is given
    torch.testing.assert_close(torch.as_tensor(moved), original, atol=2e-3, rtol=1e-5)
    points = placed.reshape(-1, 2, 2).clone()
    moved = ops.scale_coords(net, points if kind == "tensor" else points.numpy(), image)
    torch.testing.assert_close(torch.as_tensor(moved), original.reshape(-1, 2, 2), atol=2e-3, rtol=1e-5)
    known = ops.scale_boxes(net, placed.clone(), image, ratio_pad=(gains, (left, top)))
    torch.testing.assert_close(known, original, atol=2e-3, rtol=1e-5)


def test_options_of_scaling():
    centres = torch.tensor([[320.0, 332, 100, 50, 0.9]])
    moved = ops.scale_boxes((384, 640), centres.clone(), (720, 1280), xywh=True)
    torch.testing.assert_close(moved, torch.tensor([[640.0, 640, 200, 100, 0.9]]))
    beyond = ops.scale_boxes((384, 640), torch.tensor([[-50.0, 0, 9000, 9000]]), (720, 1280))
    assert beyond.tolist() == [[0, 0, 1280, 720]]
    plain = ops.scale_boxes((360, 640), torch.tensor([[10.0, 10, 20, 20]]), (720, 1280), padding=False)
    assert plain.tolist() == [[20, 20, 40, 40]]
    shares = ops.scale_coords((384, 640), torch.tensor([[320.0, 192]]), (720, 1280), normalize=True)
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.5]]))
    one = ops.scale_boxes((384, 640), torch.tensor([320.0, 192, 330, 200]), (720, 1280))
    assert one.tolist() == [640, 360, 660, 376]


def test_rings_of_points():
    square = np.array([[0, 0], [10, 0], [10, 20], [0, 20]], np.float32)
    triangle = np.array([[5, 5], [9, 5], [5, 8]], np.float32)
    assert ops.segments2boxes([square, triangle]).tolist() == [[5, 10, 10, 20], [7, 6.5, 4, 3]]
    assert ops.segments2boxes([]).shape == (0, 4)
    assert ops.segment2box(np.array([[-5.0, 5], [50, 60], [20, 10]]), 100, 100).tolist() == [20, 10, 50, 60]
    assert ops.segment2box(np.array([[-5.0, 5]]), 100, 100).tolist() == [0, 0, 0, 0]
    dense = ops.resample_segments([square.copy()], 1000)[0]
    assert dense.shape == (1000, 2) and dense.dtype == np.float32
    assert all((dense == corner).all(1).any() for corner in square)
    on_border = (np.isin(dense[:, 0], (0, 10)) | np.isin(dense[:, 1], (0, 20))).all()
    assert on_border and np.array_equal(dense[0], dense[-1])
    kept = [dense]
    assert ops.resample_segments(kept, 1000)[0] is dense
    assert ops.resample_segments([square], 3)[0].shape == (3, 2)


def test_small_helpers():
    assert [ops.make_divisible(x, 8) for x in (1, 8, 9, 64.2)] == [8, 8, 16, 72]
    assert ops.make_divisible(30, torch.tensor([8, 16, 32])) == 32
    assert ops.clean_str("rtsp://a@b/c?d=1") == "rtsp://a_b/c_d_1"
    assert ops.empty_like(torch.zeros(2, 3, dtype=torch.int64)).dtype == torch.float32
    assert ops.empty_like(np.zeros((2, 3), int)).shape == (2, 3)
    images = ops.convert_torch2numpy_batch(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5))
    assert images.shape == (2, 4, 5, 3) and images[0, 0, 0].tolist() == [0, 127, 255] and images.dtype == np.uint8


def test_a_stopwatch_is_a_context_and_a_decorator():
    watch = ops.Profile(t=1.0)
    with watch:
        sum(range(1000))
    first = watch.dt
    assert 0 < first < 1 and watch.t == pytest.approx(1 + first)

    @watch
    def work() -> int:
        return 7

    assert work() == 7 and watch.t == pytest.approx(1 + first + watch.dt) and "s" in str(watch)
