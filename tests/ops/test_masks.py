"""Masks from prototypes: the recorded masks pixel for pixel, and what whole planes give."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as rle

from bitfalcon_plugin.ops.letterbox import Fit, letterbox_fit
from bitfalcon_plugin.ops.masks import inside_boxes, masks_of_input, masks_of_original, masks_of_prototypes
from tests.data.recorded.fill import noise
from tests.helpers.paths import RECORDED

DECODE = json.loads(gzip.decompress((RECORDED / "segment.json.gz").read_bytes()))["segment-decode"]["decode"]
CASES = pytest.mark.parametrize("case", DECODE, ids=lambda case: case["name"])


def recorded_inputs(case: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Fit]:
    """Coefficients (9, 32), prototypes (32, h, w), boxes xyxy in pixels of the input, and the fit of a case."""
    height, width = (side // 4 for side in case["input"])
    a = torch.from_numpy(noise(f"decode.{case['name']}.prototypes", (32, 2, 3))).double()
    y, x = torch.arange(height).double()[:, None], torch.arange(width).double()
    a = a[..., None, None]
    planes = torch.sin(0.35 * (a[:, 0, 0] * x + a[:, 0, 1] * y) + 3 * a[:, 0, 2])
    planes = planes + torch.sin(0.2 * (a[:, 1, 0] * x + a[:, 1, 1] * y) + 3 * a[:, 1, 2])
    planes[0] = 1
    coefficients = torch.from_numpy(noise(f"decode.{case['name']}.coefficients", (9, 32))).float() * 0.6
    coefficients[7:] = 0
    coefficients[7, 0], coefficients[8, 0] = -3, 3
    fit = letterbox_fit(tuple(case["original"]), tuple(case["input"]))
    return coefficients, planes.float(), torch.tensor(case["boxes_xyxy_input"]), fit


def decoded(counts: list[str], size: list[int]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(rle.decode({"size": size, "counts": text})) for text in counts]).bool()


@CASES
def test_masks_in_the_size_of_the_input_are_the_recorded_ones(case):
    coefficients, prototypes, boxes, fit = recorded_inputs(case)
    masks = masks_of_input(coefficients, prototypes, boxes, fit.canvas).planes().bool()
    kept = masks.flatten(1).any(1).nonzero().flatten().tolist()
    assert kept == case["default"]["kept"]
    record = decoded(case["default"]["rle"], case["default"]["size"])
    assert int((masks[kept] != record).sum()) <= case["default"]["near_zero_pixels"]
    expected = torch.tensor(case["default"]["boxes_xyxy_original"])
    torch.testing.assert_close(fit.to_original(boxes)[kept], expected, atol=1e-3, rtol=0)


@CASES
def test_masks_in_the_size_of_the_original_are_the_recorded_ones(case):
    coefficients, prototypes, boxes, fit = recorded_inputs(case)
    masks = masks_of_original(coefficients, prototypes, fit.to_original(boxes), fit).planes().bool()
    kept = masks.flatten(1).any(1).nonzero().flatten().tolist()
    assert kept == case["retina"]["kept"]
    record = decoded(case["retina"]["rle"], case["retina"]["size"])
    assert int((masks[kept] != record).sum()) <= case["retina"].get("near_zero_pixels", 0)


@CASES
def test_masks_in_the_size_of_the_prototypes_are_the_recorded_ones(case):
    coefficients, prototypes, boxes, _ = recorded_inputs(case)
    masks = masks_of_prototypes(coefficients, prototypes, boxes / 4)
    record = case["validation"]
    assert torch.equal(masks, decoded(record["rle"], record["size"]))


def test_a_pixel_belongs_to_a_box_that_covers_its_corner():
    boxes = torch.tensor([[1.0, 0.0, 3.5, 2.0], [-5.0, -5.0, 0.5, 9.0], [2.0, 2.0, 2.0, 9.0]])
    for box, found in zip(boxes.tolist(), inside_boxes(boxes, (4, 5))):
        x1, y1, x2, y2 = box
        assert found.tolist() == [[x1 <= x < x2 and y1 <= y < y2 for x in range(5)] for y in range(4)]


def whole_planes(coefficients, prototypes, boxes, fit) -> tuple[torch.Tensor, torch.Tensor]:
    """The masks in the sizes of input and original, from planes that are interpolated as a whole; and the logits."""
    logits = torch.einsum("nm,mhw->nhw", coefficients, prototypes)[:, None]
    stride = fit.canvas[0] // logits.shape[2]
    large = F.interpolate(logits, scale_factor=stride, mode="bilinear")
    (top, left), (height, width) = fit.pad, fit.resized
    content = large[..., top : top + height, left : left + width]
    original = F.interpolate(content, fit.original, mode="bilinear")[:, 0]
    large = large[:, 0]
    inside = inside_boxes(boxes, fit.canvas), inside_boxes(fit.to_original(boxes), fit.original)
    return (large > 0) & inside[0], (original > 0) & inside[1]


@pytest.mark.parametrize(("original", "canvas"), [((61, 90), (64, 96)), ((130, 47), (96, 64)), ((48, 64), (96, 128))])
def test_patches_are_what_whole_planes_hold(original, canvas, monkeypatch):
    """Boxes of all sizes, beyond the border, outside of the picture, empty, and not finite."""
    generator = torch.Generator().manual_seed(0)
    fit = letterbox_fit(original, canvas)
    low = torch.randn(1, 8, 5, 7, generator=generator)
    prototypes = F.interpolate(low, (canvas[0] // 4, canvas[1] // 4), mode="bicubic")[0]
    boxes = torch.rand(60, 4, generator=generator) * 1.4 * max(canvas) - 0.2 * max(canvas)
    boxes = torch.cat([torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])], 1)
    boxes[0] = torch.tensor([-9.0, -9, 999, 999])
    boxes[1], boxes[2], boxes[3] = boxes[1].flip(0), torch.tensor([5.0, 5, 5, 5]), float("nan")
    coefficients = torch.randn(60, 8, generator=generator)
    expected = whole_planes(coefficients, prototypes, boxes, fit)
    for pixels in (1 << 25, 1):
        monkeypatch.setattr("bitfalcon_plugin.ops.masks.MAX_PIXELS", pixels)
        found = (
            masks_of_input(coefficients, prototypes, boxes, fit.canvas),
            masks_of_original(coefficients, prototypes, fit.to_original(boxes), fit),
        )
        for patches, planes in zip(found, expected):
            assert patches.visible.tolist() == planes.flatten(1).any(1).tolist() and 20 < patches.visible.sum() < 60
            assert torch.equal(patches.planes().bool(), planes)


def test_no_object_gives_no_mask():
    none, prototypes = torch.zeros(0, 4), torch.rand(32, 8, 8)
    fit = letterbox_fit((20, 30), (32, 32))
    assert masks_of_input(torch.zeros(0, 32), prototypes, none, (32, 32)).planes().shape == (0, 32, 32)
    masks = masks_of_original(torch.zeros(0, 32), prototypes, none, fit)
    assert masks.planes().shape == (0, 20, 30) and len(masks.encode()) == len(masks.visible) == 0


def test_an_image_that_does_not_fill_the_input_has_its_masks_in_place():
    """An image of 40 x 60 px lies unscaled on an input of 64 x 96 px: a disc stays where it was painted."""
    fit = letterbox_fit((40, 60), (64, 96), scaleup=False)
    assert fit.resized == (40, 60) and fit.pad == (12, 18)
    y, x = torch.arange(16)[:, None] * 4 + 1.5 - 12, torch.arange(24) * 4 + 1.5 - 18  # in pixels of the image
    prototypes = (10 - ((y - 15) ** 2 + (x - 33) ** 2).sqrt())[None]
    mask = masks_of_original(torch.ones(1, 1), prototypes, torch.tensor([[0.0, 0, 60, 40]]), fit).planes()[0].bool()
    y, x = torch.arange(40)[:, None], torch.arange(60)
    disc = (y - 15) ** 2 + (x - 33) ** 2 < 100
    assert (mask & disc).sum() / (mask | disc).sum() > 0.95
