"""Ternary layers: weights and activations by the formulas, gradients, copies, states and folding."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitfalcon_plugin.models.modules import bit_kernels
from bitfalcon_plugin.models.modules.bit_activations import StraightThrough
from bitfalcon_plugin.models.modules.bit_layers import BitConv2d, BitLinear
from tests.helpers.ternary import training_forward
from tests.helpers.tiny_models import lived

pytestmark = pytest.mark.usefixtures("seeded")


def slow_codes(weight: torch.Tensor, rule: str, per_tensor: bool = False) -> torch.Tensor:
    """Codes times scales by a loop over output channels, in Python numbers."""
    rows = [weight.flatten().tolist()] if per_tensor else [row.flatten().tolist() for row in weight]
    out = []
    for row in rows:
        mean = sum(map(abs, row)) / len(row)
        if rule == "absmean":
            out += [max(-1, min(1, round(w / mean))) * mean for w in row]
        elif rule == "twn":
            above = [abs(w) for w in row if abs(w) > 0.7 * mean]
            out += [math.copysign(sum(above) / len(above), w) if abs(w) > 0.7 * mean else 0.0 for w in row]
        else:
            step = max(map(abs, row)) / 127
            out += [round(w / step) * step for w in row]
    return torch.tensor(out).view_as(weight)


# Weights and activations


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("rule", ["absmean", "twn", "int8"])
def test_weights_are_those_of_the_formulas(rule, granularity):
    layer = BitConv2d(6, 8, 3, groups=2, rule=rule, act="none", granularity=granularity)
    expected = slow_codes(layer.weight.detach(), rule, granularity == "tensor")
    torch.testing.assert_close(layer._float_weight().detach(), expected, atol=1e-7, rtol=1e-5)
    codes, scale = layer.codes_and_scales()
    assert codes.dtype == torch.int8 and scale.shape == (8,) and codes.abs().max() == (127 if rule == "int8" else 1)
    torch.testing.assert_close(codes * scale.view(-1, 1, 1, 1), expected, atol=1e-7, rtol=1e-5)
    x = torch.randn(2, 6, 7, 5)
    torch.testing.assert_close(layer(x), F.conv2d(x, expected, layer.bias, groups=2))


@torch.no_grad()
def test_weights_that_are_zero_stay_zero_and_finite():
    for rule in ("absmean", "twn", "int8"):
        layer = BitConv2d(3, 4, 3, rule=rule)
        layer.weight[1] = 0
        y = training_forward(layer, torch.randn(1, 3, 8, 8))
        assert torch.equal(y[0, 1], layer.bias[1].expand(6, 6)) and y.isfinite().all()
        torch.testing.assert_close(layer(torch.zeros(1, 3, 4, 4))[0, :, 0, 0], layer.bias)


def test_a_static_scale_is_a_moving_average_of_the_largest_values():
    layer, expected = BitConv2d(2, 2, 1).train(), None
    for size in (3.0, 5.0, 2.0, 0.0):
        layer(torch.linspace(-size, size / 2, 32).view(1, 2, 4, 4))
        expected = size / 127 if expected is None else 0.95 * expected + 0.05 * size / 127
        assert layer.act_scale.item() == pytest.approx(expected, rel=1e-5)
    for x in (torch.full((1, 2, 2, 2), float("nan")), torch.full((1, 2, 2, 2), float("inf")), torch.zeros(0, 2, 4, 4)):
        layer(x)
    layer.observing = False
    layer(torch.full((1, 2, 2, 2), 100.0))
    layer.eval()(torch.full((1, 2, 2, 2), 100.0))
    assert layer.act_scale.item() == pytest.approx(expected, rel=1e-5)


def test_activations_are_those_of_the_formulas():
    x = torch.randn(3, 4, 5, 6) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1)
    dynamic = BitConv2d(4, 4, 1, act="dynamic").quantise(x).floats()
    for image, quantised in zip(x, dynamic, strict=True):
        step = image.abs().max().item() / 127
        expected = torch.tensor([round(v / step) * step for v in image.flatten().tolist()]).view_as(image)
        torch.testing.assert_close(quantised, expected, atol=step * 1e-3, rtol=0)
    static = BitConv2d(4, 4, 1).eval()
    static.act_scale.fill_(0.02)
    quantised = static.quantise(x).floats()
    expected = torch.tensor([max(-127, min(127, round(v / 0.02))) * 0.02 for v in x.flatten().tolist()]).view_as(x)
    assert (quantised - expected).abs().gt(1e-5).sum() == 0 and quantised.abs().max() == pytest.approx(2.54, rel=1e-5)
    rows = BitLinear(6, 2, act="dynamic").quantise(x).floats()
    torch.testing.assert_close(rows.abs().amax(-1), x.abs().amax(-1))  # the largest value of a row stays


def test_a_scale_that_was_never_set_leaves_activations_alone():
    layer = BitConv2d(4, 4, 3).eval()
    x = torch.randn(1, 4, 6, 6)
    expected = F.conv2d(x, slow_codes(layer.weight.detach(), "absmean"), layer.bias)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x), expected)


# Gradients


def test_gradients_go_straight_through():
    layer = BitConv2d(4, 6, 3, 2, 1, groups=2).double().eval()
    layer.act_scale.fill_(0.01)
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64, requires_grad=True)
    out = layer(x)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    steps = (x.detach() / 0.01).round()
    xq = (steps.clamp(-127, 127) * 0.01).requires_grad_()
    wq = (layer.codes_and_scales()[0] * layer.codes_and_scales()[1].view(-1, 1, 1, 1)).requires_grad_()
    b = layer.bias.detach().clone().requires_grad_()
    (F.conv2d(xq, wq, b, 2, 1, 1, 2) * weights).sum().backward()
    torch.testing.assert_close(layer.weight.grad, wq.grad)
    torch.testing.assert_close(layer.bias.grad, b.grad)
    torch.testing.assert_close(x.grad, xq.grad * (steps.abs() <= 127))
    assert (steps.abs() > 127).any() and layer.weight.grad.ne(0).all()


def test_the_function_passes_gradients_of_any_order_inside_its_mask():
    double = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: StraightThrough.apply(v, lambda t: (t.clone(), None)), double)
    assert torch.autograd.gradgradcheck(lambda v: StraightThrough.apply(v, lambda t: (t.clone(), None)) ** 2, double)
    mask = torch.arange(12).view(3, 4) % 2 == 0
    clipped = torch.autograd.grad(StraightThrough.apply(double, lambda t: (t.clone(), mask)).sum(), double)[0]
    assert torch.equal(clipped, mask.double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains(dtype):
    layer = BitConv2d(8, 8, 3, padding=1)
    x = torch.randn(2, 8, 8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype):
        out = layer(x)
        assert out.dtype == dtype
        out.float().square().mean().backward()
        layer.eval()
        with torch.no_grad():
            assert layer(x).dtype == dtype
    assert x.grad.isfinite().all() and layer.weight.grad.dtype == torch.float32 and layer.weight.grad.abs().sum() > 0


# Copies, states, modes


def test_copies_pickles_and_modes_after_a_forward():
    layer = BitConv2d(4, 6, 3)
    x = torch.randn(1, 4, 9, 9)
    training_forward(layer, x)
    with torch.inference_mode():
        expected = layer(x)
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    for other in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(stream, weights_only=False),
        copy.deepcopy(layer).to(memory_format=torch.channels_last),
        copy.deepcopy(layer).train().eval(),
        copy.deepcopy(layer).double().float(),
    ):
        with torch.no_grad():
            torch.testing.assert_close(other(x), expected)
    with torch.no_grad():
        doubled = copy.deepcopy(layer)
        doubled(x)
        doubled.load_state_dict({**layer.state_dict(), "weight": 2 * layer.weight, "bias": 2 * layer.bias})
        torch.testing.assert_close(doubled(x), 2 * expected)
        for change in (
            lambda: layer.weight.mul_(-1),
            lambda: layer.bias.add_(1),
            lambda: layer.act_scale.mul_(2),
            lambda: setattr(layer, "weight", nn.Parameter(torch.randn(6, 4, 3, 3))),
        ):
            change()
            torch.testing.assert_close(layer(x), fresh(layer)(x))
        layer.weight.data = torch.randn(6, 4, 3, 3)
        layer.weight.data.normal_()
        layer.refresh()
        torch.testing.assert_close(layer(x), fresh(layer)(x))
    assert layer.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


def fresh(layer: BitConv2d) -> BitConv2d:
    """A layer of the same tensors that has computed nothing yet."""
    other = BitConv2d(layer.in_channels, layer.out_channels, layer.kernel_size).eval()
    other.load_state_dict(layer.state_dict())
    return other


def test_states_are_those_of_the_layer_that_was_replaced():
    for conv, kind in ((nn.Conv2d(4, 6, 3, bias=False), BitConv2d), (nn.Linear(4, 6), BitLinear)):
        layer = kind.of(conv)
        assert set(layer.state_dict()) == {*conv.state_dict(), "act_scale"} and layer.weight is conv.weight
        layer.act_scale.fill_(3)
        assert not any(layer.load_state_dict(conv.state_dict())) and layer.act_scale == 0
        layer.act_scale.fill_(3)
        other = kind.of(copy.deepcopy(conv))
        other.load_state_dict(layer.state_dict())
        assert other.act_scale == 3
        assert set(kind.of(conv, act="dynamic").state_dict()) == set(conv.state_dict())
        with pytest.raises(RuntimeError, match="weight"):
            layer.load_state_dict({})


def test_no_warning_is_printed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bit_kernels.refusal.cache_clear()
        for layer, x in ((BitConv2d(4, 4, 3), torch.randn(1, 4, 8, 8)), (BitLinear(4, 4), torch.randn(3, 4))):
            layer(x).sum().backward()
            with torch.inference_mode():
                layer.eval()(x)
        assert layer.act_scale > 0


# Folding


@torch.no_grad()
@pytest.mark.parametrize("rule", ["absmean", "twn", "int8"])
def test_folding_keeps_every_code_and_the_outputs(rule):
    conv = BitConv2d(8, 8, 3, padding=1, bias=rule == "twn", rule=rule)
    bn = lived(nn.BatchNorm2d(8))
    bn.weight[:4] *= -1
    x = torch.randn(2, 8, 9, 9)
    training_forward(conv, x)
    folded = conv.folded(bn)
    assert torch.equal(folded.codes_and_scales()[0], conv.codes_and_scales()[0])
    assert not any(p.requires_grad for p in folded.parameters())
    torch.testing.assert_close(folded(x), bn(conv(x)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(folded.folded(bn)(x), bn(bn(conv(x))), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(copy.deepcopy(folded)(x), folded(x))
    with torch.enable_grad():
        assert torch.allclose(folded.train()(x), folded.eval()(x), atol=1e-5)
