"""Safetensors and folders of the Hub: equal to the last bit, opened by every verb, and headers that lie."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("safetensors", reason="safetensors is not installed")
from safetensors.torch import load_file, save_file  # noqa: E402

from bitfalcon_plugin import YOLO  # noqa: E402
from bitfalcon_plugin.cli import main  # noqa: E402
from bitfalcon_plugin.config.errors import UserError  # noqa: E402
from bitfalcon_plugin.models.build import resolve_graph  # noqa: E402
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint  # noqa: E402
from bitfalcon_plugin.models.weights.foreign import open_checkpoint  # noqa: E402
from bitfalcon_plugin.models.weights.hub_folder import MARK, write_folder  # noqa: E402
from tests.helpers.coloured import place  # noqa: E402, F401  the fixture
from tests.helpers.exports import tiny_classify, tiny_obb, tiny_pose, tiny_segment  # noqa: E402
from tests.helpers.packed import small_ternary_model, write_packed  # noqa: E402
from tests.helpers.small_yolo import predict_boxes, same_boxes, save_weights  # noqa: E402
from tests.helpers.tiny_models import CONV, small_model  # noqa: E402

EVENTS: list[tuple[str, tuple]] = []
WATCHED: list[bool] = []


def _hook(event: str, arguments: tuple) -> None:
    if WATCHED and event in ("pickle.find_class", "socket.connect", "socket.getaddrinfo"):
        EVENTS.append((event, arguments))


sys.addaudithook(_hook)


@pytest.fixture()
def watched():
    """Collects what is unpickled and every address, which must be nothing."""
    EVENTS.clear()
    WATCHED.append(True)
    yield
    WATCHED.clear()
    assert EVENTS == []


def tiny_detect():
    torch.manual_seed(0)
    return small_model(CONV).eval()


MODELS = {f.__name__[5:]: f for f in (tiny_detect, tiny_segment, tiny_classify, tiny_pose, tiny_obb)}
SAID = {"license": "AGPL-3.0", "epoch": 4, "settings": {"imgsz": 64, "data": "/home/me/boats.yaml", "lr0": 0.1 + 0.2}}


@pytest.mark.parametrize("form", ["x.safetensors", "folder/"])
@pytest.mark.parametrize("task", MODELS)
def test_all_that_a_checkpoint_holds_comes_back_to_the_last_bit(tmp_path, monkeypatch, watched, task, form):
    monkeypatch.chdir(tmp_path)
    model = MODELS[task]()
    norms = {name: [2e-5, 0.1] for name, part in model.named_modules() if isinstance(part, torch.nn.BatchNorm2d)}
    first = Checkpoint(
        model.graph, model.state_dict(), metrics={"a": 1 / 3}, norms=norms, source={"folded": True}, **SAID
    )
    if form == "folder/":
        write_folder(Path("folder"), first)
    else:
        save_checkpoint(form, first)
    back = load_checkpoint(form)
    assert back.state.keys() == first.state.keys()
    assert all(torch.equal(back.state[name], tensor) for name, tensor in first.state.items())
    assert all(back.state[name].dtype == tensor.dtype for name, tensor in first.state.items())
    for name in ("settings", "metrics", "epoch", "license", "norms", "source"):
        assert getattr(back, name) == getattr(first, name)
    assert back.graph.names == model.graph.names and back.graph.rows == model.graph.rows
    save_checkpoint("back.pt", back)
    save_checkpoint("first.pt", replace(first, date=back.date))
    one, other = torch.load("first.pt"), torch.load("back.pt")
    assert all(one[key] == other[key] for key in one if key != "state"), task


def test_class_and_keypoint_numbers_are_numbers_again(tmp_path):
    model = tiny_pose()
    names = {0: [f"p{i}" for i in range(model.graph.keypoints.count)]}
    graph = resolve_graph({**model.graph.document, "kpt_names": names}, nc=1, names={0: "7"}, named_scale="n")
    save_checkpoint(tmp_path / "x.safetensors", Checkpoint(graph, model.state_dict()))
    back = load_checkpoint(tmp_path / "x.safetensors").graph
    assert back.names == {0: "7"} and back.document["kpt_names"] == names and back.keypoints == graph.keypoints


@pytest.mark.parametrize("form", ["bit.safetensors", "bit/"])
def test_a_packed_model_stays_packed(tmp_path, monkeypatch, watched, capsys, form):
    monkeypatch.chdir(tmp_path)
    write_packed(tmp_path)
    assert main(["convert", "small-bit.pt", f"out={form}"]) == 0
    assert main(["convert", f"model={form}", "out=back.pt"]) == 0
    one, other = torch.load("small-bit.pt"), torch.load("back.pt")
    pieces = [key for key, value in one.items() if isinstance(value, torch.Tensor)]
    assert len(pieces) == 4 and all(torch.equal(one[key], other[key]) for key in pieces)
    assert all(one[key] == other[key] for key in one if key not in pieces)  # the checksum too
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(load_checkpoint(form).model()(x)["scores"], load_checkpoint("small-bit.pt").model()(x)["scores"])
    capsys.readouterr()
    assert main(["info", form]) == 0 and "packed as t5" in capsys.readouterr().out


def test_pack_writes_safetensors(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = small_ternary_model()
    save_checkpoint("ternary.safetensors", Checkpoint(model.graph, model.state_dict()))
    assert main(["bit", "mode=pack", "model=ternary.safetensors", "out=bit.safetensors"]) == 0
    assert load_checkpoint("bit.safetensors").packed == "t5"
    assert main(["train", "model=bit.safetensors", "data=x.yaml"]) == 2 and "packed model" in capsys.readouterr().err


def test_track_opens_them(place, watched):
    pytest.importorskip("trackers")
    save_weights(place, "best.pt", settings={"imgsz": 64})
    assert main(["convert", "best.pt", "out=x.safetensors"]) == main(["convert", "best.pt", "out=hub/"]) == 0
    for name in ("x.safetensors", "hub"):
        assert main(f"track {name} source=data/images/val imgsz=64 device=cpu save=False".split()) == 0


def test_every_verb_opens_them(place, watched, capsys):
    save_weights(place, "best.pt", license="CC0", settings={"imgsz": 64})
    assert main(["convert", "best.pt", "out=x.safetensors"]) == main(["convert", "best.pt", "out=hub/"]) == 0
    expected = predict_boxes(YOLO("best.pt"))
    for name in ("x.safetensors", "hub", "hub/", "x"):
        assert same_boxes(predict_boxes(YOLO(name)), expected)
    for name in ("x.safetensors", "hub"):
        for line in (
            f"info {name}",
            f"val {name} data=data/data.yaml imgsz=64 device=cpu plots=False workers=0",
            f"predict {name} source=data/images/val imgsz=64 device=cpu save=False",
            f"export {name} format=torchscript imgsz=64 device=cpu out={name}.torchscript",
            f"train {name} data=data/data.yaml epochs=1 imgsz=64 batch=5 device=cpu workers=0 plots=False val=False",
            f"train small.yaml pretrained={name} data=data/data.yaml epochs=1 imgsz=64 batch=5 device=cpu workers=0 "
            "plots=False val=False",
            f"bit mode=scan model={name} data=data/data.yaml imgsz=64 device=cpu workers=0 name=scan-{name}",
            f"predict {name} source=data/images/val imgsz=64 device=cpu save=False shard=1/1 name=shard-{name}",
        ):
            capsys.readouterr()
            assert main(line.split()) == 0, (line, capsys.readouterr())
    assert main(["convert", "x.safetensors", "out=x.safetensors"]) == 2
    assert "is the file to convert" in capsys.readouterr().err
    assert main(["convert", "hub", "out=x.safetensors"]) == 2
    assert "in our format already" in capsys.readouterr().err


def test_save_and_load_take_them(place, watched):
    save_weights(place, "best.pt")
    yolo = YOLO("best.pt")
    yolo.save("x.safetensors")
    yolo.save("hub/")
    with pytest.raises(UserError, match="ends in .pt or .safetensors, or a folder that ends with a slash"):
        yolo.save("x.bin")
    fresh = YOLO("small.yaml").load("hub")
    assert same_boxes(predict_boxes(fresh), predict_boxes(yolo))
    yolo.save("x.safetensors")  # over a file that is loaded
    assert same_boxes(predict_boxes(YOLO("x.safetensors")), predict_boxes(yolo))


def test_makers_keys_as_safetensors_and_back(tmp_path, monkeypatch, capsys):
    from bitfalcon_plugin.models.build import build

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = build("yolov12.yaml", "n", nc=2)
    save_checkpoint("ours.safetensors", Checkpoint(model.graph, model.state_dict(), license="AGPL-3.0"))
    assert main(["convert", "ours.safetensors", "to=v1", "out=theirs.safetensors"]) == 0
    assert main(["convert", "ours.safetensors", "to=v1", "out=theirs.pt"]) == 0
    theirs = load_file("theirs.safetensors")
    pickled = torch.load("theirs.pt")
    assert theirs.keys() == pickled.keys() and all(torch.equal(theirs[key], pickled[key]) for key in theirs)
    back = open_checkpoint("theirs.safetensors", say=lambda text: None)
    assert back.license == "AGPL-3.0" and back.source["family"] == "v1"
    assert all(torch.equal(back.state[name], tensor) for name, tensor in model.state_dict().items())


def test_a_folder_has_a_page_with_licence_data_and_metrics(tmp_path):
    model = tiny_detect()
    model.graph = replace(model.graph, names={0: "cat | <b>", 1: "`dog`"})
    write_folder(tmp_path / "hub", Checkpoint(model.graph, model.state_dict(), metrics={"m/AP": 0.25}, **SAID))
    assert sorted(os.listdir(tmp_path / "hub")) == ["README.md", "config.json", "model.safetensors"]
    page = (tmp_path / "hub/README.md").read_text()
    front = yaml.safe_load(page.split("---\n")[1])
    assert front["license"] == "agpl-3.0" and front["pipeline_tag"] == "object-detection"
    assert front["model-index"][0]["results"][0]["metrics"] == [{"type": "m/AP", "value": 0.25}]
    assert "| m/AP | 0.25 |" in page and "boats.yaml" in page and "/home/me" not in page and "<b>" not in page
    config = json.loads((tmp_path / "hub/config.json").read_text())
    assert config["id2label"] == {"0": "cat | <b>", "1": "`dog`"} and config["license"] == "AGPL-3.0"
    (tmp_path / "hub/README.md").write_text("mine")
    write_folder(tmp_path / "hub", Checkpoint(model.graph, model.state_dict()))
    assert (tmp_path / "hub/README.md").read_text() == "mine" and MARK in page
    (tmp_path / "hub/config.json").write_text("{}")
    with pytest.raises(UserError, match="of another program"):
        write_folder(tmp_path / "hub", Checkpoint(model.graph, model.state_dict()))


@pytest.mark.parametrize(
    "text, key",
    [
        ("AGPL-3.0 License (https://example.org)", "agpl-3.0"),
        ("MIT", "mit"),
        ("Apache License 2.0", "apache-2.0"),
        ("for research only; code under MIT", "other"),
        ("MIT; AGPL-3.0", "other"),
        (None, "unknown"),
    ],
)
def test_a_licence_is_called_as_the_hub_calls_it_only_where_it_is_that(tmp_path, text, key):
    model = tiny_detect()
    write_folder(tmp_path / "hub", Checkpoint(model.graph, model.state_dict(), license=text))
    front = yaml.safe_load((tmp_path / "hub/README.md").read_text().split("---\n")[1])
    assert front["license"] == key and (key != "other" or front["license_name"] == text)


def test_tensors_without_our_header_open_by_the_config_beside_them(tmp_path, capsys):
    model = tiny_detect()
    write_folder(tmp_path / "hub", Checkpoint(model.graph, model.state_dict(), **SAID))
    weights = tmp_path / "hub/model.safetensors"
    save_file(load_file(weights), weights, {"format": "pt"})  # as a tool of others writes them again
    assert load_checkpoint(tmp_path / "hub").license == "AGPL-3.0"
    write_folder(tmp_path / "hub", Checkpoint(model.graph, model.state_dict(), license="MIT"))
    config = tmp_path / "hub/config.json"
    config.write_text(config.read_text().replace('"license": "MIT"', '"license": "CC0"'))
    assert load_checkpoint(tmp_path / "hub").license == "MIT"
    assert "says other things than model.safetensors itself" in capsys.readouterr().err
    config.write_text('{"model_type": "yolos"}')
    weights.write_bytes(_file({"vit.weight": _tensor(0, 4)}, b"\0" * 4))
    with pytest.raises(UserError, match="holds tensors, but"):
        open_checkpoint(tmp_path / "hub")


def test_numbers_that_were_not_measured_are_left_out(place):
    save_weights(place, "best.pt", metrics={"a": float("nan"), "b": 1.0})
    YOLO("best.pt").save("x.safetensors")
    assert load_checkpoint("x.safetensors").metrics == {"b": 1.0}


def test_without_the_package_a_line_names_it(tmp_path, monkeypatch):
    (tmp_path / "x.safetensors").write_bytes(b"\0" * 20)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for act in (
        lambda: open_checkpoint(tmp_path / "x.safetensors"),
        lambda: YOLO("yolov12n.yaml").save("y.safetensors"),
    ):
        with pytest.raises(UserError, match=re.escape("pip install 'bitfalcon[safetensors]'")):
            act()


def _tensor(start: int, end: int, shape=None, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def _file(header: dict | str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header) if isinstance(header, dict) else header
    text = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = b"\0" * 16
LIES = {
    "empty": b"",
    "cut length": b"\5\0\0",
    "8 GB header": _file({}, ONE, 8 * 2**30),
    "2**64 header": b"\xff" * 8 + b"{}",
    "header beyond the file": _file({}, b"", 40),
    "header of zeros": _file(b"\0" * 16),
    "no JSON": _file("{a}"),
    "a list": _file("[]"),
    "not UTF-8": _file(b'{"\xff": 1}'),
    "half a surrogate": _file('{"__metadata__": {"a": "\\ud800"}}'),
    "nan": _file('{"__metadata__": {"a": "b"}, "x": NaN}'),
    "infinite": _file('{"x": 1e999}'),
    "many digits": _file('{"x": %s}' % ("9" * 100_000)),
    "deep": _file('{"x":' + "[" * 200_000 + "]" * 200_000 + "}"),
    "rather deep": _file('{"x":' + "[" * 100 + "]" * 100 + "}"),
    "a name twice": _file('{"x": %s, "x": %s}' % ((json.dumps(_tensor(0, 16)),) * 2), ONE),
    "texts twice": _file('{"__metadata__": {"a": "b", "a": "c"}}'),
    "texts that are numbers": _file({"__metadata__": {"a": 1}}),
    "size too small": _file({"x": _tensor(0, 16, [2])}, ONE),
    "size too large": _file({"x": _tensor(0, 16, [2**40])}, ONE),
    "size beyond 64 bits": _file({"x": _tensor(0, 16, [2**32, 2**32, 2**32])}, ONE),
    "negative size": _file({"x": _tensor(0, 16, [-4])}, ONE),
    "many dimensions": _file({"x": _tensor(0, 4, [1] * 100_000)}, ONE[:4]),
    "no whole size": _file({"x": _tensor(0, 16, [4.0])}, ONE),
    "offset beyond the file": _file({"x": _tensor(0, 4096)}, ONE),
    "offsets backwards": _file({"x": _tensor(16, 0, [0])}, ONE),
    "bytes left over": _file({"x": _tensor(0, 8)}, ONE),
    "a gap": _file({"x": _tensor(0, 4), "y": _tensor(12, 16)}, ONE),
    "overlap": _file({"x": _tensor(0, 12), "y": _tensor(8, 16)}, ONE),
    "the same bytes": _file({"x": _tensor(0, 16), "y": _tensor(0, 16)}, ONE),
    "unknown dtype": _file({"x": _tensor(0, 16, [4], "F31")}, ONE),
    "dtype of another size": _file({"x": _tensor(0, 16, [4], "F64")}, ONE),
    "dtype no text": _file({"x": _tensor(0, 16, [4], ["F32"])}, ONE),
    "weights of whole numbers": _file({"a.weight": _tensor(0, 16, [4], "I32")}, ONE),
    "a name for a terminal": _file({"\x1b[31m": _tensor(0, 16)}, ONE),
    "more keys": _file({"x": {**_tensor(0, 16), "y": 1}}, ONE),
    "fewer keys": _file({"x": {"dtype": "F32"}}, ONE),
    "a million tensors": _file({str(i): {} for i in range(400_000)}),
    "pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_one_line(tmp_path, watched, lie):
    path = tmp_path / "x.safetensors"
    path.write_bytes(LIES[lie])
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        open_checkpoint(path)
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and text.isprintable() and len(text) < 700, text
    assert seconds < 5 and peak < 150e6


def _rewritten(tmp_path: Path, change) -> Path:
    """A file of ours whose document `change` has changed."""
    model = tiny_detect()
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, Checkpoint(model.graph, model.state_dict()))
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    document = json.loads(header["__metadata__"]["bitfalcon"])
    changed = change(document)
    text = changed if isinstance(changed, str) else json.dumps(document)
    save_file(load_file(path), path, {"bitfalcon": text})
    return path


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: "[]", "damaged checkpoint"),
        (lambda d: '{"format": NaN}', "damaged checkpoint"),
        (lambda d: '{"format": "bitfalcon", "format": "x"}', "stands twice"),
        (lambda d: "[" * 100_000, "damaged checkpoint"),
        (lambda d: d.update(version=99), "format version 99"),
        (lambda d: d.update(version="1"), "no format version"),
        (lambda d: d.update(graph=3), "damaged"),
        (lambda d: d.update(epoch=None), "epoch"),
        (lambda d: d["graph"].update(names={"a": "b"}), "graph.names"),
        (lambda d: d["graph"].update(measured=[[0], 1]), "graph.measured"),
        (lambda d: d["graph"]["document"].update(backbone=[[-1, 10**9, "Conv", [8, 3, 2]]]), "repeats 1000000000"),
        (lambda d: d["graph"]["document"].update(backbone=[[-1, 1, "os.system", ["x"]]]), "os.system"),
        (lambda d: d["graph"]["document"].update(backbone=[[-1, 1, "Conv", [2**40, 3, 2]]]), "model"),
        (lambda d: d.update(norms={"model.9.bn": [1e-3, 0.1]}), "batch norm"),
        (lambda d: d.update(format="bitfalcon-packed"), "damaged"),
    ],
)
def test_the_document_of_a_header_is_checked_as_that_of_any_file(tmp_path, change, message):
    path = _rewritten(tmp_path, change)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        open_checkpoint(path).model()
    assert len(str(caught.value)) < 2000


def test_the_training_state_is_never_in_a_header(place, capsys):
    model = YOLO("small.yaml").model
    save_checkpoint("last.safetensors", Checkpoint(model.graph, model.state_dict(), training={"x": torch.zeros(1)}))
    assert "holds weights alone" in capsys.readouterr().err
    assert load_checkpoint("last.safetensors").training is None
    assert main(["train", "resume=last.safetensors"]) == 2
    assert "nothing to resume" in capsys.readouterr().err


def test_a_config_that_is_none_is_told(tmp_path):
    model = tiny_detect()
    write_folder(tmp_path / "hub", Checkpoint(model.graph, model.state_dict()))
    (tmp_path / "hub/config.json").write_text("{")
    with pytest.raises(UserError, match="config.json' is damaged"):
        load_checkpoint(tmp_path / "hub")
