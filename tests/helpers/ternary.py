"""A YOLOv12-n of three classes to be made ternary, for the tests of bitify, of folding and of scales."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor, nn

from bitfalcon_plugin.models.bitify import bitify, ternary_layers
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.detector import Detector
from tests.helpers.tiny_models import lived


@cache
def _yolov12() -> Detector:
    torch.manual_seed(0)
    return lived(build("yolov12.yaml", "n", nc=3))


def float_model() -> Detector:
    """Return a float model whose batch norms change what they are given; always with the same weights."""
    return copy.deepcopy(_yolov12())


def ternary_model(bit: str, **options: str) -> Detector:
    """Return the float model after bitify, with scales of activations measured on `images()`; eval mode."""
    model = float_model()
    bitify(model, bit, **options)
    return with_scales(model)


@torch.no_grad()
def with_scales(model: Detector) -> Detector:
    """Measure the scales of activations on `images()`, in place; the batch norms stay. Returns the model."""
    model.eval()
    for layer in ternary_layers(model).values():
        layer.training = True
    model(images())
    return model.eval()


def training_forward(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the training output on x, which sets the scale of a new layer; leave the layer in eval mode."""
    y = layer.train()(x)
    layer.eval()
    return y.detach()


def images(side: int = 64) -> Tensor:
    """Return two images (2, 3, side, side), always the same."""
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Assert that two dicts of tensors, outputs or states, have the same keys and are equal to the bit."""
    assert first.keys() == second.keys()
    assert [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []
