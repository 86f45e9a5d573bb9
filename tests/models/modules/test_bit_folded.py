"""Folded ternary layers: a prepared convolution serves the next forward only while nothing has changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bitfalcon_plugin.models.modules import bit_kernels as integer
from bitfalcon_plugin.models.modules.bit_activations import Quantised
from bitfalcon_plugin.models.modules.bit_folded import FrozenConv2d, fold
from bitfalcon_plugin.models.modules.bit_layers import BitConv2d
from tests.models.modules.test_bit_layers import seed  # noqa: F401  the fixture of every test

needs_integers = pytest.mark.skipif(bool(integer.refusal("ternary")), reason="no integer convolution here")


def block() -> nn.Module:
    """A layer with SiLU and the layer that reads it, folded, as `first.conv` and `second.conv`."""
    made = nn.ModuleDict(
        {
            "first": nn.ModuleDict({"conv": BitConv2d(8, 8, 3, padding=1)}),
            "second": nn.ModuleDict({"conv": BitConv2d(8, 4, 1)}),
        }
    )
    x = torch.randn(2, 8, 9, 9)
    for part in made.values():
        part.conv(x)
        part.conv = part.conv.eval().freeze(None, nn.SiLU())[0]
    fold(made.first, made.second)
    return made


def run(made: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return made.second.conv(made.first.conv(x))


CHANGES = {
    "codes": lambda made: made.first.conv.codes.neg_(),
    "scale": lambda made: made.first.conv.scale.mul_(2),
    "bias": lambda made: made.second.conv.bias.add_(1),
    "scale of the input": lambda made: made.first.conv.act_scale.mul_(0.5),
    "scale of what is given on": lambda made: made.second.conv.act_scale.mul_(2),
    "another tensor": lambda made: setattr(made.first.conv, "bias", made.first.conv.bias + 1),
    "another tensor of the same state": lambda made: made.load_state_dict(
        {k: -v for k, v in made.state_dict().items() if "act" not in k}, strict=False
    ),
    "backend": lambda made: setattr(made.first.conv, "backend", "float"),
    "no follower": lambda made: setattr(made.first.conv, "follower", ()),
    "float64": lambda made: made.double(),
}


@needs_integers
@pytest.mark.parametrize("change", CHANGES)
def test_a_prepared_convolution_is_made_again_when_something_changes(change):
    made, x = block(), torch.randn(1, 8, 7, 6)
    with torch.inference_mode():
        first, again = run(made, x), run(made, x)
    before = [part.conv._prepared for part in made.values()]
    assert torch.equal(first, again) and None not in before
    with torch.no_grad():
        CHANGES[change](made)
    assert copy.deepcopy(made).first.conv._prepared is None
    x = x.to(made.first.conv.scale.dtype)
    with torch.inference_mode():
        found, expected = run(made, x), run(copy.deepcopy(made), x)
    assert torch.equal(found, expected)
    assert any(part.conv._prepared is not old for part, old in zip(made.values(), before, strict=True))
    if change not in ("backend", "no follower", "float64"):
        assert not torch.allclose(found, first, atol=1e-3)


@needs_integers
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_a_prepared_convolution_takes_every_kind_of_input():
    made, x = block(), torch.randn(2, 8, 7, 6)
    layer = made.second.conv
    with torch.inference_mode():
        expected = layer(x)
        assert layer._prepared is not None and torch.equal(layer(x[0]), expected[0])  # one image without a batch
        codes = integer.float_codes(x, layer.act_scale)
        torch.testing.assert_close(layer(Quantised(codes=codes, scale=layer.act_scale)), expected)
        other = Quantised(codes=codes, scale=layer.act_scale * 2)
        assert torch.equal(layer(other), copy.deepcopy(layer)(other)) and not torch.allclose(
            layer(other), expected, atol=1e-2
        )
        with pytest.raises(RuntimeError, match="type"):  # as of any layer
            layer(x.double())
        assert layer(x[:0]).shape == (0, 4, 7, 6)
        integer.set_default_backend("float")
        try:
            torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
        finally:
            integer.set_default_backend("auto")
    wanted = x.clone().requires_grad_()
    layer(wanted).sum().backward()  # outside inference mode gradients go through
    assert wanted.grad.abs().sum() > 0
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), expected, atol=1e-5, rtol=1e-5)


@needs_integers
def test_a_forward_in_floats_between_leaves_no_outdated_convolution():
    made, x = block(), torch.randn(1, 8, 7, 6)
    with torch.inference_mode():
        first = run(made, x)
    with torch.no_grad():
        made.first.conv.scale.mul_(2)
    with torch.inference_mode():
        with torch.autocast("cpu"):
            run(made, x)  # in floats: nothing is packed
        found = run(made, x)
        assert (
            torch.equal(found, run(made, x))
            and torch.equal(found, run(copy.deepcopy(made), x))
            and not torch.allclose(found, first, atol=1e-3)
        )


def test_a_layer_is_no_part_of_what_it_is_chained_to():
    made = block()
    assert isinstance(made.first.conv, FrozenConv2d) and made.first.conv.follower == (made.second.conv,)
    assert len(list(made.first.modules())) == 2 and len(copy.deepcopy(made).state_dict()) == 8


@pytest.mark.parametrize("side", [1, 3, 7, 16, 33])
def test_both_ways_to_round_find_the_same_codes_at_halves(side):
    """At halves give or take the last digit, clipped ones, and sizes that leave a rest in vectors."""
    for scale in torch.tensor([0.0131, 0.5, 0.037, 1e-3]):
        halves = (torch.randint(-135, 135, (1, 3, side, side)) + 0.5) * scale
        for x in (halves, torch.nextafter(halves, torch.tensor(1e9)), torch.nextafter(halves, torch.tensor(-1e9))):
            x = x.contiguous(memory_format=torch.channels_last)
            floats = integer.float_codes(x, scale)
            assert torch.equal(integer.as_floats(integer.byte_codes(x, float(scale))), floats)
            exact = (x.double() / scale.double()).clamp(-127, 127)
            assert (floats - exact).abs().max() <= 0.5 + 1e-4 and floats.abs().max() <= 127
