"""Attention and the stages around it, against loops written from their description."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bitfalcon_plugin.models.modules import attention
from bitfalcon_plugin.models.modules.attention import C2PSA, A2C2f, AAttn, ABlock, AreaAttn, Attention, PSABlock
from bitfalcon_plugin.models.modules.blocks import C3k
from tests.helpers.tiny_models import conv, lived


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@torch.no_grad()
def slow_attention(block: Attention, x: Tensor) -> Tensor:
    """One softmax at a time: image, run, head and query position in loops."""
    batch, width, height, breadth = x.shape
    qkv = conv(block.qkv, x, active=False).flatten(2)  # (B, 2K+C, N)
    count, keys = height * breadth, block.num_heads * block.key_width
    q, k, v = qkv[:, :keys], qkv[:, keys : 2 * keys], qkv[:, 2 * keys :]
    out = torch.zeros(batch, width, count)
    run = math.ceil(count / block.area)
    for b in range(batch):
        for start in range(0, count, run):
            positions = range(start, min(start + run, count))
            for head in range(block.num_heads):
                a, c = head * block.key_width, head * block.value_width
                for i in positions:
                    query = q[b, a : a + block.key_width, i]
                    logits = [(query * k[b, a : a + block.key_width, j]).sum() for j in positions]
                    weights = (torch.stack(logits) / math.sqrt(block.key_width)).softmax(0)
                    for weight, j in zip(weights, positions, strict=True):
                        out[b, c : c + block.value_width, i] += weight * v[b, c : c + block.value_width, j]
    out = out.view(x.shape) + conv(block.pe, v.reshape(x.shape), active=False)
    return conv(block.proj, out, active=False)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("area", "size"),
    [
        (1, (3, 4)),
        (4, (4, 2)),
        (4, (2, 6)),
        (2, (3, 3)),
        (4, (3, 3)),
        (4, (1, 3)),
        (4, (1, 1)),
        (5, (2, 3)),
        (3, (2, 2)),
    ],
)
def test_area_attention_is_a_softmax_over_each_run(area, size, memory_format):
    block = lived(AAttn(16, 2, area))
    x = torch.randn(2, 16, *size).to(memory_format=memory_format)
    torch.testing.assert_close(block(x), slow_attention(block, x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("heads", "keys", "pe"), [(1, 4, 3), (2, 4, 5), (4, None, 7), (2, 8, 1)])
def test_attention_with_other_key_widths(heads, keys, pe):
    block = lived(Attention(16, heads, key_width=keys, pe=pe))
    assert block.qkv.conv.out_channels == 2 * heads * (keys or 16 // heads) + 16
    assert block.pe.conv.kernel_size == (pe, pe)
    x = torch.randn(2, 16, 3, 4)
    torch.testing.assert_close(block(x), slow_attention(block, x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 5), (3, 3), (4, 4)])
def test_attention_has_no_nan_at_any_size(size, dtype):
    block = AAttn(32, 2, 4).to(dtype)  # fewer positions than areas too
    x = torch.randn(2, 32, *size, dtype=dtype, requires_grad=True)
    block(x).square().sum().backward()
    grads = [x.grad, *(p.grad for p in block.parameters())]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


def test_attention_gradients():
    block = lived(AAttn(4, 2, 2, pe=3)).double()
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)  # 9 positions in two runs: one is added
    assert torch.autograd.gradcheck(block, (x,))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_the_kernel_gets_contiguous_channels_and_no_needless_mask(memory_format, monkeypatch):
    # With channels apart in memory the same kernel is five times slower (tests/bench/attention.py).
    calls = []

    def spy(q, k, v, attn_mask=None):
        calls.append(([part.stride(-1) for part in (q, k, v)], attn_mask is not None))
        return real(q, k, v, attn_mask=attn_mask)

    real = attention.scaled_dot_product_attention
    monkeypatch.setattr(attention, "scaled_dot_product_attention", spy)
    block, x = AAttn(64, 2, 4), torch.rand(2, 64, 8, 8).to(memory_format=memory_format)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, torch.no_grad():
        block(x)
    assert calls == [([1, 1, 1], False)]
    assert any("flash_attention" in event.key for event in profile.key_averages())
    block(torch.rand(1, 64, 3, 3))
    assert calls[1] == ([1, 1, 1], True)


def test_attention_that_cannot_be_is_refused():
    for arguments in ((10, 3), (8, 2, 0), (8, 2, -1), (8, 0)):
        with pytest.raises(ValueError, match="heads must divide"):
            AAttn(*arguments)


def test_ablock():
    block = lived(ABlock(32, 2, 1.2, 4))
    assert block.mlp[0].conv.out_channels == 38 and isinstance(block.mlp[1].act, nn.Identity)
    x = torch.randn(1, 32, 4, 4)
    y = x + block.attn(x)
    torch.testing.assert_close(block(x), y + conv(block.mlp[1], conv(block.mlp[0], y), active=False))
    weights = torch.cat([m.weight.flatten() for m in ABlock(256, 8, 2.0).modules() if isinstance(m, nn.Conv2d)])
    assert abs(float(weights.detach().std()) - 0.02) < 1e-3 and abs(float(weights.detach().mean())) < 1e-3


@pytest.mark.parametrize(("residual", "attends"), [(False, True), (True, True), (False, False), (True, False)])
def test_a2c2f(residual, attends):
    block = lived(A2C2f(64, 64, 2, attends, 4, residual, 1.5, pe=5))
    x = torch.randn(1, 64, 4, 4)
    stages = [conv(block.cv1, x)]
    for stage in block.m:
        stages.append(stage[1](stage[0](stages[-1])) if attends else stage(stages[-1]))
    y = conv(block.cv2, torch.cat(stages, 1))
    gamma = residual and attends
    torch.testing.assert_close(block(x), x + block.gamma.view(1, -1, 1, 1) * y if gamma else y)
    assert ("gamma" in block.state_dict()) is gamma
    if attends:
        first = block.m[0][0]
        assert (
            first.attn.num_heads,
            first.attn.area,
            first.attn.pe.conv.kernel_size,
            first.mlp[0].conv.out_channels,
        ) == (1, 4, (5, 5), 48)
    else:
        assert type(block.m[0]) is C3k and len(block.m[0].m) == 2


def test_a2c2f_that_cannot_be_is_refused():
    for width in (72, 32, 16, 8):
        with pytest.raises(ValueError, match="multiple of 32"):
            A2C2f(64, width)
    with pytest.raises(ValueError, match=r"in \(32\).*out \(64\)"):
        A2C2f(32, 64, residual=True)
    assert A2C2f(32, 72, a2=False, residual=True).gamma is None


def test_psa():
    block = lived(PSABlock(64))
    assert (block.attn.num_heads, block.attn.key_width, block.attn.value_width, block.attn.pe.conv.kernel_size) == (
        1,
        32,
        64,
        (3, 3),
    )
    assert [PSABlock(width).attn.num_heads for width in (32, 128, 256)] == [1, 2, 4]
    x = torch.randn(1, 64, 3, 3)
    y = x + slow_attention(block.attn, x)
    y = y + conv(block.ffn[1], conv(block.ffn[0], y), active=False)
    torch.testing.assert_close(block(x), y, atol=1e-5, rtol=1e-4)
    stage = lived(C2PSA(64, 64, 2))
    y = conv(stage.cv1, x)
    torch.testing.assert_close(stage(x), conv(stage.cv2, torch.cat((y[:, :32], stage.m[1](stage.m[0](y[:, 32:]))), 1)))
    with pytest.raises(ValueError, match=r"in \(32\).*out \(64\)"):
        C2PSA(32, 64)


@pytest.mark.parametrize(("width", "heads"), [(64, 2), (96, 3), (48, 1), (16, 1), (200, 5), (168, 4), (8, 1), (232, 4)])
def test_area_attention_stage_heads(width, heads):
    limit = max(1, width // 32)
    assert heads == max(d for d in range(1, width + 1) if width % d == 0 and d <= limit)
    stage = AreaAttn(24, width, 2)
    assert [block.attn.num_heads for block in stage.m] == [heads, heads]
    assert [block.attn.area for block in stage.m] == [4, 4]


def test_area_attention_stage():
    stage = lived(AreaAttn(24, 32, 2))
    x = torch.randn(1, 24, 3, 5)
    y = conv(stage.cv1, x)
    for block in stage.m:
        y = y + slow_attention(block.attn, y)
        y = y + conv(block.mlp[1], conv(block.mlp[0], y), active=False)
    torch.testing.assert_close(stage(x), y, atol=1e-5, rtol=1e-4)
    assert isinstance(AreaAttn(32, 32).cv1, nn.Identity)


def test_under_autocast_attention_is_computed_in_float32():
    torch.manual_seed(0)
    block = Attention(64, 2, area=4).eval()
    with torch.no_grad():
        tokens = (
            torch.randn(1, 64, 192) * 30
        ).bfloat16()  # logits of thousands: 16 bits would round them to whole tens
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = block.attend(tokens)
        exact = block.attend(tokens.float())
    assert found.dtype == torch.float32 and torch.equal(found, exact)


def test_under_autocast_a_cpu_computes_positions_in_float32():
    torch.manual_seed(0)
    block, values = Attention(64, 2).eval(), torch.randn(1, 64, 6, 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = block.position(values)
    assert found.dtype == torch.float32 and torch.equal(found, block.pe(values.float()))
