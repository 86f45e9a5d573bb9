"""What a document's activation and its rows of torch and torchvision become, and what a summary says of a model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.build import build, model_for_task, read_graph, resolve_graph, with_classes
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.modules.conv import Conv
from bitfalcon_plugin.models.summary import summary
from tests.helpers.tiny_models import (
    shapes_are_quick,  # noqa: F401  the fixture
    small_graph,
    small_model,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Activation


def kinds(model: nn.Module) -> set[str]:
    return {type(part).__name__ for part in model.modules() if type(part).__module__ == "torch.nn.modules.activation"}


@pytest.mark.parametrize(
    ("written", "kind", "check"),
    [
        ("torch.nn.ReLU()", nn.ReLU, {}),
        ("nn.LeakyReLU(0.1)", nn.LeakyReLU, {"negative_slope": 0.1}),
        ("ReLU", nn.ReLU, {}),
        ("nn.Hardtanh(min_val=-2, max_val=2)", nn.Hardtanh, {"min_val": -2}),
        ("nn.ReLU(inplace=True)", nn.ReLU, {"inplace": True}),
    ],
)
def test_the_activation_of_a_document_is_that_of_every_block_that_names_none(written, kind, check):
    rows = [
        (-1, 1, "Conv", [8, 9, 8]),
        (-1, 1, "C3k2", [16, True]),
        (-1, 1, "A2C2f", [64, True, 1]),
        (-1, 1, "RELAN", [16]),
        (-1, 1, "SepConv7x7", [16]),
        (-1, 1, "AreaAttn", [16]),
        (-1, 1, "nn.Tanh", []),
        (-1, 1, "Conv", [8, 1, 1, None, 1, 1, False]),
    ]
    other = small_model(*rows)
    model = small_model(*rows, activation=written)
    assert kinds(model) == {kind.__name__, "Tanh"} and kinds(other) == {"SiLU", "Tanh"}
    assert kinds(small_model(*rows)) == {"SiLU", "Tanh"}  # nothing stays behind for the next model
    blocks = [part for part in model.modules() if isinstance(part, Conv)]
    assert {type(part.act) for part in blocks} == {kind, nn.Identity}
    assert all(
        getattr(part, key) == value for part in model.modules() if type(part) is kind for key, value in check.items()
    )
    assert type(model.model[7].act) is nn.Identity
    raw = model(torch.rand(2, 3, 8, 8))
    (raw["boxes"].sum() + raw["scores"].sum()).backward()
    assert summary(model, 32).layers == summary(other, 32).layers


@torch.inference_mode()
def test_the_activation_is_applied():
    document = {"nc": 1, "backbone": [[-1, 1, "Conv", [4, 1, 1]]], "head": [[[-1], 1, "Detect", ["nc"]]]}
    plain, clipped = (
        Detector(resolve_graph({**document, **extra})).eval() for extra in ({}, {"activation": "nn.ReLU6()"})
    )
    clipped.load_state_dict(plain.state_dict())
    x = 20 * torch.randn(1, 3, 4, 4)
    y = plain.model[0].bn(plain.model[0].conv(x))
    torch.testing.assert_close(plain.model[0](x), y * y.sigmoid())
    torch.testing.assert_close(clipped.model[0](x), y.clamp(0, 6))


@pytest.mark.parametrize(
    "written",
    [
        "nn.Conv2d(1, 1, 1)",
        "nn.Relu()",
        "nn.ReLU(1, 2, 3)",
        "nn.Threshold()",
        "nn.Module()",
        "nn.functional",
        "nn.GLU()",
    ],
)
def test_an_activation_that_is_none_is_refused(written):
    with pytest.raises(UserError):
        small_model((-1, 1, "Conv", [8, 3, 2]), activation=written)


# Rows of libraries


@torch.inference_mode()
def test_rows_of_torch_and_torchvision():
    rows = [
        (-1, 1, "nn.Conv2d", [3, 16, 3, 2, 1]),
        (-1, 1, "torch.nn.Identity", []),
        (-1, 2, "nn.BatchNorm2d", []),
        (-1, 1, "nn.ReLU", []),
        (-1, 1, "nn.ZeroPad2d", [[0, 1, 0, 1]]),
        (-1, 1, "nn.MaxPool2d", [2, 1, 0]),
        (-1, 1, "nn.ConvTranspose2d", [8, 2, 2]),
        (-1, 1, "nn.AvgPool2d", [2]),
        (-1, 1, "torchvision.ops.SqueezeExcitation", [8, 2]),
        (-1, 3, "torchvision.ops.Conv2dNormActivation", [8, 8, 3]),
        ([-1, 0], 1, "Concat", [1]),
        ([10], 1, "Conv", [8]),
    ]
    model = small_model(*rows, width_multiple=0.5).eval()
    channels = [row.channels for row in model.graph.rows]
    # widths of nn.X are as written, but for transposed convolutions
    assert channels == [16, 16, 16, 16, 16, 16, 8, 8, 8, 8, 24, 8, 0]
    assert model.strides == (2.0,) and len(model.model[2]) == 2 and len(model.model[9]) == 3
    x = torch.rand(1, 3, 8, 8)
    y = model.model[0](x)
    for module in (model.model[2][0], model.model[2][1]):
        y = module(y)
    y = nn.functional.max_pool2d(nn.functional.pad(y.relu(), (0, 1, 0, 1)), 2, 1)
    y = model.model[7](nn.functional.conv_transpose2d(y, model.model[6].weight, model.model[6].bias, 2))
    for module in (model.model[8], *model.model[9]):
        y = module(y)
    y = model.model[11](torch.cat((y, model.model[0](x)), 1))
    expected, raw = model.head([y]), model(x)
    assert all(torch.equal(raw[key], expected[key]) for key in ("boxes", "scores"))


def test_a_block_row_repeats_with_the_width_that_came_out():
    model = small_model((-1, 3, "Conv", [16, 3, 1]), (-1, 1, "Conv", [8, 3, 2]))
    widths = [(part.conv.in_channels, part.conv.out_channels) for part in model.model[0]]
    assert widths == [(3, 16), (16, 16), (16, 16)]


# Classes


@pytest.mark.parametrize("variant", [None, "turbo"])
def test_a_graph_for_other_classes_is_the_one_that_is_read_for_them(variant):
    names = {0: "cat", 1: "dog"}
    graph = read_graph("yolov12.yaml", "n", variant=variant)
    changed = with_classes(graph, names)
    expected = read_graph("yolov12.yaml", "n", variant=variant, nc=2, names=names)
    assert replace(changed, notes=expected.notes) == expected
    assert with_classes(changed, names) is changed and graph.nc == 80
    wide = with_classes(graph, names, class_width=48)
    assert (wide.rows[-1].keywords["class_width"], wide.rows[:-1]) == (48, changed.rows[:-1])


# Summary


def test_summary_rows_and_totals():
    model = build("yolov12.yaml", "n", nc=2)
    found = summary(model)
    index, source, repeats, parameters, module, arguments = found.rows[2]
    assert (index, source, repeats, module.rpartition(".")[2], arguments) == (
        2,
        -1,
        1,
        "C3k2",
        "[32, 64, 1, False, 0.25]",
    )
    assert parameters == sum(p.numel() for p in model.model[2].parameters())
    assert found.rows[8][2] == 2 and found.rows[8][5] == "[256, 256, 2, True, 1]"
    assert found.rows[9][4:] == ("torch.nn.modules.upsampling.Upsample", "[None, 2, 'nearest']")
    assert found.rows[10][1] == (-1, 6)
    assert found.rows[21][5] == "[2, 16, [64, 128, 256]]"


def test_gflops_by_hand():
    model = small_model((-1, 1, "Conv", [8, 3, 2]), (-1, 1, "nn.MaxPool2d", [2, 2]), reg_max=4)
    first = 32 * 32 * 8 * 3 * 9  # a 64 px image
    cells, box, hidden = 16 * 16, 16, 8
    branch = box * 8 * 9 + box * box * 9 + 16 * box
    classes = hidden * 8 * 9 + hidden * hidden * 9 + 2 * hidden  # dense: no row asks for the separable branch
    assert summary(model, 64).gflops == pytest.approx(2 * (first + cells * (branch + classes)) / 1e9, rel=1e-12)
    assert summary(model, 61).gflops == summary(model, 64).gflops  # rounded up to a legal size


def test_attention_is_counted_exactly():
    plain = small_graph((-1, 1, "Conv", [32, 3, 2]))
    with_attention = small_graph((-1, 1, "Conv", [32, 3, 2]), (-1, 1, "AAttn", [32, 1, 4]))
    extra = summary(Detector(with_attention), 64).gflops - summary(Detector(plain), 64).gflops
    tokens, runs = 32 * 32, 4
    macs = tokens * (32 * 96 + 32 * 32 + 32 * 49) + 2 * runs * (tokens // runs) ** 2 * 32
    assert extra == pytest.approx(2 * macs / 1e9, rel=1e-9)


def test_summary_leaves_the_model_as_it_was():
    model = build("yolov12.yaml", "n")
    model.model[3].eval()
    before = [part.training for part in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    summary(model, 64)
    assert [part.training for part in model.modules()] == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_summary_of_models_in_every_state():
    with torch.device("meta"):
        empty = build("yolov12.yaml", "n")
    assert next(empty.parameters()).is_meta
    plain = summary(build("yolov12.yaml", "n"), 64)
    assert summary(empty, 64) == plain
    folded, half = summary(build("yolov12.yaml", "n").fuse(), 64), summary(build("yolov12.yaml", "n").bfloat16(), 64)
    assert half == plain and (folded.gflops, folded.layers) == (plain.gflops, plain.layers - 113)
    assert folded.parameters == sum(p.numel() for p in build("yolov12.yaml", "n").fuse().parameters())


def test_the_graph_of_a_task(capsys):
    assert model_for_task(None, None) == model_for_task("yolov12.yaml", "detect") == "yolov12.yaml"
    assert model_for_task(None, "segment") == "yolov12-seg.yaml" and not capsys.readouterr().err
    assert model_for_task("yolo11s.yaml", "segment") == "yolo11s-seg.yaml"
    assert "using yolo11s-seg.yaml for task=segment" in capsys.readouterr().err
    assert model_for_task("yolov8n-seg.yaml", "detect") == "yolov8n.yaml"
    assert model_for_task("yolo12n-seg.yaml", "classify") == "yolo12n-cls.yaml"
    assert model_for_task("yolov8x-p6.yaml", "segment") == "yolov8x-seg-p6.yaml"
    assert model_for_task("yolov8-seg-p6.yaml", "detect") == "yolov8-p6.yaml"
    assert read_graph(model_for_task("yolov8n6.yaml", "segment")).name == "yolov8-seg-p6.yaml"
    assert model_for_task("best.pt", "segment") == "best.pt"
    with pytest.raises(UserError, match="no 'bitfalcon-seg.yaml' for task=segment"):
        model_for_task("bitfalcon.yaml", "segment")
    with pytest.raises(UserError, match="no 'yolov8-cls-p6.yaml' for task=classify"):
        model_for_task("yolov8-p6.yaml", "classify")
