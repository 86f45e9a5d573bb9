"""Ternary layers in the place of others: which, why, and back."""

from __future__ import annotations

import pytest
from torch import nn

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.bitify import bitify, parts_by_row, ternary_layers, unbitify
from bitfalcon_plugin.models.build import build, resolve_graph, state_shapes
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.modules.bit_folded import FrozenConv2d
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.ternary import assert_equal, float_model, images, ternary_model, with_scales
from tests.helpers.tiny_models import lived


def kinds(detector: Detector) -> dict[str, type]:
    return {
        name: type(part)
        for name, part in detector.named_modules()
        if isinstance(part, (nn.Conv2d, nn.Linear, FrozenConv2d))
    }


def test_all_leaves_the_stem_the_predictions_and_the_distribution():
    detector = float_model()
    table = bitify(detector, "all")
    floats = {name for name, kind in kinds(detector).items() if kind is nn.Conv2d}
    expected = {
        "model.0.conv",
        "model.21.dfl.conv",
        *(f"model.21.cv{branch}.{level}.2" for branch in (2, 3) for level in range(3)),
    }
    assert floats == expected
    reasons = {change.layer: change.reason for change in table if change.action == "kept"}
    assert reasons == {
        "model.0.conv": "stem",
        "model.21.dfl.conv": "distribution",
        **{name: "prediction" for name in expected if ".cv" in name},
    }
    depthwise = {name for name, layer in ternary_layers(detector).items() if layer.groups > 1}
    assert depthwise and {change.layer for change in table if change.action == "int8"} == depthwise
    for change in table:  # by hand: 5 weights a byte, or one, and two floats a channel and one for the activations
        weight = detector.get_submodule(change.layer).weight
        packed = {"ternary": -(-weight.numel() // 5), "int8": weight.numel()}.get(change.action)
        assert change.parameters == weight.numel()
        assert packed is None or change.after == packed + 8 * len(weight) + 4


@pytest.mark.parametrize("part", ["head", "neck", "backbone"])
def test_a_part_is_its_rows(part):
    detector = float_model()
    changed = bitify(detector, part).changed
    rows = {index for index, name in enumerate(parts_by_row(detector.graph)) if name == part}
    assert changed and {int(name.split(".")[1]) for name in changed} <= rows
    assert rows == {"head": {21}, "neck": set(range(9, 21)), "backbone": set(range(9))}[part]


def test_a_second_call_changes_nothing():
    detector = float_model()
    bitify(detector, "all")
    before, graph = kinds(detector), detector.graph
    second = bitify(detector, "all")
    assert not second.changed and {change.action for change in second} == {"kept", "already"}
    assert kinds(detector) == before and detector.graph == graph


def test_the_parts_add_up_to_all():
    parts, whole = float_model(), float_model()
    for part in ("neck", "head", "backbone"):
        bitify(parts, part)
    changed = bitify(whole, "all").changed
    assert kinds(parts) == kinds(whole) and bitify(float_model(), "head, neck,backbone").changed == changed


def test_expressions_name_layers():
    assert bitify(float_model(), r"model\.2\.m\.").changed == ["model.2.m.0.cv1.conv", "model.2.m.0.cv2.conv"]


def test_keep_leaves_layers_float():
    table = bitify(float_model(), "neck", ["default", r"\.m\.", r"^model\.15"])
    reasons = {(change.layer, change.reason) for change in table if change.action == "kept"}
    assert reasons >= {("model.15.conv", "keep"), ("model.11.m.0.cv1.conv", "keep")}
    everything = float_model()
    bitify(everything, "all", "none")
    assert [name for name, kind in kinds(everything).items() if kind is nn.Conv2d] == ["model.21.dfl.conv"]


def test_depthwise_layers_may_stay_float():
    changes = bitify(float_model(), "head", dw="fp")
    depthwise = {f"model.21.cv3.{level}.{branch}.0.conv" for level in range(3) for branch in range(2)}
    assert {change.layer for change in changes if change.reason == "dw=fp"} == depthwise


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bit": "haed"}, "Did you mean 'head'"),
        ({"bit": "model.99"}, "names such as"),
        ({"bit": "("}, "no regular expression"),
        ({"bit": "head", "keep": "["}, "no regular expression"),
        ({"dw": "int4"}, "int8, ternary, fp"),
        ({"rule": "bin"}, "absmean, twn"),
        ({"bit": ""}, "expected"),
        ({"act": "given"}, "static, dynamic, none"),
    ],
)
def test_mistakes_change_nothing(options, message):
    detector = float_model()
    before = kinds(detector)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        bitify(detector, **options)
    assert kinds(detector) == before and detector.graph.bit == ()


