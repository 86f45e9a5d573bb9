"""What export refuses, in one line each, and what it tells that it does not heed."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.export import run as exporting
from bitfalcon_plugin.export import writers as writing
from bitfalcon_plugin.export import writers_mobile
from bitfalcon_plugin.export.formats import EXPORT_FORMATS, require
from bitfalcon_plugin.export.network import ExportedNetwork
from bitfalcon_plugin.export.run import run_export
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
from tests.helpers.exports import made, needs_int8, needs_onnx, needs_openvino, tiny
from tests.helpers.paths import ROOT


@pytest.mark.parametrize(
    "options, words",
    [
        ({"format": "onx"}, "no such format.*'onnx'"),
        ({"format": "onnx,openvino"}, "format=onnx,openvino: export writes one format at a time"),
        ({"format": "tensorrt"}, "trtexec"),
        ({"format": "saved_model"}, "TensorFlow.*onnx"),
        ({"format": "torchscript", "int8": True}, "int8=True.*openvino"),
        ({"format": "pt2", "nms": True}, "nms=True.*torch.export"),
        ({"format": "torchscript", "opset": 17}, "opset=17"),
        ({"format": "torchscript", "out": "x.pt"}, "ends in .torchscript"),
        ({"format": "torchscript", "batch": 0.5}, "batch=0.5"),
        ({"format": "torchscript", "out": "file/x.torchscript"}, "cannot be written"),
        ({"format": "torchscript", "half": True, "int8": True}, "int8=True"),
        ({"source": "nowhere/"}, "does not exist"),
        pytest.param({"format": "openvino", "int8": True}, "needs data=", marks=needs_int8),
        ({"format": "openvino", "int8": True, "dynamic": True}, "for one size"),
        ({"device": "banana"}, "banana.*cpu"),
        ({"device": 99}, "device=99"),
        ({"out": ".torchscript"}, r"out=.torchscript: a suffix alone.*out=small.torchscript"),
        pytest.param({"format": "openvino", "out": "a/_openvino_model/"}, "a suffix alone", marks=needs_openvino),
    ],
)
def test_one_clear_line_for_what_cannot_be(folder, options, words):
    (folder / "file").write_text("")
    with pytest.raises(UserError, match=words) as raised:
        run_export(tiny(), made(**options), "small.yaml")
    assert "\n" not in str(raised.value)
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_missing_package_is_named_with_its_extra(folder, monkeypatch):
    absent: set[str] = set()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else True)
    monkeypatch.setattr(
        exporting, "load_pictures", lambda *_: pytest.fail("pictures are read before packages are looked for")
    )
    for options, extra, packages in (
        ({"format": "onnx"}, "export", ("onnx", "onnxruntime")),
        ({"format": "openvino"}, "openvino", ("onnx", "openvino")),
        ({"format": "openvino", "int8": True}, "int8", ("onnx", "openvino", "nncf")),
    ):
        for package in packages:
            absent = {package}
            with pytest.raises(UserError, match=rf"needs the package {package}: pip install 'bitfalcon\[{extra}\]'"):
                run_export(tiny(), made(**options), "small.yaml")
    absent = {"onnx", "nncf"}
    require("openvino")  # what is there already runs without
    require("onnx")
    require("openvino", options=["int8"])


def test_the_extras_bring_what_the_formats_need():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    brought = {
        line.partition(" = ")[0]: {name.replace("-", "_") for name in re.findall(r'"([\w-]+)>=', line)}
        for line in lines
        if re.match(r"\w+ = \[\"", line)
    }
    for row in EXPORT_FORMATS.values():
        for needs in (row.needs, row.to_write, *row.for_option.values()):
            assert all(package in brought[extra] for package, extra in needs.items())
        assert all({*row.needs, *row.to_write} <= set(needs) for needs in row.for_option.values())


@pytest.mark.parametrize(
    "package, options, extra",
    [
        pytest.param("onnx", {"format": "onnx"}, "export", marks=needs_onnx),
        pytest.param("onnxruntime", {"format": "onnx"}, "export", marks=needs_onnx),
        pytest.param("onnxruntime", {"format": "onnx", "simplify": False}, "export", marks=needs_onnx),
        pytest.param("onnx", {"format": "openvino"}, "openvino", marks=needs_openvino),
        pytest.param("openvino", {"format": "openvino"}, "openvino", marks=needs_openvino),
        pytest.param("nncf", {"format": "openvino", "int8": True, "source": "../a.png"}, "int8", marks=needs_int8),
    ],
)
def test_a_package_that_is_broken_is_told_of_in_one_line(tmp_path, monkeypatch, package, options, extra):
    (tmp_path / "broken" / package).mkdir(parents=True)
    (tmp_path / "broken" / package / "__init__.py").write_text(
        "raise ImportError('libstrange.so.3:\\ncannot open shared object file')"
    )
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(UserError) as raised:
        run_export(tiny(), made(**options), "small.yaml")
    assert str(raised.value) == (
        f"{package} is installed but cannot be imported: cannot open shared object file. Install it again: "
        f"pip install --force-reinstall 'bitfalcon[{extra}]'"
    )
    assert not list(Path().iterdir())


def test_recorders_and_8_bits_are_written_in_silence(monkeypatch, caplog, capsys):
    logger = logging.getLogger("torch.utils.cpp_extension")
    caplog.set_level(logging.WARNING, logger.name)  # torch.compile, in an earlier test, leaves it at ERROR
    monkeypatch.setattr(logger, "disabled", False)
    level = logger.level
    monkeypatch.setattr(logger, "propagate", False)  # loggers above are set up anew when torch is told what to log
    logger.addHandler(caplog.handler)

    def quantize(network, *_, **__):
        logger.warning("No CUDA runtime is found")
        print("statistics")
        return network

    stub = types.SimpleNamespace(
        quantize=quantize,
        Dataset=lambda *_: None,
        IgnoredScope=lambda **_: None,
        QuantizationPreset=types.SimpleNamespace(MIXED=0),
    )
    monkeypatch.setitem(sys.modules, "nncf", stub)
    job = writing.ExportJob(ExportedNetwork(tiny()), torch.rand(1, 3, 64, 64), None)
    assert writing._quantised("network", job) == "network" and logger.level == level
    assert not caplog.records and capsys.readouterr() == ("", "")
    logger.warning("seen")
    logger.removeHandler(caplog.handler)
    assert [record.message for record in caplog.records] == ["seen"]


@needs_int8
def test_8_bits_without_pictures_name_no_dataset_that_nobody_gave(folder):
    model = tiny()
    save_checkpoint("best.pt", Checkpoint(model.graph, model.state_dict(), settings={"data": "gone.yaml", "imgsz": 64}))
    with pytest.raises(UserError) as raised:
        YOLO("best.pt").export(format="openvino", int8=True)
    assert re.fullmatch(
        r"int8=True needs data= \(or source=\).*; the weights were trained on data=gone.yaml, which is not here\.",
        str(raised.value),
    )
    with pytest.raises(UserError, match="other.yaml") as raised:
        YOLO("best.pt").export(format="openvino", int8=True, data="other.yaml")
    assert "gone.yaml" not in str(raised.value)
    assert YOLO("best.pt").export(format="torchscript") == "best.torchscript"  # other kinds go on without


@pytest.mark.parametrize(
    "options, names",
    [
        (
            {"conf": 0.3, "iou": 0.5, "max_det": 10, "agnostic_nms": True, "classes": [0]},
            "agnostic_nms (needs nms=True), classes, conf (needs nms=True), iou (needs nms=True), "
            "max_det (needs nms=True)",
        ),
        ({"nms": True, "conf": 0.3, "iou": 0.5, "max_det": 10, "agnostic_nms": True}, ""),
        ({"single_cls": True, "epochs": 3, "simplify": False}, "epochs, simplify, single_cls"),
        (
            {"device": "cpu", "batch": 2, "half": False, "simplify": True, "iou": 0.7, "verbose": False},
            "",
        ),  # taken, or what holds anyway
    ],
)
def test_settings_without_effect_are_noted_once(folder, capsys, options, names):
    run_export(tiny(), made(**options), "small.yaml")
    expected = [f"note: without effect on an export: {names}"] if names else []
    assert [line for line in capsys.readouterr().err.splitlines() if "effect" in line] == expected


def test_what_a_checkpoint_remembers_is_no_setting_of_the_export(folder, capsys):
    settings = made(single_cls=True, data="gone.yaml", conf=0.5)
    run_export(tiny(), settings, "small.yaml", data_remembered=True)
    assert "effect on an export: conf (needs nms=True)\n" in capsys.readouterr().err
    run_export(tiny(), settings, "small.yaml", data_remembered=True, given={"single_cls", "imgsz"})
    assert "effect on an export: single_cls\n" in capsys.readouterr().err


def test_mnn_writes_no_half_file_to_a_full_disk(folder, monkeypatch):
    """MNN ends without an error there, so that it writes into the folder of temporary files."""
    written = []

    def convert(words):
        written.append(Path(words[words.index("--MNNModel") + 1]))
        written[0].write_bytes(b"a model")

    monkeypatch.setitem(sys.modules, "MNN", types.ModuleType("MNN"))
    monkeypatch.setitem(sys.modules, "_tools", types.SimpleNamespace(mnnconvert=convert))
    monkeypatch.setitem(sys.modules, "onnx", types.ModuleType("onnx"))
    monkeypatch.setattr(writers_mobile, "record_onnx", lambda job, path: path.write_bytes(b"a graph"))
    about = types.SimpleNamespace(texts=dict)
    write = writers_mobile.write_mnn
    write(types.SimpleNamespace(half=False, metadata=about), folder / "x.mnn")
    assert (folder / "x.mnn").read_bytes() == b"a model" and written[0].parent != folder
