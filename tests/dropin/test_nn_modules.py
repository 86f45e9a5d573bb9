"""Modules of dropin.nn.modules: equal to torch's where it has them, to their definitions, and built from YAML rows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.nn import modules
from bitfalcon_plugin.dropin.nn.modules import block, conv, head, transformer
from bitfalcon_plugin.models import modules as house
from bitfalcon_plugin.models.modules import attention, blocks
from bitfalcon_plugin.models.modules import classify as house_classify
from bitfalcon_plugin.models.modules import head as house_head
from bitfalcon_plugin.models.modules.conv import Conv
from tests.helpers.tiny_models import CONV, lived, small_model

NAMES = """Conv Conv2 DWConv ConvTranspose GhostConv RepConv LightConv Focus CBAM Concat Index autopad Bottleneck C1 C2
C2f C3 C3k C3k2 C3TR C3Ghost C2PSA PSA Attention SPPF SPP SCDown CIB ADown DFL Proto HGStem HGBlock RepC3 ResNetLayer
TorchVision AAttn ABlock A2C2f Detect Segment Pose OBB Classify v10Detect RTDETRDecoder WorldDetect AIFI MLP LayerNorm2d
TransformerBlock""".split()


def test_every_name_is_there_and_published_ones_are_the_house_s_own():
    assert [name for name in NAMES if not hasattr(modules, name)] == []
    assert modules.Conv is Conv and modules.C3k2 is blocks.C3k2 and modules.A2C2f is attention.A2C2f
    assert [name for name in modules.__all__ if not hasattr(modules, name)] == []
    assert modules.AIFI is transformer.AIFI and modules.Detect is head.Detect and modules.SPP is block.SPP


def test_unknown_modules_can_be_imported_and_say_what_they_are_when_built():
    for name, what in {**block.UNKNOWN, **head.OTHERS}.items():
        with pytest.raises(UserError, match=f"{name}, {what}"):
            getattr(modules, name)(8, 16)
    assert issubclass(modules.ADown, nn.Module)


X = torch.rand(2, 16, 12, 8, generator=torch.Generator().manual_seed(0))
SHAPES = {  # module, arguments -> channels and how many times smaller
    "GhostConv": ((16, 32, 3, 2), 32, 2),
    "GhostBottleneck": ((16, 16), 16, 1),
    "RepConv": ((16, 24), 24, 1),
    "LightConv": ((16, 24, 3), 24, 1),
    "Focus": ((16, 24, 3), 24, 2),
    "CBAM": ((16,), 16, 1),
    "Conv2": ((16, 24, 3, 2), 24, 2),
    "SPP": ((16, 24), 24, 1),
    "C1": ((16, 24, 2), 24, 1),
    "BottleneckCSP": ((16, 24, 2), 24, 1),
    "C3x": ((16, 24, 2), 24, 1),
    "C3TR": ((16, 32, 2), 32, 1),
    "C3Ghost": ((16, 32, 2), 32, 1),
    "RepC3": ((16, 24, 2, 0.5), 24, 1),
    "PSA": ((16, 16), 16, 1),
    "C2fPSA": ((16, 32, 1), 32, 1),
    "SCDown": ((16, 24, 3, 2), 24, 2),
    "CIB": ((16, 16, True, 0.5, True), 16, 1),
    "C2fCIB": ((16, 32, 2, True, True), 32, 1),
    "ResNetLayer": ((16, 8, 2, False, 2), 32, 2),
    "AIFI": ((16, 32, 4), 16, 1),
    "TransformerBlock": ((16, 24, 4, 2), 24, 1),
    "LayerNorm2d": ((16,), 16, 1),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_gradients_and_copies(name):
    arguments, channels, smaller = SHAPES[name]
    torch.manual_seed(0)
    module = getattr(modules, name)(*arguments)
    y = module(X)
    assert y.shape == (2, channels, 12 // smaller, 8 // smaller)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    twin = copy.deepcopy(module)
    twin.load_state_dict(module.state_dict())
    torch.testing.assert_close(twin.eval()(X), module.eval()(X))

    class Mine(getattr(modules, name)):
        pass

    assert Mine(*arguments)(X).shape == y.shape


@pytest.mark.parametrize("name", ["RepConv", "RepConv with bn", "Conv2", "GhostConv", "RepC3"])
def test_folding_changes_no_number(name):
    torch.manual_seed(1)
    kind = getattr(modules, name.split()[0])
    module = lived(kind(16, 16, bn=True, g=2) if "bn" in name else kind(16, 16))
    before = module(X)
    for part in list(module.modules()):
        if hasattr(part, "fuse"):
            part.fuse()
    torch.testing.assert_close(module(X), before, rtol=1e-4, atol=1e-5)
    assert not [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    copied = copy.deepcopy(module)
    torch.testing.assert_close(copied(X), before, rtol=1e-4, atol=1e-5)


def test_focus_is_space_to_depth():
    module = lived(modules.Focus(3, 8, 3))
    x = torch.rand(1, 3, 8, 8)
    folded = F.pixel_unshuffle(x, 2)  # (1, 3 * 4, 4, 4): channel, row, column
    order = [channel * 4 + row * 2 + column for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)) for channel in range(3)]
    torch.testing.assert_close(module(x), module.conv(folded[:, order]))


def test_attention_of_channels_and_positions():
    module = modules.CBAM(16, 3)
    channel, spatial = module.channel_attention, module.spatial_attention
    pooled = [F.adaptive_avg_pool2d(X, 1), F.adaptive_max_pool2d(X, 1)]
    first, _, second = channel.fc
    weights = torch.sigmoid(sum(second(F.relu(first(part))) for part in pooled))
    y = X * weights
    plane = torch.stack([y.mean(1), y.max(1).values], 1)
    expected = y * torch.sigmoid(F.conv2d(plane, spatial.cv1.weight, padding=1))
    torch.testing.assert_close(module(X), expected)


def test_transformer_layers_are_those_of_torch():
    for before in (False, True):
        module = modules.AIFI(16, 32, 4, normalize_before=before).eval()
        other = nn.TransformerEncoderLayer(16, 4, 32, 0.0, "gelu", batch_first=True, norm_first=before).eval()
        other.self_attn, other.linear1, other.linear2 = module.ma, module.fc1, module.fc2
        other.norm1, other.norm2 = module.norm1, module.norm2
        tokens = X.flatten(2).transpose(1, 2)
        plain = transformer.TransformerEncoderLayer.forward(module, tokens)
        torch.testing.assert_close(plain, other(tokens), rtol=1e-4, atol=1e-5)
    places = modules.AIFI.build_2d_sincos_position_embedding(8, 12, 16)
    assert places.shape == (1, 96, 16)
    expected = [torch.sin(torch.tensor(5 / 10000 ** (i / 4))) for i in range(4)]  # column 5 of row 3
    torch.testing.assert_close(places[0, 3 * 8 + 5, :4], torch.stack(expected))


def test_small_networks_and_norms_are_those_of_torch():
    torch.testing.assert_close(
        modules.LayerNorm2d(16)(X), nn.LayerNorm(16, eps=1e-6)(X.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    )
    net = modules.MLP(4, 8, 2, 3, sigmoid=True)
    a, b, c = net.layers
    x = torch.rand(5, 4)
    torch.testing.assert_close(net(x), torch.sigmoid(c(F.relu(b(F.relu(a(x)))))))
    mlp = transformer.MLPBlock(4, 8)
    torch.testing.assert_close(mlp(x), mlp.lin2(F.gelu(mlp.lin1(x))))
    assert modules.Index(1)([1, 2]) == 2 and modules.ConvTranspose(16, 8)(X).shape == (2, 8, 24, 16)
    assert modules.DWConvTranspose2d(16, 24, 4, 2, 1)(X).shape == (2, 24, 24, 16)
    assert [modules.autopad(3), modules.autopad(3, d=2), modules.autopad((1, 3)), modules.autopad(5, 0)] == [
        1,
        2,
        (0, 1),
        0,
    ]
    raw = torch.randn(2, 64, 10)
    expected = (raw.reshape(2, 4, 16, 10).softmax(2) * torch.arange(16).view(1, 1, 16, 1)).sum(2)
    torch.testing.assert_close(modules.DFL(16)(raw), expected)
    assert modules.Concat(1)([X, X]).shape == (2, 32, 12, 8) and Conv(16, 8, (1, 3))(X).shape == (2, 8, 12, 8)


def test_a_network_of_torchvision_is_a_backbone():
    module = modules.TorchVision("resnet18", weights="DEFAULT", truncate=2)
    assert module(torch.rand(1, 3, 64, 64)).shape == (1, 512, 2, 2)
    maps = modules.TorchVision("mobilenet_v3_small", truncate=2, split=True)(torch.rand(1, 3, 64, 64))
    assert len(maps) > 5 and modules.Index(2)(maps).ndim == 4


@pytest.mark.parametrize(
    "row",
    [
        *((-1, 1, name, [32]) for name in ("GhostConv", "RepConv", "SPP", "C3x", "C3TR", "C3Ghost", "RepC3", "C2fPSA")),
        *((-1, 2, name, [16]) for name in ("C1", "BottleneckCSP", "C2fCIB")),
        (-1, 1, "CBAM", [16]),
        (-1, 1, "PSA", [16]),
        (-1, 1, "AIFI", [16, 32, 4]),
    ],
    ids=lambda row: row[2],
)
def test_rows_of_a_graph(row):
    model = small_model(CONV, row, CONV)
    assert type(model.model[1]).__name__ == row[2] and model.strides == (4.0,)
    assert model.eval()(torch.rand(1, 3, 64, 64))["boxes"].shape[2] == 256


def test_the_detection_head_of_scripts():
    torch.manual_seed(0)
    mine = modules.Detect(nc=3, ch=(16, 32))
    theirs = house_head.Detect(3, channels=(16, 32))
    assert list(mine.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(mine.state_dict())
    assert isinstance(theirs, modules.Detect) and not isinstance(theirs, modules.Segment)
    assert not isinstance(nn.Linear(1, 1), modules.Detect)
    maps = [torch.rand(2, 16, 8, 8), torch.rand(2, 32, 4, 4)]
    levels = mine(maps)
    assert [tuple(level.shape) for level in levels] == [(2, 67, 8, 8), (2, 67, 4, 4)]
    mine.stride = torch.tensor([8.0, 16.0])
    mine.bias_init()
    theirs.load_state_dict(mine.state_dict())
    y, again = lived(mine)(maps)
    raw = theirs.train()(maps)
    assert y.shape == (2, 7, 80) and (mine.nl, mine.no, mine.nc, mine.reg_max) == (2, 67, 3, 16)
    theirs.load_state_dict(mine.state_dict())
    raw = theirs.eval()(maps)
    torch.testing.assert_close(y, theirs.decode(raw, raw.sizes, (8, 16)))
    torch.testing.assert_close(torch.cat([level.flatten(2) for level in again], 2)[:, :64], raw["boxes"])
    mine.export = True
    assert torch.equal(mine(maps), y)

    class Mine(modules.Detect):
        legacy = True

    assert "cv3.0.0.conv.weight" in Mine(3, (16, 32)).state_dict() and not isinstance(theirs, Mine)


def test_the_segmentation_head_of_scripts():
    mine = modules.Segment(nc=3, nm=8, npr=16, ch=(16, 32))
    maps = [torch.rand(1, 16, 8, 8), torch.rand(1, 32, 4, 4)]
    levels, coefficients, prototypes = mine(maps)
    assert len(levels) == 2 and coefficients.shape == (1, 8, 80) and prototypes.shape == (1, 8, 16, 16)
    mine.stride = torch.tensor([8.0, 16.0])
    y, (_, _, same) = mine.eval()(maps)
    assert y.shape == (1, 15, 80) and same.shape == prototypes.shape and (mine.nm, mine.npr) == (8, 16)
    assert isinstance(mine, modules.Segment) and isinstance(mine, nn.Module) and conv.Conv is house.conv.Conv


def test_the_head_of_a_classifier():
    mine, theirs = modules.Classify(16, 5), house_classify.Classify(5, channels=(16,))
    x = torch.rand(2, 16, 4, 6)
    assert mine(x).shape == (2, 5) and mine.training
    theirs.load_state_dict(mine.state_dict())
    torch.testing.assert_close(mine.eval()(x)[1], theirs.eval()([x])["logits"])
    probabilities, raw = mine([x[:, :8], x[:, 8:]])
    torch.testing.assert_close(probabilities, raw.softmax(1))
    mine.export = True
    torch.testing.assert_close(mine(x), probabilities)
    assert isinstance(theirs, modules.Classify)
    with pytest.raises(UserError, match="only a 1x1 convolution"):
        modules.Classify(16, 5, k=3)
