"""Ternary layers in the place of others: which, why, and back; and what folding makes of them."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.bitify import bitify, freeze, observe, parts_by_row, ternary_layers, unbitify
from bitfalcon_plugin.models.build import build, resolve_graph, state_shapes
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.inference.prepare import prepare_for_inference
from bitfalcon_plugin.models.modules.bit_folded import FrozenConv2d
from bitfalcon_plugin.models.modules.bit_layers import BitConv2d, BitLinear
from bitfalcon_plugin.models.modules.blocks import Bottleneck
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bitfalcon_plugin.train.optim import Ema
from tests.helpers.tiny_models import lived


def model(seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return lived(build("yolov12.yaml", "n", nc=3))


def images(side: int = 64) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def measured(detector: Detector) -> Detector:
    """The detector with scales of activations; its batch norms stay."""
    detector.eval()
    for layer in ternary_layers(detector).values():
        layer.training = True
    detector(images())
    return detector.eval()


def kinds(detector: Detector) -> dict[str, type]:
    return {
        name: type(part)
        for name, part in detector.named_modules()
        if isinstance(part, (nn.Conv2d, nn.Linear, FrozenConv2d))
    }


def test_all_leaves_the_stem_the_predictions_and_the_distribution():
    detector = model()
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
    detector = model()
    changed = bitify(detector, part).changed
    rows = {index for index, name in enumerate(parts_by_row(detector.graph)) if name == part}
    assert changed and {int(name.split(".")[1]) for name in changed} <= rows
    assert rows == {"head": {21}, "neck": set(range(9, 21)), "backbone": set(range(9))}[part]


def test_a_second_call_changes_nothing_and_parts_add_up():
    one, two = model(), model()
    bitify(one, "all")
    before, graph = kinds(one), one.graph
    again = bitify(one, "all")
    assert (
        not again.changed
        and {change.action for change in again} == {"kept", "already"}
        and kinds(one) == before
        and one.graph == graph
    )
    for part in ("neck", "head", "backbone"):
        bitify(two, part)
    assert kinds(two) == before and bitify(model(), "head, neck,backbone").changed == bitify(model(), "all").changed


def test_expressions_and_keep():
    detector = model()
    assert bitify(detector, r"model\.2\.m\.").changed == ["model.2.m.0.cv1.conv", "model.2.m.0.cv2.conv"]
    assert {
        c.layer: c.reason for c in bitify(detector, "neck", ["default", r"\.m\.", r"^model\.15"]) if c.action == "kept"
    }.items() >= {("model.15.conv", "keep"), ("model.11.m.0.cv1.conv", "keep")}
    everything = model()
    bitify(everything, "all", "none")
    assert [name for name, kind in kinds(everything).items() if kind is nn.Conv2d] == ["model.21.dfl.conv"]
    floats = model()
    assert {c.layer for c in bitify(floats, "head", dw="fp") if c.reason == "dw=fp"} == {
        f"model.21.cv3.{level}.{place}.0.conv" for level in range(3) for place in range(2)
    }


@pytest.mark.parametrize(
    ("given", "part"),
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
def test_mistakes_change_nothing(given, part):
    detector = model()
    before = kinds(detector)
    with pytest.raises(UserError, match=part.replace("(", r"\(")):
        bitify(detector, **given)
    assert kinds(detector) == before and detector.graph.bit == ()


def test_back_again_bit_for_bit():
    detector, x = model(), images()
    before, state, graph = detector(x), copy.deepcopy(detector.state_dict()), detector.graph
    bitify(detector, "all")
    assert all(torch.equal(detector.state_dict()[name], tensor) for name, tensor in state.items())  # a warm start
    assert len(unbitify(detector)) == 112 and detector.graph == graph
    after = detector(x)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert unbitify(detector) == ()


def test_the_owners_head_becomes_a_float_one_and_is_built_again_as_such():
    detector = lived(build("bitfalcon-p.yaml", "n"))
    assert unbitify(detector) and not ternary_layers(detector)
    again = Detector(resolve_graph(detector.graph.document, scale="n"))
    assert not ternary_layers(again)
    again.load_state_dict(detector.state_dict())
    one, two = detector(images()), again.eval()(images())
    assert all(torch.equal(one[key], two[key]) for key in one)
    changed = bitify(again, "neck").changed
    assert changed and set(ternary_layers(Detector(again.graph))) == set(changed)


@pytest.mark.parametrize(
    ("bit", "options"), [("all", {}), ("head", {"dw": "ternary", "rule": "twn"}), (r"\.cv[13]\.", {"act": "dynamic"})]
)
def test_the_graph_knows_and_a_file_brings_it_back(bit, options, tmp_path):
    detector = model()
    bitify(detector, bit, **options)
    measured(detector)
    assert state_shapes(detector.graph) == {name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()}
    save_checkpoint(tmp_path / "x.pt", Checkpoint(detector.graph, detector.state_dict()))
    again = load_checkpoint(tmp_path / "x.pt").model()
    assert kinds(again) == kinds(detector)
    for name, layer in ternary_layers(detector).items():
        other = again.get_submodule(name)
        assert (layer.rule, layer.act, layer.granularity) == (other.rule, other.act, other.granularity)
    one, two = detector(images()), again(images())
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_documents_that_are_wrong_are_told():
    document = dict(model().graph.document)
    for bit, part in (
        ("haed", "did you mean"),
        ({"parts": ["tail"]}, "names more than"),
        ({"layer": []}, "unknown"),
        (7, "neither"),
        ({"layers": ["model.99.conv"]}, "not there"),
        ([{"parts": ["head"]}] * 60, "at most 50"),
        ({"rule": "sign"}, "absmean, twn"),
        ({"layers": "head"}, "list of names"),
    ):
        with pytest.raises(UserError, match=f"(?i){part}"):
            Detector(resolve_graph({**document, "bit": bit}, scale="n"))
    assert not ternary_layers(
        Detector(resolve_graph({**document, "bit": [{"layers": ["model.21.dfl.conv"]}]}, scale="n"))
    )
    assert len(ternary_layers(Detector(resolve_graph({**document, "bit": "head"}, scale="n")))) == 18
    assert len(ternary_layers(Detector(resolve_graph({**document, "bit": ["head", "neck"]}, scale="n")))) == 18 + 38
    assert not ternary_layers(Detector(resolve_graph({**document, "bit": "none"}, scale="n")))


def test_a_head_of_which_one_branch_is_ternary():
    for bit in (r"cv3\.", r"cv2\.", r"cv[23]\."):
        detector = model()
        bitify(detector, bit)
        first = [detector.head.cv3[level][0][0].conv for level in range(3)]
        assert [getattr(layer, "act", "float") for layer in first] == [
            {"cv3\\.": "static", "cv2\\.": "float"}.get(bit, "given")
        ] * 3
        out = measured(detector)(images())
        assert all(out[key].isfinite().all() for key in out)
        unbitify(
            detector, [name for name in ternary_layers(detector) if ".cv2." in name]
        )  # trying out: shared scales are undone
        assert not any(getattr(layer, "act", "") == "given" for layer in first)
        detector(images())


# ---- folding -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "float"])
@pytest.mark.parametrize("bit", ["all", "head"])
def test_a_folded_model_computes_what_training_saw(bit, backend):
    detector = model()
    bitify(detector, bit)
    measured(detector)
    expected, x = detector(images()), images()
    frozen = freeze(copy.deepcopy(detector), backend)
    assert not [part for part in frozen.modules() if isinstance(part, (BitConv2d, nn.BatchNorm2d))]
    assert any(layer.follower for layer in ternary_layers(frozen).values()) and not any(
        p.requires_grad for p in frozen.parameters()
    )
    with torch.inference_mode():
        for found in (frozen(x), copy.deepcopy(frozen)(x), pickle.loads(pickle.dumps(frozen))(x)):
            for key in (
                found
            ):  # a sum that falls on the other side of a half moves a code by one: few, and small beside the whole
                error, size = (found[key] - expected[key]).abs(), expected[key].abs().max()
                assert error.mean() < 5e-3 * size and error.max() < 0.15 * size
    assert frozen.fuse() is frozen and freeze(frozen) is frozen


@pytest.mark.parametrize("act", ["static", "dynamic", "none"])
@pytest.mark.parametrize("activation", [nn.SiLU(), nn.ReLU(), None])
@torch.no_grad()
def test_one_folded_layer_agrees_with_the_three_it_is_made_of(act, activation):
    torch.manual_seed(3)
    for case in range(12):
        c_in, c_out, k, stride = (int(v) for v in torch.randint(1, 9, (4,)))
        k, groups = (k % 3) * 2 + 1, 1
        if case % 3 == 0:
            c_out = groups = c_in
        layer = BitConv2d(
            c_in,
            c_out,
            k,
            1 + stride % 2,
            k // 2,
            groups=groups,
            bias=case % 2 == 0,
            act=act,
            rule=("absmean", "int8", "twn")[case % 3],
        )
        bn, x = lived(nn.BatchNorm2d(c_out)), torch.randn(1 + case % 3, c_in, 9, 7)
        bn.weight.mul_(torch.where(torch.arange(c_out) % 2 == 0, -1.0, 1.0))
        layer(x)
        layer.eval()
        y = bn(layer(x))
        expected = y if activation is None else activation(y)
        frozen, rest = layer.freeze(bn, activation)
        assert torch.equal(frozen.codes, layer.codes_and_scales()[0])
        found = frozen.eval()(x)
        found = found if rest is None else rest(found)
        assert (found - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())
        assert isinstance(rest, nn.Identity) == isinstance(activation, nn.SiLU)


@torch.no_grad()
def test_a_linear_layer_folds_too():
    layer, x = BitLinear(7, 5), torch.randn(2, 3, 7)
    layer(x)
    frozen, rest = layer.eval().freeze(None, nn.SiLU())
    torch.testing.assert_close(rest(frozen(x)), nn.functional.silu(layer(x)), atol=1e-5, rtol=1e-5)


def test_a_folded_model_has_no_way_back():
    detector = model()
    bitify(detector, "head")
    freeze(detector)
    with pytest.raises(UserError, match="before fuse"):
        unbitify(detector)
    with pytest.raises(UserError, match="none of"):
        freeze(model(), "onedn")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_folded_model_in_other_types(dtype):
    detector = model()
    bitify(detector, "head")
    expected = freeze(measured(detector))(images())
    found = detector.to(dtype)(images().to(dtype))
    for key in found:
        assert found[key].dtype == dtype
        assert (found[key].float() - expected[key]).abs().mean() < (
            1e-3 if dtype == torch.float64 else 3e-2
        ) * expected[key].abs().max()


def test_traced_models_compute_in_floats():
    detector = model()
    bitify(detector, "head")
    x = images()
    expected = freeze(measured(detector))(x)
    head = detector.head
    maps = [torch.randn(2, channels, 4, 4) for channels in (64, 128, 256)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        traced = torch.jit.trace(lambda *m: tuple(head(list(m)).values()), maps, check_trace=False)
        for one, two in zip(traced(*maps), head(maps).values()):
            assert (one - two).abs().mean() < 1e-3 * two.abs().max()
    assert expected


def test_folded_models_are_prepared_from_after_a_forward():
    detector = model()
    bitify(detector, "all")
    freeze(measured(detector))
    with torch.inference_mode():
        expected = detector(images())
        found = prepare_for_inference(detector, torch.device("cpu"))(images())
    for key in found:
        assert (found[key] - expected[key]).abs().mean() < 5e-3 * expected[key].abs().max()


def test_folded_models_stay_as_they_are():
    detector = model()
    bitify(detector, "head")
    freeze(measured(detector))
    x, before = images(), copy.deepcopy(detector.state_dict())
    detector.train()
    detector(3 * x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())
    assert {change.action for change in bitify(detector.eval(), "head")} == {"kept", "already"}


@torch.no_grad()
def test_chained_layers_agree_however_small_the_scale():
    torch.manual_seed(0)
    block = lived(Bottleneck(8, 8))
    block.cv1.conv, block.cv2.conv = BitConv2d.of(block.cv1.conv), BitConv2d.of(block.cv2.conv)
    block.cv1.conv.act_scale, x = torch.tensor(0.03), torch.randn(1, 8, 9, 9)
    for scale in (0.1, 0.25, 0.3, 2.0):
        block.cv2.conv.act_scale = torch.tensor(scale / 127)
        expected, folded = block(x), copy.deepcopy(block)
        folded.fuse()
        assert (folded(x) - expected).abs().mean() <= 2e-3 * expected.abs().max()
        assert (folded.cv1.conv._convolution(folded.cv1.conv.act_scale).output_scale is not None) == (scale > 0.2785)

    class Twice(Bottleneck):
        def forward(self, x):
            y = self.cv1(x)
            return y + self.cv2(y)

    twice = Twice(8, 8, e=1.0)
    twice.cv1.conv, twice.cv2.conv = BitConv2d.of(twice.cv1.conv), BitConv2d.of(twice.cv2.conv)
    twice.cv1.conv.act_scale = twice.cv2.conv.act_scale = torch.tensor(0.05)
    twice.eval().fuse()
    assert twice(x).isfinite().all()


def test_the_average_takes_scales_as_they_are():
    detector = model()
    bitify(detector, "head")
    ema = Ema(detector, 6000)
    ema.update(measured(detector))
    for name, layer in ternary_layers(detector).items():
        if layer.act_scale is not None:
            assert layer.act_scale > 0 and torch.equal(ema.model.get_submodule(name).act_scale, layer.act_scale)


def test_scales_stay_where_they_are_told_to():
    detector = model()
    bitify(detector, "head")
    measured(detector).train()
    layers = list(ternary_layers(detector).values())
    observe(detector, False)
    before = [layer.act_scale.clone() for layer in layers if layer.act_scale is not None]
    detector(3 * images())
    assert all(torch.equal(a, b.act_scale) for a, b in zip(before, (b for b in layers if b.act_scale is not None)))
    observe(detector, True)
    detector(3 * images())
    assert not any(torch.equal(a, b.act_scale) for a, b in zip(before, (b for b in layers if b.act_scale is not None)))


def test_recomputed_rows_use_the_scales_of_the_first_pass():
    grads = []
    for checkpointing in (False, True):
        detector = model()
        bitify(detector, "all")
        measured(detector).train()
        detector.checkpointing = checkpointing
        out = detector(images())
        (out["boxes"].square().mean() + out["scores"].square().mean()).backward()
        grads.append({name: p.grad for name, p in detector.named_parameters()} | dict(detector.named_buffers()))
    for name, grad in grads[0].items():
        if grad is not None:
            torch.testing.assert_close(grads[1][name], grad, rtol=1e-3, atol=1e-5)
