"""Recognition from tensors alone, for every recorded family and for every scale written in its maker's layout."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest
import torch
from bitfalcon_plugin.compat.families import TABLES, family_of_ours, recognise
from bitfalcon_plugin.compat.remap import RemapError, apply, invert

from bitfalcon_plugin.models.build import build
from tests.helpers.paths import RECORDED
from tests.helpers.tiny_models import shapes_are_quick  # noqa: F401  the fixture

VECTORS = json.loads(gzip.decompress((RECORDED / "conformance.json.gz").read_bytes()))
ALL_RESIDUAL = {"turbo-n-seg": ("segment", "n"), "turbo-l-seg": ("segment", "l"), "turbo-n-cls": ("classify", "n")}


def empty_state(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in VECTORS[name]["state_dict"].items()}


@pytest.mark.parametrize("name", [name for name in VECTORS if name not in ALL_RESIDUAL])
def test_recorded_families(name):
    found = recognise(empty_state(name))
    family, scale = name.removeprefix("checkpoint-").removesuffix("-released-layout").rsplit("-", 1)
    assert (found.family, found.scale, found.task, found.nc, found.reg_max) == (family, scale, "detect", 80, 16)
    assert found.strides == (8, 16, 32) and found.variant == (family if family in ("v1", "turbo") else "")


@pytest.mark.parametrize("name", ALL_RESIDUAL)
def test_other_tasks_of_turbo(name):
    found = recognise(empty_state(name))
    assert (found.task, found.scale) == ALL_RESIDUAL[name]
    assert (found.family, found.variant) == ("turbo", "turbo-all-residual")


@pytest.mark.parametrize("scale", "nsmlx")
@pytest.mark.parametrize("graph", ["yolov12", "yolov12-turbo", "yolo11", "yolov8"])
def test_every_size_of_every_family(graph, scale):
    with torch.device("meta"):
        model = build(f"{graph}.yaml", scale, nc=7)
    family = {"yolov12": "v1", "yolov12-turbo": "turbo"}.get(graph, graph)
    ours = {key: torch.zeros(tensor.shape, dtype=torch.int8) for key, tensor in model.state_dict().items()}
    found = recognise(invert(TABLES[family], ours))
    assert (found.family, found.scale, found.nc, found.graph) == (family, scale, 7, f"{graph}.yaml")


@pytest.mark.parametrize("state", [{}, {"x": torch.zeros(1)}, {"model.0.conv.weight": torch.zeros(16, 3, 3, 3)}])
def test_what_is_no_detector_is_said(state):
    with pytest.raises(ValueError, match="not the weights|no Detect"):
        recognise(state)


def test_problems_are_listed_together():
    shapes = {"a": (2,), "b": (3,), "c": (4,)}
    with pytest.raises(RemapError) as caught:
        apply(TABLES["yolov8"], {"a": torch.zeros(2), "b": torch.zeros(5), "d": torch.zeros(1)}, shapes)
    assert caught.value.problems == ["unknown: d (1,)", "missing: c (4,)", "shape: b is (5,), expected (3,)"]


def test_counters_that_differ_cannot_merge():
    name = "model.6.m.0.0.attn.{}.bn.num_batches_tracked"
    with pytest.raises(RemapError, match="differ"):
        apply(
            TABLES["turbo"],
            {name.format("qk"): torch.tensor(1), name.format("v"): torch.tensor(2)},
            {name.format("qkv"): ()},
        )


def test_a_bias_in_front_of_a_batch_norm_is_folded_and_written_back_as_zero():
    mean, bias = torch.randn(4), torch.randn(4)
    key = "m.attn.pe.bn.running_mean"
    ours, report = apply(TABLES["v1"], {key: mean.half(), "m.attn.pe.conv.bias": bias.half()}, {key: (4,)})
    assert ours[key].dtype == torch.float32 and torch.equal(ours[key], mean.half().float() - bias.half().float())
    assert set(report.converted) == {key, "m.attn.pe.conv.bias"}
    back = invert(TABLES["v1"], ours, folded=True)
    assert torch.equal(back["m.attn.pe.conv.bias"], torch.zeros(4)) and torch.equal(back[key], ours[key])


def test_a_graph_that_mixes_two_kinds_of_attention_is_not_guessed_at():
    state = {**empty_state("v1-n"), "model.8.m.0.attn.qkv.conv.weight": torch.empty(8, 4, 1, 1)}
    with pytest.raises(ValueError, match="mixes the attention blocks"):
        recognise(state)


@pytest.mark.parametrize("name", [*VECTORS])
def test_every_family_comes_back_under_its_own_keys(name):
    draw = torch.Generator().manual_seed(1)
    state = {
        key: torch.rand(tensor.shape, generator=draw) if tensor.ndim else torch.tensor(5)
        for key, tensor in empty_state(name).items()
    }
    found = recognise(state)
    ours, _ = apply(TABLES[found.family], state, None)
    assert family_of_ours(ours, found.variant) == found.family
    folded = [key for key in state if key.endswith("attn.pe.conv.bias")]
    back = invert(TABLES[found.family], ours, folded=bool(folded))
    profiled = {key for key in state if key.endswith(("total_ops", "total_params"))}
    moved = {*folded, *(key.replace("conv.bias", "bn.running_mean") for key in folded)}
    assert set(back) == set(state) - profiled
    for key in set(back) - moved:
        assert digest(back[key]) == digest(state[key]), key


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
