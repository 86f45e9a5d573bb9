"""Packing: the outputs of a packed model, its size, what cannot be packed, and what may be done with the file."""

from __future__ import annotations

import copy
import dataclasses
import os

import pytest
import torch
import yaml

from bitfalcon_plugin import YOLO
from bitfalcon_plugin.bit.packing import pack, rounded, sizes
from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.settings import load_settings
from bitfalcon_plugin.models.build import read_graph, resolve_graph
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.modules.head import Raw
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bitfalcon_plugin.models.weights.foreign import save_state_dict
from bitfalcon_plugin.models.weights.packed_layout import lines_of
from bitfalcon_plugin.models.weights.trits import CODECS
from tests.helpers.coloured import GRAPH
from tests.helpers.packed import NAMES, small_ternary_model, write_packed
from tests.helpers.ternary import assert_equal


@pytest.fixture
def model():
    return small_ternary_model()


@pytest.fixture
def path(tmp_path):
    return write_packed(tmp_path)


@torch.no_grad()
def outputs(model: Detector) -> list[torch.Tensor]:
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    raw = model(x)
    raw = raw if isinstance(raw, Raw) else model.raw_of(raw)  # of a network that YOLO.model gives
    return [raw["boxes"], raw["scores"], model.decode(raw)]


@pytest.mark.parametrize("fmt", CODECS)
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("source", ["model", "folded", "checkpoint"])
def test_outputs_are_those_of_the_rounded_model(tmp_path, model, fmt, half, source):
    folded = copy.deepcopy(model).fuse()
    checkpoint = Checkpoint(model.graph, model.state_dict(), license="L", epoch=3)
    before = outputs(folded)
    pack({"model": model, "folded": folded, "checkpoint": checkpoint}[source], tmp_path / "a.pt", fmt, half)
    assert all(map(torch.equal, outputs(folded), before))  # pack leaves its argument unchanged
    packed = load_checkpoint(tmp_path / "a.pt")
    after = outputs(packed.model())
    assert all(map(torch.equal, after, outputs(rounded(copy.deepcopy(folded)) if half else folded)))
    assert half is not torch.equal(after[0], before[0]) and torch.allclose(after[0], before[0], rtol=0.05, atol=0.05)
    assert packed.packed == fmt and (packed.license, packed.epoch) == (
        ("L", 3) if source == "checkpoint" else (None, -1)
    )
    assert packed.graph.names == NAMES and packed.measured is not None


def test_float_models_unknown_formats_and_infinite_weights_are_refused(tmp_path, model):
    plain = Detector(resolve_graph(yaml.safe_load(GRAPH), named_scale="n", nc=3))
    with pytest.raises(UserError, match="no ternary layer"):
        pack(plain, tmp_path / "a.pt")
    with pytest.raises(UserError, match="t7.*t5"):
        pack(model, tmp_path / "a.pt", "t7")
    broken = copy.deepcopy(model)
    broken.head.cv2[0][-1].weight.data[0] = float("inf")
    with pytest.raises(UserError, match="NaN or infinite"):
        pack(broken, tmp_path / "a.pt")
    assert os.listdir(tmp_path) == []


def test_a_layer_that_cannot_be_folded_is_refused(tmp_path, model):
    mirrored = copy.deepcopy(model)
    mirrored.model[1].conv.padding_mode = "reflect"
    with pytest.raises(UserError, match="model.1.conv.*keep="):
        pack(mirrored, tmp_path / "a.pt")


def test_the_order_in_memory_does_not_matter(path, model, tmp_path):
    other = copy.deepcopy(model).fuse().to(memory_format=torch.channels_last)
    pack(other, tmp_path / "other.pt")
    assert_equal(load_checkpoint(path).state, load_checkpoint(tmp_path / "other.pt").state)


def test_from_one_format_to_the_other(path, tmp_path):
    first = load_checkpoint(path)
    pack(first, tmp_path / "b.pt", "t2")
    second = load_checkpoint(tmp_path / "b.pt")
    assert second.packed == "t2"
    assert_equal(first.state, second.state)


def test_weights_beyond_sixteen_bits_stay_whole(tmp_path, model):
    large = copy.deepcopy(model)
    large.head.cv2[0][-1].weight.data.mul_(1e6)
    pack(large, tmp_path / "a.pt")
    name = f"model.{len(model.model) - 1}.cv2.0.2.weight"
    assert torch.equal(load_checkpoint(tmp_path / "a.pt").state[name], large.head.cv2[0][-1].weight)


