"""Recorded numbers of classification models, with the weights and at the tolerances of the vectors' own description."""

from __future__ import annotations

import copy
import gzip
import json

import pytest
import torch
from bitfalcon_plugin.compat.families import TABLES, recognise
from bitfalcon_plugin.compat.remap import apply, invert

from bitfalcon_plugin.bit.packing import pack
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.yaml_files import find_model
from bitfalcon_plugin.models.bitify import bitify
from bitfalcon_plugin.models.build import build, read_graph, resolve_graph, with_classes
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from tests.data.recorded.fill import image
from tests.helpers.paths import RECORDED
from tests.helpers.ternary import images, with_scales
from tests.helpers.tiny_models import (
    CONV,
    lived,
    shapes_are_quick,  # noqa: F401  the fixture
)
from tests.models.test_conformance import check_samples, empty_model, of_scales
from tests.models.test_conformance_segment import recorded_state

VECTORS = json.loads(gzip.decompress((RECORDED / "classify.json.gz").read_bytes()))
MODELS = ("v1-n-cls", "turbo-n-cls", "yolo11-n-cls", "yolov8-n-cls")
PARAMETERS = {  # spec/segment-classify.md 2.1, nc 1000, scales n, s, m, l, x
    "yolov12-cls": (2_999_496, 7_385_512, 13_261_608, 16_737_160, 35_351_112),
    "yolo11-cls": (2_812_104, 6_724_008, 11_634_216, 14_115_624, 29_637_064),
    "yolov8-cls": (2_719_288, 6_361_736, 17_053_336, 37_480_744, 57_422_840),
}


def model_with(name: str) -> tuple[Detector, dict]:
    """A model with the recorded weights, and the record."""
    vector = VECTORS[name]
    state = recorded_state(vector)
    recognised = recognise(state)
    assert recognised.task == "classify" and recognised.scale == "n" and recognised.strides == (1,)
    model = build(recognised.graph, recognised.scale, variant=recognised.variant or None, nc=recognised.nc)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    ours, report = apply(TABLES[recognised.family], state, shapes)
    assert set(report.converted) == set(state)
    model.load_state_dict(ours)
    back = invert(TABLES[recognised.family], model.state_dict())
    assert list(back) == list(state) and all(torch.equal(back[key], state[key]) for key in state)
    return model, vector


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_rows_and_outputs_match_the_recorded_model(name):
    model, vector = model_with(name)
    outputs = {}
    for index, row in enumerate(model.eval().model):
        row.register_forward_hook(lambda _, __, out, index=index: outputs.__setitem__(index, out))
    raw = model(torch.from_numpy(image(*vector["input"][2:])).float())
    probabilities = model.decode(raw)
    assert model.task == "classify" and model.strides == tuple(vector["stride"]) == (1.0,) and model.multiple == 32
    assert raw.sizes == () and list(raw) == ["logits"]
    assert sum(p.numel() for p in model.parameters()) == vector["parameters"]
    for layer in vector["layers"]:
        assert sum(p.numel() for p in model.model[layer["index"]].parameters()) == layer["parameters"]
        if "values" in layer:
            check_samples(outputs[layer["index"]], layer, atol=1e-5, rtol=1e-4)
    check_samples(raw["logits"], vector["output"]["out.1"], atol=1e-5, rtol=1e-4)
    check_samples(probabilities, vector["output"]["out.0"], atol=1e-5, rtol=1e-4)
    assert probabilities.dtype == torch.float32 and probabilities.sum(1).sub(1).abs().max() < 1e-5


