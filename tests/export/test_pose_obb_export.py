"""Exports of pose models and of models for oriented boxes: the Results of the checkpoint from each file."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.bit.packing import pack
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.nn.autobackend import AutoBackend
from bitfalcon_plugin.export.compare import MismatchError, compare
from bitfalcon_plugin.export.formats import EXPORT_FORMATS
from bitfalcon_plugin.export.metadata import read_metadata
from bitfalcon_plugin.export.network import ExportedNetwork
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.run import _suppression, run_export
from bitfalcon_plugin.models.bitify import bitify
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from bitfalcon_plugin.ops.keypoint_layout import KeypointLayout
from tests.helpers.exports import (
    EVERY,
    FILES,
    KEYPOINTS,
    WITH_NMS,
    made,
    needs_int8,
    needs_onnx,
    recipe,
    rewritten,
    save,
    tiny_obb,
    tiny_pose,
)
from tests.helpers.fake_tracker import fake  # noqa: F401  a fixture
from tests.helpers.paths import SHARED
from tests.helpers.ternary import with_scales
from tests.helpers.tiny_dataset import write_yaml

PREDICT = {"imgsz": 64, "conf": 0.3, "iou": 0.5, "verbose": False}
NETWORKS = {"pose": tiny_pose, "obb": tiny_obb}
REAL = {"pose": ("v1-n-gluetubes-pose.pt", "gluetubes"), "obb": ("v1-n-hituav-obb.pt", "hituav")}
TASKS = pytest.mark.parametrize("task", NETWORKS)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder for each task with best.pt, its dynamic exports in every format here, images, labels and data.yaml."""
    root = tmp_path_factory.mktemp("files")
    for task, network in NETWORKS.items():
        folder = root / task
        (folder / "labels").mkdir(parents=True)
        (folder / "images").mkdir()
        save(network(), folder / "best.pt", settings={"imgsz": 64})
        random = np.random.RandomState(0)
        for index, size in enumerate(((48, 64), (48, 64), (80, 40))):
            Image.fromarray(random.randint(0, 255, (*size, 3), np.uint8)).save(folder / f"images/{index}.png")
        for result in YOLO(folder / "best.pt").predict(folder / "images", **PREDICT):
            rows = [line(result, index) for index in range(len(result))]
            (folder / "labels" / f"{Path(result.path).stem}.txt").write_text("\n".join(rows))
        keys = {"train": "images", "val": "images", "names": ["a", "b"]}
        keys |= {**KEYPOINTS, "kpt_shape": [3, 3]} if task == "pose" else {}
        write_yaml(folder / "data.yaml", keys)
        for format_, name in FILES.items():
            YOLO(folder / "best.pt").export(format=format_, dynamic=True, out=str(folder / name))
    return root


def line(result, index: int) -> str:
    """An object of a result as a label; points are moved into the picture."""
    cls = int(result.detections.cls[index])
    if result.obb is not None:
        return " ".join(map(str, [cls, *result.obb.xyxyxyxyn[index].clamp(0, 1).flatten().tolist()]))
    points = [f"{x} {y} 2" for x, y in result.keypoints.xyn[index].clamp(0, 1).tolist()]
    return " ".join(map(str, [cls, *result.boxes.xywhn[index].tolist(), *points]))


def assert_same(expected, results, atol=1e-3) -> None:
    """Two lists of Results have the same objects, with the same points or angles, names and limbs."""
    assert sum(map(len, expected)) > 8 and len(expected) == len(results)
    for one, other in zip(expected, results):
        assert (one.input_shape, one.names, len(one)) == (other.input_shape, other.names, len(other))
        torch.testing.assert_close(other.detections.data, one.detections.data, rtol=0, atol=atol)
        assert (one.boxes is None) == (other.boxes is None) == (one.obb is not None)
        if one.keypoints is not None:
            torch.testing.assert_close(other.keypoints.data, one.keypoints.data, rtol=0, atol=atol)
            assert other.keypoints.limbs == one.keypoints.limbs == [(0, 2), (1, 2)]


