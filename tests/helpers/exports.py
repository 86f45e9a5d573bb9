"""What the tests of exports share: settings, a small network, marks for runtimes that may be missing."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.export.formats import EXPORT_FORMATS, WRITABLE_FORMATS
from bitfalcon_plugin.models.detector import Detector
from tests.helpers.tiny_models import CONV, lived, small_model

has_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not has_onnx, reason="needs onnx and onnxruntime: pip install -e '.[export]'")
has_openvino = all(importlib.util.find_spec(name) for name in ("onnx", "openvino"))
needs_openvino = pytest.mark.skipif(not has_openvino, reason="needs openvino and onnx: pip install -e '.[openvino]'")
has_int8 = has_openvino and importlib.util.find_spec("nncf") is not None
needs_int8 = pytest.mark.skipif(not has_int8, reason="needs nncf: pip install -e '.[int8]'")
MARKS = {"onnx": needs_onnx, "openvino": needs_openvino}
# Format that can be written and run here -> name of a file.
HERE = {"onnx": has_onnx, "openvino": has_openvino}
FILES = {name: f"best{EXPORT_FORMATS[name].suffix}" for name in WRITABLE_FORMATS if HERE.get(name, True)}
EVERY = [pytest.param(name, marks=MARKS.get(name, ())) for name in WRITABLE_FORMATS]


def made(**options) -> object:
    return load_settings({"mode": "export", "imgsz": 64, **options})


def tiny(*rows):
    torch.manual_seed(0)
    return lived(small_model(CONV, (-1, 1, "Conv", [32, 3, 2]), *rows))


def tiny_segment() -> Detector:
    """A small segmentation network of stride 8, with objects above the usual threshold and masks that are not empty."""
    torch.manual_seed(0)
    rows = [CONV, (-1, 1, "Conv", [32, 3, 2]), (-1, 1, "Conv", [32, 3, 2])]
    model = lived(small_model(*rows, head=[([-1], 1, "Segment", ["nc", 32, 32])], nc=2, names=["a", "b"]))
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.mul_(4)  # outputs that differ from place to place
        for boxes, scores, coefficients in zip(model.head.cv2, model.head.cv3, model.head.cv4):
            boxes[-1].bias.copy_(-0.5 * torch.arange(16.0).repeat(4))  # small boxes
            scores[-1].weight.normal_(std=0.5)
            scores[-1].bias.fill_(-0.5)
            for output in (boxes[-1], coefficients[-1]):
                output.weight.normal_(std=0.1).sub_(output.weight.mean(1, keepdim=True))
    return model
