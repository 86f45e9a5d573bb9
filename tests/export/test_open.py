"""Exported models as YOLO takes them: predict and val as with the checkpoint, damaged and hostile files."""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.export.formats import EXPORT_FORMATS, WRITABLE_FORMATS
from bitfalcon_plugin.export.metadata import Metadata, read_metadata
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.runtimes.runtime import Runtime
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, save_checkpoint
from tests.helpers.exports import EVERY, FILES, needs_onnx
from tests.helpers.paths import SHARED
from tests.helpers.tiny_dataset import write_yaml
from tests.helpers.tiny_models import CONV, lived, small_model

real = pytest.mark.skipif(
    not (SHARED / "checkpoints").is_dir(), reason="needs ../shared/checkpoints, which is not in the repository"
)
SUFFIX = {name: EXPORT_FORMATS[name].suffix for name in WRITABLE_FORMATS}


def checkpoint(path: Path, names=("a", "b")) -> Path:
    """A small detector's checkpoint, with scores that reach past the usual thresholds."""
    torch.manual_seed(0)
    model = lived(small_model(CONV, (-1, 1, "Conv", [32, 3, 2]), nc=len(names), names=list(names)))
    with torch.no_grad():
        for branch in model.head.cv3:
            branch[-1].weight.normal_(std=1.0)
            branch[-1].bias.fill_(-0.5)
    save_checkpoint(path, Checkpoint(model.graph, model.state_dict(), measured=(model.strides, model.multiple)))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """best.pt, its exports in every format here, of one size (64 px, batch 2) and dynamic, and images."""
    folder = tmp_path_factory.mktemp("exports")
    weights = checkpoint(folder / "best.pt")
    random = np.random.RandomState(0)
    (folder / "images").mkdir()
    for index, size in enumerate(((48, 64), (48, 64), (48, 64), (80, 40))):
        Image.fromarray(random.randint(0, 255, (*size, 3), np.uint8)).save(folder / "images" / f"{index}.png")
    (folder / "labels").mkdir()  # what the network itself finds
    for result in YOLO(weights).predict(folder / "images", imgsz=64, conf=0.3, iou=0.4):
        result.save_txt(folder / "labels" / f"{Path(result.path).stem}.txt")
    write_yaml(folder / "data.yaml", {"train": "images", "val": "images", "names": ["a", "b"]})
    for format_ in FILES:
        for kind, options in (("fixed", {"batch": 2}), ("dynamic", {"dynamic": True})):
            YOLO(weights).export(format=format_, imgsz=64, out=str(folder / f"{kind}{SUFFIX[format_]}"), **options)
    return folder


def boxes(results) -> list[torch.Tensor]:
    return [result.boxes.data.cpu() for result in results]


@pytest.mark.parametrize("format_", EVERY)
def test_predict_is_the_same_as_with_the_checkpoint(files, format_):
    options = {"source": files / "images", "imgsz": 64, "conf": 0.3, "iou": 0.4}
    expected, exported = YOLO(files / "best.pt").predict(**options), YOLO(files / f"dynamic{SUFFIX[format_]}")
    results = exported.predict(**options)
    assert exported.names == {0: "a", 1: "b"} and sum(map(len, results)) > 8
    for one, other in zip(expected, results, strict=True):
        assert (one.path, one.orig_shape, one.input_shape, one.names) == (
            other.path,
            other.orig_shape,
            other.input_shape,
            other.names,
        )
        torch.testing.assert_close(other.boxes.data, one.boxes.data, rtol=1e-3, atol=1e-2)
    both = exported.predict(**options, batch=3, augment=True)
    assert len(both) == 4 and exported.device.type == "cpu" and isinstance(exported.model, Runtime)


