"""Folded ternary models and layers: they compute what training saw, in every type, traced, copied and chained."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.bitify import bitify, freeze, ternary_layers, unbitify
from bitfalcon_plugin.models.inference.prepare import prepare_for_inference
from bitfalcon_plugin.models.modules.bit_layers import BitConv2d, BitLinear
from bitfalcon_plugin.models.modules.blocks import Bottleneck
from tests.helpers.ternary import assert_equal, float_model, images, ternary_model
from tests.helpers.tiny_models import lived


@pytest.mark.parametrize("backend", ["auto", "float"])
@pytest.mark.parametrize("bit", ["all", "head"])
def test_a_folded_model_computes_what_training_saw(bit, backend):
    detector, x = ternary_model(bit), images()
    expected = detector(x)
    frozen = freeze(copy.deepcopy(detector), backend)
    assert not [part for part in frozen.modules() if isinstance(part, (BitConv2d, nn.BatchNorm2d))]
    assert any(layer.follower for layer in ternary_layers(frozen).values()) and not any(
        p.requires_grad for p in frozen.parameters()
    )
    with torch.inference_mode():
        for network in (frozen, copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
            for key, tensor in network(x).items():
                # A sum that falls on the other side of a half moves a code by one: that is rare, and a small change.
                error, size = (tensor - expected[key]).abs(), expected[key].abs().max()
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
        options = {"act": act, "rule": ("absmean", "int8", "twn")[case % 3], "bias": case % 2 == 0}
        layer = BitConv2d(c_in, c_out, k, 1 + stride % 2, k // 2, groups=groups, **options)
        bn, x = lived(nn.BatchNorm2d(c_out)), torch.randn(1 + case % 3, c_in, 9, 7)
        bn.weight.mul_(torch.where(torch.arange(c_out) % 2 == 0, -1.0, 1.0))
        layer(x)
        layer.eval()
        y = bn(layer(x))
        expected = y if activation is None else activation(y)
        frozen, remaining = layer.freeze(bn, activation)
        assert torch.equal(frozen.codes, layer.codes_and_scales()[0])
        y = frozen.eval()(x)
        y = y if remaining is None else remaining(y)
        assert (y - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())
        assert isinstance(remaining, nn.Identity) == isinstance(activation, nn.SiLU)


@torch.no_grad()
def test_a_linear_layer_folds_too():
    layer, x = BitLinear(7, 5), torch.randn(2, 3, 7)
    layer(x)
    frozen, remaining = layer.eval().freeze(None, nn.SiLU())
    torch.testing.assert_close(remaining(frozen(x)), nn.functional.silu(layer(x)), atol=1e-5, rtol=1e-5)


def test_a_folded_model_has_no_way_back():
    detector = freeze(ternary_model("head"))
    with pytest.raises(UserError, match="before fuse"):
        unbitify(detector)
    with pytest.raises(UserError, match="none of"):
        freeze(float_model(), "onedn")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_folded_model_in_other_types(dtype):
    detector = freeze(ternary_model("head"))
    expected = detector(images())
    tolerance = 1e-3 if dtype == torch.float64 else 3e-2
    for key, tensor in detector.to(dtype)(images().to(dtype)).items():
        assert tensor.dtype == dtype
        assert (tensor.float() - expected[key]).abs().mean() < tolerance * expected[key].abs().max()


def test_traced_models_compute_in_floats():
    detector = freeze(ternary_model("head"))
    detector(images())  # tracing comes after a forward with prepared convolutions
    head = detector.head
    maps = [torch.randn(2, channels, 4, 4) for channels in (64, 128, 256)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        traced = torch.jit.trace(lambda *m: tuple(head(list(m)).values()), maps, check_trace=False)
        for floats, tensor in zip(traced(*maps), head(maps).values()):
            assert (floats - tensor).abs().mean() < 1e-3 * tensor.abs().max()


def test_folded_models_are_prepared_after_a_forward():
    detector = freeze(ternary_model("all"))
    with torch.inference_mode():
        expected = detector(images())
        outputs = prepare_for_inference(detector, torch.device("cpu"))(images())
    for key, tensor in outputs.items():
        assert (tensor - expected[key]).abs().mean() < 5e-3 * expected[key].abs().max()


def test_training_and_bitify_leave_a_folded_model_unchanged():
    detector = freeze(ternary_model("head"))
    before = copy.deepcopy(detector.state_dict())
    detector.train()
    detector(3 * images())
    assert_equal(detector.state_dict(), before)
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
