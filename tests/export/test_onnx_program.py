"""ONNX files of the exporter that torch maintains, and what happens where it fails."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from bitfalcon_plugin.export import onnx_graph, writers
from bitfalcon_plugin.export import run as exporting
from bitfalcon_plugin.export.compare import MismatchError
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.run import run_export
from tests.helpers.exports import has_onnx, made, tiny, tiny_classify, tiny_obb, tiny_pose, tiny_segment
from tests.helpers.paths import ROOT

has_onnxscript = has_onnx and importlib.util.find_spec("onnxscript") is not None
pytestmark = pytest.mark.skipif(not has_onnxscript, reason="needs onnxscript: pip install -e '.[export]'")
takes_program = onnx_graph._takes_program  # before tests/conftest.py turns the maintained exporter off
NETWORKS = {"detect": tiny, "segment": tiny_segment, "classify": tiny_classify, "pose": tiny_pose, "obb": tiny_obb}
NETWORKS |= {"attention": lambda: tiny((-1, 1, "A2C2f", [64, True, 4]))}


@pytest.fixture(autouse=True)
def maintained(monkeypatch) -> None:
    monkeypatch.setattr(onnx_graph, "_takes_program", takes_program)


@pytest.fixture
def used(monkeypatch) -> list[str]:
    """The exporters that are called, in turn."""
    names: list[str] = []
    for name in ("_record_trace", "_record_program"):

        def note(job, path, name=name, record=getattr(onnx_graph, name)):
            names.append(name)
            record(job, path)

        monkeypatch.setattr(onnx_graph, name, note)
    return names


@pytest.mark.parametrize(
    "network, options",
    [
        ("attention", {}),
        ("detect", {"dynamic": True}),
        ("segment", {"simplify": False}),
        ("classify", {"dynamic": True}),
        ("pose", {"simplify": False, "opset": 20}),
        ("obb", {"half": True}),
    ],
    ids=str,
)
def test_a_file_of_the_maintained_exporter_is_like_those_of_the_older_one(folder, capfd, used, network, options):
    import onnx

    model = NETWORKS[network]()
    path = run_export(model, made(format="onnx", **options), "small.yaml").path
    told = capfd.readouterr()
    assert used == ["_record_program"] and not told.err
    assert [line.split()[0] for line in told.out.splitlines()] == ["wrote", "compared", "next:"]
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert [(each.domain, each.version) for each in graph.opset_import] == [("", options.get("opset", 18))]
    outputs = ["output0", "output1"][: 1 + (network == "segment")]
    assert [each.name for each in graph.graph.input] == ["images"]
    assert [each.name for each in graph.graph.output] == outputs
    given, first = (each.type.tensor_type.shape.dim for each in (graph.graph.input[0], graph.graph.output[0]))
    names = [each.dim_param or each.dim_value for each in given]
    dynamic = bool(options.get("dynamic"))
    assert names == (["batch", 3, "height", "width"] if dynamic else [1, 3, 64, 64])
    assert first[0].dim_param == ("batch" if dynamic else "") and first[1].dim_value > 0
    content = path.read_bytes()
    assert str(ROOT).encode() not in content and b"stack_trace" not in content
    engine = open_exported(path, "cpu")
    for shape in [(1, 3, 64, 64)] + [(3, 3, 40, 64), (2, 3, 8, 8)] * dynamic:
        images = torch.rand(shape)
        with torch.inference_mode():
            raw = model.eval()(images)
            expected = model.decode(raw)
        if not options.get("half"):
            torch.testing.assert_close(engine.decode(engine(images)), expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("options", [{"nms": True, "conf": 0.01}, {"opset": 17}, {"opset": 11}], ids=str)
def test_suppression_and_earlier_opsets_are_written_by_the_older_exporter(folder, capsys, used, options):
    run_export(tiny(), made(format="onnx", **options), "small.yaml")
    assert set(used) == {"_record_trace"} and not capsys.readouterr().err


@pytest.mark.parametrize("missing", [False, True])
def test_where_the_maintained_exporter_fails_the_older_one_writes(folder, capsys, monkeypatch, missing):
    calls = []

    def fail(job, path):
        calls.append(job)
        raise RuntimeError("no such operator\nand a long dump")

    monkeypatch.setattr(onnx_graph, "_record_program", fail)
    if missing:
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "onnxscript" else found(name))
    export = run_export(tiny(), made(format="onnx"), "small.yaml")
    told = capsys.readouterr().err
    assert export.agreement.matched and len(calls) == (not missing)
    assert ("torch's maintained ONNX exporter fails" in told) == (not missing) and "dump" not in told


def test_a_file_that_differs_is_written_again_by_the_older_exporter(folder, capsys, monkeypatch, used):
    compare, seen = exporting.compare, []

    def differs_first(*args):
        seen.append(args)
        if len(seen) == 1:
            raise MismatchError("it differs from the network")
        return compare(*args)

    monkeypatch.setattr(exporting, "compare", differs_first)
    run_export(tiny(), made(format="onnx"), "small.yaml")
    assert used == ["_record_program", "_record_trace"] and "not kept: it differs" in capsys.readouterr().err


def test_the_maintained_exporter_writes_where_the_older_one_is_gone(folder, capsys, monkeypatch):
    """The other formats that begin with an ONNX file ask the older exporter first."""

    def gone(job, path):
        raise TypeError("export() got an unexpected keyword argument 'dynamo'")

    monkeypatch.setattr(onnx_graph, "_record_trace", gone)
    monkeypatch.setattr(writers, "record_onnx", lambda job, path, maintained: onnx_graph.record_onnx(job, path))
    run_export(tiny_classify(), made(format="onnx"), "small.yaml")
    assert "torch's older ONNX exporter fails" in capsys.readouterr().err


def test_a_full_disk_is_no_failure_of_an_exporter(folder, capsys, monkeypatch):
    def full(job, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_graph, "_record_trace", full)
    monkeypatch.setattr(onnx_graph, "_record_program", lambda job, path: pytest.fail("the other exporter is tried"))
    monkeypatch.setattr(onnx_graph, "_takes_program", lambda job: True)
    with pytest.raises(OSError, match="No space left"):
        onnx_graph.record_onnx(None, folder / "x.onnx")
    assert "exporter" not in capsys.readouterr().err