def test_yolo_predicts_validates_and_saves_a_packed_model(place, model):
    settings = {"data": "data/data.yaml", "imgsz": 64}
    pack(Checkpoint(model.graph, model.state_dict(), settings=settings, license="L"), place / "small-bit.pt")
    yolo = YOLO("small-bit.pt")
    assert yolo.names == NAMES
    assert all(map(torch.equal, outputs(yolo.model), outputs(rounded(copy.deepcopy(model).fuse()))))
    results = yolo.predict("data/images/val", imgsz=64, conf=0.001)
    assert len(results) == 4 and sum(map(len, results))
    assert 0 <= yolo.val(imgsz=64, plots=False).box.map <= 1
    yolo.save("saved.pt")
    first, second = load_checkpoint("small-bit.pt"), load_checkpoint("saved.pt")
    assert second.packed == "t5" and second.license == "L" and list(second.state) == list(first.state)
    assert_equal(first.state, second.state)
    with pytest.raises(UserError, match="packed model"):
        yolo.load("saved.pt")
    assert (place / "saved.pt").stat().st_size <= (place / "small-bit.pt").stat().st_size + 200


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: YOLO("small-bit.pt").train(data="data/data.yaml", epochs=1),
        lambda: YOLO("small.yaml").load("small-bit.pt"),
        lambda: YOLO("small.yaml").train(data="data/data.yaml", epochs=1, pretrained="small-bit.pt", plots=False),
        lambda: YOLO("small-bit.pt").train(resume="small-bit.pt"),
    ],
)
def test_a_packed_model_is_not_trained(place, attempt):
    write_packed(place)
    with pytest.raises(UserError, match="packed model.*Give the checkpoint that it was packed from"):
        attempt()


def test_a_packed_model_is_trained_from_new_weights(tmp_path):
    fresh = YOLO(write_packed(tmp_path)).reset_weights()
    assert not fresh.checkpoint.packed and isinstance(fresh.checkpoint.to_train("x"), Checkpoint)


def test_the_commands_refuse_to_train_and_convert_a_packed_model(place, capsys):
    write_packed(place)
    with pytest.raises(UserError, match="to=v1: a packed model"):
        save_state_dict(load_checkpoint("small-bit.pt"), "v1", place / "x.pt")
    assert main(["train", "model=small-bit.pt", "data=data/data.yaml", "epochs=1"]) == 2
    assert "packed" in capsys.readouterr().err
    assert main(["convert", "small-bit.pt", "to=v1", "out=x.pt"]) == 2
    assert "packed" in capsys.readouterr().err and not (place / "x.pt").exists()


def test_info_shows_the_format_and_the_size(path, capsys):
    assert main(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    weights = sum(line.count for line in lines_of(load_checkpoint(path).state) if line.store == "t")
    for text in (
        "packed as t5 (five ternary weights in a byte)",
        f"{path.stat().st_size:,} bytes",
        f"{weights:,} ternary",
    ):
        assert text in printed


def test_a_packed_yolov12_has_the_size_of_its_formula(tmp_path):
    names = {index: f"class number {index}" for index in range(80)}
    graph = read_graph("yolov12.yaml", "n", nc=80, names=names)
    document = {**graph.document, "bit": "all"}
    model = Detector(resolve_graph(document, name=graph.name, named_scale="n", nc=80, names=names))
    settings = {**load_settings({}).as_dict(), "data": "/home/somebody/datasets/coco/data.yaml"}
    metrics = {"metrics/mAP50-95(B)": 0.4}
    path = tmp_path / "yolov12n-bit.pt"
    packed = pack(Checkpoint(model.graph, model.state_dict(), settings=settings, metrics=metrics), path)
    file_size = path.stat().st_size
    assert file_size <= 720_000
    head, whole = (sizes(packed)[part] for part in ("head", "whole"))
    assert head["t5"] <= 220_000 and head["t2"] <= 220_000
    lines = lines_of(packed.state)
    counts = {store: sum(line.count for line in lines if line.store == store) for store in "tbhf"}
    channels = sum(tensor.numel() for name, tensor in packed.state.items() if name.endswith(".scale"))
    formula = counts["t"] / 5 + counts["b"] + 2 * counts["h"] + 4 * counts["f"] + 8 * channels
    assert abs(whole["t5"] / formula - 1) < 0.03 and abs(file_size / formula - 1) < 0.03
    assert whole["t5"] < whole["t2"] < whole["fp16"] == whole["fp32"] // 2
    assert abs(whole["file t5"] - file_size) < 1000 and whole["file t2"] <= 850_000
    save_checkpoint(path, dataclasses.replace(packed, packed="t2"))
    assert path.stat().st_size <= 850_000
