"""Recorded numbers of segmentation models, with the weights and at the tolerances of the vectors' own description."""

from __future__ import annotations

import copy
import gzip
import json

import pytest
import torch
from bitfalcon_plugin.compat.families import TABLES, recognise
from bitfalcon_plugin.compat.remap import apply, invert

from bitfalcon_plugin.bit.packing import pack
from bitfalcon_plugin.models.bitify import bitify
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from tests.data.recorded.fill import image
from tests.helpers.paths import RECORDED
from tests.helpers.ternary import assert_equal, images, with_scales
from tests.helpers.tiny_models import (
    lived,
    shapes_are_quick,  # noqa: F401  the fixture
)
from tests.models.test_conformance import check_samples, empty_model, filled, of_scales

VECTORS = json.loads(gzip.decompress((RECORDED / "segment.json.gz").read_bytes()))
MODELS = ("v1-n-seg", "turbo-n-seg", "turbo-l-seg", "yolo11-n-seg", "yolov8-n-seg")
PARAMETERS = {  # spec/segment-classify.md 1.1, scales n, s, m, l, x
    "yolov12-seg": (2_855_056, 9_938_592, 22_505_376, 28_756_992, 64_387_264),
    "yolov12-turbo-seg": (2_807_056, 9_782_688, 21_978_016, 27_760_032, 62_225_216),
    "yolo11-seg": (2_876_848, 10_113_248, 22_420_896, 27_678_368, 62_142_656),
    "yolov8-seg": (3_409_968, 11_821_056, 27_285_968, 45_997_728, 71_827_888),
}


def recorded_state(vector: dict) -> dict[str, torch.Tensor]:
    state = {key: filled(key, tuple(shape)).clone() for key, shape in vector["state_dict"].items()}
    return {key: value.long() if key.endswith("num_batches_tracked") else value for key, value in state.items()}


def model_with(name: str) -> tuple[Detector, dict, dict[str, torch.Tensor]]:
    """A model with the recorded weights, the record, and the weights under their maker's keys."""
    vector = VECTORS[name]
    state = recorded_state(vector)
    recognised = recognise(state)
    assert recognised.task == "segment"
    model = build(recognised.graph, recognised.scale, variant=recognised.variant or None)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    ours, report = apply(TABLES[recognised.family], state, shapes)
    assert set(report.converted) == set(state)
    model.load_state_dict(ours)
    back = invert(TABLES[recognised.family], model.state_dict())
    assert list(back) == list(state) and all(torch.equal(back[key], state[key]) for key in state)
    return model, vector, state


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_rows_and_outputs_match_the_recorded_model(name):
    model, vector, _ = model_with(name)
    outputs = {}
    for index, row in enumerate(model.eval().model):
        row.register_forward_hook(lambda _, __, out, index=index: outputs.__setitem__(index, out))
    raw = model(torch.from_numpy(image(*vector["input"][2:])).float())
    decoded = model.decode(raw)
    assert model.task == "segment" and model.strides == tuple(vector["stride"])
    assert sum(p.numel() for p in model.parameters()) == vector["parameters"]
    for layer in vector["layers"]:
        assert sum(p.numel() for p in model.model[layer["index"]].parameters()) == layer["parameters"]
        if "values" in layer:
            check_samples(outputs[layer["index"]], layer, atol=1e-5, rtol=1e-4)
    check_raw(raw, {key.removeprefix("out.1."): value for key, value in vector["output"].items()}, atol=1e-5, rtol=1e-4)
    record = vector["output"].get("out.0.0") or vector["output"]["out.0"]
    is_box = torch.tensor(record["at"]) // decoded.shape[-1] % decoded.shape[1] < 4
    found, expected = decoded.flatten()[record["at"]], torch.tensor(record["values"])
    assert list(decoded.shape) == record["shape"]
    torch.testing.assert_close(found[is_box], expected[is_box], atol=1e-3, rtol=0)
    torch.testing.assert_close(found[~is_box], expected[~is_box], atol=1e-5, rtol=1e-4)


def check_raw(raw: dict, records: dict, **tolerance) -> int:
    """Compare the raw outputs that were recorded; returns how many."""
    names = {"mask_coefficient": "coefficients", "proto": "prototypes", "boxes": "boxes", "scores": "scores"}
    for name, record in records.items():
        if name in names:
            check_samples(raw[names[name]], record, **tolerance)
    return len(set(records) & set(names))


@pytest.mark.parametrize("name", [name for name in MODELS if "train" in VECTORS[name]])
@torch.no_grad()
def test_training_mode_matches_the_recorded_model(name):
    model, vector, _ = model_with(name)
    raw = model.train()(torch.from_numpy(image(*vector["train"]["input"][2:], vector["train"]["input"][0])).float())
    records = {key.removeprefix("out."): value for key, value in vector["train"]["output"].items()}
    assert check_raw(raw, records, atol=2e-4, rtol=2e-4) == 4
    state = model.state_dict()
    for key, record in vector["train"]["after"].items():
        check_samples(state[key], record, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("graph,scale,count", of_scales(PARAMETERS))
def test_parameters_of_every_scale(graph, scale, count):
    model = empty_model(graph, scale)
    assert sum(p.numel() for p in model.parameters()) == count


def test_published_turbo_sizes_have_the_ratio_of_their_tensors():
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in build("yolov12-turbo-seg.yaml", scale, variant="turbo").parameters())
            for scale in "lx"
        ]
    assert counts == [28_812_704, 64_590_656]  # spec/segment-classify.md 1.1


@pytest.mark.parametrize("bit,keep", [("head", "default"), ("all", "none")])
@torch.inference_mode()
def test_ternary_layers_are_packed_and_reopened(tmp_path, bit, keep):
    torch.manual_seed(0)
    model = lived(build("yolov12-seg.yaml", "n", nc=3))
    changed = bitify(model, bit, keep).changed
    assert {"model.21.proto.cv1.conv", "model.21.proto.cv3.conv", "model.21.cv4.0.1.conv"} <= set(changed)
    assert ("model.21.cv4.0.2" in changed) == (keep == "none")
    with_scales(model)
    folded = copy.deepcopy(model).fuse()
    assert folded.head.proto.cv2.conv.follower == (folded.head.proto.cv3.conv,)
    pack(model, tmp_path / "bit.pt", half=False)
    packed = load_checkpoint(tmp_path / "bit.pt").model()
    assert packed.task == "segment"
    assert_equal(packed(images()), folded(images()))
    before, after = model.decode(model(images())), packed.decode(packed(images()))
    torch.testing.assert_close(after, before, atol=0.02, rtol=1e-3)


@torch.inference_mode()
def test_folding_changes_no_output():
    model, _, _ = model_with("v1-n-seg")
    x = torch.from_numpy(image(64, 96, 2)).float()
    before = model.eval()(x)
    after = model.fuse()(x)
    torch.testing.assert_close(dict(after), dict(before), rtol=1e-4, atol=1e-4)
    assert not any(".bn." in key for key in model.state_dict())
