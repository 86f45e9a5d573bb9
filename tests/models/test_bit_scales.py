"""Scales of activations in training: who moves them, and who must not."""

from __future__ import annotations

import torch

from bitfalcon_plugin.models.bitify import bitify, observe, ternary_layers
from bitfalcon_plugin.train.optim import Ema
from tests.helpers.ternary import assert_equal, float_model, images, ternary_model, with_scales


def static_scales(model) -> dict[str, torch.Tensor]:
    """Return copies of the scales of activations by layer."""
    layers = ternary_layers(model).items()
    return {name: layer.act_scale.clone() for name, layer in layers if layer.act_scale is not None}


def test_averaged_weights_have_the_scales_of_the_trained_model():
    model = float_model()
    bitify(model, "head")
    ema = Ema(model, 6000)
    ema.update(with_scales(model))
    scales = static_scales(model)
    assert scales and all(scale > 0 for scale in scales.values())
    assert_equal(scales, static_scales(ema.model))


def test_scales_move_only_while_they_observe():
    model = ternary_model("head").train()
    observe(model, False)
    before = static_scales(model)
    model(3 * images())
    assert_equal(before, static_scales(model))
    observe(model, True)
    model(3 * images())
    assert not any(torch.equal(before[name], scale) for name, scale in static_scales(model).items())


def test_recomputed_rows_use_the_scales_of_the_first_pass():
    gradients = []
    for checkpointing in (False, True):
        model = ternary_model("all").train()
        model.checkpointing = checkpointing
        outputs = model(images())
        (outputs["boxes"].square().mean() + outputs["scores"].square().mean()).backward()
        parameters = {name: parameter.grad for name, parameter in model.named_parameters()}
        gradients.append(parameters | dict(model.named_buffers()))
    for name, gradient in gradients[0].items():
        if gradient is not None:
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)