def test_the_way_back_gives_the_same_model():
    detector, x = float_model(), images()
    before, state, graph = detector(x), dict(float_model().state_dict()), detector.graph
    bitify(detector, "all")
    ternary = detector.state_dict()
    assert_equal(state, {name: ternary[name] for name in state})  # the weights to start training from
    assert len(unbitify(detector)) == 112 and detector.graph == graph
    assert_equal(before, detector(x))
    assert unbitify(detector) == ()


def test_a_head_that_is_ternary_by_its_name_becomes_float_and_is_built_float():
    detector = lived(build("bitfalcon-p.yaml", "n"))
    assert unbitify(detector) and not ternary_layers(detector)
    rebuilt = Detector(resolve_graph(detector.graph.document, scale="n"))
    assert not ternary_layers(rebuilt)
    rebuilt.load_state_dict(detector.state_dict())
    assert_equal(detector(images()), rebuilt.eval()(images()))
    changed = bitify(rebuilt, "neck").changed
    assert changed and set(ternary_layers(Detector(rebuilt.graph))) == set(changed)


@pytest.mark.parametrize(
    ("bit", "options"), [("all", {}), ("head", {"dw": "ternary", "rule": "twn"}), (r"\.cv[13]\.", {"act": "dynamic"})]
)
def test_the_graph_records_the_layers_and_a_checkpoint_restores_them(bit, options, tmp_path):
    detector = ternary_model(bit, **options)
    assert state_shapes(detector.graph) == {name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()}
    save_checkpoint(tmp_path / "x.pt", Checkpoint(detector.graph, detector.state_dict()))
    restored = load_checkpoint(tmp_path / "x.pt").model()
    assert kinds(restored) == kinds(detector)
    for name, layer in ternary_layers(detector).items():
        other = restored.get_submodule(name)
        assert (layer.rule, layer.act, layer.granularity) == (other.rule, other.act, other.granularity)
    assert_equal(detector(images()), restored(images()))


def built(bit: object) -> Detector:
    """Return a model of YOLOv12's graph with the key `bit`."""
    document = {**float_model().graph.document, "bit": bit}
    return Detector(resolve_graph(document, scale="n"))


@pytest.mark.parametrize(
    ("bit", "message"),
    [
        ("haed", "did you mean"),
        ({"parts": ["tail"]}, "names more than"),
        ({"layer": []}, "unknown"),
        (7, "expected a part"),
        ({"layers": ["model.99.conv"]}, "not there"),
        ([{"parts": ["head"]}] * 60, "at most 50"),
        ({"rule": "sign"}, "absmean, twn"),
        ({"layers": "head"}, "list of names"),
    ],
)
def test_wrong_documents_are_refused(bit, message):
    with pytest.raises(UserError, match=f"(?i){message}"):
        built(bit)


def test_documents_name_layers():
    assert not ternary_layers(built([{"layers": ["model.21.dfl.conv"]}]))
    assert len(ternary_layers(built("head"))) == 18
    assert len(ternary_layers(built(["head", "neck"]))) == 18 + 38
    assert not ternary_layers(built("none"))


@pytest.mark.parametrize(("bit", "act"), [(r"cv3\.", "static"), (r"cv2\.", "float"), (r"cv[23]\.", "given")])
def test_branches_of_a_head_share_scales_only_when_both_are_ternary(bit, act):
    detector = float_model()
    bitify(detector, bit)
    layers = [detector.head.cv3[level][0][0].conv for level in range(3)]
    assert [getattr(layer, "act", "float") for layer in layers] == [act] * 3
    outputs = with_scales(detector)(images())
    assert all(tensor.isfinite().all() for tensor in outputs.values())
    unbitify(detector, [name for name in ternary_layers(detector) if ".cv2." in name])
    assert not any(getattr(layer, "act", "") == "given" for layer in layers)
    detector(images())
