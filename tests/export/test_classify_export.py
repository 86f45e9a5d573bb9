"""Exports of classifiers: probabilities in every format, for the input that the checkpoint would see."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.export.compare import MismatchError, compare
from bitfalcon_plugin.export.network import ExportedNetwork
from bitfalcon_plugin.export.open import open_exported
from tests.helpers.classed import CLASSES, lay_out
from tests.helpers.exports import EVERY, FILES, needs_int8, needs_onnx, recipe, save, tiny_classify
from tests.helpers.paths import SHARED

WEIGHTS = SHARED / "checkpoints/v1-n-cls-signs-best.pt"
RULES = {"half": 0.02, "int8": 0.15}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """c.pt, its dynamic exports in every format here, and class folders."""
    folder = tmp_path_factory.mktemp("classify")
    lay_out(folder)
    weights = YOLO(save(tiny_classify(CLASSES), folder / "c.pt", settings={"imgsz": 48}))
    for format_, name in FILES.items():
        weights.export(format=format_, dynamic=True, out=str(folder / name))
    return folder


def pictures(folder: Path) -> list[str]:
    return sorted(map(str, (folder / "data/val").rglob("*.png")))


def probabilities(model: YOLO, source: object, **options) -> torch.Tensor:
    return torch.stack([result.probs.data for result in model.predict(source, verbose=False, **options)])


@pytest.mark.parametrize("format_", EVERY)
def test_a_file_gives_the_probabilities_of_the_checkpoint(files, format_):
    weights, exported = YOLO(files / "c.pt"), YOLO(files / FILES[format_])
    assert (exported.task, exported.model.nc, exported.model.imgsz) == ("classify", 3, (48, 48))
    for options in ({}, {"imgsz": 64, "batch": 4}, {"imgsz": [32, 64]}, {"letterbox": True}):
        expected = probabilities(weights, pictures(files), **options)
        assert expected.std(0).min() > 0.02  # pictures differ
        torch.testing.assert_close(probabilities(exported, pictures(files), **options), expected, rtol=1e-3, atol=1e-5)


def test_one_size_val_and_the_command_line(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights, source = YOLO(files / "c.pt"), pictures(files)
    path = weights.export(format="torchscript", batch=4, out="fixed.torchscript")
    torch.testing.assert_close(
        probabilities(YOLO(path), source, batch=4), probabilities(weights, source), rtol=1e-3, atol=1e-5
    )
    options = {"data": str(files / "data"), "imgsz": 48, "batch": 4, "workers": 0, "plots": False}
    expected, metrics = (model.val(**options) for model in (weights, YOLO(path)))
    assert (metrics.top1, metrics.top5) == (expected.top1, expected.top5)
    assert main(["predict", f"model={path}", f"source={files / 'data/val/red'}", "save_txt=True"]) == 0
    lines = (tmp_path / "runs/classify/predict/labels/red0.txt").read_text().splitlines()
    assert sorted(line.split()[1] for line in lines) == sorted(CLASSES)


@needs_onnx
def test_the_output_and_the_metadata_of_an_onnx_file(files, folder):
    """Names and shapes of spec/segment-classify.md 2.8."""
    import onnx

    def side(graph) -> list[list]:
        shapes = [item.type.tensor_type.shape.dim for item in (*graph.input, *graph.output)]
        return [[each.dim_param or each.dim_value for each in shape] for shape in shapes]

    wide = onnx.load(files / FILES["onnx"])
    assert [item.name for item in (*wide.graph.input, *wide.graph.output)] == ["images", "output0"]
    assert side(wide.graph) == [["batch", 3, "height", "width"], ["batch", 3]]
    fixed = onnx.load(YOLO(files / "c.pt").export(format="onnx", batch=2, out="fixed.onnx"))
    assert side(fixed.graph) == [[2, 3, 48, 48], [2, 3]]
    about = {item.key: item.value for item in fixed.metadata_props}
    assert (about["task"], about["stride"], about["imgsz"]) == ("classify", "1", "[48, 48]")
    assert ast.literal_eval(about["names"]) == dict(enumerate(CLASSES))
    assert "shorter side resized to 48" in about["transform"] and "central 48 x 48" in about["transform"]
    assert open_exported("fixed.onnx").multiple == YOLO(files / "c.pt").model.multiple


@needs_onnx
def test_metadata_as_other_programs_write_them(files, tmp_path):
    import onnx

    graph = onnx.load(files / FILES["onnx"])
    del graph.metadata_props[:]
    texts = {"task": "classify", "stride": "1", "imgsz": "[48, 48]", "batch": "1", "names": "{0: 'a', 1: 'b', 2: 'c'}"}
    for key, value in texts.items():
        graph.metadata_props.add(key=key, value=value)
    onnx.save(graph, tmp_path / "theirs.onnx")
    theirs = YOLO(tmp_path / "theirs.onnx")
    expected = probabilities(YOLO(files / "c.pt"), pictures(files))
    torch.testing.assert_close(probabilities(theirs, pictures(files)), expected, rtol=1e-3, atol=1e-5)
    assert theirs.names == {0: "a", 1: "b", 2: "c"}
    graph.metadata_props[4].value = "{0: 'a', 1: 'b'}"
    onnx.save(graph, tmp_path / "wrong.onnx")
    with pytest.raises(UserError, match=r"gives \(1, 3\); expected \(B, 2\) for the 2 classes.*task=classify"):
        YOLO(tmp_path / "wrong.onnx").predict(pictures(files)[0])


def test_a_file_shows_whole_images_where_it_was_exported_so(files, tmp_path):
    weights, out = YOLO(files / "c.pt"), str(tmp_path / "x.pt2")
    exported = YOLO(weights.export(format="pt2", letterbox=True, out=out))
    assert "in the middle of grey" in exported.model.about.transform
    expected, middle = (probabilities(weights, pictures(files), letterbox=whole) for whole in (True, False))
    torch.testing.assert_close(probabilities(exported, pictures(files)), expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(probabilities(exported, pictures(files), letterbox=False), middle, rtol=1e-3, atol=1e-5)
    assert (expected - middle).abs().max() > 0.02


def test_what_a_classifier_has_not(files, folder, capsys):
    with pytest.raises(UserError, match="nms=True: a model for task=classify finds no boxes"):
        YOLO(files / "c.pt").export(format="onnx", nms=True)
    assert main(["export", f"model={files / 'c.pt'}", "format=torchscript", "nms=True"]) == 2
    assert not list(folder.iterdir())


def test_the_comparison_sees_wrong_probabilities(files):
    model, images = YOLO(files / "c.pt")._network.eval().fuse(), torch.rand(3, 3, 64, 64)
    network = ExportedNetwork(model)
    agreement = compare(model, network, [images], "float32")
    assert (agreement.matched, agreement.count, agreement.pixels) == (3, 3, None)
    assert "in probability; 3 of 3 images matched" in agreement.describe()
    for change in (lambda output: output.flip(1), lambda output: output * 1.01, lambda output: output[:, 1:]):
        with pytest.raises(MismatchError):
            compare(model, lambda images, change=change: change(network(images)), [images], "float32")


@pytest.mark.parametrize(
    "format_, option", [("torchscript", "half"), pytest.param("openvino", "int8", marks=needs_int8)]
)
def test_fewer_bits_keep_the_probabilities(files, tmp_path, format_, option):
    weights, out = YOLO(files / "c.pt"), str(tmp_path / FILES[format_])
    path = weights.export(format=format_, out=out, data=str(files / "data"), **{option: True})
    difference = probabilities(YOLO(path), pictures(files)) - probabilities(weights, pictures(files))
    assert 0 < difference.abs().max() < RULES[option]


@needs_onnx
@pytest.mark.parametrize("real", [False, True])
def test_the_recipe_of_the_page_gives_the_probabilities_of_predict(files, tmp_path, monkeypatch, capsys, real):
    if real and not WEIGHTS.is_file():
        pytest.skip(f"needs {WEIGHTS.name} of ../shared")
    monkeypatch.chdir(tmp_path)
    weights = YOLO(WEIGHTS if real else files / "c.pt")
    weights.export(format="onnx", out="best-cls.onnx")
    shape = (60, 101, 3) if real else (70, 50, 3)
    Image.fromarray(np.random.RandomState(0).randint(0, 255, shape, np.uint8)).save("image.jpg", quality=95)
    variables: dict = {}
    exec(compile(recipe("probabilities"), "README.md", "exec"), variables)
    expected = probabilities(YOLO("best-cls.onnx"), "image.jpg")[0]
    np.testing.assert_allclose(variables["probabilities"], expected, rtol=0, atol=1e-4)
    printed = capsys.readouterr().out.splitlines()[-min(5, len(expected)) :]
    assert re.fullmatch(rf"{weights.names[int(expected.argmax())]} 0\.\d+", printed[0])
