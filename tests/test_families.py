"""Recognition from tensors alone, for every recorded family and for every size of ours written in its maker's layout."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from bitfalcon_plugin.compat.families import TABLES, recognise
from bitfalcon_plugin.compat.remap import RemapError, apply, invert
from bitfalcon_plugin.model import build

VECTORS = json.loads(gzip.decompress((Path(__file__).parent / "data" / "conformance.json.gz").read_bytes()))
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
        apply(TABLES["turbo"], {name.format("qk"): torch.tensor(1), name.format("v"): torch.tensor(2)}, {name.format("qkv"): ()})


def test_a_bias_in_front_of_a_batch_norm_is_folded_and_written_back_as_zero():
    mean, bias = torch.randn(4), torch.randn(4)
    key = "m.attn.pe.bn.running_mean"
    ours, report = apply(TABLES["v1"], {key: mean.half(), "m.attn.pe.conv.bias": bias.half()}, {key: (4,)})
    assert ours[key].dtype == torch.float32 and torch.equal(ours[key], mean.half().float() - bias.half().float())
    assert set(report.kept) == {key, "m.attn.pe.conv.bias"}
    back = invert(TABLES["v1"], ours, folded=True)
    assert torch.equal(back["m.attn.pe.conv.bias"], torch.zeros(4)) and torch.equal(back[key], ours[key])
