"""Exports of segmentation models: two outputs in every format, and the masks of the checkpoint from each file."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.nn.autobackend import AutoBackend
from bitfalcon_plugin.export.compare import MismatchError, compare
from bitfalcon_plugin.export.metadata import Metadata
from bitfalcon_plugin.export.network import ExportedNetwork
from bitfalcon_plugin.export.nms import Suppression
from bitfalcon_plugin.export.run import run_export
from bitfalcon_plugin.export.runtimes.runtime import Runtime
from tests.helpers.exports import EVERY, FILES, made, needs_int8, needs_onnx, recipe, rewritten, save, tiny_segment
from tests.helpers.fake_tracker import fake  # noqa: F401  a fixture
from tests.helpers.paths import SHARED
from tests.helpers.tiny_dataset import write_yaml

PREDICT = {"imgsz": 64, "conf": 0.3, "iou": 0.5, "verbose": False}
WEIGHTS = SHARED / "checkpoints/v1-n-seg-nuclei-best.pt"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """best.pt, its dynamic exports in every format here, images and labels."""
    folder = tmp_path_factory.mktemp("segment")
    save(tiny_segment(), folder / "best.pt", settings={"imgsz": 64})
    random = np.random.RandomState(0)
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for index, size in enumerate(((48, 64), (48, 64), (80, 40))):
        Image.fromarray(random.randint(0, 255, (*size, 3), np.uint8)).save(folder / f"images/{index}.png")
    for result in YOLO(folder / "best.pt").predict(folder / "images", **PREDICT):
        result.save_txt(folder / "labels" / f"{Path(result.path).stem}.txt")
    write_yaml(folder / "data.yaml", {"train": "images", "val": "images", "names": ["a", "b"]})
    for format_, name in FILES.items():
        YOLO(folder / "best.pt").export(format=format_, dynamic=True, out=str(folder / name))
    return folder


def assert_same(expected, results, iou=0.99, pixels=1e-3) -> None:
    """Two lists of Results have the same objects, with masks of the same pixels."""
    assert sum(map(len, expected)) > 8 and len(expected) == len(results)
    for one, other in zip(expected, results):
        assert (one.input_shape, one.masks.shape) == (other.input_shape, other.masks.shape)
        torch.testing.assert_close(other.boxes.data, one.boxes.data, rtol=0, atol=pixels)
        first, second = one.masks.data.bool().flatten(1), other.masks.data.bool().flatten(1)
        assert ((first & second).sum(1) / (first | second).sum(1)).min() >= iou


@pytest.mark.parametrize("format_", EVERY)
def test_a_file_predicts_the_masks_of_the_checkpoint(files, format_):
    weights, exported = YOLO(files / "best.pt"), YOLO(files / FILES[format_])
    assert exported.task == "segment" and exported.overrides["task"] == "segment"
    for options in ({}, {"retina_masks": True, "batch": 2}):
        options = {**PREDICT, **options, "source": files / "images"}
        assert_same(weights.predict(**options), exported.predict(**options))


@pytest.mark.parametrize("format_", EVERY)
def test_scripts_get_both_outputs_of_a_file(files, format_):
    images, network = torch.rand(2, 3, 64, 32), tiny_segment()
    with torch.inference_mode():
        raw = network(images)
    decoded, prototypes = AutoBackend(files / FILES[format_])(images)
    torch.testing.assert_close(decoded, network.decode(raw), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(prototypes, raw["prototypes"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("format_", [param for param in EVERY if param.values[0] in ("onnx", "torchscript")])
def test_one_size_and_suppression_inside(files, tmp_path, format_):
    weights, options = YOLO(files / "best.pt"), {**PREDICT, "source": files / "images"}
    fixed = YOLO(weights.export(format=format_, batch=2, out=str(tmp_path / f"fixed.{format_}")))
    assert_same(weights.predict(**options, rect=False), fixed.predict(**options, batch=3, augment=True))
    rule = {"nms": True, "conf": 0.3, "iou": 0.5, "max_det": 50}
    inside = YOLO(weights.export(format=format_, dynamic=True, out=str(tmp_path / f"nms.{format_}"), **rule))
    rows = inside.model(torch.rand(2, 3, 64, 48))
    assert rows["candidates"].shape == (2, 50, 38) and rows["prototypes"].shape == (2, 32, 16, 12)
    for retina in (False, True):
        expected = weights.predict(**options, retina_masks=retina)
        assert_same(expected, inside.predict(**options, retina_masks=retina))


@needs_onnx
def test_the_outputs_of_an_onnx_file(files, folder):
    """Names and shapes of spec/segment-classify.md 1.10."""
    import onnx

    def outputs(path) -> dict[str, list]:
        graph = onnx.load(path).graph
        shapes = {item.name: item.type.tensor_type.shape.dim for item in graph.output}
        return {name: [side.dim_param or side.dim_value for side in shape] for name, shape in shapes.items()}

    model = tiny_segment()
    assert outputs(files / FILES["onnx"]) == {
        "output0": ["batch", 38, "anchors"],
        "output1": ["batch", 32, "mask_height", "mask_width"],
    }
    fixed = run_export(model, made(format="onnx", imgsz=[64, 96], batch=2), "x.yaml").path
    assert outputs(fixed) == {"output0": [2, 38, 96], "output1": [2, 32, 16, 24]}
    inside = run_export(model, made(format="onnx", nms=True, max_det=7, dynamic=True), "x.yaml").path
    assert outputs(inside) == {"output0": ["batch", 7, 38], "output1": ["batch", 32, "mask_height", "mask_width"]}


def test_val_and_the_command_line_take_a_file(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = {"data": str(files / "data.yaml"), "imgsz": 64, "batch": 2, "workers": 0, "plots": False}
    expected = YOLO(files / "best.pt").val(**options)
    metrics = YOLO(files / FILES["torchscript"]).val(**options)
    assert expected.seg.map > 0.02
    assert (metrics.box.map, metrics.seg.map) == pytest.approx((expected.box.map, expected.seg.map), abs=1e-3)
    words = [f"model={files / FILES['pt2']}", f"source={files / 'images'}", "conf=0.3", "save_txt=True"]
    assert main(["predict", *words]) == 0
    (first, *_) = (tmp_path / "runs/segment/predict/labels/0.txt").read_text().splitlines()
    assert len(first.split()) > 5
    capsys.readouterr()
    assert main(["info", str(files / FILES["pt2"])]) == 0 and "task segment" in capsys.readouterr().out


def test_tracks_of_a_file_have_masks(files, fake):
    frame = np.asarray(Image.open(files / "images/0.png"))[..., ::-1]
    tracked, expected = (
        getattr(YOLO(files / FILES["pt2"]), verb)(frame, **PREDICT)[0] for verb in ("track", "predict")
    )
    assert tracked.boxes.is_track and len(tracked.masks) == len(tracked.boxes) == len(expected) > 3
    assert torch.equal(tracked.masks.data, expected.masks.data)


@needs_onnx
def test_a_file_that_does_not_say_its_task_needs_it(files, tmp_path, capsys):
    path = rewritten(files / FILES["onnx"], tmp_path / "x.onnx", task=None)
    with pytest.raises(UserError, match=r"\(3, 38, 64\).*does not say its task: give task=, one of segment"):
        YOLO(path).predict(files / "images", **PREDICT, batch=3)
    expected = YOLO(files / "best.pt").predict(files / "images", **PREDICT)
    assert_same(expected, YOLO(path, task="segment").predict(files / "images", **PREDICT))
    words = [f"model={path}", f"source={files / 'images'}", "conf=0.3", "imgsz=64", "save=False"]
    assert main(["predict", *words]) == 2 and main(["predict", *words, "task=segment"]) == 0
    bare = rewritten(path, tmp_path / "bare.onnx", names=None, stride=None)
    with pytest.raises(UserError, match="no names and stride.*task=segment"):
        YOLO(bare, task="segment")
    plain = rewritten(path, tmp_path / "plain.onnx", task="detect")
    with pytest.raises(UserError, match="task=detect. Its outputs are not known here"):
        YOLO(plain).predict(files / "images", **PREDICT)


@needs_onnx
@pytest.mark.parametrize("suppressed", [False, True])
def test_metadata_as_other_programs_write_them(files, tmp_path, suppressed):
    """Keys and texts as in spec/interface.md section 9."""
    rule = {"nms": True, "conf": 0.3, "iou": 0.5} if suppressed else {}
    ours = YOLO(files / "best.pt").export(format="onnx", dynamic=True, out=str(tmp_path / "ours.onnx"), **rule)
    texts = {
        "description": "a model trained on data.yaml",
        "author": "x",
        "stride": "8",
        "task": "segment",
        "batch": "1",
        "imgsz": "[64, 64]",
        "names": "{0: 'cell', 1: 'nucleus'}",
        "args": str({"batch": 1, "dynamic": True, "simplify": True, "opset": None, "nms": suppressed}),
        "channels": "3",
        "head": "Segment",
        "end2end": "False",
    }
    theirs = YOLO(rewritten(Path(ours), tmp_path / "theirs.onnx", **texts))
    results = theirs.predict(files / "images", **PREDICT)
    assert results[0].names == {0: "cell", 1: "nucleus"} and theirs.task == "segment"
    assert_same(YOLO(files / "best.pt").predict(files / "images", **PREDICT), results)


@pytest.mark.parametrize("suppressed", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda rows, maps: (rows, maps * 1.01),
        lambda rows, maps: (rows, maps[:, :, 1:]),
        lambda rows, maps: (rows, maps / 0),
        lambda rows, maps: (rows[..., :-1], maps),
        lambda rows, maps: (rows.flip(2 if rows.shape[2] == 38 else 1), maps),
    ],
)
def test_the_comparison_sees_wrong_coefficients_and_prototypes(change, suppressed):
    model, images = tiny_segment().fuse(), torch.rand(2, 3, 64, 64)
    suppression = Suppression(2, 0.3, 0.5, 60) if suppressed else None
    network = ExportedNetwork(model, suppression=suppression)

    def runtime(change):
        return lambda images: dict(zip(("candidates", "prototypes"), change(*network(images))))

    agreement = compare(model, runtime(lambda *outputs: outputs), [images], "float32", suppression)
    assert agreement.matched == agreement.count > 20 and max(agreement.further.values()) < 1e-4
    with pytest.raises(MismatchError):
        compare(model, runtime(change), [images], "float32", suppression)


@pytest.mark.parametrize("shape", [(1, 31, 16, 16), (1, 32, 128, 128), (1, 32, 16), (1, 32, 0, 16), (1, 32, 15, 16)])
def test_other_prototypes_than_the_coefficients_need_are_refused(shape):
    about = Metadata({0: "a", 1: "b"}, 8, (64, 64), task="segment")
    runtime = Runtime(Path("x.onnx"), about, torch.device("cpu"), None, None)
    runtime._run = lambda images: (torch.zeros(1, 38, 64), torch.zeros(shape))
    with pytest.raises(UserError, match="gives .1, 38, 64. and .*expected .*for the 2 classes of a model for task=seg"):
        runtime(torch.zeros(1, 3, 64, 64))


def test_wrong_coefficients_alone_are_seen():
    model, images = tiny_segment().fuse(), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        rows, maps = ExportedNetwork(model)(images)
        rows[:, -1] += 0.01 * rows[:, 6:].abs().max()
    with pytest.raises(MismatchError, match="0.01 in coefficients"):
        compare(model, lambda _: {"candidates": rows, "prototypes": maps}, [images], "float32")
    compare(model, lambda _: {"candidates": rows, "prototypes": maps}, [images], "half")


def test_half_precision_keeps_the_masks(files, tmp_path):
    weights = YOLO(files / "best.pt")
    half = YOLO(weights.export(format="torchscript", half=True, dynamic=True, out=str(tmp_path / "half.torchscript")))
    expected, results = (model.predict(files / "images/0.png", **PREDICT) for model in (weights, half))
    assert half.model(torch.rand(1, 3, 64, 64))["prototypes"].dtype == torch.float32
    assert_same(expected * 2, results * 2, iou=0.9, pixels=0.5)


@needs_int8
def test_eight_bits_keep_most_of_the_masks(files, tmp_path):
    weights, source = YOLO(files / "best.pt"), str(files / "images")
    path = weights.export(format="openvino", int8=True, source=source, out=str(tmp_path / "x_openvino_model"))
    assert YOLO(path).predict(source, **PREDICT)[0].masks is not None


def run_recipe(weights: YOLO, image: Path, imgsz: object, monkeypatch, folder: Path) -> dict:
    """The variables of the script of the page, run beside an export of `weights` and an image."""
    monkeypatch.chdir(folder)
    Image.open(image).save("image.jpg", format="PNG")  # without loss
    weights.export(format="onnx", imgsz=imgsz, out="best-seg.onnx")
    variables: dict = {}
    exec(compile(recipe("prototypes"), "README.md", "exec"), variables)
    return variables


def overlaps(script: dict, result) -> torch.Tensor:
    masks, expected = torch.from_numpy(script["masks"]), result.masks.data.bool()
    shown = masks.flatten(1).any(1)  # an object without a pixel is no result
    columns = np.c_[script["boxes"], script["scores"], script["classes"]]
    order = torch.cdist(torch.from_numpy(columns)[shown].float(), result.boxes.data.cpu()).argmin(0)
    first, second = masks[shown][order].flatten(1), expected.flatten(1)
    assert shown.sum() == len(second) == len(order.unique()) > 2
    return (first & second).sum(1) / (first | second).sum(1)


@needs_onnx
def test_the_recipe_of_the_page_gives_the_masks_of_predict(files, tmp_path, monkeypatch, capsys):
    weights = YOLO(files / "best.pt")
    square = tmp_path / "square.png"
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)).save(square)
    script = run_recipe(weights, square, 64, monkeypatch, tmp_path)
    (result,) = YOLO("best-seg.onnx").predict("image.jpg", verbose=False, retina_masks=True)
    assert overlaps(script, result).min() >= 0.99
    shown = script["masks"].any((1, 2))
    np.testing.assert_allclose(script["boxes"][shown], result.boxes.xyxy, atol=1e-3)
    np.testing.assert_allclose(script["scores"][shown], result.boxes.conf, atol=1e-4)
    assert len(re.findall(r"^[ab] .* pixels$", capsys.readouterr().out, re.M)) == len(shown)


@needs_onnx
@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs {WEIGHTS.name} of ../shared")
def test_the_recipe_on_real_images(tmp_path, monkeypatch):
    record = json.loads((SHARED / "conformance/predict-nuclei.json").read_text())
    image = next(row["file"] for row in record["images"] if max(row["orig_shape"]) != record["imgsz"])  # is resized
    script = run_recipe(YOLO(WEIGHTS), SHARED / "datasets/nuclei" / image, record["imgsz"], monkeypatch, tmp_path)
    (result,) = YOLO("best-seg.onnx").predict("image.jpg", verbose=False, retina_masks=True)
    assert overlaps(script, result).mean() >= 0.99
    assert ast.literal_eval(script["metadata"]["names"]) == result.names
