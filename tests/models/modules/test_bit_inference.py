"""Inference with codes agrees with the training forward: every shape of YOLOv12, random shapes, older processors."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
import torch
from torch import nn

from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.modules import bit_kernels
from bitfalcon_plugin.models.modules.bit_layers import BitConv2d, BitLinear
from tests.helpers.paths import ROOT
from tests.helpers.ternary import training_forward

pytestmark = pytest.mark.usefixtures("seeded")


def differences(layer: nn.Module, x: torch.Tensor) -> float:
    """Return the largest difference of inference from the training forward, in both backends.

    The difference is a share of the largest output.
    """
    expected, worst = training_forward(layer, x), 0.0
    with torch.no_grad():
        for layer.backend in ("float", "auto"):
            worst = max(worst, ((layer(x) - expected).abs().max() / expected.abs().max()).item())
    return worst


def shapes_of_yolov12(side: int) -> dict[str, tuple]:
    """Return arguments and input size (H, W) of each different convolution of YOLOv12 n for a square image."""
    model, shapes = build("yolov12.yaml", "n").eval(), {}

    def record(conv: nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
        options = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.groups
        shapes.setdefault(str((*options, inputs[0].shape[2:])), (*options, inputs[0].shape[2:]))

    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(record)
    with torch.no_grad():
        model(torch.zeros(1, 3, side, side))
    return shapes


def worst_of_yolov12(side: int) -> float:
    """Return the largest of `differences` over `shapes_of_yolov12`, for batches of 1 and 3 and for int8 weights."""
    worst = 0.0
    for c_in, c_out, k, s, p, g, size in shapes_of_yolov12(side).values():
        for batch, rule in ((1, "absmean"), (3, "absmean"), (1, "int8")):
            layer = BitConv2d(c_in, c_out, k, s, p, groups=g, bias=False, rule=rule)
            worst = max(worst, differences(layer, torch.randn(batch, c_in, *size)))
    return worst


def test_inference_agrees_with_training_on_every_shape_of_yolov12():
    assert len(shapes_of_yolov12(160)) > 40
    assert worst_of_yolov12(160) <= 1e-5


def test_inference_agrees_with_training_on_random_shapes():
    draw = random.Random(0)
    for _ in range(60):
        groups = draw.choice([1, 1, 2, 4])
        depthwise = draw.random() < 0.25
        c_in = groups * draw.randint(1, 9)
        c_out, groups = (c_in, c_in) if depthwise else (groups * draw.randint(1, 9), groups)
        k, s, p, d = draw.choice([1, 3, 5, (1, 3)]), draw.randint(1, 2), draw.randint(0, 2), draw.randint(1, 2)
        bias, rule = draw.random() < 0.5, draw.choice(["absmean", "twn", "int8"])
        act, granularity = draw.choice(["static", "dynamic"]), draw.choice(["channel", "tensor"])
        layer = BitConv2d(c_in, c_out, k, s, p, d, groups, bias, rule=rule, act=act, granularity=granularity)
        x = torch.randn(draw.choice([1, 3]), c_in, draw.randint(9, 14), draw.randint(9, 14))
        x = x.to(memory_format=torch.channels_last) if draw.random() < 0.5 else x
        assert differences(layer, x) <= 1e-5, layer
    for shape in ((5, 12), (2, 3, 12), (12,)):
        for act in ("static", "dynamic"):
            assert differences(BitLinear(12, 7, act=act), torch.randn(*shape)) <= 1e-5


@pytest.mark.parametrize("padding", ["same", "reflect", "unbatched", "double"])
@pytest.mark.parametrize("act", ["static", "dynamic"])
def test_unusual_convolutions_are_computed_too(padding, act):
    padding_mode = "reflect" if padding == "reflect" else "zeros"
    layer = BitConv2d(4, 4, 3, act=act, padding="same" if padding == "same" else 1, padding_mode=padding_mode)
    x = torch.randn(4, 8, 8) if padding == "unbatched" else torch.randn(2, 4, 8, 8)
    if padding == "double":
        layer, x = layer.double(), x.double()
    assert differences(layer, x) <= 1e-5


@pytest.mark.parametrize("isa", ["AVX2", "AVX2_VNNI", "AVX512_CORE"])
def test_inference_agrees_with_training_on_older_processors(isa):
    """Emulated: the instruction set is limited. Without VNNI full int8 weights of dense layers are left to floats."""
    script = (
        "import tests.models.modules.test_bit_inference as t; print(t.bit_kernels.describe(), t.worst_of_yolov12(64))"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    backends, _, worst = run.stdout.strip().rpartition(" ")
    assert float(worst) <= 1e-5, backends
    if not bit_kernels.refusal("ternary"):
        assert "onednn: ternary, ternary depthwise" in backends
