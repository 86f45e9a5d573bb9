"""The network that is exported gives what the network gives, for every graph, size, head and precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitfalcon_plugin.export import run as exporting
from bitfalcon_plugin.export.network import ExportedNetwork
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.run import run_export
from bitfalcon_plugin.models.build import build
from tests.helpers.exports import EVERY, made, needs_onnx, tiny
from tests.helpers.tiny_models import lived

GRAPHS = (
    "yolov12.yaml",
    "yolov12-turbo.yaml",
    "yolo11.yaml",
    "yolov8.yaml",
    "bitfalcon.yaml",
    "bitfalcon-p.yaml",
    "yolov12-lite.yaml",
)


@pytest.mark.parametrize("graph", GRAPHS)
@torch.inference_mode()
def test_what_is_recorded_is_the_network_for_every_graph_and_size(graph):
    torch.manual_seed(0)
    model = build(graph, "n")
    if "bitfalcon" in graph:  # scales of activations
        with torch.no_grad():
            model.train()(torch.rand(1, 3, 64, 64))
    model = lived(model).requires_grad_(False).fuse()
    network = ExportedNetwork(model)
    for shape in ((2, 3, model.multiple, model.multiple), (1, 3, 3 * model.multiple, model.multiple)):
        images = torch.rand(shape)
        torch.testing.assert_close(network(images), model.decode(model(images)), rtol=1e-3, atol=1e-2)


@needs_onnx
@pytest.mark.parametrize(
    "graph", ["yolov12.yaml", "yolov12-turbo.yaml", "yolo11.yaml", "yolov8.yaml", "bitfalcon.yaml"]
)
def test_the_onnx_files_of_every_family_run_in_onnxruntime(folder, monkeypatch, graph):
    """Larger scales, fixed sizes and the other formats: tests/bench/export.py."""
    monkeypatch.setattr(exporting, "COMPARED", 1)
    torch.manual_seed(0)
    model = lived(build(graph, "n"))
    engine = open_exported(run_export(model, made(format="onnx", dynamic=True, simplify=False, imgsz=32), graph), "cpu")
    images = torch.rand(2, 3, 32, 96)
    with torch.inference_mode():
        torch.testing.assert_close(engine(images), model.decode(model(images)), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    "format_", [param for param in EVERY if param.values[0] != "openvino"]
)  # OpenVINO's: tests/bench/export.py
def test_half_precision_keeps_the_boxes_and_takes_float32(folder, format_):
    model = tiny()
    images = torch.rand(1, 3, 64, 64)
    output = open_exported(run_export(model, made(format=format_, half=True), "small.yaml"), "cpu")(images)
    with torch.inference_mode():
        expected = model.decode(model(images))
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=4e-3, atol=0.1)


class Odd(nn.Module):
    """A head of others: one level, boxes of its own."""

    def __init__(self, nc: int, *, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels[0], 4 + nc, 1)

    def forward(self, maps):
        y = self.conv(maps[0])
        return {"boxes": y[:, :4].flatten(2), "scores": y[:, 4:].flatten(2)}

    def decode(self, raw, sizes, strides):
        """As modules.head.Detect.decode."""
        return torch.cat((raw["boxes"].exp(), raw["scores"].sigmoid()), 1)


def test_heads_of_others_are_exported_with_their_own_decoding(folder):
    from bitfalcon_plugin.models.modules.head import Raw

    model = tiny()
    odd = Odd(2, channels=(32,))
    model.model[-1] = odd
    forward = odd.forward
    odd.forward = lambda maps: Raw(forward(maps), [tuple(maps[0].shape[-2:])])
    with torch.inference_mode():
        images = torch.rand(1, 3, 64, 64)
        torch.testing.assert_close(ExportedNetwork(model)(images), model.decode(model(images)))