@pytest.mark.parametrize("name", [name for name in MODELS if "train" in VECTORS[name]])
@torch.no_grad()
def test_training_mode_matches_the_recorded_model(name):
    model, vector = model_with(name)
    raw = model.train()(torch.from_numpy(image(*vector["train"]["input"][2:], vector["train"]["input"][0])).float())
    check_samples(raw["logits"], vector["train"]["output"]["out"], atol=2e-4, rtol=2e-4)
    state = model.state_dict()
    assert vector["train"]["after"]
    for key, record in vector["train"]["after"].items():
        check_samples(state[key], record, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("graph,scale,count", of_scales(PARAMETERS))
def test_parameters_of_every_scale(graph, scale, count):
    model = empty_model(graph, scale)
    assert sum(p.numel() for p in model.parameters()) == count
    assert {(norm.eps, norm.momentum) for norm in model.modules() if hasattr(norm, "momentum")} == {(1e-5, 0.1)}


@pytest.mark.parametrize(
    "variant,millions", [("turbo-all-residual", (2.95, 15.7, 33.2)), ("turbo", (2.95, 16.8, 35.6))]
)
def test_turbo_sizes(variant, millions):
    """Published l and x have MLP ratio 1.5 with gamma: their page states 16.8 M and 35.5 M (2.1)."""
    with torch.device("meta"):
        models = [build("yolov12-turbo-cls.yaml", scale, variant=variant) for scale in "nlx"]
    assert [
        round(sum(p.numel() for p in model.parameters()) / 1e6, 1 + (s == "n")) for s, model in zip("nlx", models)
    ] == [*millions]
    assert {block.attn.area for block in models[0].model[6].m.modules() if hasattr(block, "attn")} == {1}


# Rows as their makers write them (2.1): no key `variant`, and the number of classes that stands in their files.
TEXTS = {
    "yolov12-cls": ("v1", 1000, 2_999_496),
    "yolov12-turbo-cls": ("turbo-all-residual", 80, 1_772_976),  # recorded
    "yolo11-cls": ("v1", 1000, 2_812_104),
    "yolov8-cls": ("v1", 1000, 2_719_288),
    "yolov12-turbo-seg": ("turbo-all-residual", 80, 2_807_056),
    "yolov12-turbo": ("turbo", 80, 2_553_904),
}


@pytest.mark.parametrize("graph", TEXTS)
def test_the_makers_own_yaml_gives_the_same_network(graph):
    variant, nc, count = TEXTS[graph]
    document = {key: value for key, value in find_model(f"{graph}.yaml").document.items() if key != "variant"}
    resolved = resolve_graph({**document, "nc": nc}, name="theirs.yaml", named_scale="n")
    with torch.device("meta"):
        model = Detector(resolved)
    assert resolved.variant == variant and sum(p.numel() for p in model.parameters()) == count


def test_the_classes_of_a_dataset_replace_those_of_the_graph():
    graph = with_classes(read_graph("yolov12n-cls.yaml"), {0: "a", 1: "b", 2: "c"})
    model = Detector(graph)
    assert model.head.linear.weight.shape == (3, 1280) and model.names == {0: "a", 1: "b", 2: "c"} and model.nc == 3
    with pytest.raises(UserError, match="Classify.*reads one row, not 2"):
        Detector(resolve_graph({"nc": 2, "backbone": [[*CONV], [*CONV]], "head": [[[0, 1], 1, "Classify", ["nc"]]]}))


@pytest.mark.parametrize("bit,keep", [("head", "default"), ("all", "default"), ("all", "none")])
@torch.inference_mode()
def test_ternary_layers_are_packed_and_reopened(tmp_path, bit, keep):
    torch.manual_seed(0)
    model = lived(build("yolov12-cls.yaml", "n", nc=3))
    changes = bitify(model, bit, keep)
    assert "model.9.conv.conv" in changes.changed and ("model.9.linear" in changes.changed) == (keep == "none")
    with_scales(model)
    expected = model(images())["logits"]
    pack(model, tmp_path / "bit.pt", half=False)
    packed = load_checkpoint(tmp_path / "bit.pt").model()
    assert packed.task == "classify" and torch.equal(
        packed(images())["logits"], copy.deepcopy(model).fuse()(images())["logits"]
    )
    torch.testing.assert_close(packed(images())["logits"], expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_folding_changes_no_output():
    model, _ = model_with("turbo-n-cls")
    x = torch.from_numpy(image(64, 96, 2)).float()
    before = model.eval()(x)
    after = model.fuse()(x)
    torch.testing.assert_close(after["logits"], before["logits"], rtol=1e-4, atol=1e-4)
    assert not any(".bn." in key for key in model.state_dict())
