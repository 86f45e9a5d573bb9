"""The range of sizes of a dynamic file."""

from __future__ import annotations

import pytest
import torch

from bitfalcon_plugin.data.loading.loader import rect_shape
from bitfalcon_plugin.export.images import comparison_batches
from bitfalcon_plugin.export.input_limits import KEY, limits_for, read_limits


@pytest.mark.parametrize("multiple", [8, 32, 64])
@pytest.mark.parametrize("size", [(64, 64), (640, 640), (384, 640), (64, 1280)])
@pytest.mark.parametrize("batch", [1, 16])
def test_what_export_and_val_run_is_inside(multiple, size, batch):
    limits = limits_for(multiple, size, batch, 4)
    assert limits.usual == (batch, 3, *size) and not any(side % multiple for side in limits.most[2:])
    assert all(low <= usual <= high for low, usual, high in zip(limits.least, limits.usual, limits.most))
    pictures = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 4
    batches = comparison_batches(pictures, size, multiple, True, lambda picture, canvas: torch.empty(1, 3, *canvas))
    assert all(limits.take(images.shape[2:]) and len(images) <= limits.most[0] for images in batches)
    for ratios in ([1.0], [0.3, 0.5], [2.0], [0.5, 2.0]):
        assert limits.take(rect_shape(ratios, max(size), max(multiple, 32)))
    assert limits.take(size[::-1]) and not limits.take((limits.most[2] + multiple, multiple))


def test_limits_are_read_as_they_are_written():
    limits = limits_for(32, (64, 96), 2, 4)
    args = {KEY: limits.shapes()}
    assert read_limits(args) == limits and args[KEY] == [[1, 3, 32, 32], [2, 3, 64, 96], [4, 3, 128, 128]]
    assert limits.describe() == "up to 4 images a call, with sides of 32 to 128 pixels"


@pytest.mark.parametrize(
    "shapes",
    [
        None,
        "text",
        [],
        [[1, 3, 32, 32]] * 2,
        [[1, 3, 32]] * 3,
        [[1, 4, 32, 32]] * 3,
        [[0, 3, 32, 32]] * 3,
        [[1, 3, 32, 32.0]] * 3,
        [[True, 3, 32, 32]] * 3,
        [[1, 3, 64, 32], [1, 3, 32, 32], [1, 3, 64, 64]],
    ],
)
def test_limits_that_cannot_be_meant_are_none(shapes):
    assert read_limits({KEY: shapes}) is None