@TASKS
@pytest.mark.parametrize("format_", EVERY)
def test_a_file_predicts_what_the_checkpoint_predicts(root, task, format_):
    weights, exported = YOLO(root / task / "best.pt"), YOLO(root / task / FILES[format_])
    assert exported.task == exported.overrides["task"] == task
    for options in ({}, {"batch": 2, "imgsz": [64, 96]}, {"imgsz": 96, "rect": False}):
        options = {**PREDICT, **options, "source": root / task / "images"}
        assert_same(weights.predict(**options), exported.predict(**options))


@TASKS
@pytest.mark.parametrize("format_", EVERY)
def test_scripts_get_the_decoded_outputs_of_a_file(root, task, format_):
    images, network = torch.rand(3, 3, 64, 32), NETWORKS[task]()
    with torch.inference_mode():
        expected = network.decode(network(images))
    backend = AutoBackend(root / task / FILES[format_])
    torch.testing.assert_close(backend(images), expected, rtol=1e-3, atol=1e-3)
    assert getattr(backend, "kpt_shape", None) == ([3, 3] if task == "pose" else None)


@TASKS
@pytest.mark.parametrize("format_", WITH_NMS)
def test_one_size_and_suppression_inside(root, tmp_path, task, format_):
    weights, options = YOLO(root / task / "best.pt"), {**PREDICT, "source": root / task / "images"}
    name = FILES[format_]
    fixed = YOLO(weights.export(format=format_, batch=2, imgsz=[64, 96], out=str(tmp_path / f"fixed-{name}")))
    whole = {**options, "imgsz": [64, 96]}
    assert_same(weights.predict(**whole, rect=False), fixed.predict(**whole, batch=3))
    rule = {"nms": True, "conf": 0.3, "iou": 0.5, "max_det": 50}
    inside = YOLO(weights.export(format=format_, dynamic=True, out=str(tmp_path / f"nms-{name}"), **rule))
    assert inside.model(torch.rand(2, 3, 64, 48)).shape == (2, 50, 15 if task == "pose" else 7)
    assert_same(weights.predict(**options), inside.predict(**options))


@TASKS
@needs_onnx
def test_the_output_and_the_metadata_of_an_onnx_file(root, tmp_path, task):
    """Names and shapes of spec/pose-obb.md 1.7 and 2.11."""
    import onnx

    def read(path) -> tuple[list, dict]:
        graph = onnx.load(path)
        assert [item.name for item in (*graph.graph.input, *graph.graph.output)] == ["images", "output0"]
        sides = graph.graph.output[0].type.tensor_type.shape.dim
        return [side.dim_param or side.dim_value for side in sides], {
            item.key: item.value for item in graph.metadata_props
        }

    weights, further = YOLO(root / task / "best.pt"), 9 if task == "pose" else 1
    assert read(root / task / FILES["onnx"])[0] == ["batch", 6 + further, "anchors"]
    shape, about = read(weights.export(format="onnx", imgsz=[64, 96], batch=2, out=str(tmp_path / "a.onnx")))
    assert shape == [2, 6 + further, 96] and about["task"] == task
    end = "3 keypoints of x y visibility" if task == "pose" else "angle in radians, which turns"
    assert about["layout"].startswith("centre x y, width, height, probability of each of 2 classes, " + end)
    shape, about = read(weights.export(format="onnx", nms=True, max_det=7, dynamic=True, out=str(tmp_path / "b.onnx")))
    assert shape == ["batch", 7, 6 + further]
    start = "x1 y1 x2 y2" if task == "pose" else "centre x y, width, height"
    assert about["layout"].startswith(f"{start}, score, class, {end}")
    written = {key: ast.literal_eval(about[key]) for key in KEYPOINTS if key in about}
    assert written == (KEYPOINTS if task == "pose" else {}) and ("kpt_shape" in about) == (task == "pose")


