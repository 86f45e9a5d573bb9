"""What the tests of exports share: settings, a small network, marks for runtimes that may be missing."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.export.formats import WRITABLE_FORMATS
from tests.helpers.tiny_models import CONV, lived, small_model

has_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not has_onnx, reason="needs onnx and onnxruntime: pip install -e '.[export]'")
has_openvino = all(importlib.util.find_spec(name) for name in ("onnx", "openvino"))
needs_openvino = pytest.mark.skipif(not has_openvino, reason="needs openvino and onnx: pip install -e '.[openvino]'")
has_int8 = has_openvino and importlib.util.find_spec("nncf") is not None
needs_int8 = pytest.mark.skipif(not has_int8, reason="needs nncf: pip install -e '.[int8]'")
MARKS = {"onnx": needs_onnx, "openvino": needs_openvino}
EVERY = [pytest.param(name, marks=MARKS.get(name, ())) for name in WRITABLE_FORMATS]


def made(**options) -> object:
    return load_settings({"mode": "export", "imgsz": 64, **options})


def tiny(*rows):
    torch.manual_seed(0)
    return lived(small_model(CONV, (-1, 1, "Conv", [32, 3, 2]), *rows))