@pytest.mark.parametrize("format_", EVERY)
def test_a_file_of_one_size_fills_it_and_its_batch(files, format_):
    exported = YOLO(files / f"fixed{SUFFIX[format_]}")
    engine = exported.model
    assert (engine.fixed, engine.batch) == ((64, 64), 2)
    results = exported.predict(files / "images", conf=0.3, batch=3)  # 3 and 1: cut, and filled up
    assert [result.input_shape for result in results] == [(64, 64)] * 4
    square = torch.from_numpy(np.array(Image.open(files / "images" / "0.png"))).permute(2, 0, 1)[None].float() / 255
    grey = torch.full((1, 3, 64, 64), 114 / 255)
    grey[..., 8:56, :] = square
    network = YOLO(files / "best.pt").model
    with torch.inference_mode():
        torch.testing.assert_close(engine(grey), network(grey)[0], rtol=1e-3, atol=1e-2)
    with pytest.raises(UserError, match="64x64 only, these are 64x48"):
        engine(grey[..., :48])
    with pytest.raises(UserError, match="imgsz=320: .* takes 64 x 64 pixels only"):
        exported.predict(files / "images", imgsz=320)


@pytest.mark.parametrize("format_", EVERY)
def test_val_gives_the_checkpoints_numbers(files, format_, capsys):
    options = {
        "data": str(files / "data.yaml"),
        "imgsz": 64,
        "batch": 3,
        "workers": 0,
        "plots": False,
        "verbose": False,
    }
    expected = YOLO(files / "best.pt").val(**options)
    metrics = YOLO(files / f"dynamic{SUFFIX[format_]}").val(**options)
    assert expected.box.map > 0.05 and metrics.losses is None
    # MNN's scores differ by 1e-7, and so do those of some candidates of this network: two of them change places.
    assert metrics.box.map == pytest.approx(expected.box.map, abs=2e-3 if format_ == "mnn" else 1e-3)
    fixed = YOLO(files / f"fixed{SUFFIX[format_]}").val(**options)
    square = YOLO(files / "best.pt").val(**options, rect=False)
    assert fixed.box.map == pytest.approx(square.box.map, abs=1e-3)


@real
@pytest.mark.parametrize("format_", EVERY)
def test_the_recorded_boxes_hold(tmp_path, format_):
    record = json.loads((SHARED / "conformance" / "predict-bccd.json").read_text())
    shutil.copy(SHARED / "checkpoints" / record["checkpoint"], tmp_path / "best.pt")
    exported = YOLO(
        YOLO(tmp_path / "best.pt").export(format=format_, imgsz=[256, 320])
    )  # the minimal rectangle of these images
    for row in record["images"]:
        (result,) = exported.predict(SHARED / "datasets" / "bccd" / row["file"], **record["predict"])
        expected, detections = torch.tensor(row["xyxy_conf_cls"]), result.boxes.data
        assert len(expected) == len(detections)
        detections = detections[(expected[:, None, :4] - detections[None, :, :4]).abs().amax(2).argmin(1)]
        difference = (detections - expected).abs()
        assert difference[:, :4].max() < 0.002 and difference[:, 4].max() < 0.0006
        assert torch.equal(detections[:, 5], expected[:, 5])


# What only a network can


def test_what_needs_the_network_says_so(files, capsys):
    exported = YOLO(files / "dynamic.torchscript")
    for call in (
        lambda: exported.train(data="x.yaml"),
        exported.info,
        lambda: exported.load(files / "best.pt"),
        exported.fuse,
        lambda: exported.save("y.pt"),
        lambda: exported.export(format="pt2"),
        exported.reset_weights,
        exported.half,
        lambda: exported.state_dict(),
        lambda: exported.embed(files / "images"),
        lambda: exported.predict(files / "images", embed=[1]),
    ):
        with pytest.raises(UserError, match="checkpoint"):
            call()
    with pytest.raises(UserError, match="augment=True"):
        YOLO(files / "fixed.torchscript").predict(files / "images", augment=True)
    for words in (["train", f"model={files / 'dynamic.pt2'}"], ["export", f"model={files / 'dynamic.pt2'}"]):
        assert main(words) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["info", str(files / "fixed.torchscript")]) == 0
    printed = capsys.readouterr().out
    assert "64x64" in printed and "classes: a, b" in printed


def test_suppression_inside_is_told_of(files, tmp_path, capsys):
    path = YOLO(files / "best.pt").export(
        format="torchscript", imgsz=64, dynamic=True, nms=True, conf=0.3, iou=0.4, out=str(tmp_path / "n.torchscript")
    )
    capsys.readouterr()
    results = YOLO(path).predict(files / "images", conf=0.3)
    assert "note" not in capsys.readouterr().err
    expected = YOLO(files / "best.pt").predict(files / "images", imgsz=64, conf=0.3, iou=0.4)
    for one, other in zip(boxes(expected), boxes(results), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-2)
    YOLO(path).predict(files / "images", conf=0.1)
    assert "suppression is inside" in capsys.readouterr().err


