"""What the tests of exports share: settings, a small network, marks for runtimes that may be missing."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.export.formats import EXPORT_FORMATS, WRITABLE_FORMATS
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
from tests.helpers.paths import ROOT
from tests.helpers.tiny_models import CONV, lived, small_model

has_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not has_onnx, reason="needs onnx and onnxruntime: pip install -e '.[export]'")
has_openvino = all(importlib.util.find_spec(name) for name in ("onnx", "openvino"))
needs_openvino = pytest.mark.skipif(not has_openvino, reason="needs openvino and onnx: pip install -e '.[openvino]'")
has_int8 = has_openvino and importlib.util.find_spec("nncf") is not None
needs_int8 = pytest.mark.skipif(not has_int8, reason="needs nncf: pip install -e '.[int8]'")


def is_here(format_: str) -> bool:
    """Whether every package is installed that writes and runs a format, and this machine runs it on its CPU."""
    row = EXPORT_FORMATS[format_]
    return (
        row.is_run_here
        and not row.needs_gpu
        and all(importlib.util.find_spec(name) for name in (*row.needs, *row.to_write))
    )


def marked(format_: str):
    """A format as a parameter of a test, which is skipped where a package is missing."""
    row = EXPORT_FORMATS[format_]
    needs = " and ".join((*row.needs, *row.to_write, *([row.runs_on.name] if row.runs_on else [])))
    return pytest.param(format_, marks=pytest.mark.skipif(not is_here(format_), reason=f"needs {needs}"))


# Formats of any size that can be written and run here -> name of a file; and all of them as parameters of tests.
ANY_SIZE = [name for name in WRITABLE_FORMATS if "dynamic" in EXPORT_FORMATS[name].options]
FILES = {name: f"best{EXPORT_FORMATS[name].suffix}" for name in ANY_SIZE if is_here(name)}
EVERY = [marked(name) for name in ANY_SIZE]
WITH_NMS = [marked(name) for name in WRITABLE_FORMATS if "nms" in EXPORT_FORMATS[name].options]

# Of a pose network: what is known of its keypoints.
KEYPOINTS = {
    "flip_idx": [1, 0, 2],
    "kpt_names": {index: ["left", "right", "tail"] for index in range(2)},
    "kpt_oks_sigmas": [0.05, 0.1, 0.1],
    "skeleton": [[0, 2], [1, 2]],
}


def recipe(word: str) -> str:
    """The script of the page of exports that has a word."""
    text = (ROOT / "bitfalcon_plugin/export/README.md").read_text(encoding="utf-8")
    return next(script for script in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if word in script)


def made(**options) -> object:
    return load_settings({"mode": "export", "imgsz": 64, **options})


def tiny(*rows):
    torch.manual_seed(0)
    return lived(small_model(CONV, (-1, 1, "Conv", [32, 3, 2]), *rows))


def tiny_segment(names: Sequence[str] = ("a", "b")) -> Detector:
    """A small segmentation network of stride 8, with objects above the usual threshold and masks that are not empty."""
    return _with_objects(_lively(["Segment", ["nc", 32, 32]], list(names)))


def tiny_pose(names: Sequence[str] = ("a", "b"), columns: int = 3, **keys) -> Detector:
    """A small pose network of stride 8, with objects of three keypoints. keys: further ones of the graph."""
    keys = {**KEYPOINTS, "kpt_shape": [3, columns], **keys}
    return _unsure(_with_objects(_lively(["Pose", ["nc", "kpt_shape"]], list(names), **keys)))


def tiny_obb(names: Sequence[str] = ("a", "b")) -> Detector:
    """A small network of stride 8 for oriented boxes, with objects at many angles."""
    model = _unsure(_with_objects(_lively(["OBB", ["nc", 1]], list(names))))
    with torch.no_grad():
        model.head.cv4[0][-1].weight.mul_(3)
    return model


@torch.no_grad()
def _unsure(model: Detector) -> Detector:
    """The network with scores far enough from 1 that hardly two of them are equal."""
    for scores in model.head.cv3:
        scores[-1].weight.mul_(0.25)
    return model


@torch.no_grad()
def _with_objects(model: Detector) -> Detector:
    """The network, with objects above the usual threshold and values behind the classes that differ."""
    for boxes, scores, further in zip(model.head.cv2, model.head.cv3, model.head.cv4):
        boxes[-1].bias.copy_(-0.5 * torch.arange(16.0).repeat(4))  # small boxes
        scores[-1].weight.normal_(std=0.5)
        scores[-1].bias.fill_(-0.5)
        for output in (boxes[-1], further[-1]):
            output.weight.normal_(std=0.1).sub_(output.weight.mean(1, keepdim=True))
    return model


def tiny_classify(names: Sequence[str] = ("a", "b", "c")) -> Detector:
    """A small classifier that sees small differences of pictures."""
    model = _lively(["Classify", ["nc"]], list(names))
    with torch.no_grad():
        model.head.linear.weight.normal_(std=0.01)
        model.head.linear.weight.sub_(model.head.linear.weight.mean(0))
    return model


def _lively(head: list, names: list[str], **keys) -> Detector:
    """A network of stride 8 whose maps differ from place to place."""
    torch.manual_seed(0)
    rows = [CONV, (-1, 1, "Conv", [32, 3, 2]), (-1, 1, "Conv", [32, 3, 2])]
    model = lived(small_model(*rows, head=[([-1], 1, *head)], nc=len(names), names=names, **keys))
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.mul_(4)
    return model


def rewritten(source: Path, target: Path, **texts: str | None) -> Path:
    """A copy of an ONNX file whose metadata have these texts; None removes a key."""
    import onnx

    graph = onnx.load(source)
    values = {item.key: item.value for item in graph.metadata_props} | texts
    del graph.metadata_props[:]
    for key, text in values.items():
        if text is not None:
            graph.metadata_props.add(key=key, value=text)
    onnx.save(graph, target)
    return target


def save(model: Detector, path: Path, **entries) -> Path:
    """Write a checkpoint of a network."""
    save_checkpoint(path, Checkpoint(model.graph, model.state_dict(), **entries))
    return path