@TASKS
def test_val_of_a_file_is_that_of_the_checkpoint(root, tmp_path, monkeypatch, capsys, task):
    monkeypatch.chdir(tmp_path)
    options = {"data": str(root / task / "data.yaml"), "imgsz": 64, "batch": 2, "workers": 0, "plots": False}
    expected = YOLO(root / task / "best.pt").val(**options)
    metrics = YOLO(root / task / FILES["torchscript"]).val(**options)
    assert expected.fitness > 0.1 and len(expected.results_dict) == (9 if task == "pose" else 5)
    assert metrics.results_dict == pytest.approx(expected.results_dict, abs=1e-3)
    words = [f"model={root / task / FILES['pt2']}", f"source={root / task / 'images'}", "conf=0.3", "save_txt=True"]
    assert main(["predict", *words]) == 0
    (first, *_) = (tmp_path / f"runs/{task}/predict/labels/0.txt").read_text().splitlines()
    assert len(first.split()) == (5 + 9 if task == "pose" else 9)
    capsys.readouterr()
    assert main(["info", str(root / task / FILES["pt2"])]) == 0 and f"task {task}" in capsys.readouterr().out


@TASKS
def test_tracks_of_a_file_are_those_of_the_checkpoint(root, fake, task):
    frame = np.asarray(Image.open(root / task / "images/0.png"))[..., ::-1]
    files = (FILES["pt2"], "best.pt")
    (tracked,), (expected,) = (YOLO(root / task / name).track(frame, **PREDICT) for name in files)
    assert tracked.detections.is_track and len(tracked) == len(expected) > 3
    assert tracked.detections.id.tolist() == expected.detections.id.tolist()
    if task == "pose":
        torch.testing.assert_close(tracked.keypoints.data, expected.keypoints.data, rtol=0, atol=1e-3)
    else:
        assert tracked.obb.data.shape == (len(tracked), 8)
        torch.testing.assert_close(tracked.obb.xywhr, expected.obb.xywhr, rtol=0, atol=1e-3)


@TASKS
@pytest.mark.parametrize("format_", EVERY)
@pytest.mark.parametrize("nms", [False, True])
def test_half_precision(root, tmp_path, task, format_, nms):
    if nms and "nms" not in EXPORT_FORMATS[format_].options:
        pytest.skip(f"{format_} takes no nms=True")
    options = {"nms": True, "conf": 0.3, "iou": 0.5} if nms else {}
    out = str(tmp_path / FILES[format_])
    path = YOLO(root / task / "best.pt").export(format=format_, half=True, dynamic=True, out=out, **options)
    half = YOLO(path).predict(root / task / "images/0.png", **PREDICT)
    expected = YOLO(root / task / "best.pt").predict(root / task / "images/0.png", **PREDICT)
    assert abs(len(half[0]) - len(expected[0])) <= 3
    near = torch.cdist(half[0].detections.xywhr if task == "obb" else half[0].boxes.xywh,
                       expected[0].detections.xywhr if task == "obb" else expected[0].boxes.xywh).amin(1)  # fmt: skip
    assert (near < 0.5).float().mean() > 0.8


@needs_int8
@TASKS
def test_eight_bits(root, tmp_path, task):
    weights, source = YOLO(root / task / "best.pt"), str(root / task / "images")
    for name, rule in (("x", {}), ("y", {"nms": True, "conf": 0.3, "iou": 0.5})):
        out = str(tmp_path / f"{name}_openvino_model")
        path = weights.export(format="openvino", int8=True, source=source, out=out, **rule)
        assert len(YOLO(path).predict(source, **PREDICT)[0]) > 3


