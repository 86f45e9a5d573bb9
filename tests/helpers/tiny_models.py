"""Small documents, and modules whose every part counts, for the tests of graphs, modules and models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitfalcon_plugin.models.build import resolve_graph
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.graph.rows import Graph
from bitfalcon_plugin.models.modules.conv import Conv

CONV = (-1, 1, "Conv", [16, 3, 2])


def small(*rows, head=(), **keys) -> dict:
    """A document with the given backbone rows and a head on the last of them (or the given head rows)."""
    head = head or [([-1], 1, "Detect", ["nc"])]
    return {"nc": 2, "backbone": [list(row) for row in rows], "head": [list(row) for row in head], **keys}


def small_graph(*rows, head=(), **keys) -> Graph:
    """The same, resolved."""
    return resolve_graph(small(*rows, head=head, **keys))


def small_model(*rows, head=(), **keys) -> Detector:
    """The same, built."""
    return Detector(small_graph(*rows, head=head, **keys))


@torch.no_grad()
def lived(module: nn.Module) -> nn.Module:
    """The module in eval mode, with batch norms and gammas that change what they are given and boxes that differ."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 2)
            part.weight.normal_(1, 0.1)
            part.bias.normal_(0, 0.1)
        if getattr(part, "gamma", None) is not None:
            part.gamma.normal_()
        if hasattr(part, "dfl"):
            for branch in part.cv2:
                branch[-1].weight.normal_(std=0.2)
    return module.eval()


def conv(block: Conv, x: Tensor, active: bool = True) -> Tensor:
    """A Conv block step by step."""
    bn, layer = block.bn, block.conv
    y = nn.functional.conv2d(x, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    y = (y - bn.running_mean.view(-1, 1, 1)) / (bn.running_var.view(-1, 1, 1) + 1e-3).sqrt()
    y = y * bn.weight.view(-1, 1, 1) + bn.bias.view(-1, 1, 1)
    return y * y.sigmoid() if active else y


@pytest.fixture(autouse=True)
def shapes_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave batch norms and SiLU out where there are no values: they change no shape and take most of the time."""
    for module in (nn.BatchNorm2d, nn.SiLU):
        monkeypatch.setattr(module, "forward", _passed_where_empty(module.forward))


def _passed_where_empty(forward):
    return lambda module, x: x if x.is_meta else forward(module, x)
