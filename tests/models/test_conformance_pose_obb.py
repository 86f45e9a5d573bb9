"""Recorded numbers of pose and OBB models, with the weights and at the tolerances of the vectors' own description."""

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
from bitfalcon_plugin.models.modules.obb import OBB
from bitfalcon_plugin.models.modules.pose import Pose
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from bitfalcon_plugin.ops.keypoint_layout import KeypointLayout
from bitfalcon_plugin.ops.rotated import angles_from_logits
from tests.data.recorded.fill import image, noise
from tests.helpers.paths import RECORDED
from tests.helpers.ternary import assert_equal, images, with_scales
from tests.helpers.tiny_models import (
    CONV,
    lived,
    shapes_are_quick,  # noqa: F401  the fixture
)
from tests.models.test_conformance import check_samples, empty_model, of_scales
from tests.models.test_conformance_segment import recorded_state

VECTORS = json.loads(gzip.decompress((RECORDED / "pose-obb-models.json.gz").read_bytes()))
DECODED = json.loads(gzip.decompress((RECORDED / "obb.json.gz").read_bytes()))["pose-obb-decode"]
PARAMETERS = {  # spec/pose-obb.md 4, scales n, s, m, l, x; 17 keypoints of 3 columns; nc 80, of yolov8-pose 1
    "yolov12-pose": (2_886_715, 9_774_155, 21_057_753, 27_309_369, 61_134_489),
    "yolov12-obb": (2_673_955, 9_570_275, 21_048_003, 27_299_619, 61_119_939),
    "yolo11-pose": (2_908_507, 9_948_811, 20_973_273, 26_230_745, 58_889_881),
    "yolo11-obb": (2_695_747, 9_744_931, 20_963_523, 26_220_995, 58_875_331),
    "yolov8-pose": (3_295_470, 11_626_046, 26_464_462, 44_489_196, 69_491_724),
    "yolov8-obb": (3_228_867, 11_452_739, 26_463_235, 44_540_355, 69_555_651),
}
ENTRIES = {  # of the state dicts
    "yolov12": (733, 733, 793, 1287, 1287),
    "yolo11": (541, 541, 691, 1057, 1057),
    "yolov8": (397, 397, 517, 637, 637),
}


@pytest.mark.parametrize("name", VECTORS)
@torch.inference_mode()
def test_rows_and_outputs_match_the_recorded_model(name):
    vector, task = VECTORS[name], name.rpartition("-")[2]
    state = recorded_state(vector)
    recognised = recognise(state)
    assert (recognised.task, recognised.scale, recognised.strides) == (task, "n", (8, 16, 32))
    model = build(recognised.graph, recognised.scale, variant=recognised.variant or None, nc=recognised.nc)
    ours, report = apply(TABLES[recognised.family], state, {k: tuple(v.shape) for k, v in model.state_dict().items()})
    assert set(report.converted) == set(state)
    model.load_state_dict(ours)
    back = invert(TABLES[recognised.family], model.state_dict())
    assert list(back) == list(state) and all(torch.equal(back[key], state[key]) for key in state)
    outputs = {}
    for index, row in enumerate(model.eval().model):
        row.register_forward_hook(lambda _, __, out, index=index: outputs.__setitem__(index, out))
    raw = model(torch.from_numpy(image(*vector["input"][2:])).float())
    assert model.task == task and model.strides == tuple(vector["stride"])
    assert sum(p.numel() for p in model.parameters()) == vector["parameters"]
    for layer in vector["layers"]:
        assert sum(p.numel() for p in model.model[layer["index"]].parameters()) == layer["parameters"]
        if "values" in layer:
            check_samples(outputs[layer["index"]], layer, atol=1e-5, rtol=1e-4)
    found = {"boxes": raw["boxes"], "scores": raw["scores"]}
    found |= {"kpts": raw["keypoints"]} if task == "pose" else {"angle": angles_from_logits(raw["angles"])}
    for key, value in found.items():
        check_samples(value, vector["output"][f"out.1.{key}"], atol=1e-5, rtol=1e-4)
    # scores are the sigmoids of raw outputs, which the rows above may change by 1e-5
    tolerance = tolerance_of(recognised.nc, task, getattr(model.head, "kpt_shape", None), 1e-5)
    check_decoded(model.decode(raw), vector["output"]["out.0"], tolerance)


def check_decoded(decoded: torch.Tensor, record: dict, tolerance: torch.Tensor) -> None:
    """Compare decoded outputs. tolerance (channels,): see `tolerance_of`."""
    assert list(decoded.shape) == record["shape"] and decoded.dtype == torch.float32
    channel = torch.tensor(record["at"]) // decoded.shape[2] % decoded.shape[1]
    error = (decoded.flatten()[record["at"]] - torch.tensor(record["values"])).abs()
    assert (error <= tolerance[channel]).all(), error.max()


def tolerance_of(nc: int, task: str, kpt_shape: tuple[int, int] | None, share: float = 1e-6) -> torch.Tensor:
    """(channels,): 1e-3 px for boxes and points, 1e-6 rad for angles, `share` for probabilities and visibilities."""
    box, probabilities = torch.full((4,), 1e-3), torch.full((nc,), share)
    if task == "obb":
        return torch.cat((box, probabilities, torch.tensor([1e-6])))
    count, columns = kpt_shape
    return torch.cat((box, probabilities, torch.tensor([1e-3, 1e-3, share][:columns]).repeat(count)))