@needs_onnx
@pytest.mark.parametrize("suppressed", [False, True])
@TASKS
def test_metadata_as_other_programs_write_them(root, tmp_path, task, suppressed):
    """Keys and texts as in spec/interface.md section 9 and spec/pose-obb.md 1.7."""
    rule = {"nms": True, "conf": 0.3, "iou": 0.5} if suppressed else {}
    ours = YOLO(root / task / "best.pt").export(format="onnx", dynamic=True, out=str(tmp_path / "ours.onnx"), **rule)
    own = dict.fromkeys((*KEYPOINTS, "multiple", "layout", "transform"))
    texts = {**own, "stride": "8", "task": task, "batch": "1", "imgsz": "[64, 64]", "names": "{0: 'tube', 1: 'b'}"}
    texts["args"] = str({"batch": 1, "dynamic": True, "nms": suppressed})
    if task == "pose":
        texts |= {"kpt_shape": "[3, 3]", "kpt_names": "{0: ['x', 'y', 'z']}"}
    theirs = YOLO(rewritten(Path(ours), tmp_path / "theirs.onnx", **texts))
    results = theirs.predict(root / task / "images", **PREDICT)
    expected = YOLO(root / task / "best.pt").predict(root / task / "images", **PREDICT)
    for one, other in zip(expected, results, strict=True):
        torch.testing.assert_close(other.detections.data, one.detections.data, rtol=0, atol=1e-3)
    assert results[0].names[0] == "tube" and theirs.task == task
    if task == "pose":
        assert theirs.model.keypoints == KeypointLayout(3, 3, names={0: ("x", "y", "z")})


def test_keys_about_keypoints(capsys):
    texts = {"names": "['a', 'b']", "stride": "8", "task": "pose", "kpt_shape": "[3, 2]"}
    assert read_metadata(texts, "x.onnx").keypoints == KeypointLayout(3, 2)
    assert not capsys.readouterr().err
    odd = {**texts, "kpt_shape": "[3.0, 2]", "flip_idx": "[0, 0, 1]", "kpt_names": "{7: ['x']}", "skeleton": "[[0, 1]]"}
    assert read_metadata(odd, "x.onnx").keypoints == KeypointLayout(3, 2)
    said = capsys.readouterr().err
    assert "'x.onnx': not used of its metadata: " in said and "flip_idx: [0, 0, 1]" in said and "kpt_names" in said
    for shape in (None, "[3]", "[3, 4]", "[0, 2]", "'x'"):
        with pytest.raises(UserError, match="kpt_shape"):
            read_metadata({**texts, "kpt_shape": shape}, "x.onnx")


@TASKS
@pytest.mark.parametrize("column, amount", [(6, 0.2), (-1, 0.01)])
@pytest.mark.parametrize("suppressed", [False, True])
def test_the_comparison_sees_wrong_points_visibilities_and_angles(task, column, amount, suppressed):
    """Behind the box and the classes: x of the first point, the last visibility, or the angle."""
    model, images = NETWORKS[task]().fuse(), torch.rand(2, 3, 64, 64)
    rule = _suppression(model, made(nms=True, conf=0.3, iou=0.5, max_det=60)) if suppressed else None
    network = ExportedNetwork(model, suppression=rule)
    with torch.inference_mode():
        right = network(images)
    agreement = compare(model, lambda _: right, [images], "float32", rule)
    assert agreement.matched == agreement.count > 20 and max(agreement.further.values()) < 1e-3
    names = {"pose": ["points", "visibilities"], "obb": ["angles"]}[task]
    assert list(agreement.further) == names and all(name in agreement.describe() for name in names)
    wrong = right.clone()
    (wrong if suppressed else wrong.transpose(1, 2))[..., column] += amount
    with pytest.raises(MismatchError):
        compare(model, lambda _: wrong, [images], "float32", rule)


@TASKS
@pytest.mark.parametrize("policy", ["head", "all"])
def test_packed_ternary_layers_are_exported(folder, capsys, task, policy):
    """Writing compares the file with the network."""
    model = NETWORKS[task]()
    assert any(".cv4." in name for name in bitify(model, policy).changed)
    pack(with_scales(model), "bit.pt", half=False)
    packed = load_checkpoint("bit.pt").model()
    for options in ({"dynamic": True}, {"nms": True, "conf": 0.1, "iou": 0.5}):
        run_export(packed, made(format="torchscript", **options), "bit.pt")
    assert capsys.readouterr().out.count("boxes matched") == 2
    assert open_exported("bit.torchscript").suppressed


