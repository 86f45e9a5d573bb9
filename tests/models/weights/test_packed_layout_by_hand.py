"""Packed files that somebody wrote by hand: each is refused with an error that says what is wrong."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.models.weights import packed_layout as flat
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bitfalcon_plugin.models.weights.foreign import identify_checkpoint, open_checkpoint
from tests.helpers.packed import sealed, write_packed


@pytest.fixture
def path(tmp_path):
    return write_packed(tmp_path)


# case -> (line of the table in place of a ternary layer's; {n} name, {k} kind, {s} shape of that layer), error
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
# case -> (content of a sound file -> entries to change), error
ENTRIES = {
    "empty": (lambda c: {"table": ""}, "line 1"),
    "no table": (lambda c: {"table": 5}, "no table"),
    "short": (lambda c: {"trits": c["trits"][:-1].clone()}, "trits has"),
    "long": (lambda c: {"floats": c["floats"].repeat(2)}, "floats has"),
    "invalid": (lambda c: {"trits": torch.full_like(c["trits"], 250)}, "byte 250 at position 0"),
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
        text, message = LINES[case]
        name, kind, shape = lines[2].split(" ")
        assert kind.startswith("t:")
        content["table"] = "\n".join([*lines[:2], text.format(n=name, k=kind, s=shape), *lines[3:]])
    else:
        change, message = ENTRIES[case]
        content = {**content, **change(content)}
    with contextlib.suppress(AttributeError, ValueError):  # some contents have no checksum
        content["checksum"] = flat.checksum(content)
    torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
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


def test_ternary_layers_have_no_other_codes(path):
    checkpoint = load_checkpoint(path)
    name = next(line.name for line in flat.lines_of(checkpoint.state) if line.store == "t")
    checkpoint.state[f"{name}.codes"][0] = 7
    save_checkpoint(path, checkpoint)
    with pytest.raises(UserError, match=f"(?s)not -1, 0 and 1.*{name}"):
        load_checkpoint(path).model()


def test_a_missing_activation_scale_is_refused(path):
    checkpoint = load_checkpoint(path)
    name = next(name for name in checkpoint.state if name.endswith(".act_scale"))
    state = {key: value for key, value in checkpoint.state.items() if key != name}
    save_checkpoint(path, Checkpoint(checkpoint.graph, state, measured=checkpoint.measured, packed="t5"))
    with pytest.raises(UserError, match=f"(?s)do not fit.*{name}"):
        load_checkpoint(path).model()


def test_a_newer_format_is_refused(path):
    torch.save(sealed({**torch.load(path), "version": 2}), path)
    for read in (load_checkpoint, open_checkpoint, identify_checkpoint):
        with pytest.raises(UserError, match="format version 2.*newer bitfalcon"):
            read(path)
    torch.save({**torch.load(path), "version": "1"}, path)
    with pytest.raises(UserError, match="no format version"):
        load_checkpoint(path)