# Files that are none


@pytest.mark.parametrize("name", ["x.onnx", "x.torchscript", "x.pt2", "x_openvino_model"])
def test_a_damaged_file_is_one_clear_line(files, tmp_path, capsys, name):
    pytest.importorskip({"x.onnx": "onnxruntime", "x_openvino_model": "openvino"}.get(name, "torch"))
    path = tmp_path / name
    for content in (b"", b"no model at all", None):
        if name.endswith("model"):
            path.mkdir(exist_ok=True)
            (path / "x.xml").write_bytes(b"<net" if content is None else content)
        else:
            whole = (files / f"fixed{path.suffix}").read_bytes()
            path.write_bytes(whole[: len(whole) // 2] if content is None else content)
        assert main(["predict", f"model={path}", f"source={files / 'images'}"]) == 2
        printed = capsys.readouterr().err.strip()
        assert "cannot be read" in printed and "\n" not in printed, printed


def test_a_file_that_is_not_there_or_not_run_here(tmp_path):
    with pytest.raises(MissingFileError, match="x.torchscript' does not exist"):
        YOLO(tmp_path / "x.torchscript")
    (tmp_path / "x.pb").write_text("")
    with pytest.raises(UserError, match="pb are not run here"):
        YOLO(tmp_path / "x.pb")


def test_a_missing_runtime_is_named_with_its_extra(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxruntime" else find(name, *rest)
    )
    (tmp_path / "x.onnx").write_text("")
    with pytest.raises(UserError, match=r"needs the package onnxruntime: pip install 'bitfalcon\[export\]'"):
        YOLO(tmp_path / "x.onnx")


@needs_onnx
def test_an_onnx_file_from_elsewhere(files, tmp_path, capsys):
    import onnx

    graph = onnx.load(files / "dynamic.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "bare.onnx")
    assert main(["predict", f"model={tmp_path / 'bare.onnx'}", f"source={files / 'images'}"]) == 2
    printed = capsys.readouterr().err.strip()
    assert "no names and stride in its metadata" in printed and "\n" not in printed
    for key, text in (("names", "['x', 'y']"), ("stride", "4"), ("task", "detect")):  # the least that is needed
        graph.metadata_props.add(key=key, value=text)
    onnx.save(graph, tmp_path / "named.onnx")
    assert YOLO(tmp_path / "named.onnx").predict(files / "images", imgsz=64)[0].names == {0: "x", 1: "y"}
    graph.metadata_props[0].value = "['x', 'y', 'z']"
    onnx.save(graph, tmp_path / "wrong.onnx")
    with pytest.raises(UserError, match="for the 3 classes"):
        YOLO(tmp_path / "wrong.onnx").predict(files / "images", imgsz=64)


@pytest.mark.parametrize(
    "texts, words",
    [
        ({"names": "{0: 'a'}"}, "no stride"),
        ({"stride": "32"}, "no names"),
        ({"names": "__import__('os')", "stride": "32"}, r"\(names\)"),
        ({"names": "{1: 'a'}", "stride": "32"}, "names"),
        ({"names": "{0: 'a'}", "stride": "-1"}, "stride"),
        ({"names": "{0: 'a'}", "stride": "32", "imgsz": "[1, 2, 3]"}, "imgsz"),
        ({"names": "{0: 'a'}", "stride": "32", "task": "depth"}, "task=depth; models for detect, segment"),
        ({"names": "{0: 'a'}", "stride": "32", "task": "pose", "kpt_shape": "[17, -3]"}, r"\(kpt_shape\)"),
        ({"names": "[" * 5000, "stride": "32"}, "names"),
    ],
)
def test_metadata_that_cannot_be_meant(texts, words):
    with pytest.raises(UserError, match=words):
        read_metadata(texts, "x.onnx")


def test_metadata_comes_back_as_it_went():
    about = Metadata(
        {0: "it's", 1: 'a "b"'},
        32,
        (320, 640),
        4,
        {"dynamic": True, "nms": False, "conf": None},
        "MIT",
        "x",
        "2026-01-01",
        "detect",
    )
    assert read_metadata(about.texts(), "x") == about
    assert read_metadata({"names": {0: "a"}, "stride": [8, 16, 32], "imgsz": 320}, "x") == Metadata(
        {0: "a"}, 32, (320, 320)
    )
    assert read_metadata({"names": "{0: 'a\x1b[2J'}", "stride": "32"}, "x").names == {0: "a?[2J"}


# Files that would do harm


class Harm:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def rewritten(source: Path, target: Path, change) -> Path:
    """A copy of an archive; change: (name inside it, content) -> content."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    return target


@pytest.mark.parametrize("inside", ["data/sample_inputs/model.pt", "data/weights/weight_0", "data/constants/tensor_0"])
def test_a_pt2_archive_with_pickles_runs_none(files, tmp_path, inside):
    buffer = io.BytesIO()
    torch.save(Harm(tmp_path / "harm"), buffer)

    def change(name, content):
        if name == "data/weights/model_weights_config.json":
            table = json.loads(content)
            for row in table["config"].values():
                row["use_pickle"] = inside != "data/sample_inputs/model.pt"
            return json.dumps(table)
        return buffer.getvalue() if name == inside else content

    path = rewritten(files / "dynamic.pt2", tmp_path / "x.pt2", change)
    if "sample" in inside:  # which nobody reads here
        assert open_exported(path, "cpu")(torch.rand(1, 3, 64, 64)).shape == (1, 6, 256)
    else:
        with pytest.raises(UserError, match="is pickled"):
            open_exported(path, "cpu")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load",
        "os.system",
        "_operator.methodcaller",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.default",
        "torch.ops.aten.set_.source_Tensor",
        "torch.ops.aten.silu.overloads",
        "torch.ops.inductor.x.default",
        "torch.ops.aten.silu.default.__call__",
        "builtins.eval",
    ],
)
def test_a_pt2_graph_calls_nothing_but_plain_operations(files, tmp_path, target):
    def change(name, content):
        return (
            content.replace(b"torch.ops.aten.silu.default", target.encode(), 1)
            if name == "models/model.json"
            else content
        )

    with pytest.raises(UserError, match="cannot be read as a torch.export archive"):
        open_exported(rewritten(files / "dynamic.pt2", tmp_path / "x.pt2", change), "cpu")


def test_a_pt2_tensor_stays_inside_its_data(files, tmp_path):
    def change(name, content):
        return (
            content.replace(b'"storage_offset": {"as_int": 0}', b'"storage_offset": {"as_int": 1000000}', 1)
            if "config" in name
            else content
        )

    with pytest.raises(UserError, match="cannot be read"):
        open_exported(rewritten(files / "dynamic.pt2", tmp_path / "x.pt2", change), "cpu")


def test_torchscript_that_reaches_files_is_not_opened(files, tmp_path):
    class Reaching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_file("/etc/hostname", False, 4, dtype=torch.uint8) + x

    path = tmp_path / "x.torchscript"
    about = Metadata({0: "a"}, 32, (64, 64)).texts()
    torch.jit.save(torch.jit.script(Reaching()), str(path), _extra_files={"config.txt": json.dumps(about)})
    with pytest.raises(UserError, match="from_file.*not opened"):
        open_exported(path, "cpu")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(Harm(tmp_path / "harm")))
        archive.writestr("x/extra/config.txt", json.dumps(about))
    with pytest.raises(UserError, match="cannot be read as TorchScript"):
        open_exported(path, "cpu")
    assert not (tmp_path / "harm").exists()


@needs_onnx
def test_metadata_that_are_no_text_are_refused(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 32, 32]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    helper.set_model_props(model, {"names": "QQQQQQ"})
    path = tmp_path / "x.onnx"
    onnx.save(model, path)
    path.write_bytes(path.read_bytes().replace(b"QQQQQQ", b"Q\xff\xfeQQQ"))
    with pytest.raises(UserError, match="x.onnx"):
        open_exported(path, "cpu")
