"""Packed ternary models: the pieces, the file, what damaged and hand-made files give, and what may be done with one."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import random

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
from bitfalcon_plugin.models.weights import packed as flat
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bitfalcon_plugin.models.weights.foreign import identify_checkpoint, open_checkpoint, save_state_dict
from bitfalcon_plugin.models.weights.trits import CODECS, byte_count
from tests.helpers.coloured import GRAPH, place  # noqa: F401  the fixture
from tests.helpers.tiny_models import lived


def some_state(draw: random.Random) -> dict[str, torch.Tensor]:
    """Layers and tensors of random shapes and kinds, by the names of a folded model."""
    state: dict[str, torch.Tensor] = {}
    for number in range(draw.randint(1, 8)):
        shape, name = tuple(draw.randint(1, 5) for _ in range(draw.choice((1, 2, 4)))), f"model.{number}.conv"
        kind = draw.choice("tbfhn")
        if kind in "tb":
            state[name + ".codes"] = torch.randint(-1, 2, shape, dtype=torch.int8) * (1 if kind == "t" else 127)
            state[name + ".scale"], state[name + ".bias"] = torch.rand(shape[:1]), torch.randn(shape[:1])
            if draw.random() < 0.5:
                state[name + ".act_scale"] = torch.rand(())
        else:
            state[name + ".weight"] = {
                "f": torch.randn(shape),
                "h": torch.randn(shape).half().float(),
                "n": torch.randint(9, ()),
            }[kind]
    return state


@pytest.mark.parametrize("fmt", CODECS)
def test_states_of_random_shapes_come_back_to_the_bit(fmt):
    draw = random.Random(1)
    torch.manual_seed(1)
    for _ in range(150):
        state = some_state(draw)
        content = sealed(flat.flatten(state, fmt))
        assert sum(isinstance(value, torch.Tensor) for value in content.values()) == 4
        back = flat.restore(content)
        assert list(back) == list(state)
        for name, tensor in state.items():
            assert torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype, name


def sealed(content: dict) -> dict:
    """With the checksum that fits, as somebody who means harm would write it."""
    return {**content, "checksum": flat.checksum(content)}


def test_what_has_no_place_is_refused():
    layer = {"a.codes": torch.ones(2, 3, dtype=torch.int8), "a.scale": torch.ones(2), "a.bias": torch.ones(2)}
    for extra in (
        {"a.zero": torch.ones(2)},
        {"a.scale": torch.ones(3)},
        {"a.codes": torch.ones(2, 3)},
        {"b c": torch.ones(1)},
        {"b": torch.tensor(2**24 + 1)},
        {"b": torch.ones(0)},
    ):
        with pytest.raises(ValueError):
            flat.flatten({**layer, **extra}, "t5")


def ternary(bit: object = "all") -> Detector:
    """A small model whose activation scales are set and whose batch norms change what they are given."""
    document = {**yaml.safe_load(GRAPH), "bit": bit}
    model = Detector(
        resolve_graph(document, name="small.yaml", named_scale="n", nc=3, names={0: "red", 1: "green", 2: "blue"})
    )
    with torch.no_grad():
        model.train()(torch.rand(2, 3, 64, 64))
    return lived(model)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ternary()


@pytest.fixture
def path(tmp_path, model):
    pack(model, tmp_path / "small-bit.pt")
    return tmp_path / "small-bit.pt"


@torch.no_grad()
def outputs(model: Detector) -> list[torch.Tensor]:
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    raw = model(x)
    return [raw["boxes"], raw["scores"], model.decode(raw)]


@pytest.mark.parametrize("fmt", CODECS)
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("of", ["model", "folded", "checkpoint"])
def test_outputs_are_those_of_the_rounded_model(tmp_path, model, fmt, half, of):
    folded = copy.deepcopy(model).fuse()
    given = {
        "model": model,
        "folded": folded,
        "checkpoint": Checkpoint(model.graph, model.state_dict(), license="L", epoch=3),
    }[of]
    before = outputs(folded)
    pack(given, tmp_path / "a.pt", fmt, half)
    assert all(map(torch.equal, outputs(folded), before))  # nothing is done to what is given
    back = load_checkpoint(tmp_path / "a.pt")
    found = outputs(back.model())
    assert all(map(torch.equal, found, outputs(rounded(copy.deepcopy(folded)) if half else folded)))
    assert half is not torch.equal(found[0], before[0]) and torch.allclose(found[0], before[0], rtol=0.05, atol=0.05)
    assert back.packed == fmt and (back.license, back.epoch) == (("L", 3) if of == "checkpoint" else (None, -1))
    assert back.graph.names == {0: "red", 1: "green", 2: "blue"} and back.measured is not None


def test_the_file_opens_with_plain_torch_and_is_four_tensors(path, model):
    content = torch.load(path)
    assert {key: (value.dtype, value.ndim) for key, value in content.items() if isinstance(value, torch.Tensor)} == {
        "trits": (torch.uint8, 1),
        "bytes": (torch.int8, 1),
        "halves": (torch.float16, 1),
        "floats": (torch.float32, 1),
    }
    header = {key: content[key] for key in ("format", "version", "fmt", "rule", "bn_folded")}
    assert header == {"format": "bitfalcon-packed", "version": 1, "fmt": "t5", "rule": "absmean", "bn_folded": True}
    assert "state" not in content and content["graph"]["names"] == {0: "red", 1: "green", 2: "blue"}
    weights = copy.deepcopy(model).fuse().state_dict()
    line = next(
        line for line in flat.parse(content["table"]) if line.store == "t"
    )  # read by hand, as another runtime would
    used = content["trits"][: byte_count(line.count, "t5")].tolist()
    trits = [byte // 3**place % 3 - 1 for byte in used for place in range(5)][: line.count]
    assert torch.equal(torch.tensor(trits).view(line.shape), weights[f"{line.name}.codes"].long())


def test_a_state_that_is_read_is_that_of_the_folded_model(path, model):
    folded = rounded(copy.deepcopy(model).fuse()).state_dict()
    state = load_checkpoint(path).state
    assert list(state) == list(folded)
    assert all(torch.equal(state[name], folded[name]) and state[name].dtype == folded[name].dtype for name in state)


def test_every_flipped_byte_is_an_error_or_changes_nothing(path):
    whole, state = path.read_bytes(), load_checkpoint(path).state
    start = whole.index(b"PK", 4)  # behind the pickle
    places = [
        *range(0, 64),
        *random.Random(5).sample(range(len(whole)), 250),
        *range(start, start + 40),
        *range(len(whole) - 120, len(whole)),
    ]
    refused = 0
    for at in places:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        try:
            found = open_checkpoint(path)
        except UserError:
            refused += 1
            continue
        assert list(found.state) == list(state) and all(
            torch.equal(found.state[name], state[name]) for name in state
        ), at
    assert refused > 250


def test_a_file_that_is_cut_off_is_an_error(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            open_checkpoint(path)


def test_without_the_archives_checksums_its_own_finds_a_flipped_byte(path):
    content = torch.load(path)
    for piece in flat.PIECES:
        other = {**content, piece: content[piece].clone()}
        other[piece].view(torch.uint8)[-1] ^= 1
        torch.save(other, path)
        with pytest.raises(UserError, match="checksum"):
            load_checkpoint(path)
    for key, value in (("names", {0: "red", 1: "green", 2: "cyan"}), ("name", "x"), ("nc", 4)):
        torch.save({**content, "graph": {**content["graph"], key: value}}, path)
        with pytest.raises(UserError, match="checksum"):
            load_checkpoint(path)


# What a file of ours cannot hold: case -> (line of a ternary layer with its name, kind and shape, or entries by the content; what is said)
LINES = {
    "negative": ("{n} {k} -{s}", "line 3"),
    "zero": ("{n} {k} 0x999999999", "line 3"),
    "many": ("{n} {k} 1" + "x1" * 99, "line 3"),
    "huge": ("{n} {k} 999999999x999999999x999999999", "trits has"),
    "digits": ("{n} {k} " + "9" * 4000, "line 3"),
    "kind": ("{n} q:sba {s}", "line 3"),
    "letters": ("{n} t:abs {s}", "line 3"),
    "escape": ("\x1b[31m {k} {s}", "no table"),
    "scalar codes": ("{n} {k} -", "codes without a shape"),
    "as floats": ("{n}.codes f {s}", "codes as floats"),
    "transposed": ("{n} {k} 3x3x8x16", "floats has"),
    "none": ("", "line 3"),
    "two": ("{n} {k} {s}\n{n} {k} {s}", "twice"),
    "more": ("{n} {k} {s}\nmodel.99.weight f 1", "floats has"),
}
ENTRIES = {
    "empty": (lambda c: {"table": ""}, "line 1"),
    "no table": (lambda c: {"table": 5}, "no table"),
    "short": (lambda c: {"trits": c["trits"][:-1].clone()}, "trits has"),
    "long": (lambda c: {"floats": c["floats"].repeat(2)}, "floats has"),
    "invalid": (lambda c: {"trits": torch.full_like(c["trits"], 250)}, "byte 250 at place 0"),
    "padding": (lambda c: {"trits": torch.full_like(c["trits"], 242)}, "padding behind model.1.conv"),
    "low": (lambda c: {"bytes": torch.full_like(c["bytes"], -128)}, "below -127"),
    "other fmt": (lambda c: {"fmt": "t2"}, "trits has"),
    "type": (lambda c: {"trits": c["trits"].to(torch.int8)}, "no flat tensor"),
    "ndim": (lambda c: {"floats": c["floats"][None]}, "no flat"),
    "list": (lambda c: {"halves": [1.0]}, "no flat tensor"),
    "missing": (lambda c: {"bytes": None}, "no flat tensor of int8"),
    "fmt": (lambda c: {"fmt": "t7"}, "none of t5, t2"),
    "list fmt": (lambda c: {"fmt": ["t5"]}, "none of t5, t2"),
    "NaN": (lambda c: {"floats": torch.full_like(c["floats"], float("nan"))}, "floats that are not finite"),
    "infinite": (lambda c: {"halves": torch.full_like(c["halves"], float("inf"))}, "halves that are not finite"),
    "tensors": (lambda c: {"settings": {"x": torch.zeros(1)}}, "no plain values"),
    "no graph": (lambda c: {"graph": None}, "graph"),
    "no names": (lambda c: {"graph": {**c["graph"], "names": [1]}}, "graph.names"),
    "norms": (lambda c: {"norms": {"model.9.bn": [1, 2]}}, "norm"),
}


@pytest.mark.parametrize("case", [*LINES, *ENTRIES])
def test_files_made_by_hand_are_refused(path, case):
    content = torch.load(path)
    lines = content["table"].split("\n")
    if case in LINES:
        text, said = LINES[case]
        name, kind, shape = lines[2].split(" ")
        assert kind.startswith("t:")
        content["table"] = "\n".join([*lines[:2], text.format(n=name, k=kind, s=shape), *lines[3:]])
    else:
        change, said = ENTRIES[case]
        content = {**content, **change(content)}
    with contextlib.suppress(AttributeError, ValueError):  # one that fits cannot be had for every case
        content["checksum"] = flat.checksum(content)
    torch.save(content, path)
    with pytest.raises(UserError, match=said) as caught:
        open_checkpoint(path).model()
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_table_for_another_graph_is_refused(path):
    content = torch.load(path)
    graph = content["graph"]
    other = copy.deepcopy(graph["document"])
    row = next(row for row in other["backbone"] if row[2] == "Conv")
    row[3] = [2 * row[3][0], *row[3][1:]]
    for document in (other, {**graph["document"], "bit": "head"}, {**graph["document"], "bit": "none"}):
        torch.save(sealed({**content, "graph": {**graph, "document": document}}), path)
        with pytest.raises(UserError, match="do not fit"):
            load_checkpoint(path).model()


def test_a_graph_beyond_the_weights_is_refused_before_it_is_made(path, monkeypatch):
    content = torch.load(path)
    graph = content["graph"]
    document = {**graph["document"], "scales": {"n": [1.0, 64.0, 16384]}}
    torch.save(sealed({**content, "graph": {**graph, "document": document}}), path)
    monkeypatch.setattr(
        "bitfalcon_plugin.models.detector.Detector.__init__", lambda *_: pytest.fail("a model was built")
    )
    with pytest.raises(UserError, match="do not fit"):
        load_checkpoint(path).model()


def test_codes_beyond_one_are_no_ternary_layers(path):
    found = load_checkpoint(path)
    name = next(line.name for line in flat.lines_of(found.state) if line.store == "t")
    found.state[f"{name}.codes"][0] = 7
    save_checkpoint(path, found)
    with pytest.raises(UserError, match=f"(?s)not -1, 0 and 1.*{name}"):
        load_checkpoint(path).model()


def test_a_missing_activation_scale_is_not_taken_for_one_that_is_unset(path):
    found = load_checkpoint(path)
    name = next(name for name in found.state if name.endswith(".act_scale"))
    state = {key: value for key, value in found.state.items() if key != name}
    save_checkpoint(path, Checkpoint(found.graph, state, measured=found.measured, packed="t5"))
    with pytest.raises(UserError, match=f"(?s)do not fit.*{name}"):
        load_checkpoint(path).model()


def test_a_newer_format_is_told(path):
    torch.save(sealed({**torch.load(path), "version": 2}), path)
    for read in (load_checkpoint, open_checkpoint, identify_checkpoint):
        with pytest.raises(UserError, match="format version 2.*newer bitfalcon"):
            read(path)
    torch.save({**torch.load(path), "version": "1"}, path)
    with pytest.raises(UserError, match="no format version"):
        load_checkpoint(path)


def test_nothing_ternary_and_nothing_finite_is_not_packed(tmp_path, model):
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


def test_a_layer_that_folding_leaves_as_it_is_is_not_packed(tmp_path, model):
    mirrored = copy.deepcopy(model)
    mirrored.model[1].conv.padding_mode = "reflect"
    with pytest.raises(UserError, match="model.1.conv.*keep="):
        pack(mirrored, tmp_path / "a.pt")


def test_the_order_in_memory_does_not_matter(path, model, tmp_path):
    other = copy.deepcopy(model).fuse().to(memory_format=torch.channels_last)
    pack(other, tmp_path / "other.pt")
    state, found = load_checkpoint(path).state, load_checkpoint(tmp_path / "other.pt").state
    assert all(torch.equal(state[name], found[name]) for name in state)


def test_from_one_format_to_the_other(path, tmp_path):
    first = load_checkpoint(path)
    pack(first, tmp_path / "b.pt", "t2")
    second = load_checkpoint(tmp_path / "b.pt")
    assert second.packed == "t2" and all(torch.equal(first.state[name], second.state[name]) for name in first.state)


def test_weights_beyond_sixteen_bits_stay_whole(tmp_path, model):
    large = copy.deepcopy(model)
    large.head.cv2[0][-1].weight.data.mul_(1e6)
    pack(large, tmp_path / "a.pt")
    name = f"model.{len(model.model) - 1}.cv2.0.2.weight"
    assert torch.equal(load_checkpoint(tmp_path / "a.pt").state[name], large.head.cv2[0][-1].weight)


def test_yolo_predicts_measures_and_saves_it_again(place, model):  # noqa: F811
    pack(
        Checkpoint(model.graph, model.state_dict(), settings={"data": "data/data.yaml", "imgsz": 64}, license="L"),
        place / "small-bit.pt",
    )
    yolo = YOLO("small-bit.pt")
    direct = rounded(copy.deepcopy(model).fuse())
    assert yolo.names == {0: "red", 1: "green", 2: "blue"} and all(
        map(torch.equal, outputs(yolo.model), outputs(direct))
    )
    found = yolo.predict("data/images/val", imgsz=64, conf=0.001)
    assert len(found) == 4 and sum(len(one) for one in found)
    assert 0 <= yolo.val(imgsz=64, plots=False).box.map <= 1
    yolo.save("again.pt")
    before, again = load_checkpoint("small-bit.pt"), load_checkpoint("again.pt")
    assert again.packed == "t5" and again.license == "L" and list(again.state) == list(before.state)
    assert all(torch.equal(again.state[name], before.state[name]) for name in before.state)
    with pytest.raises(UserError, match="packed model"):
        yolo.load("again.pt")
    assert (place / "again.pt").stat().st_size <= (place / "small-bit.pt").stat().st_size + 200


def test_it_is_not_trained_on_and_not_converted(place, model, capsys):  # noqa: F811
    pack(model, place / "small-bit.pt")
    wrong = (
        lambda: YOLO("small-bit.pt").train(data="data/data.yaml", epochs=1),
        lambda: YOLO("small.yaml").load("small-bit.pt"),
        lambda: YOLO("small.yaml").train(
            data="data/data.yaml", epochs=1, pretrained="small-bit.pt", imgsz=64, device="cpu", plots=False
        ),
        lambda: YOLO("small-bit.pt").train(resume="small-bit.pt"),
    )
    for attempt in wrong:
        with pytest.raises(UserError, match="packed model.*Give the checkpoint that it was packed from"):
            attempt()
    with pytest.raises(UserError, match="to=v1: a packed model"):
        save_state_dict(load_checkpoint("small-bit.pt"), "v1", place / "x.pt")
    fresh = YOLO("small-bit.pt").reset_weights()
    assert not fresh.checkpoint.packed and isinstance(fresh.checkpoint.to_train("x"), Checkpoint)
    capsys.readouterr()
    assert main(["train", "model=small-bit.pt", "data=data/data.yaml", "epochs=1"]) == 2
    assert main(["convert", "small-bit.pt", "to=v1", "out=x.pt"]) == 2
    assert "packed" in capsys.readouterr().err and not (place / "x.pt").exists()
    assert main(["info", "small-bit.pt"]) == 0
    out = capsys.readouterr().out
    assert (
        "packed as t5 (five ternary weights in a byte)" in out
        and f"{(place / 'small-bit.pt').stat().st_size:,} bytes" in out
    )
    assert (
        f"{sum(line.count for line in flat.lines_of(load_checkpoint('small-bit.pt').state) if line.store == 't'):,} ternary"
        in out
    )


def test_the_sizes_are_those_that_were_promised(tmp_path):
    graph = read_graph("yolov12.yaml", "n", nc=80, names={index: f"class number {index}" for index in range(80)})
    model = Detector(
        resolve_graph({**graph.document, "bit": "all"}, name=graph.name, named_scale="n", nc=80, names=graph.names)
    )
    settings = {**load_settings({}).as_dict(), "data": "/home/somebody/datasets/coco/data.yaml"}
    path = tmp_path / "yolov12n-bit.pt"
    packed = pack(
        Checkpoint(model.graph, model.state_dict(), settings=settings, metrics={"metrics/mAP50-95(B)": 0.4}), path
    )
    assert path.stat().st_size <= 720_000
    found = sizes(packed)
    assert found["head"]["t5"] <= 220_000 and found["head"]["t2"] <= 220_000
    state = packed.state
    counts = {store: sum(line.count for line in flat.lines_of(state) if line.store == store) for store in "tbhf"}
    channels = sum(tensor.numel() for name, tensor in state.items() if name.endswith(".scale"))
    formula = counts["t"] / 5 + counts["b"] + 2 * counts["h"] + 4 * counts["f"] + 8 * channels
    assert abs(found["whole"]["t5"] / formula - 1) < 0.03 and abs(path.stat().st_size / formula - 1) < 0.03
    assert found["whole"]["t5"] < found["whole"]["t2"] < found["whole"]["fp16"] == found["whole"]["fp32"] // 2
    assert abs(found["whole"]["file t5"] - path.stat().st_size) < 1000 and found["whole"]["file t2"] <= 850_000
    save_checkpoint(path, dataclasses.replace(packed, packed="t2"))
    assert path.stat().st_size <= 850_000
