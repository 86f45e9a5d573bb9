"""Modules against slow, obvious versions of themselves written from their description."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from bitfalcon_plugin.models.modules import MODULES, lookup
from bitfalcon_plugin.models.modules.blocks import C2, C3, RELAN, SPPF, Bottleneck, C2f, C3k, C3k2, Concat
from bitfalcon_plugin.models.modules.conv import Conv, DefaultActivation, DWConv, Folded, SepConv7x7, activation, folded
from bitfalcon_plugin.models.modules.head import BitDetect, Detect, Raw
from tests.helpers.tiny_models import conv, lived


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Convolutions


@pytest.mark.parametrize(
    ("arguments", "padding", "groups"),
    [
        ((8, 12), 0, 1),
        ((8, 12, 3), 1, 1),
        ((8, 12, 3, 2), 1, 1),
        ((8, 12, 3, 2, 0), 0, 1),
        ((8, 12, 3, 1, None, 4), 1, 4),
        ((8, 12, 3, 1, None, 1, 2), 2, 1),
        ((8, 12, 7), 3, 1),
        ((8, 12, 2), 1, 1),
    ],
)
def test_conv(arguments, padding, groups):
    block = lived(Conv(*arguments))
    assert block.conv.padding == (padding, padding) and block.conv.groups == groups and block.conv.bias is None
    assert (block.bn.eps, block.bn.momentum) == (1e-3, 0.03)
    x = torch.randn(2, 8, 9, 11)
    torch.testing.assert_close(block(x), conv(block, x))


def test_conv_keys_are_those_of_published_checkpoints():
    assert list(Conv(2, 4).state_dict()) == [
        "conv.weight",
        "bn.weight",
        "bn.bias",
        "bn.running_mean",
        "bn.running_var",
        "bn.num_batches_tracked",
    ]


@pytest.mark.parametrize(("widths", "groups"), [((8, 8), 8), ((8, 12), 4), ((8, 9), 1), ((6, 24), 6)])
def test_depthwise_conv_has_as_many_groups_as_both_widths_share(widths, groups):
    assert DWConv(*widths, 3).conv.groups == groups == math.gcd(*widths)


def test_activations():
    given = nn.ReLU()
    assert activation(given) is given and isinstance(activation(True), DefaultActivation)
    assert type(activation(False)) is type(activation(None)) is nn.Identity
    with pytest.raises(TypeError, match="'nn.ReLU'"):
        activation("nn.ReLU")
    assert DWConv(2, 2, act=given).act is given


def test_sepconv():
    block = lived(SepConv7x7(4, 6))
    x = torch.randn(2, 4, 9, 8)
    y = torch.stack(
        [nn.functional.conv2d(x[:, c : c + 1], block.depthwise.weight[c : c + 1], padding=3)[:, 0] for c in range(4)], 1
    )
    y = torch.einsum("oc,bchw->bohw", block.pointwise.weight[:, :, 0, 0], y)
    bn = block.bn
    y = nn.functional.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=1e-3)
    torch.testing.assert_close(block(x), nn.functional.silu(y))
    assert block.depthwise.bias is None and block.pointwise.bias is None


@pytest.mark.parametrize(
    "block",
    [Conv(8, 12, 3, 2, None, 4), DWConv(8, 8, 5), SepConv7x7(8, 12), Conv(8, 12, act=False)],
    ids=["grouped", "depthwise", "separable", "linear"],
)
def test_folding_is_exact_and_happens_once(block):
    block = lived(copy.deepcopy(block)).double()
    x = torch.randn(2, 8, 9, 11, dtype=torch.float64)
    before = block(x)
    block.fuse()
    torch.testing.assert_close(block(x), before)
    first = [p.clone() for p in block.parameters()]
    block.fuse()
    assert all(torch.equal(a, b) for a, b in zip(first, block.parameters(), strict=True))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in block.modules())
    assert not any(
        p.requires_grad
        for part in (block.conv if isinstance(block, Conv) else block.pointwise,)
        for p in part.parameters()
    )


def test_folding_keeps_a_bias_and_the_type():
    source, bn = nn.Conv2d(3, 5, 3, bias=True).to(torch.bfloat16), lived(nn.BatchNorm2d(5)).to(torch.bfloat16)
    out, act = folded(source, bn, nn.SiLU())
    assert isinstance(act, nn.SiLU)
    assert out.weight.dtype == torch.bfloat16
    x = torch.randn(1, 3, 5, 5)
    wide_conv, wide_bn = copy.deepcopy(source).float(), copy.deepcopy(bn).float()
    torch.testing.assert_close(out.float()(x), wide_bn(wide_conv(x)), atol=5e-2, rtol=5e-2)  # bf16 keeps 8 bits


def test_a_block_whose_norm_was_left_out_is_not_folded():
    block = Conv(3, 4, 3)
    block.bn = nn.Identity()
    weight = block.conv.weight
    block.fuse()
    assert block.conv.weight is weight and type(block.bn) is nn.Identity
    fused = Conv(3, 4)
    fused.fuse()
    assert isinstance(fused.bn, Folded)


# Stages


def test_bottleneck():
    x = torch.randn(1, 8, 6, 6)
    block = lived(Bottleneck(8, 8))
    torch.testing.assert_close(block(x), x + conv(block.cv2, conv(block.cv1, x)))
    assert block.cv1.conv.weight.shape == (4, 8, 3, 3)
    for block in (lived(Bottleneck(8, 8, False)), lived(Bottleneck(8, 12)), lived(Bottleneck(8, 8, 0, 2, (1, 3), 1.0))):
        torch.testing.assert_close(block(x), conv(block.cv2, conv(block.cv1, x)))
    assert block.cv1.conv.kernel_size == (1, 1) and block.cv2.conv.groups == 2 and block.cv1.conv.out_channels == 8


@pytest.mark.parametrize("n", [1, 3])
def test_c2f_and_c3k2_join_every_stage(n):
    x = torch.randn(2, 8, 6, 6)
    for block, kind in (
        (C2f(8, 16, n, True), Bottleneck),
        (C2f(8, 16, n), Bottleneck),
        (C3k2(8, 16, n), Bottleneck),
        (C3k2(8, 16, n, True), C3k),
        (C3k2(8, 16, n, False, 0.25), Bottleneck),
    ):
        block = lived(block)
        y = conv(block.cv1, x)
        stages = [y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]]
        for stage in block.m:
            assert type(stage) is kind
            stages.append(stage(stages[-1]))
        torch.testing.assert_close(block(x), conv(block.cv2, torch.cat(stages, 1)))
        assert len(block.m) == n
    assert C2f(8, 16).m[0].cv1.conv.out_channels == 8  # e 1.0 inside C2f, 0.5 inside C3k2
    assert C3k2(8, 16).m[0].cv1.conv.out_channels == 4
    assert not C2f(8, 16).m[0].add and C3k2(8, 16).m[0].add
    assert C3k2(8, 16, 1, False, 0.25).m[0].cv1.conv.in_channels == 4


def test_c2_and_c3():
    x = torch.randn(2, 8, 6, 6)
    block = lived(C2(8, 12, 2))
    y = conv(block.cv1, x)
    torch.testing.assert_close(block(x), conv(block.cv2, torch.cat((block.m[1](block.m[0](y[:, :6])), y[:, 6:]), 1)))
    for block, kernels in ((C3(8, 12, 2), (1, 3)), (C3k(8, 12, 2), (3, 3)), (C3k(8, 12, 2, k=5), (5, 5))):
        block = lived(block)
        y = torch.cat((block.m[1](block.m[0](conv(block.cv1, x))), conv(block.cv2, x)), 1)
        torch.testing.assert_close(block(x), conv(block.cv3, y))
        assert (block.m[0].cv1.conv.kernel_size[0], block.m[0].cv2.conv.kernel_size[0]) == kernels
        assert block.m[0].cv1.conv.out_channels == 6


def test_sppf():
    block = lived(SPPF(8, 12))
    x = torch.randn(1, 8, 13, 11)
    y = conv(block.cv1, x)
    pools = [y] + [nn.functional.max_pool2d(y, k, 1, k // 2) for k in (5, 9, 13)]  # 5 over 5 is 9, over 9 is 13
    torch.testing.assert_close(block(x), conv(block.cv2, torch.cat(pools, 1)))


def test_concat():
    maps = [torch.randn(1, c, 2, 2) for c in (1, 2, 3)]
    assert torch.equal(Concat(1)(maps), torch.cat(maps, 1))


@pytest.mark.parametrize("n", [1, 3])
def test_relan(n):
    x = torch.randn(2, 8, 6, 6)
    for block in (lived(RELAN(8, 12, n)), lived(RELAN(8, 8, n)), lived(RELAN(8, 12, n, False))):
        stages = [conv(block.cv1, x)]
        for stage in block.m:
            assert stage.conv.kernel_size == (3, 3)
            stages.append(conv(stage, stages[-1]))
        y = conv(block.cv2, torch.cat(stages, 1))
        if block.gamma is not None:
            kept = x if y.shape == x.shape else conv(block.shortcut, x, active=False)
            y = kept + block.gamma.view(1, -1, 1, 1) * y
        torch.testing.assert_close(block(x), y)
    assert torch.equal(RELAN(8, 12).gamma, torch.full((12,), 0.01))
    assert not any("gamma" in key for key in RELAN(8, 12, 1, False).state_dict())


# Heads


def slow_decode(raw: Raw, strides: list[int], reg_max: int) -> Tensor:
    rows = []
    for b in range(len(raw["boxes"])):
        columns, a = [], 0
        for (height, width), stride in zip(raw.sizes, strides, strict=True):
            for y in range(height):
                for x in range(width):
                    sides = []
                    for side in range(4):
                        weights = [
                            math.exp(float(v)) for v in raw["boxes"][b, side * reg_max : (side + 1) * reg_max, a]
                        ]
                        sides.append(sum(i * w for i, w in enumerate(weights)) / sum(weights))
                    left, top, right, bottom = sides
                    x1, y1, x2, y2 = x + 0.5 - left, y + 0.5 - top, x + 0.5 + right, y + 0.5 + bottom
                    box = [(x1 + x2) / 2 * stride, (y1 + y2) / 2 * stride, (x2 - x1) * stride, (y2 - y1) * stride]
                    columns.append(box + [1 / (1 + math.exp(-float(v))) for v in raw["scores"][b, :, a]])
                    a += 1
        rows.append(columns)
    return torch.tensor(rows).transpose(1, 2)


@pytest.mark.parametrize("reg_max", [16, 5])
@pytest.mark.parametrize("head", [Detect, BitDetect])
@torch.no_grad()
def test_heads_and_their_decoding(head, reg_max):
    maps = [torch.randn(2, 16, 3, 5), torch.randn(2, 32, 2, 3), torch.randn(2, 48, 1, 2)]
    block = lived(head(3, reg_max, channels=[16, 32, 48]))
    for branch in block.cv2:
        nn.init.normal_(branch[-1].weight, std=0.5)
    raw = block(maps)
    assert type(raw) is Raw and set(raw) == {"boxes", "scores"} and raw.sizes == ((3, 5), (2, 3), (1, 2))
    for level, (start, end) in enumerate(((0, 15), (15, 21), (21, 23))):
        torch.testing.assert_close(raw["boxes"][:, :, start:end], block.cv2[level](maps[level]).flatten(2))
        torch.testing.assert_close(raw["scores"][:, :, start:end], block.cv3[level](maps[level]).flatten(2))
    found = block.decode(raw, raw.sizes, [8, 16, 32])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, slow_decode(raw, [8, 16, 32], reg_max), atol=1e-3, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(block.decode(raw, raw.sizes, [8, 16, 32]), found)


@pytest.mark.parametrize(
    ("channels", "nc", "box", "hidden"),
    [
        ([64, 128, 256], 80, 64, 80),
        ([64, 128, 256], 3, 64, 64),
        ([32], 200, 64, 100),
        ([512, 512], 80, 128, 512),
        ([16], 1, 64, 16),
    ],
)
def test_hidden_widths_of_the_branches(channels, nc, box, hidden):
    for legacy in (True, False):
        head = Detect(nc, channels=channels, legacy=legacy)
        for branch, classes, width in zip(head.cv2, head.cv3, channels, strict=True):
            assert [m.out_channels for m in branch.modules() if isinstance(m, nn.Conv2d)] == [box, box, 64]
            found = [
                (m.out_channels, m.kernel_size[0], m.groups) for m in classes.modules() if isinstance(m, nn.Conv2d)
            ]
            dense = [(hidden, 3, 1), (hidden, 3, 1), (nc, 1, 1)]
            separable = [(width, 3, width), (hidden, 1, 1), (hidden, 3, hidden), (hidden, 1, 1), (nc, 1, 1)]
            assert found == (dense if legacy else separable)


def test_head_keys_are_those_of_published_checkpoints():
    keys = set(Detect(2, channels=[16, 32]).state_dict())
    for key in (
        "cv2.0.0.conv.weight",
        "cv2.1.2.bias",
        "cv3.0.0.0.conv.weight",
        "cv3.0.0.1.bn.weight",
        "cv3.1.1.0.conv.weight",
        "cv3.1.2.weight",
        "dfl.conv.weight",
    ):
        assert key in keys
    assert "cv3.0.1.conv.weight" in Detect(2, channels=[16], legacy=True).state_dict()
    assert {key for key in BitDetect(2, channels=[16, 32]).state_dict() if not key.endswith(".act_scale")} == keys
    bins = Detect(2, channels=[16]).dfl.conv.weight
    assert torch.equal(bins.flatten(), torch.arange(16.0)) and bins.shape == (1, 16, 1, 1) and not bins.requires_grad


def test_raw_is_a_plain_mapping_that_can_be_copied():
    raw = Raw({"boxes": torch.ones(1), "scores": torch.zeros(1)}, [(1, 1)])
    again = copy.deepcopy(raw)
    assert dict(again) == dict(raw) and again.sizes == ((1, 1),) and again["boxes"] is not raw["boxes"]


# All


def test_every_module_of_the_issue_is_there():
    assert {
        "Conv",
        "DWConv",
        "Bottleneck",
        "C2",
        "C2f",
        "C3",
        "C3k",
        "C3k2",
        "SPPF",
        "PSABlock",
        "C2PSA",
        "Concat",
        "AAttn",
        "ABlock",
        "A2C2f",
        "SepConv7x7",
        "RELAN",
        "AreaAttn",
        "Detect",
        "BitDetect",
    } <= set(MODULES)


BLOCKS = {
    "Conv": (16, 32, 3),
    "DWConv": (16, 32, 3),
    "SepConv7x7": (16, 32),
    "Bottleneck": (16, 32),
    "SPPF": (16, 32),
    "C2": (16, 32, 2),
    "C2f": (16, 32, 2),
    "C3": (16, 32, 2),
    "C3k": (16, 32, 2),
    "C3k2": (16, 32, 2, True),
    "C2PSA": (32, 32, 1),
    "RELAN": (16, 32, 2),
    "A2C2f": (16, 64, 1, True, 4),
    "AreaAttn": (16, 32, 1),
    "AAttn": (32, 1, 4),
    "ABlock": (32, 1, 2.0, 4),
    "PSABlock": (32,),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_in_every_layout_type_and_after_folding(name):
    block = lived(MODULES[name].cls(*BLOCKS[name]))
    width = BLOCKS[name][0]
    x = torch.randn(2, width, 6, 7)
    y = block(x)
    assert y.shape[2:] == (6, 7)
    torch.testing.assert_close(block(x.to(memory_format=torch.channels_last)), y, atol=1e-5, rtol=1e-4)
    wide = copy.deepcopy(block).to(torch.bfloat16)(x.bfloat16())
    assert wide.dtype == torch.bfloat16
    torch.testing.assert_close(wide.float(), y, atol=0.05 * float(y.detach().abs().max()), rtol=0.1)
    folding = copy.deepcopy(block)
    for part in list(folding.modules()):
        if hasattr(part, "fuse"):
            part.fuse()
    torch.testing.assert_close(folding(x), y, atol=1e-5, rtol=1e-4)
    block.train()(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


def test_a_row_names_the_options_of_a_block_in_their_order():
    assert lookup("C2f").parameters == (("shortcut", "bool"), ("g", "int"), ("e", "float"))
    assert lookup("C3k").parameters == (*lookup("C2f").parameters, ("k", "int"))
    assert [name for name, _ in lookup("C3k2").parameters] == ["c3k", "e", "g", "shortcut"]
    stage = ["a2", "area", "residual", "mlp_ratio", "e", "g", "shortcut"]
    assert [name for name, _ in lookup("A2C2f").parameters] == stage
    assert not any(lookup(name).required or lookup(name).accepts_more for name in ("Bottleneck", "C2", "C3", "A2C2f"))
