"""Engines of TensorRT: refused without a GPU; written, compared, read and limited, for which a stand-in computes."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.export import seal
from bitfalcon_plugin.export.agreement import MismatchError
from bitfalcon_plugin.export.formats import EXPORT_FORMATS, sees_nvidia_gpu
from bitfalcon_plugin.export.input_limits import read_limits
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.run import run_export
from bitfalcon_plugin.export.runtimes import tensorrt as runtime
from tests.helpers.exports import made, needs_onnx, save, tiny, tiny_classify, tiny_obb, tiny_pose, tiny_segment
from tests.helpers.fake_tensorrt import CUDA, GPU, FakeTensorRt

NETWORKS = {"detect": tiny, "segment": tiny_segment, "pose": tiny_pose, "obb": tiny_obb, "classify": tiny_classify}
without_gpu = pytest.mark.skipif(sees_nvidia_gpu(), reason="needs a machine without an NVIDIA GPU")
on_gpu = pytest.mark.skipif(
    not (sees_nvidia_gpu() and importlib.util.find_spec("tensorrt") and importlib.util.find_spec("onnx")),
    reason="needs an NVIDIA GPU, tensorrt and onnx",
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """An empty cache folder, and a process that has sealed nothing."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BITFALCON_CACHE", str(path))
    monkeypatch.setattr(seal, "_SEALED", set())
    return path


@pytest.fixture
def fake(folder, monkeypatch):
    """TensorRT, and a CPU in the place of a GPU."""
    module = FakeTensorRt()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    row = replace(EXPORT_FORMATS["engine"], runs_on=None, needs={})
    monkeypatch.setitem(EXPORT_FORMATS, "engine", row)
    for name, value in CUDA.items():
        monkeypatch.setattr(torch.cuda, name, value)
    runtime.logger.cache_clear()
    yield module
    runtime.logger.cache_clear()


