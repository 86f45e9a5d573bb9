"""Recorded numbers of the upstream programs, with the weights and at the tolerances of the vectors' own description."""

from __future__ import annotations

import gzip
import json
from functools import lru_cache

import pytest
import torch
from bitfalcon_plugin.compat.families import TABLES
from bitfalcon_plugin.compat.remap import apply, invert

from bitfalcon_plugin.models.build import build, read_graph
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.summary import summary
from tests.data.recorded.fill import fill, image, samples  # noqa: E402
from tests.helpers.paths import RECORDED

VECTORS = json.loads(gzip.decompress((RECORDED / "conformance.json.gz").read_bytes()))
GRAPHS = {"v1": "yolov12.yaml", "turbo": "yolov12-turbo.yaml", "yolo11": "yolo11.yaml", "yolov8": "yolov8.yaml"}
LAYERED = [name for name, vector in VECTORS.items() if "layers" in vector]
DERIVED = ("num_batches_tracked",)


def family_and_scale(name: str) -> tuple[str, str]:
    family, scale = name.removeprefix("checkpoint-").removesuffix("-released-layout").rsplit("-", 1)
    return family, scale


def foreign_state(vector: dict, half: bool) -> dict[str, torch.Tensor]:
    """Copies of the tensors of a recorded file; half: rounded to 16 bits."""
    state = {}
    for key, shape in vector["state_dict"].items():
        tensor = filled(key, tuple(shape), half)
        state[key] = tensor.long() if key.endswith(DERIVED) else tensor.clone()
    return state


@lru_cache(maxsize=2000)  # several tests ask for the same state; the largest takes 100 MB
def filled(key: str, shape: tuple[int, ...], half: bool = False) -> torch.Tensor:
    """The recorded values of a tensor, in float32; half: rounded to 16 bits. Callers must not change the tensor."""
    tensor = torch.from_numpy(fill(key, shape))
    return tensor.half().float() if half else tensor.float()


def model_with(name: str) -> tuple[Detector, dict]:
    vector = VECTORS[name]
    family, scale = family_and_scale(name)
    model = build(GRAPHS[family], scale).eval()
    ours = model.state_dict()
    state, report = apply(
        TABLES[family],
        foreign_state(vector, name.startswith("checkpoint")),
        {key: tuple(value.shape) for key, value in ours.items()},
    )
    assert set(report.converted) == set(vector["state_dict"])
    model.load_state_dict(state)
    return model, vector


def check_samples(tensor: torch.Tensor, recorded: dict, **tolerance) -> None:
    assert list(tensor.shape) == recorded["shape"]
    assert recorded["at"] == samples(tensor.numel(), len(recorded["at"]))
    expected = torch.tensor(recorded["values"])
    torch.testing.assert_close(tensor.flatten()[recorded["at"]], expected, **tolerance)
    torch.testing.assert_close(tensor.mean(), torch.tensor(recorded["mean"]), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(tensor.std(correction=0), torch.tensor(recorded["std"]), atol=1e-3, rtol=1e-3)


def of_scales(numbers: dict[str, tuple[int, ...]]) -> list[tuple[str, str, int]]:
    """(graph, scale, number) for each graph and its numbers of the scales n, s, m, l and x."""
    return [(graph, scale, number) for graph, row in numbers.items() for scale, number in zip("nsmlx", row)]


def empty_model(graph: str, scale: str) -> Detector:
    """A model of a shipped graph whose tensors have no memory. Scale s uses the other spelling of the graph's name.

    compared=True skips the check of the model's size, which guards memory.
    """
    name = f"{graph.replace('yolov', 'yolo', 1) if scale == 's' else graph}.yaml"
    with torch.device("meta"):
        return Detector(read_graph(name, scale), compared=True)


def check_output(prediction: torch.Tensor, recorded: dict) -> None:
    # boxes to 1e-3 px, probabilities as raw outputs
    is_box = torch.tensor(recorded["at"]) // prediction.shape[-1] % prediction.shape[1] < 4
    found, expected = prediction.flatten()[recorded["at"]], torch.tensor(recorded["values"])
    assert list(prediction.shape) == recorded["shape"]
    torch.testing.assert_close(found[is_box], expected[is_box], atol=1e-3, rtol=0)
    torch.testing.assert_close(found[~is_box], expected[~is_box], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", LAYERED)
@torch.inference_mode()
def test_rows_and_outputs_match_the_recorded_model(name):
    model, vector = model_with(name)
    outputs = {}
    for index, row in enumerate(model.model):
        row.register_forward_hook(lambda _, __, out, index=index: outputs.__setitem__(index, out))
    prediction = model.decode(model(torch.from_numpy(image(*vector["input"][2:])).float()))
    assert model.strides == tuple(vector["stride"])
    assert sum(p.numel() for p in model.parameters()) == vector["parameters"]
    for layer, row in zip(vector["layers"], model.graph.rows, strict=True):
        assert (layer["from"] if isinstance(layer["from"], int) else tuple(layer["from"])) == row.source
        assert sum(p.numel() for p in model.model[row.index].parameters()) == layer["parameters"]
        if "values" in layer:
            check_samples(outputs[row.index], layer, atol=1e-5, rtol=1e-4)
    check_output(prediction, vector["output"]["out.0"])


@pytest.mark.parametrize("name", [name for name in VECTORS if name.startswith("checkpoint")])
@torch.inference_mode()
def test_checkpoint_layouts_match_the_recorded_outputs(name):
    model, vector = model_with(name)
    check_output(model.decode(model(torch.from_numpy(image(*vector["input"][2:])).float())), vector["output"])


@pytest.mark.parametrize("name", LAYERED)
def test_the_way_back_gives_the_same_bytes(name):
    family, _ = family_and_scale(name)
    theirs = foreign_state(VECTORS[name], False)
    model, _ = model_with(name)
    back = invert(TABLES[family], model.state_dict())
    assert list(back) == list(theirs)
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", ["v1-n", "turbo-n", "yolo11-n", "yolov8-n"])
@torch.inference_mode()
def test_folding_changes_no_output(name):
    model, vector = model_with(name)
    x = torch.from_numpy(image(64, 96, 2)).float()
    before, count = model.decode(model(x)), len(model.state_dict())
    after = model.fuse().decode(model(x))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-3)
    assert not any(".bn." in key for key in model.state_dict()) and len(model.state_dict()) < count
    assert torch.equal(model.fuse().decode(model(x)), after)


def test_gflops_are_those_of_the_specification():
    printed = {scale: round(summary(build("yolov12.yaml", scale)).gflops, 1) for scale in "ns"}
    assert printed == {"n": 7.5, "s": 23.3}
