"""Folded ternary layers: a prepared convolution serves the next forward only while nothing has changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bitfalcon_plugin.models.modules import bit_kernels
from bitfalcon_plugin.models.modules.bit_activations import Quantised
from bitfalcon_plugin.models.modules.bit_folded import FrozenConv2d, fold
from bitfalcon_plugin.models.modules.bit_layers import BitConv2d

pytestmark = pytest.mark.usefixtures("seeded")

needs_integers = pytest.mark.skipif(bool(bit_kernels.refusal("ternary")), reason="no integer convolution here")


def two_blocks() -> nn.Module:
    """Return a layer with SiLU and the layer that reads its output, folded, as `first.conv` and `second.conv`."""
    layers = {"first": BitConv2d(8, 8, 3, padding=1), "second": BitConv2d(8, 4, 1)}
    blocks = nn.ModuleDict({name: nn.ModuleDict({"conv": layer}) for name, layer in layers.items()})
    x = torch.randn(2, 8, 9, 9)
    for part in blocks.values():
        part.conv(x)
        part.conv = part.conv.eval().freeze(None, nn.SiLU())[0]
    fold(blocks.first, blocks.second)
    return blocks


def run(blocks: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return blocks.second.conv(blocks.first.conv(x))


CHANGES = {
    "codes": lambda blocks: blocks.first.conv.codes.neg_(),
    "scale": lambda blocks: blocks.first.conv.scale.mul_(2),
    "bias": lambda blocks: blocks.second.conv.bias.add_(1),
    "scale of the input": lambda blocks: blocks.first.conv.act_scale.mul_(0.5),
    "scale of the codes between": lambda blocks: blocks.second.conv.act_scale.mul_(2),
    "another tensor": lambda blocks: setattr(blocks.first.conv, "bias", blocks.first.conv.bias + 1),
    "another tensor of the same state": lambda blocks: blocks.load_state_dict(
        {k: -v for k, v in blocks.state_dict().items() if "act" not in k}, strict=False
    ),
    "backend": lambda blocks: setattr(blocks.first.conv, "backend", "float"),
    "no follower": lambda blocks: setattr(blocks.first.conv, "follower", ()),
    "float64": lambda blocks: blocks.double(),
}


@needs_integers
@pytest.mark.parametrize("change", CHANGES)
def test_a_convolution_is_prepared_again_when_something_changes(change):
    blocks, x = two_blocks(), torch.randn(1, 8, 7, 6)
    with torch.inference_mode():
        first, second = run(blocks, x), run(blocks, x)
    before = [part.conv._prepared for part in blocks.values()]
    assert torch.equal(first, second) and None not in before
    with torch.no_grad():
        CHANGES[change](blocks)
    assert copy.deepcopy(blocks).first.conv._prepared is None
    x = x.to(blocks.first.conv.scale.dtype)
    with torch.inference_mode():
        changed = run(blocks, x)
        assert torch.equal(changed, run(copy.deepcopy(blocks), x))
    assert any(part.conv._prepared is not old for part, old in zip(blocks.values(), before, strict=True))
    if change not in ("backend", "no follower", "float64"):
        assert not torch.allclose(changed, first, atol=1e-3)


@needs_integers
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_a_prepared_convolution_takes_every_kind_of_input():
    blocks, x = two_blocks(), torch.randn(2, 8, 7, 6)
    layer = blocks.second.conv
    with torch.inference_mode():
        expected = layer(x)
        assert layer._prepared is not None and torch.equal(layer(x[0]), expected[0])  # one image without a batch
        codes = bit_kernels.float_codes(x, layer.act_scale)
        torch.testing.assert_close(layer(Quantised(codes=codes, scale=layer.act_scale)), expected)
        other = Quantised(codes=codes, scale=layer.act_scale * 2)
        assert torch.equal(layer(other), copy.deepcopy(layer)(other))
        assert not torch.allclose(layer(other), expected, atol=1e-2)
        with pytest.raises(RuntimeError, match="type"):  # as of any layer
            layer(x.double())
        assert layer(x[:0]).shape == (0, 4, 7, 6)
        bit_kernels.set_default_backend("float")
        try:
            torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
        finally:
            bit_kernels.set_default_backend("auto")
    leaf = x.clone().requires_grad_()
    layer(leaf).sum().backward()  # outside inference mode gradients go through
    assert leaf.grad.abs().sum() > 0
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), expected, atol=1e-5, rtol=1e-5)


@needs_integers
def test_a_forward_in_floats_leaves_no_outdated_convolution():
    blocks, x = two_blocks(), torch.randn(1, 8, 7, 6)
    with torch.inference_mode():
        first = run(blocks, x)
    with torch.no_grad():
        blocks.first.conv.scale.mul_(2)
    with torch.inference_mode():
        with torch.autocast("cpu"):
            run(blocks, x)  # in floats: nothing is packed
        changed = run(blocks, x)
        assert torch.equal(changed, run(blocks, x)) and torch.equal(changed, run(copy.deepcopy(blocks), x))
        assert not torch.allclose(changed, first, atol=1e-3)


def test_the_next_layer_is_no_submodule_and_not_copied():
    blocks = two_blocks()
    assert isinstance(blocks.first.conv, FrozenConv2d) and blocks.first.conv.follower == (blocks.second.conv,)
    assert len(list(blocks.first.modules())) == 2 and len(copy.deepcopy(blocks).state_dict()) == 8


@pytest.mark.parametrize("side", [1, 3, 7, 16, 33])
def test_both_ways_to_round_give_the_same_codes_at_halves(side):
    """At halves give or take the last digit, clipped ones, and sizes that do not fill the last vector."""
    for scale in torch.tensor([0.0131, 0.5, 0.037, 1e-3]):
        halves = (torch.randint(-135, 135, (1, 3, side, side)) + 0.5) * scale
        for x in (halves, torch.nextafter(halves, torch.tensor(1e9)), torch.nextafter(halves, torch.tensor(-1e9))):
            x = x.contiguous(memory_format=torch.channels_last)
            floats = bit_kernels.float_codes(x, scale)
            assert torch.equal(bit_kernels.as_floats(bit_kernels.byte_codes(x, float(scale))), floats)
            exact = (x.double() / scale.double()).clamp(-127, 127)
            assert (floats - exact).abs().max() <= 0.5 + 1e-4 and floats.abs().max() <= 127