@pytest.fixture
def gpu(monkeypatch) -> None:
    """A machine with a GPU, which is not asked to compute."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


@without_gpu
@pytest.mark.parametrize("more", [[], ["unchecked=True"], ["half=True", "dynamic=True"]])
def test_without_a_gpu_nothing_is_written(folder, capsys, more):
    save(tiny(), folder / "best.pt")
    assert main(["export", "model=best.pt", "format=engine", "imgsz=64", *more]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "format=engine: its files are run on NVIDIA GPUs only, and torch sees none" in lines[0]
    assert "format=onnx" in lines[0] and "trtexec" in lines[0] and "TensorFlow" not in lines[0]
    assert [path.name for path in folder.iterdir()] == ["best.pt"]


@without_gpu
@pytest.mark.parametrize("suffix", ["engine", "trt"])
@pytest.mark.parametrize("words", [["predict", "source=best.pt"], ["val"], ["info"]])
def test_without_a_gpu_nothing_is_opened(folder, capsys, words, suffix):
    Path(f"x.{suffix}").write_bytes(b"x")
    assert main([words[0], f"model=x.{suffix}", *words[1:]]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and f"'x.{suffix}': files of format engine are run on NVIDIA GPUs only" in lines[0]


def test_on_a_machine_with_a_gpu_the_device_is_one(folder, gpu, monkeypatch):
    monkeypatch.setattr("bitfalcon_plugin.export.open.require", lambda *_, **__: None)
    Path("x.engine").write_bytes(b"x")
    for call in (
        lambda: run_export(tiny(), made(format="engine", device="cpu"), "small.yaml"),
        lambda: open_exported("x.engine", "cpu"),
    ):
        with pytest.raises(UserError, match=r"^device=cpu: files of format engine .* give device=0\.$"):
            call()
    with pytest.raises(UserError, match="'x.engine' was not written on this machine"):
        open_exported("x.engine")
    assert [path.name for path in folder.iterdir()] == ["x.engine"]


def test_the_package_is_named_where_it_is_missing(folder, gpu, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tensorrt" else found(name))
    with pytest.raises(UserError, match=r"needs the package tensorrt: pip install 'bitfalcon\[tensorrt\]'"):
        run_export(tiny(), made(format="trt"), "small.yaml")


@pytest.mark.parametrize("option, said", [("int8", "half=True gains on GPUs"), ("nms", "predict and val suppress")])
def test_options_that_are_not_taken(folder, gpu, option, said):
    with pytest.raises(UserError, match=f"{option}=True is nothing for format=engine: .*{said}"):
        run_export(tiny(), made(format="engine", **{option: True}), "small.yaml")


@needs_onnx
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("half", [False, True])
def test_one_size(folder, fake, capsys, network, half):
    model = NETWORKS[network]()
    export = run_export(model, made(format="engine", half=half, batch=2), "small.yaml", "MIT")
    assert export.agreement.matched and "compared with the network" in capsys.readouterr().out
    calls = [call for call in fake.calls if call[0] != "execute"]
    assert calls == [("create_network", 1), ("clear_flag", "TF32"), ("build", False)]
    length = int.from_bytes(export.path.read_bytes()[:4], "little")
    about = json.loads(export.path.read_bytes()[4 : 4 + length])
    assert about["license"] == "MIT" and about["task"] == network and about["names"] == str(model.names)
    assert (about["tensorrt"], about["gpu"]) == (fake.__version__, GPU)
    assert ast.literal_eval(about["args"])["half"] is half and "profile" not in about["args"]
    engine, images = open_exported(export.path), torch.rand(3, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    assert (engine.fixed, engine.batch, engine.task, engine.limits) == ((64, 64), 2, network, None)
    with torch.inference_mode():
        expected = model.eval().decode(model(images))
    exact = {"rtol": 0.05, "atol": 0.5} if half else {"rtol": 1e-3, "atol": 2e-3}
    torch.testing.assert_close(engine.decode(engine(images)), expected, **exact)


@needs_onnx
@pytest.mark.parametrize("network", ["detect", "segment"])
def test_many_sizes(folder, fake, capsys, network):
    model = NETWORKS[network]()
    export = run_export(model, made(format="engine", dynamic=True, workspace=1.5), "small.yaml")
    told = capsys.readouterr()
    assert "up to 4 images a call, with sides of" in told.out and "without effect" not in told.err
    assert ("set_memory_pool_limit", "WORKSPACE", 3 << 29) in fake.calls and ("build", True) in fake.calls
    engine = open_exported(export.path)
    least, most = engine.limits.least[2], engine.limits.most[2]
    assert least == model.multiple and engine.limits.usual == (1, 3, 64, 64) and "up to 4" in repr(engine)
    fake.calls.clear()
    images = torch.rand(6, 3, least, most)
    with torch.inference_mode():
        expected = model.eval().decode(model(images))
    torch.testing.assert_close(engine.decode(engine(images)), expected, rtol=1e-3, atol=2e-3)
    assert [call[1][0] for call in fake.calls] == [4, 2]
    side = most + model.multiple
    said = f"images are {side}x{least}; 'small.engine' takes .* sides of {least} to {most} pixels.*imgsz={side}"
    with pytest.raises(UserError, match=said):
        engine(torch.rand(1, 3, side, least))
    with pytest.raises(UserError, match="multiples of"):
        engine(torch.rand(1, 3, least, least + 1))


@needs_onnx
def test_a_yolo_object_takes_the_file(folder, fake, capsys):
    weights = save(tiny_segment(), folder / "best.pt")
    Image.new("RGB", (64, 48), (200, 30, 90)).save("a.png")
    path = YOLO(weights).export(format="engine", imgsz=64, dynamic=True)
    expected, found = (YOLO(each).predict("a.png", imgsz=64, conf=0.1)[0] for each in (weights, path))
    assert path.endswith("best.engine") and len(found.boxes) == len(expected.boxes) > 0
    torch.testing.assert_close(found.boxes.data, expected.boxes.data, rtol=1e-3, atol=1e-2)
    assert main(["info", f"model={path}"]) == 0 and "TensorRT 11.4.0.106" in capsys.readouterr().out


@needs_onnx
def test_a_file_that_differs_is_not_kept(folder, fake):
    fake.error = 0.5
    with pytest.raises(MismatchError, match="was not kept"):
        run_export(tiny(), made(format="engine"), "small.yaml")
    assert not list(folder.iterdir())


@needs_onnx
@pytest.mark.parametrize(
    "fails, said",
    [
        ("parse", "does not build this network: no importer for operation Strange. Take"),
        ("build", "does not build this network: no implementation for node /model/Conv. Take"),
        ("memory", f"gets no memory on {GPU}: TensorRT does not say why. Free"),
        ("execute", "cannot be run on images .*: TensorRT does not say why. Export"),
    ],
)
def test_what_fails_is_told_in_one_line(folder, fake, fails, said):
    fake.fails = fails
    with pytest.raises(UserError, match=said) as raised:
        run_export(tiny(), made(format="engine"), "small.yaml")
    assert "\n" not in str(raised.value) and not list(folder.iterdir())


@needs_onnx
def test_only_own_files_are_opened(folder, fake, cache, monkeypatch):
    monkeypatch.setattr("bitfalcon_plugin.export.open.try_once", lambda *_: pytest.fail("a stranger's engine is tried"))
    path = run_export(tiny(), made(format="engine"), "small.yaml").path
    assert open_exported(shutil.copy(path, "copy.trt")).fixed == (64, 64)
    with open("copy.trt", "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"'copy.trt' was not written on this machine, .* format=engine`\.$"):
        open_exported("copy.trt")
    monkeypatch.setattr(runtime, "read_engine", lambda path: pytest.fail("it is read"))
    shutil.rmtree(cache / "seals")
    seal._SEALED.clear()
    with pytest.raises(UserError, match="small.engine' was not written on this machine"):
        YOLO(path)
    seal.seal(Path(shutil.copy(path, "same.torchscript")))  # harmless to the program of another format
    with pytest.raises(UserError, match="small.engine' was not written on this machine"):
        open_exported(path)


@needs_onnx
def test_another_gpu_or_version_is_told(folder, fake, monkeypatch):
    path = run_export(tiny(), made(format="engine"), "small.yaml").path
    said = re.escape(f"was built by TensorRT 11.4.0.106 for {GPU}; here is TensorRT 10.1 on {GPU}")
    monkeypatch.setattr(fake, "__version__", "10.1")
    with pytest.raises(UserError, match=said):
        open_exported(path)


ABOUT = {"names": "{0: 'a'}", "stride": "8", "tensorrt": "11.4.0.106", "gpu": GPU}


def laid_out(about: object, plan: bytes = b"null\n") -> bytes:
    text = json.dumps(about).encode()
    return len(text).to_bytes(4, "little") + text + plan


@needs_onnx
@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "does not begin with the length"),
        (b"\xff\xff\xff\xff" + bytes(99), "does not begin with the length"),
        (b"\x05\x00\x00\x00nojson", "Expecting value"),
        (laid_out([1]), "has no metadata"),
        (laid_out(ABOUT, b""), "ends behind its metadata"),
        (laid_out(ABOUT, b"strange"), "magic tag does not match"),
        (laid_out({**ABOUT, "args": "{'dynamic': True}"}), "does not say which sizes it takes"),
    ],
)
def test_a_damaged_file_is_told_in_one_line(fake, content, said):
    path = Path("x.engine")
    path.write_bytes(content)
    seal.seal(path)
    with pytest.raises(UserError, match=f"'x.engine' cannot be read as an engine of TensorRT: .*{said}") as raised:
        open_exported(path)
    assert "\n" not in str(raised.value)


def test_workspace_is_for_engines_alone(folder, capsys):
    run_export(tiny(), made(format="torchscript", workspace=4), "small.yaml")
    assert "without effect on an export: workspace" in capsys.readouterr().err


@on_gpu
@pytest.mark.parametrize("options", [{}, {"half": True}, {"dynamic": True}, {"dynamic": True, "half": True}])
@pytest.mark.parametrize("network", NETWORKS)
def test_on_a_gpu(folder, network, options):
    """The real thing: written, compared and read, and of a few images the numbers of the network."""
    model = NETWORKS[network]()
    export = run_export(model, made(format="engine", workspace=1, **options), "small.yaml")
    assert export.agreement.matched
    engine, images = open_exported(export.path, 0), torch.rand(6, 3, 64, 64)
    with torch.inference_mode():
        expected = model.eval().decode(model(images))
    assert engine.device.type == "cuda" and (read_limits(engine.about.args) is None) == ("dynamic" not in options)
    exact = {"rtol": 0.05, "atol": 0.5} if "half" in options else {"rtol": 1e-3, "atol": 2e-3}
    for given in (images, images.cuda(), images.contiguous(memory_format=torch.channels_last).cuda()):
        torch.testing.assert_close(engine.decode(engine(given)).cpu(), expected, **exact)
