"""Our format: what torch's defaults open, what is refused, and weights in another model."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal

import pytest
import torch

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.models.build import build, resolve_graph
from bitfalcon_plugin.models.detector import Detector
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bitfalcon_plugin.models.weights.transfer import class_width, transfer


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build("yolov12.yaml", "n", nc=2, names={0: "cat", 1: "dog"}).eval()


def test_a_round_trip_gives_the_same_model(tmp_path, model):
    path = tmp_path / "a.pt"
    save_checkpoint(
        path,
        Checkpoint(
            model.graph, model.state_dict(), settings={"imgsz": 320, "path": tmp_path}, metrics={"x": 1.0}, epoch=4
        ),
    )
    content = torch.load(path)
    assert content["format"] == "bitfalcon" and content["version"] == 1 and isinstance(content["state"], dict)
    back = load_checkpoint(path)
    again = back.model()
    x = torch.rand(1, 3, 64, 96)
    assert torch.equal(again.decode(again(x)), model.decode(model(x)))
    assert again.names == {0: "cat", 1: "dog"} and again.graph.scale == "n" and again.graph.variant == "v1"
    assert back.epoch == 4 and back.settings["imgsz"] == 320 and back.training is None
    assert os.listdir(tmp_path) == ["a.pt"]  # nothing temporary is left


def test_a_failed_write_leaves_the_earlier_file(tmp_path, model):
    path = tmp_path / "a.pt"
    save_checkpoint(path, Checkpoint(model.graph, model.state_dict()))
    before = path.read_bytes()
    with pytest.raises(Exception, match="pickle|lambda|local"):
        save_checkpoint(path, Checkpoint(model.graph, model.state_dict(), training={"x": lambda: 0}))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("room", [500, 100_000])
def test_a_full_disk_is_an_error_of_the_system(tmp_path, model, room):
    """torch's writer raises a RuntimeError about its own bookkeeping over it."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[0][1]))
    try:
        with pytest.raises(OSError, match="large"):
            save_checkpoint(tmp_path / "a.pt", Checkpoint(model.graph, model.state_dict()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
        signal.signal(signal.SIGXFSZ, before[1])
    assert os.listdir(tmp_path) == []


class Evil:
    def __reduce__(self):
        return os.system, ("touch canary",)


@pytest.mark.parametrize("name", ["text", "empty", "evil", "cut", "plain", "newer"])
def test_other_files_are_refused_with_what_they_are(tmp_path, monkeypatch, model, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"{name}.pt"
    save_checkpoint(path, Checkpoint(model.graph, model.state_dict()))
    whole = path.read_bytes()
    if name == "plain":
        torch.save({"model": {"x": torch.zeros(1)}}, path)
    elif name == "newer":
        torch.save({**torch.load(path), "version": 99}, path)
    elif name == "evil":
        torch.save({"model": Evil()}, path)
    else:
        path.write_bytes({"text": b"hello", "empty": b"", "cut": whole[: len(whole) // 2]}[name])
    with pytest.raises(UserError, match=f"{name}.pt"):
        load_checkpoint(path)
    assert not (tmp_path / "canary").exists()


def test_a_raw_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError):
        load_checkpoint("x.pt")
    assert not (tmp_path / "canary").exists()


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(MissingFileError, match="Nothing is downloaded"):
        load_checkpoint(tmp_path / "none.pt")


def test_weights_go_into_a_model_of_other_classes_but_not_into_another_graph(model):
    checkpoint = Checkpoint(model.graph, model.state_dict())
    document = {**model.graph.document, "class_width": class_width(checkpoint)}
    other = Detector(resolve_graph(document, named_scale="n", nc=3, names={0: "bird", 1: "Cat", 2: "cow"}))
    report = transfer(other, checkpoint, "a.pt")
    assert (report.remapped, report.new, report.dropped) == (("Cat",), ("bird", "cow"), ("dog",))
    assert "1 classes: Cat" in str(report) and report.copied == len(model.state_dict()) - 6
    for key in ("model.0.conv.weight", "model.21.cv3.0.1.1.conv.weight"):
        assert torch.equal(other.state_dict()[key], model.state_dict()[key])
    for level in range(3):
        for part in ("weight", "bias"):
            ours, theirs = (m.state_dict()[f"model.21.cv3.{level}.2.{part}"] for m in (other, model))
            assert torch.equal(ours[1], theirs[0]) and (part == "bias" or not torch.equal(ours[0], theirs[0]))
    small = build("yolov12.yaml", "s", nc=2)
    before = small.state_dict()["model.0.conv.weight"].clone()
    with pytest.raises(UserError, match="do not fit.*scale=n"):
        transfer(small, checkpoint, "a.pt")
    assert torch.equal(small.state_dict()["model.0.conv.weight"], before)


def test_the_file_opens_memory_mapped_and_with_plain_torch(tmp_path, model):
    save_checkpoint(tmp_path / "a.pt", Checkpoint(model.graph, model.state_dict(), license="L"))
    mapped = torch.load(tmp_path / "a.pt", mmap=True)
    assert list(mapped["state"]) == list(model.state_dict()) and mapped["license"] == "L"
    assert all(torch.equal(mapped["state"][key], tensor) for key, tensor in model.state_dict().items())


def test_a_file_of_the_first_version_keeps_loading(tmp_path, model):
    graph = model.graph
    document = {key: graph.document[key] for key in ("nc", "scales", "backbone", "head")}
    torch.save(
        {  # as version 1 was first written: without rows, norms, source and strides
            "format": "bitfalcon",
            "version": 1,
            "bitfalcon": "0.1.0",
            "date": "2025-01-01T00:00:00",
            "graph": {
                "name": "yolov12.yaml",
                "document": document,
                "scale": "n",
                "variant": "v1",
                "nc": 2,
                "names": {0: "cat", 1: "dog"},
            },
            "state": dict(model.state_dict()),
            "settings": {"imgsz": 320},
            "metrics": {"x": 1.0},
            "epoch": 4,
            "license": None,
            "training": None,
        },
        tmp_path / "a.pt",
    )
    back = load_checkpoint(tmp_path / "a.pt")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(back.model()(x)["scores"], model(x)["scores"])
    assert (back.epoch, back.settings, back.license, back.norms) == (4, {"imgsz": 320}, None, {})


@pytest.mark.parametrize(
    "key, value",
    [
        ("version", "1"),
        ("version", None),
        ("graph", None),
        ("state", [1]),
        ("state", {"a": 1}),
        ("epoch", "x"),
        ("license", 5),
        ("date", None),
        ("settings", None),
        ("training", 3),
        ("norms", {"model.0.bn": 1}),
        ("source", [1]),
        ("graph.names", {"a": "b"}),
        ("graph.nc", "2"),
        ("graph.document", None),
        ("graph.scale", 1),
        ("graph.measured", 4),
        ("graph.measured", [[8, 0], 32]),
        ("graph.measured", [[8, 16], "x"]),
        ("norms", {"a": [1, "x"]}),
    ],
)
def test_entries_that_are_none_are_told(tmp_path, model, key, value):
    save_checkpoint(tmp_path / "a.pt", Checkpoint(model.graph, model.state_dict()))
    content = torch.load(tmp_path / "a.pt")
    outer, _, inner = key.partition(".")
    content[outer] = {**content[outer], inner: value} if inner else value
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match="damaged") as caught:
        load_checkpoint(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


def test_what_a_file_says_cannot_steer_a_terminal(tmp_path, model):
    escape = "\x1b[31mred\n"
    graph = dataclasses.replace(model.graph, names={0: escape, 1: "dog"})
    save_checkpoint(tmp_path / "a.pt", Checkpoint(graph, model.state_dict(), license=escape, date=escape))
    back = load_checkpoint(tmp_path / "a.pt")
    assert (back.license, back.date, back.graph.names) == ("?[31mred", "?[31mred", {0: "?[31mred", 1: "dog"})


def test_a_graph_beyond_the_weights_is_refused_before_it_is_made(tmp_path, model, monkeypatch):
    save_checkpoint(tmp_path / "a.pt", Checkpoint(model.graph, model.state_dict()))
    content = torch.load(tmp_path / "a.pt")
    content["graph"]["document"]["scales"] = {"n": [1.0, 8.0, 16384]}
    torch.save(content, tmp_path / "a.pt")
    monkeypatch.setattr(
        "bitfalcon_plugin.models.detector.Detector.__init__", lambda *_: pytest.fail("a model was built")
    )
    with pytest.raises(UserError, match="do not fit"):
        load_checkpoint(tmp_path / "a.pt").model()


def test_constants_for_a_batch_norm_that_is_not_there_are_told(model):
    with pytest.raises(UserError, match="batch norm model.99.bn"):
        Checkpoint(model.graph, model.state_dict(), norms={"model.99.bn": [1e-3, 0.03]}).model()
