"""Foreign checkpoints through the public API and the command line: real files where they are at hand, or small ones."""

from __future__ import annotations

import gc
import gzip
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.data.dataset import scan
from bitfalcon_plugin.data.formats.dataset_yaml import load_data
from bitfalcon_plugin.models.build import resolve_graph
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.weights.checkpoint import load_checkpoint
from bitfalcon_plugin.models.weights.foreign import identify_checkpoint, open_checkpoint, save_state_dict
from bitfalcon_plugin.tasks.coco import coco_metrics
from bitfalcon_plugin.tasks.metrics import STATS
from tests.data.recorded.fill import image  # noqa: E402
from tests.helpers.foreign import write
from tests.helpers.labels import detections_of
from tests.helpers.paths import RECORDED, SHARED
from tests.helpers.tiny_dataset import dataset
from tests.models.test_conformance import VECTORS, check_output, foreign_state
from tests.train.test_run import GRAPH

real = pytest.mark.skipif(
    not (SHARED / "checkpoints").is_dir(), reason="needs ../shared/checkpoints, which is not in the repository"
)
LICENSE = "AGPL-3.0 (https://example.org)"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A v1 and a turbo file of scale n, as whole pickled models of another package, with half-precision weights."""
    folder = tmp_path_factory.mktemp("foreign")
    for name, vector in (("v1", "checkpoint-v1-n-released-layout"), ("turbo", "checkpoint-turbo-n")):
        state = {k: v.half() if v.is_floating_point() else v for k, v in foreign_state(VECTORS[vector], True).items()}
        write(
            folder / f"{name}.pt",
            state,
            attributes={"names": {i: f"thing{i}" for i in range(80)}, "nc": 80},
            license=LICENSE,
            epoch=-1,
        )
    return folder


@pytest.mark.parametrize("name, vector", [("v1", "checkpoint-v1-n-released-layout"), ("turbo", "checkpoint-turbo-n")])
@torch.inference_mode()
def test_pickled_models_give_the_recorded_outputs(files, name, vector):
    model = YOLO(files / f"{name}.pt").model
    y, _ = model(torch.from_numpy(image(*VECTORS[vector]["input"][2:])).float())
    check_output(y, VECTORS[vector]["output"])
    assert model.names[3] == "thing3"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["yolo11-n", "yolov8-n", "turbo-m", "v1-l"])
@torch.inference_mode()
def test_plain_state_dicts_of_every_family_give_the_recorded_outputs(tmp_path, name, prefix):
    state = {prefix + key: tensor for key, tensor in foreign_state(VECTORS[name], False).items()}
    torch.save({"state_dict": state} if prefix else state, tmp_path / "x.pt")
    model = open_checkpoint(tmp_path / "x.pt").model()
    check_output(
        model.decode(model(torch.from_numpy(image(*VECTORS[name]["input"][2:])).float())),
        VECTORS[name]["output"]["out.0"],
    )


def test_a_graph_of_its_own_is_built_from_the_yaml_in_the_file(tmp_path):
    document = yaml.safe_load(GRAPH)
    model = Detector(resolve_graph(document, named_scale="s")).eval()
    state = dict(model.state_dict())
    write(
        tmp_path / "own.pt", state, attributes={"yaml": {**document, "scale": "s"}, "names": {0: "a", 1: "b", 2: "c"}}
    )
    again = open_checkpoint(tmp_path / "own.pt").model()
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(again(x)["scores"], model(x)["scores"]) and again.names == {0: "a", 1: "b", 2: "c"}
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(UserError, match="without its YAML"):
        open_checkpoint(tmp_path / "bare.pt")


@pytest.mark.parametrize("name", ["v1", "turbo"])
def test_there_and_back_gives_the_same_bytes(files, tmp_path, name):
    source = identify_checkpoint(files / f"{name}.pt").foreign.state
    ours, back = tmp_path / "ours.pt", tmp_path / "back.pt"
    assert main(["convert", str(files / f"{name}.pt"), f"out={ours}"]) == 0
    assert main(["convert", str(ours), f"to={name}", f"out={back}"]) == 0
    found = torch.load(back)
    folded = {key for key in source if key.endswith("pe.conv.bias")}
    means = {key.replace("conv.bias", "bn.running_mean") for key in folded}
    assert set(found) == set(source) and all(not found[key].any() for key in folded)  # folded biases come back as zero
    assert [key for key in found if key not in folded] == [key for key in source if key not in folded]
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(
        open_checkpoint(back).model()(x)["scores"], open_checkpoint(files / f"{name}.pt").model()(x)["scores"]
    )
    for key in set(found) - means - folded:
        assert found[key].dtype == source[key].dtype and torch.equal(found[key], source[key]), key
    assert load_checkpoint(ours).license == LICENSE
    assert main(["convert", str(ours), f"to={'turbo' if name == 'v1' else 'v1'}"]) == 2


def test_info_builds_nothing_and_says_what_the_file_is(files, capsys, monkeypatch):
    monkeypatch.setattr(
        "bitfalcon_plugin.models.detector.Detector.__init__", lambda *_: pytest.fail("a model was built")
    )
    assert main(["info", str(files / "turbo.pt")]) == 0
    out = capsys.readouterr().out
    for words in ("family turbo", "scale n", "detect", "80 classes", "739 tensors", LICENSE, "thing7"):
        assert words in out


def test_a_turbo_file_does_not_go_into_a_v1_graph(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = dataset(tmp_path / "d")
    tokens = [
        "train",
        "model=yolov12.yaml",
        "scale=n",
        f"data={data}",
        "imgsz=64",
        "epochs=1",
        "batch=2",
        "device=cpu",
        "plots=False",
        f"pretrained={files / 'turbo.pt'}",
    ]
    assert main(tokens) == 2
    err = capsys.readouterr().err
    assert "Give variant=turbo" in err and "rows 1 and 3" in err and "positional convolution" in err
    assert not (tmp_path / "runs").exists()
    assert main([*tokens, "variant=turbo"]) == 0
    out = capsys.readouterr().out
    assert "kept" in out and "dropped   80 classes" in out and "new       2 classes: cat, dog" in out
    assert load_checkpoint("runs/detect/train/weights/best.pt").license == LICENSE


def test_fine_tuning_keeps_the_hidden_widths_and_classes_of_the_same_name(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = dataset(tmp_path / "d", keys={"train": "images/train", "val": "images/val", "names": ["new", "Thing5"]})
    assert (
        main(
            [
                "train",
                f"model={files / 'v1.pt'}",
                f"data={data}",
                "imgsz=64",
                "epochs=1",
                "batch=2",
                "device=cpu",
                "plots=False",
            ]
        )
        == 0
    )
    assert "remapped  1 classes: Thing5" in capsys.readouterr().out
    best = load_checkpoint("runs/detect/train/weights/best.pt")
    assert best.state["model.21.cv3.0.2.weight"].shape == (2, 80, 1, 1) and best.model().names == {
        0: "new",
        1: "Thing5",
    }


def test_segmentation_opens_and_goes_back(tmp_path):
    vectors = json.loads(gzip.decompress((RECORDED / "conformance.json.gz").read_bytes()))
    state = foreign_state(vectors["turbo-l-seg"], True)
    path = write(tmp_path / "x.pt", state, license=LICENSE)
    checkpoint = open_checkpoint(path)
    assert checkpoint.graph.variant == "turbo-all-residual" and checkpoint.model().task == "segment"
    assert main(["convert", str(path), f"out={tmp_path / 'ours.pt'}"]) == 0
    assert main(["convert", str(tmp_path / "ours.pt"), "to=turbo", f"out={tmp_path / 'back.pt'}"]) == 0
    back = torch.load(tmp_path / "back.pt")
    assert list(back) == list(state) and all(torch.equal(back[key], state[key]) for key in state)


def test_batch_norm_constants_come_from_the_file(files, tmp_path):
    state = identify_checkpoint(files / "v1.pt").foreign.state
    write(tmp_path / "odd.pt", state, eps=1e-5, momentum=0.1, attributes={"names": {i: str(i) for i in range(80)}})
    model = open_checkpoint(tmp_path / "odd.pt").model()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all((norm.eps, norm.momentum) == (1e-5, 0.1) for norm in norms)


def test_nothing_asks_for_the_makers_package(files, monkeypatch):
    class Blocker:
        def find_spec(self, name, path=None, target=None):
            assert name.partition(".")[0] != "ultralytics", "somebody imports the maker's package"

    monkeypatch.setattr(sys, "meta_path", [Blocker(), *sys.meta_path])
    assert len(YOLO(files / "turbo.pt").model.names) == 80


@real
def test_the_twelve_coco_numbers_of_the_fine_tuned_file():
    recorded = json.loads((SHARED / "conformance" / "predict-bccd.json").read_text())
    spec = load_data(SHARED / "datasets" / "bccd" / "data.yaml")
    samples = scan(spec, "val").samples
    found = YOLO(SHARED / "checkpoints" / recorded["checkpoint"]).predict(
        [str(s.image) for s in samples], stream=True, conf=0.001, iou=0.7, imgsz=320
    )
    rows = [
        torch.cat((torch.full((len(r), 1), float(i)), r.boxes.xyxy[:, :2], r.boxes.xywh[:, 2:], r.boxes.data[:, 4:]), 1)
        for i, r in enumerate(found)
    ]
    stats = coco_metrics(samples, detections_of(torch.cat(rows)), spec.names).stats
    assert [stats[name] for name in STATS] == pytest.approx(recorded["cocoeval_single_label_predict"]["val"], abs=0.001)


@real
def test_the_fine_tuned_file_detects_what_its_maker_recorded():
    recorded = json.loads((SHARED / "conformance" / "predict-bccd.json").read_text())
    model = YOLO(SHARED / "checkpoints" / recorded["checkpoint"])
    for item in recorded["images"]:
        found = model.predict(SHARED / "datasets" / "bccd" / item["file"], imgsz=320)[0]
        expected = torch.tensor(item["xyxy_conf_cls"])
        assert list(found.orig_shape) == item["orig_shape"] and len(found) == len(expected)
        torch.testing.assert_close(found.boxes.xyxy, expected[:, :4], atol=0.001, rtol=0)  # recorded in steps of 0.001
        torch.testing.assert_close(found.boxes.conf, expected[:, 4], atol=0.0006, rtol=0)
        assert torch.equal(found.boxes.cls, expected[:, 5])


def small(path: Path, **attributes: object) -> Path:
    """A file with a graph of its own."""
    document = yaml.safe_load(GRAPH)
    state = dict(Detector(resolve_graph(document, named_scale="s")).state_dict())
    entries = {key: attributes.pop(key) for key in ("license", "date", "epoch", "train_args") if key in attributes}
    return write(path, state, attributes={"yaml": {**document, "scale": "s"}, **attributes}, **entries)


def test_what_a_file_says_cannot_steer_a_terminal(tmp_path, capsys):
    escape = "\x1b[31mred\r\nnext\x07"
    path = small(tmp_path / "x.pt", license=escape, date=escape, epoch=escape, names={0: escape, 1: "b", 2: "c"})
    for command in (["info", f"model={path}"], ["convert", f"model={path}", f"out={tmp_path / 'ours.pt'}"]):
        assert main(command) == 0
        out = capsys.readouterr().out
        assert "red" in out and all(letter == "\n" or letter.isprintable() for letter in out)
    assert load_checkpoint(tmp_path / "ours.pt").license == "?[31mred next?"


@pytest.mark.parametrize(
    "names",
    [
        {"a": "x", "b": "y", "c": "z"},
        {0: "x", 1: "y", 7: "z"},
        {None: "x", 1: "y", 2: "z"},
        ["x"],
        {0: "x", "0": "w", 1: "y", 2: "z"},
    ],
)
def test_class_names_that_fit_no_class_are_left_out_and_told(tmp_path, names, capsys):
    path = small(tmp_path / "x.pt", names=names)
    assert main(["info", f"model={path}"]) == 0 and "note: its class names" in capsys.readouterr().out
    assert open_checkpoint(path).model().names == {0: "0", 1: "1", 2: "2"}


def test_odd_entries_of_a_file_do_no_harm(tmp_path):
    found = open_checkpoint(
        small(
            tmp_path / "x.pt",
            license=["x"],
            date=5,
            epoch=10**300,
            train_args={"data": 5, "imgsz": "big", "single_cls": "no"},
        )
    )
    assert (found.license, found.date, found.epoch, found.settings) == (None, "", -1, {})
    found = open_checkpoint(
        small(tmp_path / "x.pt", license="L", date="D", epoch=3, train_args={"data": "d.yaml", "imgsz": 96, "lr0": 1})
    )
    assert (found.license, found.date, found.epoch, found.settings) == ("L", "D", 3, {"data": "d.yaml", "imgsz": 96})


@pytest.mark.parametrize("rows", [5, "x", [[-1, 1, "Conv", [torch.ones(2), 3]]], [torch.ones(3)]])
def test_a_yaml_in_a_file_that_is_no_graph_is_told(tmp_path, rows):
    path = small(tmp_path / "x.pt", yaml={"backbone": rows, "head": []})
    with pytest.raises(UserError, match="carries a model YAML that is none"):
        open_checkpoint(path)


def test_weights_that_are_not_finite_are_told_on_load_and_by_info(tmp_path, capsys):
    path = small(tmp_path / "x.pt")
    state = dict(identify_checkpoint(path).foreign.state)
    next(iter(state.values()))[0] = float("nan")
    write(path, state, attributes={"yaml": {**yaml.safe_load(GRAPH), "scale": "s"}})
    assert main(["info", f"model={path}"]) == 0 and "hold NaN" in capsys.readouterr().out
    open_checkpoint(path)
    assert capsys.readouterr().out.count("hold NaN") == 1


@pytest.mark.parametrize("name", ["yolo11-n", "yolov8-n"])
def test_weights_of_other_families_are_not_written_under_the_wrong_keys(tmp_path, name):
    state = foreign_state(VECTORS[name], False)
    torch.save(state, tmp_path / "x.pt")
    ours = open_checkpoint(tmp_path / "x.pt")
    with pytest.raises(UserError, match=f"these are {name[:-2]} weights"):
        save_state_dict(ours, "v1", tmp_path / "y.pt")
    assert not (tmp_path / "y.pt").exists()
    back = save_state_dict(ours, name[:-2], tmp_path / "y.pt")
    assert list(back) == list(state) and all(
        torch.equal(back[key], tensor) for key, tensor in torch.load(tmp_path / "y.pt").items()
    )
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_the_licence_goes_along_with_a_plain_state_dict(files, tmp_path, capsys):
    assert main(["convert", f"model={files / 'turbo.pt'}", "to=turbo", f"out={tmp_path / 'plain.pt'}"]) == 0
    plain = torch.load(tmp_path / "plain.pt")
    assert plain._metadata == {"": {"license": LICENSE}} and all(
        isinstance(value, torch.Tensor) for value in plain.values()
    )
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    kept = type(plain)(model.state_dict())
    kept._metadata = plain._metadata
    model.load_state_dict(kept)  # nothing in torch minds it
    assert open_checkpoint(tmp_path / "plain.pt").license == LICENSE
    assert main(["convert", f"model={tmp_path / 'plain.pt'}", f"out={tmp_path / 'ours.pt'}"]) == 0
    capsys.readouterr()
    assert YOLO(tmp_path / "ours.pt", verbose=True).checkpoint.license == LICENSE
    assert capsys.readouterr().out.count(LICENSE) == 1


def test_opening_a_file_leaves_the_random_numbers_and_the_collector_as_they_were(files):
    before = torch.get_rng_state()
    opened = open_checkpoint(files / "v1.pt")
    assert torch.equal(torch.get_rng_state(), before) and gc.isenabled() and opened.model() and gc.isenabled()
    with pytest.raises(UserError):
        open_checkpoint(Path(__file__))
    assert gc.isenabled()