@pytest.mark.parametrize("case", DECODED, ids=lambda case: case["case"])
def test_decoding_over_the_whole_range(case):
    head = Pose if case["kind"] == "pose" else OBB
    options = (case["kpt_shape"],) if case["kind"] == "pose" else ()
    head = head(case["nc"], *options, channels=[16, 16, 16])
    sizes = [(case["H"] // stride, case["W"] // stride) for stride in (8, 16, 32)]
    names = {"kpts": "keypoints", "angle": "angles"}
    cells, raw = sum(height * width for height, width in sizes), {}
    for key, scale in case["scale_of_noise"].items():
        counts = {"boxes": 64, "scores": case["nc"], "angle": 1}
        channels = counts[key] if key in counts else case["kpt_shape"][0] * case["kpt_shape"][1]
        values = noise(f"decode.{case['case']}.{key}", (1, channels, cells)) * scale
        raw[names.get(key, key)] = torch.from_numpy(values).float()
    with torch.no_grad():
        decoded = head.decode(raw, sizes, (8, 16, 32))
    tolerance = tolerance_of(case["nc"], case["kind"], case.get("kpt_shape"))
    check_decoded(decoded, case, tolerance)
    for index, row in ((0, "first_anchor_row"), (-1, "last_anchor_row")):
        assert ((decoded[0, :, index] - torch.tensor(case[row])).abs() <= tolerance).all(), row
    assert float(decoded.double().mean()) == pytest.approx(case["mean"], rel=1e-5)
    assert float(decoded.double().std(correction=0)) == pytest.approx(case["std"], rel=1e-5)


@pytest.mark.parametrize("graph,scale,count", of_scales(PARAMETERS))
def test_parameters_and_entries_of_every_scale(graph, scale, count):
    model = empty_model(graph, scale)
    assert sum(p.numel() for p in model.parameters()) == count
    assert len(model.state_dict()) == ENTRIES[graph.partition("-")[0]]["nsmlx".index(scale)]


# Keypoints of the graph and of the dataset


def test_the_keypoints_of_a_dataset_replace_those_of_the_graph():
    graph = read_graph("yolov12n-pose.yaml")
    layout = KeypointLayout(4, 2, (1, 0, 3, 2), {0: ("a", "b", "c", "d")}, (0.1,) * 4, ((0, 1),))
    found = with_classes(graph, {0: "cat"}, keypoints=layout)
    assert found.keypoints == layout and {**layout.as_keys(), "nc": 1}.items() <= found.document.items()
    assert any("kpt_shape=[17, 3] of the model becomes kpt_shape=[4, 2] of the dataset" in note for note in found.notes)
    model = Detector(found)
    assert model.head.kpt_shape == (4, 2) and model.head.cv4[0][-1].weight.shape == (8, 16, 1, 1)
    assert model(torch.rand(1, 3, 32, 64))["keypoints"].shape == (1, 8, 42)
    again = resolve_graph(found.document, nc=1, names={0: "cat"})
    assert again.keypoints == layout and with_classes(found, found.names, keypoints=layout) is found
    plain = read_graph("yolov12n.yaml")
    assert with_classes(plain, plain.names, keypoints=layout) is plain  # a detector on a pose dataset


def test_names_of_keypoints_stay_for_the_classes_that_stay():
    document = {**find_model("yolov8-pose.yaml").document, "kpt_shape": [2, 2], "nc": 3}
    names = {0: ["head", "tail"], 2: ["left", "right"]}
    graph = resolve_graph({**document, "kpt_names": names}, named_scale="n")
    assert graph.keypoints.names == {0: ("head", "tail"), 2: ("left", "right")}
    fewer = with_classes(graph, {0: "a", 1: "b"})
    assert fewer.keypoints.names == {0: ("head", "tail")}
    assert with_classes(fewer, {0: "b"}).keypoints == fewer.keypoints


@pytest.mark.parametrize(
    "keys,args,words",
    [
        ({}, ["nc", "kpt_shape"], r"kpt_shape is not given.*kpt_shape: \[17, 3\]"),
        ({"kpt_shape": [5, 4]}, ["nc", "kpt_shape"], r"kpt_shape: \[5, 4\]; expected"),
        ({"kpt_shape": [5, 3]}, ["nc", [4, 3]], r"kpt_shape=\[4, 3\], but the model has kpt_shape=\[5, 3\]; write the"),
        ({"kpt_shape": [5, 3], "flip_idx": [0, 0, 1, 2, 3]}, ["nc", "kpt_shape"], "flip_idx.*each of 0 to 4"),
    ],
)
def test_keypoints_that_cannot_be_are_refused(keys, args, words):
    document = {"nc": 2, "backbone": [[*CONV]], "head": [[[0], 1, "Pose", args]], **keys}
    with pytest.raises(UserError, match=words) as error:
        resolve_graph(document)
    assert str(error.value).count("\n  - ") == 1


def test_a_box_has_one_angle():
    with pytest.raises(UserError, match="OBB.*one angle, not 2"):
        Detector(resolve_graph({"nc": 2, "backbone": [[*CONV]], "head": [[[0], 1, "OBB", ["nc", 2]]]}))


@pytest.mark.parametrize("graph", ["yolov12-pose.yaml", "yolov12-obb.yaml"])
@torch.inference_mode()
def test_folding_and_ternary_layers_keep_the_outputs(tmp_path, graph):
    torch.manual_seed(0)
    model = lived(build(graph, "n", nc=3))
    x = images()
    before, folded = model(x), copy.deepcopy(model).fuse()
    torch.testing.assert_close(dict(folded(x)), dict(before), rtol=1e-4, atol=1e-4)
    assert not any(".bn." in key for key in folded.state_dict())
    assert "model.21.cv4.0.1.conv" in bitify(model, "head").changed
    folded = copy.deepcopy(with_scales(model)).fuse()
    pack(model, tmp_path / "bit.pt", half=False)
    packed = load_checkpoint(tmp_path / "bit.pt").model()
    assert packed.task == model.task
    assert_equal(packed(x), folded(x))
