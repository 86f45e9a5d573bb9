"""What goes wrong while an exported model runs: one clear line each, whatever the runtime raised."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.export.metadata import Metadata, read_metadata
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.runtimes.runtime import Runtime
from bitfalcon_plugin.models.inference import compiling
from tests.export.test_open import checkpoint, needs_onnx

IMAGES = torch.zeros(1, 3, 32, 32)


class Given(Runtime):
    """Answers what it is told to."""

    format = "given"

    def __init__(self, answer, batch=None):
        super().__init__(Path("x.given"), Metadata({0: "a", 1: "b"}, 32, (32, 32)), torch.device("cpu"), batch, None)
        self.answer = answer

    def _run(self, images):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize(
    "answer, said",
    [
        (
            ValueError("a long dump\n  of frames\nexpected 4 channels.\n"),
            "cannot be run on images .1, 3, 32, 32.: expected 4 channels. Export",
        ),
        (AttributeError(), "AttributeError. Export"),
        ({"boxes": torch.zeros(1)}, "gives dict, not tensors"),
        (torch.full((1, 6, 21), math.nan), "not finite"),
        (torch.full((1, 6, 21), math.inf), "not finite"),
        (torch.zeros(1, 9, 21), r"gives \(1, 9, 21\)"),
    ],
)
def test_whatever_a_runtime_does_is_one_line(answer, said, batch):
    with pytest.raises(UserError, match=said) as caught:
        Given(answer, batch)(IMAGES)
    assert "\n" not in str(caught.value) and "x.given" in str(caught.value)


def test_what_is_no_mistake_passes():
    with pytest.raises(torch.OutOfMemoryError):
        Given(torch.OutOfMemoryError("no memory"))(IMAGES)
    with pytest.raises(KeyboardInterrupt):
        Given(KeyboardInterrupt())(IMAGES)
    engine = Given(torch.zeros(1, 6, 21))
    assert torch.equal(engine(IMAGES), engine.answer)
    assert engine.how == f"given, {torch.get_num_threads()} threads"


@pytest.mark.parametrize(
    "key, value",
    [
        ("stride", "1e999"),
        ("imgsz", "[1e999, 320]"),
        ("names", "{1e999: 'a'}"),
        ("stride", math.inf),
        ("stride", math.nan),
        ("imgsz", [math.nan, 64]),
        ("stride", "1e300"),
    ],
)
def test_metadata_that_no_number_is(key, value):
    with pytest.raises(UserError, match=f"cannot be meant \\({key}"):
        read_metadata({"names": "{0: 'a'}", "stride": "32", key: value}, "x.onnx")
    assert read_metadata({"names": "['a']", "stride": "32", "batch": "1e999"}, "x.onnx").batch == 1


def test_what_an_exported_model_is_told_in_vain(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("a.png")
    exported = YOLO(YOLO(checkpoint(tmp_path / "best.pt")).export(format="torchscript", imgsz=64, nms=True))
    exported.predict("a.png", compile=True, verbose=True)
    told = capsys.readouterr()
    assert "note: compile=True: " in told.err and "torch" in told.err and f"Network: {exported.model.how}" in told.out
    exported.model.about.args["conf"] = None  # as another maker's file may have it
    exported.predict("a.png", conf=0.01)
    assert "suppression is inside" in capsys.readouterr().err


@needs_onnx
def test_a_runtime_that_is_broken_is_installed_again(tmp_path, monkeypatch):
    path = YOLO(checkpoint(tmp_path / "best.pt")).export(format="onnx", imgsz=64)
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("raise ImportError('libx.so.1: no such file')")
    for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        UserError, match=r"onnxruntime.*cannot be imported: libx.so.1.*--force-reinstall 'bitfalcon\[export\]'"
    ):
        open_exported(path)


@needs_onnx
def test_an_onnx_file_for_other_images(tmp_path):
    import onnx

    path = YOLO(checkpoint(tmp_path / "best.pt")).export(format="onnx", imgsz=64, dynamic=True)
    graph = onnx.load(path)
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    onnx.save(graph, path)
    with pytest.raises(UserError, match="expected one input of floats"):
        open_exported(path)


def test_compiling_needs_a_folder_to_keep_it_in(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BITFALCON_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="BITFALCON_CACHE"):
        compiling.compile_network(torch.nn.Identity())
    assert main(["sizes", "model=best.onnx"]) == 2 and "best.onnx is weights of one size" in capsys.readouterr().err
