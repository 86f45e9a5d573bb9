"""Backends of the integer convolution: the choice, machines without the operator, and exact sums."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.modules import bit_kernels
from bitfalcon_plugin.models.modules.bit_kernels import Geometry
from bitfalcon_plugin.models.modules.bit_layers import BitConv2d, BitLinear
from tests.helpers.ternary import training_forward

pytestmark = pytest.mark.usefixtures("seeded")


def test_the_backend_can_be_chosen_and_is_described():
    layer = BitConv2d(4, 4, 3)
    best = "float" if bit_kernels.refusal("ternary") else "onednn"
    assert layer.computed_by() == best and "backend=auto" in repr(layer) and torch.__version__ in bit_kernels.describe()
    bit_kernels.set_default_backend("float")
    assert (
        layer.computed_by() == "float"
        and "asked for" in bit_kernels.describe()
        and "onednn" not in bit_kernels.describe()
    )
    layer.backend = "auto" if best == "float" else "onednn"
    assert layer.computed_by() == ("float" if best == "float" else "onednn")
    assert BitConv2d(4, 4, 3, act="none").computed_by() == BitConv2d(4, 4, 3).half().computed_by() == "float"
    for wrong in (
        lambda: bit_kernels.set_default_backend("onedn"),
        lambda: BitConv2d(4, 4, 3, backend="gpu"),
        lambda: BitConv2d(4, 4, 3, rule="binary"),
        lambda: BitLinear(4, 4, act="int4"),
        lambda: BitLinear(4, 4, granularity="row"),
    ):
        with pytest.raises(UserError, match="is none of"):
            wrong()
    with pytest.raises(UserError, match="Did you mean 'onednn'"):
        bit_kernels.set_default_backend("onedn")


def test_a_machine_without_the_operator_computes_in_floats(monkeypatch):
    layer, x = BitConv2d(4, 4, 3), torch.randn(1, 4, 8, 8)
    expected = training_forward(layer, x)

    def broken(*args):
        raise RuntimeError("no such operator\nand a trace")

    monkeypatch.setattr(bit_kernels.OneDnn, "__call__", broken)
    bit_kernels.refusal.cache_clear()
    try:
        assert layer.computed_by() == "float" and "cannot be called: no such operator)" in bit_kernels.describe()
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected)
        with pytest.raises(UserError, match="cannot be used here"):
            bit_kernels.set_default_backend("onednn")
        monkeypatch.setattr(bit_kernels.OneDnn, "__call__", lambda self, codes: torch.zeros(2, 32, 1, 1))
        bit_kernels.refusal.cache_clear()
        assert "overflow" in bit_kernels.refusal("int8") and layer.computed_by() == "float"
    finally:
        bit_kernels.refusal.cache_clear()


@pytest.mark.skipif(bool(bit_kernels.refusal("ternary")), reason="no integer convolution here")
def test_sums_are_exact():
    weights = torch.randint(-1, 2, (8, 300, 3, 3), dtype=torch.int8)
    codes = torch.randint(-127, 128, (2, 300, 6, 5)).float()
    sums = bit_kernels.OneDnn(weights, torch.ones(8), None, Geometry(padding=(1, 1)))(codes)
    assert torch.equal(sums.double(), F.conv2d(codes.double(), weights.double(), padding=1))
    assert torch.equal(bit_kernels.as_floats(bit_kernels.as_bytes(codes)), codes)
