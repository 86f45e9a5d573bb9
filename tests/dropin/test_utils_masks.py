"""Masks of dropin.utils, compared with loops over pixels, Pillow and OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from bitfalcon_plugin.dropin.utils import ops


def outputs(count=4, channels=5, size=(12, 16)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Smooth prototypes, coefficients, and boxes in pixels of a network input of 4 x size."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(1, channels, 4, 5, generator=generator)
    protos = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)[0]
    points = torch.rand(count, 2, 2, generator=generator) * torch.tensor([4.0 * size[1], 4.0 * size[0]])
    boxes = torch.cat([points.amin(1), points.amax(1)], 1)
    return protos, torch.randn(count, channels, generator=generator), boxes


def test_crop_keeps_the_pixels_of_the_box():
    boxes = torch.tensor([[1.2, 0, 4, 2.5], [-3, -3, 100, 100], [2, 2, 2, 5]])
    cropped = ops.crop_mask(torch.ones(3, 6, 7), boxes)
    for mask, (x1, y1, x2, y2) in zip(cropped, boxes.tolist(), strict=True):
        for row in range(6):
            for column in range(7):
                assert mask[row, column] == (x1 <= column < x2 and y1 <= row < y2)


def bilinear(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A plane (h, w) resized with centres of pixels aligned, pixel by pixel."""
    out = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y = min(max((row + 0.5) * plane.shape[0] / size[0] - 0.5, 0), plane.shape[0] - 1)
            x = min(max((column + 0.5) * plane.shape[1] / size[1] - 0.5, 0), plane.shape[1] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, plane.shape[0] - 1), min(left + 1, plane.shape[1] - 1)
            above = plane[top, left] * (1 - x + left) + plane[top, right] * (x - left)
            below = plane[bottom, left] * (1 - x + left) + plane[bottom, right] * (x - left)
            out[row, column] = above * (1 - y + top) + below * (y - top)
    return out


@pytest.mark.parametrize("upsample", [False, True])
def test_masks_at_the_size_of_the_prototypes_and_of_the_input(upsample):
    protos, coefficients, boxes = outputs()
    masks = ops.process_mask(protos, coefficients, boxes, (48, 64), upsample=upsample)
    assert masks.dtype == torch.uint8 and masks.shape == ((4, 48, 64) if upsample else (4, 12, 16))
    factor = 1 if upsample else 4
    for mask, weights, box in zip(masks.numpy(), coefficients.numpy(), boxes.numpy() / factor, strict=True):
        logits = sum(weight * plane for weight, plane in zip(weights, protos.numpy(), strict=True))
        logits = bilinear(logits, (48, 64)) if upsample else logits
        rows, columns = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]]
        inside = (columns >= box[0]) & (columns < box[2]) & (rows >= box[1]) & (rows < box[3])
        clear = np.abs(logits) > 1e-5  # rounding decides the others
        assert np.array_equal(mask[clear], ((logits > 0) & inside)[clear])
    assert ops.process_mask(protos, coefficients[:0], boxes[:0], (48, 64)).shape == (0, 12, 16)
    if upsample:
        assert torch.equal(ops.process_mask_upsample(protos, coefficients, boxes, (48, 64)), masks)


def test_masks_at_the_size_of_the_image():
    protos, coefficients, boxes = outputs()
    # An image of 60 x 128 lies at half its size below 9 rows of grey, which are cut from planes four times as large.
    masks = ops.process_mask_native(protos, coefficients, boxes, (60, 128))
    assert masks.shape == (4, 60, 128) and masks.dtype == torch.uint8
    logits = np.einsum("nc,chw->nhw", coefficients.numpy(), protos.numpy())
    for mask, plane, box in zip(masks.numpy(), logits, boxes.numpy(), strict=True):
        large = bilinear(bilinear(plane, (48, 64))[9:39], (60, 128))
        rows, columns = np.mgrid[0:60, 0:128]
        inside = (columns >= box[0]) & (columns < box[2]) & (rows >= box[1]) & (rows < box[3])
        clear = np.abs(large) > 1e-4
        assert np.array_equal(mask[clear], ((large > 0) & inside)[clear])


def test_scaling_cuts_the_grey_borders():
    plane = torch.rand(1, 1, 48, 64)
    assert torch.equal(ops.scale_masks(plane, (48, 64)), plane)
    cut = ops.scale_masks(plane, (60, 128))  # 9 rows of grey above and below
    np.testing.assert_allclose(cut[0, 0].numpy(), bilinear(plane[0, 0, 9:39].numpy(), (60, 128)), atol=1e-5)
    known = ops.scale_masks(plane, (60, 128), ratio_pad=((0.5, 0.5), (0, 9)))
    torch.testing.assert_close(known, cut)
    whole = ops.scale_masks(plane, (24, 32), padding=False)
    np.testing.assert_allclose(whole[0, 0].numpy(), bilinear(plane[0, 0].numpy(), (24, 32)), atol=1e-5)
    array = plane[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ops.scale_image(array, (60, 128))[..., 0], cut[0, 0].numpy(), atol=1e-6)
    assert ops.scale_image((array * 255).astype(np.uint8), (60, 128)).dtype == np.uint8


def test_outlines():
    masks = torch.zeros(3, 40, 50)
    masks[0, 5:15, 10:30] = 1
    masks[1, 2:8, 2:8] = 1
    masks[1, 20:38, 20:45] = 1
    square, joined, empty = ops.masks2segments(masks)
    assert square.dtype == np.float32 and sorted(map(tuple, square.tolist())) == [(10, 5), (10, 14), (29, 5), (29, 14)]
    assert empty.shape == (0, 2)
    largest = ops.masks2segments(masks[1:2], strategy="largest")[0]
    assert len(largest) == 4 and len(joined) == 10  # both squares, and a bridge there and back
    drawn = Image.new("1", (50, 40))
    ImageDraw.Draw(drawn).polygon([tuple(point) for point in joined.tolist()], fill=1, outline=1)
    assert (np.asarray(drawn) & masks[1].bool().numpy()).sum() == masks[1].sum()
    with pytest.raises(ValueError, match="strategy='none'"):
        ops.masks2segments(masks, strategy="none")
