"""Scales of activations and statistics of batch norms, measured anew."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bitfalcon_plugin.bit import bitify, calibrate, freeze
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.bitify import ternary_layers
from tests.helpers.tiny_models import CONV, lived, small_model


def batches(count: int = 3) -> list[torch.Tensor]:
    return [torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(number)) for number in range(count)]


def test_statistics_are_the_average_over_the_batches():
    torch.manual_seed(0)
    model = lived(small_model(CONV, CONV))
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    assert calibrate(model, iter(batches())) == 3
    first = model.model[0]
    outs = [first.conv(images) for images in batches()]
    torch.testing.assert_close(first.bn.running_mean, torch.stack([y.mean((0, 2, 3)) for y in outs]).mean(0))
    torch.testing.assert_close(first.bn.running_var, torch.stack([y.var((0, 2, 3)) for y in outs]).mean(0))
    second_input = [
        first.act(nn.functional.batch_norm(y, None, None, first.bn.weight, first.bn.bias, True, 0, first.bn.eps))
        for y in outs
    ]
    expected = torch.stack([model.model[1].conv(x).mean((0, 2, 3)) for x in second_input]).mean(0)
    torch.testing.assert_close(model.model[1].bn.running_mean, expected)
    for name, tensor in model.state_dict().items():
        assert ("running" in name or "num_batches" in name) or torch.equal(tensor, state[name])
    assert [m.training for m in model.modules()] == modes and first.bn.momentum == 0.03


def test_scales_are_set_and_norms_may_stay():
    torch.manual_seed(0)
    model = lived(small_model(CONV, CONV))
    bitify(model, "all")
    layers = ternary_layers(model)
    assert all(layer.act_scale is None or layer.act_scale == 0 for layer in layers.values())
    state = copy.deepcopy(model.state_dict())
    calibrate(model, batches(), norms=False)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])}
    assert changed == {f"{name}.act_scale" for name, layer in layers.items() if layer.act == "static"}
    second = model.model[1].conv
    largest = [model.model[0](images).abs().max() / 127 for images in batches()]
    scale = largest[0]
    for value in largest[1:]:
        scale = 0.95 * scale + 0.05 * value
    torch.testing.assert_close(second.act_scale, scale)
    before = second.act_scale.clone()
    calibrate(model, batches(), norms=False)  # from the beginning, not on top
    assert torch.equal(second.act_scale, before) and second.observing and not second.training
    calibrate(model, batches(1), scales=False)
    assert torch.equal(second.act_scale, before)


def test_what_cannot_be_calibrated():
    model = small_model(CONV)
    state = copy.deepcopy(lived(model).state_dict())
    bad = torch.full((2, 3, 64, 64), float("nan"))
    for given, part in (
        ([], "no batch"),
        (batches()[0], "expected floating-point"),
        ([batches()[0].byte()], "uint8"),
        ([bad], "finite"),
        ([*batches(1), batches()[0][:1]], "two or more"),
        ([(batches()[0], None)], "a tuple"),
    ):
        with pytest.raises(UserError, match=part):
            calibrate(model, given)
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    bitify(model, "head")
    with pytest.raises(UserError, match="folded"):
        calibrate(freeze(model), batches())
