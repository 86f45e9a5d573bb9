"""What stands in the files: names, shapes, keys and metadata, and 8 bits where they belong."""

from __future__ import annotations

import ast
import json
import re
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin.config.files import atomic_export
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.run import run_export
from tests.helpers.exports import (
    made,
    needs_int8,
    needs_onnx,
    needs_openvino,
    tiny,
    tiny_classify,
    tiny_obb,
    tiny_pose,
    tiny_segment,
)
from tests.helpers.paths import ROOT


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
    keys = "description author date version license docs stride task batch imgsz names args"
    assert set(keys.split()) <= set(about)
    expected = {"stride": str(model.multiple), "task": "detect", "batch": "2", "license": "MIT"}
    assert {key: about[key] for key in expected} == expected
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


ATTENTION = [(-1, 1, "A2C2f", [64, True, area]) for area in (1, 4)]  # of one and of several areas
NETWORKS = {"detect": lambda: tiny(*ATTENTION), "segment": tiny_segment, "classify": tiny_classify}
NETWORKS |= {"pose": tiny_pose, "obb": tiny_obb}
OPTIONS = [{}, {"dynamic": True}, {"dynamic": True, "nms": True, "conf": 0.01}, {"half": True}]


@needs_onnx
@pytest.mark.parametrize(
    "network, opset, options",
    [
        *(("detect", opset, OPTIONS[2]) for opset in (11, 12, 13, 14, 20)),
        *(("detect", opset, options) for opset in (11, 20) for options in (OPTIONS[0], OPTIONS[3])),
        *((task, opset, OPTIONS[2]) for task in ("segment", "pose", "obb") for opset in (11, 13, 20)),
        *(("obb", opset, OPTIONS[3]) for opset in (11, 20)),
        *(("classify", opset, OPTIONS[1]) for opset in (11, 20)),
    ],
    ids=str,
)
def test_every_opset_gives_the_networks_numbers(folder, network, opset, options):
    """The export itself compares the file with the network."""
    import onnx

    written = onnx.load(
        run_export(NETWORKS[network](), made(format="onnx", opset=opset, simplify=False, **options), "small.yaml")
    )
    assert [(item.domain, item.version) for item in written.opset_import] == [("", opset)]
    onnx.checker.check_model(written, full_check=True)


@needs_onnx
def test_simplify_removes_nodes_and_keeps_the_opset(folder):
    import onnx

    written, short = (
        onnx.load(run_export(tiny(*ATTENTION), made(format="onnx", opset=13, simplify=simplify), "small.yaml"))
        for simplify in (False, True)
    )
    assert short.opset_import[0].version == 13 and len(short.graph.node) < len(written.graph.node)


@needs_onnx
@pytest.mark.parametrize(("asked", "written"), [(1, 11), (10, 11), (21, 20), (99, 20)])
def test_an_opset_beyond_the_range_is_the_nearest_with_one_note(folder, capsys, asked, written):
    import onnx

    graph = onnx.load(run_export(tiny(), made(format="onnx", opset=asked, nms=True, conf=0.9999), "small.yaml"))
    assert graph.opset_import[0].version == written
    about = {item.key: item.value for item in graph.metadata_props}
    assert ast.literal_eval(about["args"])["opset"] == written
    assert capsys.readouterr().err.count(f"opset={asked}: opsets 11 to 20 can be written; writing {written}.") == 1


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
    with atomic_export(folder / "b.st_openvino_model", is_folder=True) as path:
        (path / "model.xml").write_text("an earlier one, of another name")
    path = run_export(tiny(), made(format="openvino", out="b.st_openvino_model"), "small.yaml").path
    assert sorted(item.name for item in path.iterdir()) == ["b.st.bin", "b.st.xml", "metadata.yaml"]
    assert open_exported(path, "cpu")(torch.rand(1, 3, 64, 64)).shape == (1, 6, 256)


def test_torchscript_and_pt2_carry_the_same_keys_and_no_place_of_the_code(folder):
    for format_ in ("torchscript", "pt2"):
        with zipfile.ZipFile(run_export(tiny(), made(format=format_), "small.yaml")) as archive:
            (extra,) = [name for name in archive.namelist() if name.endswith("extra/config.txt")]
            assert json.loads(archive.read(extra))["names"] == "{0: '0', 1: '1'}"
            texts = [archive.read(name) for name in archive.namelist() if name.endswith((".json", ".txt"))]
            assert not any(str(ROOT).encode() in text for text in texts)
            folders = {name.partition("/")[0] for name in archive.namelist()}
            assert folders == {"archive"}  # and no name of a temporary file


def test_a_torchscript_graph_names_no_device(folder):
    path = run_export(
        tiny((-1, 1, "A2C2f", [64, True, 4])),
        made(format="torchscript", dynamic=True, nms=True, conf=0.01),
        "small.yaml",
    )
    assert "cpu" not in str(torch.jit.load(str(path)).inlined_graph)


@needs_int8
def test_eight_bits_in_the_backbone_and_floats_behind_it(folder, capsys):
    for index in range(12):
        Image.fromarray(np.random.RandomState(index).randint(0, 255, (64, 64, 3), np.uint8)).save(
            folder / f"{index}.png"
        )
    model = tiny((-1, 1, "Conv", [64, 3, 1]), (-1, 1, "A2C2f", [64, True, 1]))
    path = run_export(model, made(format="openvino", int8=True, source=str(folder)), "small.yaml").path
    assert "int8" in capsys.readouterr().out
    text = next(path.glob("*.xml")).read_text(encoding="utf-8")
    quantised = list(re.findall(r'<layer id="\d+" name="([^"]*)" type="FakeQuantize"', text))
    float_parts = (f"/model.{len(model.model) - 1}/", "MatMul", "Softmax")
    assert quantised and not [name for name in quantised if any(part in name for part in float_parts)]
    assert 'element_type="i8"' in text
    engine, images = open_exported(path, "cpu"), torch.rand(1, 3, 64, 64)
    assert engine.about.args["int8"]
    with torch.inference_mode():
        expected = model.decode(model(images))
    output = engine.decode(engine(images))
    assert 0 < (output - expected).abs().max() and (output[:, :4] - expected[:, :4]).abs().max() < 3
