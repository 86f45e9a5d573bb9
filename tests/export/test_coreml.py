"""Core ML packages: written unchecked where nothing runs them; run and compared on macOS, which a stub stands for."""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.export.compare import MismatchError
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.run import WRITERS, run_export
from tests.helpers.exports import made, save, tiny, tiny_classify, tiny_obb, tiny_pose, tiny_segment

ATTENTION = [(-1, 1, "A2C2f", [64, True, area]) for area in (1, 4)]
NETWORKS = {"detect": lambda: tiny(*ATTENTION), "segment": tiny_segment, "classify": tiny_classify}
NETWORKS |= {"pose": tiny_pose, "obb": tiny_obb}
has_coreml = importlib.util.find_spec("coremltools") is not None
needs_coreml = pytest.mark.skipif(not has_coreml, reason="needs coremltools: pip install -e '.[coreml]'")
away = pytest.mark.skipif(sys.platform == "darwin", reason="macOS runs the files")


@needs_coreml
@away
def test_unchecked_must_be_typed_and_nothing_is_left_without_it(folder, capsys):
    save(tiny(), folder / "best.pt")
    words = ["export", "model=best.pt", "format=coreml", "imgsz=64"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "run on macOS only" in told and "unchecked=True" in told and "Traceback" not in told
    assert [path.name for path in folder.iterdir()] == ["best.pt"]
    for _ in range(2):  # an earlier one is replaced
        assert main([*words, "unchecked=True"]) == 0
    told = capsys.readouterr()
    assert "unchecked: nothing on this machine runs it" in told.out and "matched" not in told.out and not told.err
    for model in ("predict", "val"):
        assert main([model, "model=best.mlpackage", "source=best.pt"][: 3 - (model == "val")]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert "'best.mlpackage': files of format coreml are run on macOS only" in lines[-1] and len(lines) == 1


@needs_coreml
@away
@pytest.mark.parametrize("network", NETWORKS)
def test_every_task_is_converted_and_its_metadata_say_unchecked(folder, capfd, network):
    from coremltools.models.utils import load_spec

    model = NETWORKS[network]()
    half = network == "segment"
    export = run_export(model, made(format="coreml", unchecked=True, half=half), "small.yaml", "MIT")
    told = capfd.readouterr()
    assert export.agreement is None and [line.split()[0] for line in told.out.splitlines()] == ["wrote", "unchecked:"]
    assert not told.err and [path.name for path in folder.iterdir()] == ["small.mlpackage"]
    spec = load_spec(str(export))
    about = dict(spec.description.metadata.userDefined)
    assert ast.literal_eval(about["args"])["unchecked"] is True and ast.literal_eval(about["args"])["half"] is half
    assert ast.literal_eval(about["names"]) == model.names and about["task"] == network and about["license"] == "MIT"
    shapes = {each.name: tuple(each.type.multiArrayType.shape) for each in spec.description.output}
    with torch.inference_mode():
        raw = model.eval()(torch.rand(1, 3, 64, 64))
        expected = {"output0": tuple(model.decode(raw).shape)}
    if network == "segment":
        expected["output1"] = tuple(raw["prototypes"].shape)
    assert shapes == expected and [each.name for each in spec.description.input] == ["images"]


class StandIn:
    """coremltools as it is on macOS: a package is a folder, and a model of it predicts."""

    __version__ = "9.0"
    ComputeUnit = types.SimpleNamespace(ALL="all", CPU_ONLY="cpu")
    written: dict[str, object] = {}
    error = 0.0

    class MLModel:
        def __init__(self, path: str, compute_units: str):
            self.job = StandIn.written["job"]
            self.user_defined_metadata = self.job.metadata.texts()

        def get_spec(self) -> object:
            outputs = [types.SimpleNamespace(name=f"output{index}") for index in range(len(self.job.network.outputs))]
            return types.SimpleNamespace(description=types.SimpleNamespace(output=outputs))

        def predict(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            outputs = self.job.network(torch.from_numpy(given["images"]))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            return {f"output{index}": output.numpy() + StandIn.error for index, output in enumerate(outputs)}

    models = types.SimpleNamespace(MLModel=MLModel)


@pytest.fixture
def macos(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setitem(sys.modules, "coremltools", StandIn)
    monkeypatch.setattr("bitfalcon_plugin.export.run.require", lambda *_, **__: None)
    monkeypatch.setattr("bitfalcon_plugin.export.open.require", lambda *_, **__: None)

    def write(job, path: Path) -> None:
        StandIn.written["job"] = job
        (path / "Manifest.json").write_text("{}")

    monkeypatch.setitem(WRITERS, "coreml", write)


@pytest.mark.parametrize("network", ["detect", "segment"])
def test_on_macos_a_file_is_compared_and_opens(folder, macos, capsys, network):
    model = NETWORKS[network]()
    export = run_export(model, made(format="coreml", unchecked=True), "small.yaml")
    told = capsys.readouterr()
    assert export.agreement.matched and "compared with the network" in told.out
    assert "without effect on an export: unchecked" in told.err
    engine, images = open_exported(export.path, "cpu"), torch.rand(1, 3, 64, 64)
    assert "unchecked" not in engine.about.args and (engine.fixed, engine.task) == ((64, 64), network)
    with torch.inference_mode():
        expected = model.eval().decode(model(images))
    torch.testing.assert_close(engine.decode(engine(images)), expected, rtol=1e-3, atol=2e-3)


def test_on_macos_a_file_that_differs_is_not_kept(folder, macos, monkeypatch):
    monkeypatch.setattr(StandIn, "error", 0.5)
    with pytest.raises(MismatchError, match="was not kept"):
        run_export(tiny(), made(format="coreml"), "small.yaml")
    assert not list(folder.iterdir())
