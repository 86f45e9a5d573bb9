"""Exports: what is written, and that it is compared first. Runtimes that are not installed are skipped.

What is refused: test_export_mistakes.py; what ends before its end: test_export_ends.py.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.files import placed
from bitfalcon_plugin.export import run as exporting
from bitfalcon_plugin.export.compare import MismatchError, compare
from bitfalcon_plugin.export.formats import EXPORT_FORMATS, WRITABLE_FORMATS, find_format, format_of
from bitfalcon_plugin.export.network import ExportedNetwork
from bitfalcon_plugin.export.nms import Suppression
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.run import run_export
from bitfalcon_plugin.models.build import build
from bitfalcon_plugin.models.modules.bit_layers import BitConv2d
from bitfalcon_plugin.models.modules.conv import Conv
from bitfalcon_plugin.ops.nms import non_max_suppression
from tests.helpers.exports import MARKS, folder, made, needs_int8, needs_onnx, needs_openvino, tiny  # noqa: F401  a fixture
from tests.helpers.paths import ROOT
from tests.helpers.tiny_models import CONV, lived, small_model

EVERY = [pytest.param(name, marks=MARKS.get(name, ())) for name in WRITABLE_FORMATS]
GRAPHS = (
    "yolov12.yaml",
    "yolov12-turbo.yaml",
    "yolo11.yaml",
    "yolov8.yaml",
    "bitfalcon.yaml",
    "bitfalcon-p.yaml",
    "yolov12-lite.yaml",
)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("format_", EVERY)
def test_each_format_is_written_compared_and_gives_what_the_network_gives(folder, capsys, format_, dynamic):
    # 1 position at the least image, 4 areas: some sizes need added ones. torch.export takes a minute to see it
    model = tiny() if dynamic and format_ == "pt2" else tiny((-1, 1, "A2C2f", [64, True, 4]))
    path = run_export(model, made(format=format_, dynamic=dynamic), "small.yaml", license="CC0")
    assert path == Path(f"small{EXPORT_FORMATS[format_].suffix}")
    assert [item.name for item in folder.iterdir()] == [path.name]  # and nothing beside it
    told = capsys.readouterr().out
    assert "MB, float32" in told and "CC0" in told and "boxes matched" in told and f"predict model={path}" in told
    engine = open_exported(path, "cpu")
    assert (engine.names, engine.nc, engine.multiple) == (model.names, model.nc, model.multiple)
    assert engine.about.license == "CC0" and engine.about.imgsz == (64, 64)
    for shape in [(1, 3, 64, 64)] + [(3, 3, 36, 60), (2, 3, 4, 4), (1, 3, 4, 20)] * dynamic:
        images = torch.rand(shape)
        with torch.inference_mode():
            wanted = model.decode(model(images))
        torch.testing.assert_close(engine.decode(engine(images)), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("graph", GRAPHS)
@torch.inference_mode()
def test_what_is_recorded_is_the_network_for_every_graph_and_size(graph):
    torch.manual_seed(0)
    model = build(graph, "n")
    if "bitfalcon" in graph:  # scales of activations
        with torch.no_grad():
            model.train()(torch.rand(1, 3, 64, 64))
    model = lived(model).requires_grad_(False).fuse()
    network = ExportedNetwork(model)
    for shape in ((2, 3, model.multiple, model.multiple), (1, 3, 3 * model.multiple, model.multiple)):
        images = torch.rand(shape)
        torch.testing.assert_close(network(images), model.decode(model(images)), rtol=1e-3, atol=1e-2)


@needs_onnx
@pytest.mark.parametrize(
    "graph", ["yolov12.yaml", "yolov12-turbo.yaml", "yolo11.yaml", "yolov8.yaml", "bitfalcon.yaml"]
)
def test_the_onnx_files_of_every_family_run_in_onnxruntime(folder, monkeypatch, graph):
    """Larger scales, fixed sizes and the other formats: tests/bench/export.py."""
    monkeypatch.setattr(exporting, "COMPARED", 1)
    torch.manual_seed(0)
    model = lived(build(graph, "n"))
    engine = open_exported(run_export(model, made(format="onnx", dynamic=True, simplify=False, imgsz=32), graph), "cpu")
    images = torch.rand(2, 3, 32, 96)
    with torch.inference_mode():
        torch.testing.assert_close(engine(images), model.decode(model(images)), rtol=1e-3, atol=1e-2)


@needs_onnx
def test_an_onnx_file_has_the_names_shapes_and_keys_that_other_programs_read(folder):
    import onnx

    model = tiny()
    model.names = {0: "it's", 1: 'a "b"'}
    graph = onnx.load(run_export(model, made(format="onnx", imgsz=[64, 96], batch=2), "small.yaml", license="MIT"))
    onnx.checker.check_model(graph)
    (images,), (output,) = graph.graph.input, graph.graph.output
    shape = [[side.dim_value for side in item.type.tensor_type.shape.dim] for item in (images, output)]
    assert (images.name, output.name) == ("images", "output0") and shape == [[2, 3, 64, 96], [2, 6, 16 * 24]]
    about = {item.key: item.value for item in graph.metadata_props}
    assert {
        "description",
        "author",
        "date",
        "version",
        "license",
        "docs",
        "stride",
        "task",
        "batch",
        "imgsz",
        "names",
        "args",
    } <= set(about)
    assert (about["stride"], about["task"], about["batch"], about["license"]) == (
        str(model.multiple),
        "detect",
        "2",
        "MIT",
    )
    assert ast.literal_eval(about["names"]) == model.names and ast.literal_eval(about["imgsz"]) == [64, 96]
    assert graph.opset_import[0].version == 17 and [item.domain for item in graph.opset_import] == [""]
    wide = onnx.load(run_export(model, made(format="onnx", dynamic=True, opset=16), "small.yaml"))
    names = [
        [side.dim_param for side in item.type.tensor_type.shape.dim]
        for item in (wide.graph.input[0], wide.graph.output[0])
    ]
    assert names == [["batch", "", "height", "width"], ["batch", "", "anchors"]]
    assert wide.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 6
    assert wide.opset_import[0].version == 16


@needs_onnx
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_onnx_file_with_suppression_says_how_many_rows_it_gives(folder, dynamic):
    import onnx

    path = run_export(
        tiny(), made(format="onnx", dynamic=dynamic, nms=True, max_det=7, conf=0.01, batch=2), "small.yaml"
    )
    sides = onnx.load(path).graph.output[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in sides] == ["batch" if dynamic else 2, 7, 6]


@needs_openvino
def test_the_files_of_an_openvino_folder_have_its_name(folder):
    with placed(folder / "b.st_openvino_model", folder=True) as path:
        (path / "model.xml").write_text("an earlier one, of another name")
    path = run_export(tiny(), made(format="openvino", out="b.st_openvino_model"), "small.yaml")
    assert sorted(item.name for item in path.iterdir()) == ["b.st.bin", "b.st.xml", "metadata.yaml"]
    assert open_exported(path, "cpu")(torch.rand(1, 3, 64, 64)).shape == (1, 6, 256)


def test_torchscript_and_pt2_carry_the_same_keys_and_no_place_of_the_code(folder):
    for format_ in ("torchscript", "pt2"):
        with zipfile.ZipFile(run_export(tiny(), made(format=format_), "small.yaml")) as archive:
            (extra,) = [name for name in archive.namelist() if name.endswith("extra/config.txt")]
            assert json.loads(archive.read(extra))["names"] == "{0: '0', 1: '1'}"
            texts = [archive.read(name) for name in archive.namelist() if name.endswith((".json", ".txt"))]
            assert not any(str(ROOT).encode() in text for text in texts)
            assert {name.partition("/")[0] for name in archive.namelist()} == {
                "archive"
            }  # and no name of a temporary file


def test_a_torchscript_graph_names_no_device(folder):
    path = run_export(
        tiny((-1, 1, "A2C2f", [64, True, 4])),
        made(format="torchscript", dynamic=True, nms=True, conf=0.01),
        "small.yaml",
    )
    assert "cpu" not in str(torch.jit.load(str(path)).inlined_graph)


@pytest.mark.parametrize("format_", EVERY[:-1])  # OpenVINO's: tests/bench/export.py
def test_half_precision_keeps_the_boxes_and_takes_float32(folder, format_):
    model = tiny()
    whole, half = (run_export(model, made(format=format_, half=half), "small.yaml") for half in (False, True))
    images = torch.rand(1, 3, 64, 64)
    found = open_exported(half, "cpu")(images)
    with torch.inference_mode():
        wanted = model.decode(model(images))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=4e-3, atol=0.1)


@pytest.mark.parametrize("format_", [param for param in EVERY if param.values[0] != "pt2"])
def test_suppression_inside_leaves_what_suppression_outside_leaves(folder, format_):
    model = tiny()
    with torch.no_grad():
        for branch in model.head.cv3:
            branch[-1].weight.normal_(std=0.5)
            branch[-1].bias.fill_(-1)
    rule = {"conf": 0.3, "iou": 0.4, "max_det": 40}
    path = run_export(model, made(format=format_, dynamic=True, nms=True, **rule), "small.yaml")
    engine, images = open_exported(path, "cpu"), torch.rand(2, 3, 64, 48)
    rows = engine(images)
    assert rows.shape == (2, 40, 6) and engine.suppressed
    with torch.inference_mode():
        wanted = non_max_suppression(model.decode(model(images)), **rule)
    for found, boxes in zip(rows, wanted, strict=True):
        assert 3 < len(boxes) and not found[len(boxes) :].any()
        torch.testing.assert_close(found[: len(boxes)], boxes, rtol=1e-3, atol=1e-2)
    again = non_max_suppression(engine.decode(rows), conf=0.25, iou=0.7)  # as predict and val do
    assert all(len(one) == len(other) for one, other in zip(again, wanted, strict=True))


@pytest.mark.parametrize(
    "wrong, share",
    [
        (lambda rows: rows, 1.0),
        (lambda rows: rows[:, :5], 0),
        (lambda rows: rows + 0.5, 0),
        (lambda rows: torch.cat((rows[:, :1], rows[:, :-1]), 1), 0),
    ],
)
def test_what_suppression_inside_left_is_compared_without_ties(wrong, share):
    model, rule = tiny().fuse(), Suppression(0.2, 0.5, 60)
    with torch.no_grad():
        for branch in model.head.cv3:
            branch[-1].bias.fill_(-1)
            branch[-1].weight.normal_(std=0.5)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        rows = rule(model.decode(model(images)))
    if share:
        assert compare(model, lambda _: wrong(rows), [images], "float32", rule).matched > 50
    else:
        with pytest.raises(MismatchError):
            compare(model, lambda _: wrong(rows), [images], "float32", rule)


def test_suppression_of_nothing_is_empty():
    assert not Suppression(0.5)(torch.zeros(2, 6, 5)).any()
    assert Suppression(0.5, max_det=7)(torch.rand(1, 6, 3)).shape == (1, 7, 6)


# What is compared


def test_what_differs_is_not_kept_and_an_earlier_file_stays(folder, monkeypatch, capsys):
    model, out = tiny(), folder / "x.torchscript"
    out.write_text("an earlier one")
    write = exporting.WRITERS["torchscript"]

    def wrong(job, path):
        with torch.no_grad():
            job.network.model.head.cv3[0][-1].bias.add_(0.1)
        write(job, path)

    monkeypatch.setitem(exporting.WRITERS, "torchscript", wrong)
    with pytest.raises(MismatchError, match="was not kept: it differs from the network .*boxes matched"):
        run_export(model, made(format="torchscript", out=str(out)), "small.yaml")
    assert [path.name for path in folder.iterdir()] == ["x.torchscript"] and out.read_text() == "an earlier one"
    monkeypatch.setattr(
        "bitfalcon_plugin.export.run.run_export", lambda *_: run_export(model, made(out=str(out)), "small.yaml")
    )
    assert main(["export", "model=yolov12-lite.yaml", "scale=n"]) == 1
    assert "not kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found + 1,
        lambda found: found * float("nan"),
        lambda found: found[:, :, 1:],
        lambda found: torch.cat((found[:, :4], found[:, 4:] + 0.01), 1),
    ],
)
def test_the_comparison_sees_what_is_wrong(change):
    model = tiny().fuse()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        right = model.decode(model(images))
    assert compare(model, lambda _: right, [images], "float32").matched > 20
    with pytest.raises(MismatchError):
        compare(model, lambda _: change(right), [images], "float32")


def test_pictures_of_source_are_compared_and_folders_are_replaced_whole(folder, capsys):
    for index in range(6):
        Image.fromarray(np.random.RandomState(index).randint(0, 255, (40, 50, 3), np.uint8)).save(
            folder / f"{index}.png"
        )
    run_export(tiny(), made(format="torchscript", source=str(folder)), "small.yaml")
    assert "on 4 images" in capsys.readouterr().out
    target = folder / "y_openvino_model"
    for text in ("one", "two"):
        with placed(target, folder=True) as path:
            (path / "model.xml").write_text(text)
    assert [item.read_text() for item in target.iterdir()] == ["two"]
    (target / "holiday.jpg").write_text("mine")
    with pytest.raises(UserError, match="other things"), placed(target, folder=True):
        pass
    assert (target / "holiday.jpg").exists()


def test_networks_with_8_bit_activations_are_held_to_their_own_unrest(folder, capsys, monkeypatch):
    torch.manual_seed(0)
    model = lived(small_model(CONV, *[(-1, 1, "Conv", [32, 3, 1 + (index == 0)]) for index in range(6)]))
    for block in list(model.modules()):
        if isinstance(block, Conv) and block is not model.model[0]:
            block.conv = BitConv2d.of(block.conv, rule="int8")
    for branch in (*model.head.cv3, *model.head.cv2):
        nn.init.normal_(branch[-1].weight, std=0.5)
    with torch.no_grad():
        model.train()(torch.rand(4, 3, 64, 64))
    model.eval()
    with monkeypatch.context() as patch:
        patch.setattr("bitfalcon_plugin.export.compare.NUDGE", 1e-2)  # so few layers hardly move by less
        for format_ in ("pt2", "torchscript"):
            run_export(model, made(format=format_), "small.yaml")
    assert "moves the network's own boxes" in capsys.readouterr().out
    images = torch.rand(2, 3, 64, 64)
    model = model.requires_grad_(False).fuse()
    with torch.inference_mode():
        right = model.decode(model(images))
        with pytest.raises(MismatchError):
            compare(model, lambda _: torch.cat((right[:, :4] + 50, right[:, 4:]), 1), [images], "float32")


@needs_int8
def test_eight_bits_in_the_backbone_and_floats_behind_it(folder, capsys):
    for index in range(12):
        Image.fromarray(np.random.RandomState(index).randint(0, 255, (64, 64, 3), np.uint8)).save(
            folder / f"{index}.png"
        )
    model = tiny((-1, 1, "Conv", [64, 3, 1]), (-1, 1, "A2C2f", [64, True, 1]))
    path = run_export(model, made(format="openvino", int8=True, source=str(folder)), "small.yaml")
    assert "int8" in capsys.readouterr().out
    text = next(path.glob("*.xml")).read_text(encoding="utf-8")
    quantised = list(re.findall(r'<layer id="\d+" name="([^"]*)" type="FakeQuantize"', text))
    assert (
        quantised
        and [
            name
            for name in quantised
            if f"/model.{len(model.model) - 1}/" in name or "MatMul" in name or "Softmax" in name
        ]
        == []
    )
    assert 'element_type="i8"' in text
    engine, images = open_exported(path, "cpu"), torch.rand(1, 3, 64, 64)
    assert engine.about.args["int8"]
    with torch.inference_mode():
        wanted = model.decode(model(images))
    found = engine.decode(engine(images))
    assert 0 < (found - wanted).abs().max() and (found[:, :4] - wanted[:, :4]).abs().max() < 3


def test_names_of_formats():
    assert find_format(" ONNX ") == "onnx" and find_format(".onnx") == "onnx"
    assert format_of("a/b_openvino_model/") == format_of("m.xml") == "openvino" and format_of("x.pt") is None
    assert format_of("x.engine") == "engine" and format_of("yolov12.yaml") is None


def test_each_format_is_refused_or_has_a_writer():
    for name, row in EXPORT_FORMATS.items():
        assert bool(row.reason) == (name not in exporting.WRITERS)


class Odd(nn.Module):
    """A head of others: one level, boxes of its own."""

    def __init__(self, nc: int, *, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels[0], 4 + nc, 1)

    def forward(self, maps):
        y = self.conv(maps[0])
        return {"boxes": y[:, :4].flatten(2), "scores": y[:, 4:].flatten(2)}

    def decode(self, raw, sizes, strides):
        """As modules.head.Detect.decode."""
        return torch.cat((raw["boxes"].exp(), raw["scores"].sigmoid()), 1)


def test_heads_of_others_are_exported_with_their_own_decoding(folder):
    from bitfalcon_plugin.models.modules.head import Raw

    model = tiny()
    odd = Odd(2, channels=(32,))
    model.model[-1] = odd
    forward = odd.forward
    odd.forward = lambda maps: Raw(*forward(maps).values(), [tuple(maps[0].shape[-2:])])
    with torch.inference_mode():
        images = torch.rand(1, 3, 64, 64)
        torch.testing.assert_close(ExportedNetwork(model)(images), model.decode(model(images)))