@pytest.mark.parametrize("columns", [2, 3])
def test_points_without_visibility(tmp_path, columns):
    weights = YOLO(save(tiny_pose(columns=columns), tmp_path / "best.pt", settings={"imgsz": 64}))
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (48, 64, 3), np.uint8)).save(tmp_path / "a.png")
    exported = YOLO(weights.export(format="torchscript", nms=True, conf=0.3, iou=0.5))
    (result,) = exported.predict(tmp_path / "a.png", **PREDICT)
    (expected,) = weights.predict(tmp_path / "a.png", **PREDICT, rect=False)
    torch.testing.assert_close(result.keypoints.data, expected.keypoints.data, rtol=0, atol=1e-3)
    assert (result.keypoints.conf is None) == (columns == 2) and len(result) > 3


@TASKS
@pytest.mark.parametrize("format_", ["torchscript", pytest.param("onnx", marks=needs_onnx)])
def test_files_of_trained_checkpoints(tmp_path, task, format_):
    name, data = REAL[task]
    if not (SHARED / "checkpoints" / name).is_file():
        pytest.skip(f"needs {name} of ../shared")
    weights, images = YOLO(SHARED / "checkpoints" / name), sorted((SHARED / "datasets" / data / "images/val").iterdir())
    options = {"source": list(map(str, images[:3])), "verbose": False, "imgsz": 320}
    out = str(tmp_path / FILES[format_])
    exported = YOLO(weights.export(format=format_, imgsz=320, dynamic=True, nms=True, out=out))
    for one, other in zip(weights.predict(**options), exported.predict(**options), strict=True):
        assert len(one) == len(other) > 0
        torch.testing.assert_close(other.detections.data, one.detections.data, rtol=0, atol=1e-3)
        if task == "pose":
            torch.testing.assert_close(other.keypoints.data, one.keypoints.data, rtol=0, atol=1e-3)


def picture_of(root: Path, task: str, real: bool) -> tuple[YOLO, Image.Image]:
    """A model and a picture that it finds objects in; the one that is not real fits the input without resizing."""
    if not real:
        return YOLO(root / task / "best.pt"), Image.open(root / task / "images/0.png")
    name, data = REAL[task]
    if not (SHARED / "checkpoints" / name).is_file():
        pytest.skip(f"needs {name} of ../shared")
    (image, *_) = sorted((SHARED / "datasets" / data / "images/val").iterdir())
    return YOLO(SHARED / "checkpoints" / name), Image.open(image)


@needs_onnx
@TASKS
@pytest.mark.parametrize("real", [False, True])
def test_the_recipe_of_the_page_gives_what_predict_gives(root, tmp_path, monkeypatch, capsys, task, real):
    weights, image = picture_of(root, task, real)
    monkeypatch.chdir(tmp_path)
    image.save("image.jpg", format="PNG")  # without loss
    weights.export(format="onnx", imgsz=[256, 320] if real else 64, out=f"best-{task}.onnx")
    variables: dict = {}
    exec(compile(recipe(f"best-{task}.onnx"), "README.md", "exec"), variables)
    (result,) = YOLO(f"best-{task}.onnx").predict("image.jpg", verbose=False)
    found, count = result.detections, len(result)
    assert count > 2 and len(variables["boxes"]) == count
    np.testing.assert_allclose(variables["scores"], found.conf, atol=1e-4)
    np.testing.assert_array_equal(variables["classes"], found.cls)
    np.testing.assert_allclose(variables["boxes"], found.xywhr if task == "obb" else found.xyxy, atol=1e-2)
    if task == "obb":
        np.testing.assert_allclose(variables["corners"], found.xyxyxyxy, atol=1e-2)
    else:
        np.testing.assert_allclose(variables["points"], result.keypoints.data, atol=1e-2)
    lines = capsys.readouterr().out.strip().splitlines()[-count:]
    assert all(line.split()[0] in result.names.values() for line in lines)
