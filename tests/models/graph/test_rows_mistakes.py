"""Mistakes in a document, and documents meant to do harm: told at once, in place and in words, and nothing is run."""

from __future__ import annotations

import os

import pytest

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.printable import short_repr
from bitfalcon_plugin.models.build import resolve_graph
from bitfalcon_plugin.models.detector import Detector
from tests.helpers.tiny_models import CONV, small


def refused(doc: object, **choices) -> str:
    with pytest.raises(UserError) as error:
        resolve_graph(doc, name="my.yaml", **choices)
    return str(error.value)


MISTAKES = {
    "unknown module": (
        [CONV, (-1, 1, "Convv", [16])],
        ["backbone row 1 (Convv)", "'Convv' is unknown", "Did you mean 'Conv'", "C3k2"],
    ),
    "unknown nn": ([CONV, (-1, 1, "nn.Upsmaple", [None, 2])], ["nn.Upsmaple", "Did you mean 'nn.Upsample'"]),
    "no module class": ([CONV, (-1, 1, "nn.functional", [])], ["row 1", "'nn.functional' is unknown"]),
    "another task": ([CONV, (-1, 1, "v10Detect", ["nc"])], ["row 1 (v10Detect)", "Classify, Pose and OBB"]),
    "forward source": ([CONV, (5, 1, "Conv", [16])], ["backbone row 1 (Conv)", "from 5", "rows 0 to 0"]),
    "own row": ([CONV, (1, 1, "Conv", [16])], ["row 1", "from 1"]),
    "before the start": ([CONV, (-3, 1, "Conv", [16])], ["row 1", "from -3"]),
    "first row": ([(-2, 1, "Conv", [16])], ["row 0", "from -2", "image: -1"]),
    "source in a list": ([CONV, ([-1, 9], 1, "Concat", [1])], ["row 1 (Concat)", "from 9"]),
    "text source": ([CONV, ("x", 1, "Conv", [16])], ["row 1", "from 'x'", "not a row number"]),
    "bool source": ([CONV, (True, 1, "Conv", [16])], ["row 1", "from True"]),
    "float source": ([CONV, (-1.0, 1, "Conv", [16])], ["row 1", "from -1.0"]),
    "nested source": ([CONV, ([[-1]], 1, "Conv", [16])], ["row 1", "from [-1]"]),
    "no source": ([CONV, ([], 1, "Concat", [1])], ["row 1", "from []", "0 rows"]),
    "two sources": ([CONV, CONV, ([-1, 0], 1, "Conv", [16])], ["row 2 (Conv)", "2 rows", "takes one"]),
    "repeats 0": ([CONV, (-1, 0, "Conv", [16])], ["row 1", "repeats 0"]),
    "repeats bool": ([CONV, (-1, True, "Conv", [16])], ["row 1", "repeats True"]),
    "repeats text": ([CONV, (-1, "3", "Conv", [16])], ["row 1", "repeats '3'"]),
    "repeats float": ([CONV, (-1, 1.0, "Conv", [16])], ["row 1", "repeats 1.0"]),
    "repeats huge": ([CONV, (-1, 10**9, "C2f", [16])], ["row 1", "repeats 1000000000", "more than 1000"]),
    "repeats beyond number": ([CONV, (-1, 10**400, "C2f", [16])], ["row 1", "repeats"]),
    "repeats of a join": ([CONV, ([-1, 0], 2, "Concat", [1])], ["row 1 (Concat)", "repeats 2", "once"]),
    "three items": ([CONV, (-1, 1, "Conv")], ["backbone row 1", "[from, repeats, module, args]"]),
    "five items": ([CONV, (-1, 1, "Conv", [16], 5)], ["row 1", "[from, repeats, module, args]"]),
    "module is a number": ([CONV, (-1, 1, 7, [16])], ["row 1", "[from, repeats, module, args]"]),
    "args is a number": ([CONV, (-1, 1, "Conv", 16)], ["row 1", "args 16 is not a list"]),
    "no args": ([CONV, (-1, 1, "Conv", [])], ["row 1", "0 arguments", "1 to 7", "c_out, k, s"]),
    "too many args": ([CONV, (-1, 1, "SPPF", [16, 5, 3, 1])], ["row 1 (SPPF)", "4 arguments", "1 to 2", "(c_out, k)"]),
    "float channel": ([CONV, (-1, 1, "Conv", [16.5, 3])], ["row 1", "c_out=16.5 is not an integer"]),
    "bool channel": ([CONV, (-1, 1, "Conv", [True, 3])], ["row 1", "c_out=True is not an integer"]),
    "zero channels": ([CONV, (-1, 1, "Conv", [0, 3])], ["row 1", "c_out=0"]),
    "huge channels": ([CONV, (-1, 1, "Conv", [10**400, 3])], ["row 1", "c_out=1000", "from 1 to 16384"]),
    "endless channels": ([CONV, (-1, 1, "Conv", [1 << 20_000, 3])], ["row 1", "c_out=<int of enormous length>"]),
    "text kernel": ([CONV, (-1, 1, "Conv", [16, "big"])], ["row 1", "k='big' is not an integer"]),
    "float stride": ([CONV, (-1, 1, "Conv", [16, 3, 1.5])], ["row 1", "s=1.5 is not an integer"]),
    "text flag": ([CONV, (-1, 1, "C2f", [16, "yes"])], ["row 1 (C2f)", "shortcut='yes' is not True or False"]),
    "text activation": ([CONV, (-1, 1, "Conv", [16, 3, 1, None, 1, 1, "nn.ReLU()"])], ["row 1", "act='nn.ReLU()'"]),
    "plain width": ([CONV, (-1, 1, "nn.Conv2d", [16, "x", 1])], ["row 1 (nn.Conv2d)", "out_channels='x'"]),
    "plain too short": ([CONV, (-1, 1, "nn.Conv2d", [16])], ["row 1", "1 arguments", "out_channels"]),
    "row is a mapping": ([CONV, {"from": -1}], ["row 1", "[from, repeats, module, args]"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_a_row_is_told_in_place(case):
    rows, told = MISTAKES[case]
    text = refused(
        {
            "nc": 2,
            "backbone": [r if isinstance(r, dict) else list(r) for r in rows],
            "head": [[[-1], 1, "Detect", ["nc"]]],
        }
    )
    assert "my.yaml" in text
    for part in told:
        assert part in text
    assert text.count("\n  - ") == 1  # one mistake, one line


DOCUMENT_MISTAKES = {
    "scale": (small(CONV, scales={"n": [1, 1], "s": [1, 2]}), {"scale": "q"}, ["scale: 'q'", "known: n, s"]),
    "scale in the name": (small(CONV, scales={"n": [1, 1]}), {"named_scale": "l"}, ["scale: 'l'", "known: n"]),
    "scale case": (small(CONV, scales={"n": [1, 1], "s": [1, 2]}), {"scale": "S"}, ["'S'", "Did you mean 's'"]),
    "no scales": (small(CONV), {"scale": "n"}, ["scale: 'n'", "no scales"]),
    "scales list": (small(CONV, scales=[1]), {}, ["scales: [1]"]),
    "scale values": (small(CONV, scales={"n": [1]}), {}, ["scales: n", "[1]", "[depth, width, max_channels]"]),
    "scale negative": (small(CONV, scales={"n": [1, -1]}), {}, ["[1, -1]"]),
    "scale infinite": (small(CONV, scales={"n": [float("inf"), 1]}), {}, ["scales: n"]),
    "scale nan": (small(CONV, scales={"n": [1, float("nan")]}), {}, ["scales: n"]),
    "scale text": (small(CONV, scales={"n": "big"}), {}, ["scales: n", "'big'"]),
    "multiple": (small(CONV, depth_multiple="x"), {}, ["depth_multiple", "'x'"]),
    "variant": (small(CONV), {"variant": "trubo"}, ["variant: 'trubo'", "Did you mean 'turbo'", "turbo-all-residual"]),
    "variant list": (small(CONV, variant=["v1"]), {}, ["variant: ['v1']"]),
    "nc": (small(CONV, nc="80"), {}, ["nc: '80'"]),
    "nc missing": (small(CONV, nc=None), {}, ["nc: None"]),
    "nc zero": (small(CONV, nc=0), {}, ["nc: 0"]),
    "nc bool": (small(CONV, nc=True), {}, ["nc: True"]),
    "nc bad, dataset good": (small(CONV, nc="80"), {"nc": 3}, ["nc: '80'"]),
    "names count": (small(CONV, names=["a"]), {}, ["names: 1 names for nc: 2"]),
    "names indices": (small(CONV, names={0: "a", 5: "b"}), {}, ["names: the indices must be 0 to 1", "[0, 5]"]),
    "names text": (small(CONV, names="cat"), {}, ["names: 'cat'"]),
    "names nested": (small(CONV, names=[["a"], "b"]), {}, ["names: "]),
    "activation": (small(CONV, activation="torch.nn.ReLU"), {}, None),
    "activation call": (small(CONV, activation="__import__('os').system('x')"), {}, ["activation: ", "nn.ReLU()"]),
    "activation list": (small(CONV, activation=["nn.ReLU"]), {}, ["activation: ['nn.ReLU']"]),
    "activation number": (small(CONV, activation=3), {}, ["activation: 3"]),
    "reg_max": (small(CONV, reg_max=1), {}, ["reg_max: 1"]),
    "ch": (small(CONV, ch=0), {}, ["ch: 0"]),
    "end2end": (small(CONV, end2end=True), {}, ["end2end"]),
    "misspelt scales": (small(CONV, sclaes={"n": [1, 1]}), {}, ["'sclaes'", "Did you mean 'scales'"]),
    "misspelt head": (
        {"nc": 2, "backbone": [list(CONV)], "heads": [[-1, 1, "Detect", ["nc"]]]},
        {},
        ["Did you mean 'head'", "head: "],
    ),
    "empty backbone": (
        {"nc": 2, "backbone": [], "head": [[-1, 1, "Detect", ["nc"]]]},
        {},
        ["backbone: expected a list of rows", "[]"],
    ),
    "no backbone": ({"nc": 2, "head": [[-1, 1, "Detect", ["nc"]]]}, {}, ["backbone: expected a list of rows"]),
    "backbone text": ({"nc": 2, "backbone": "x", "head": [[-1, 1, "Detect", ["nc"]]]}, {}, ["backbone: ", "'x'"]),
    "no head": ({"nc": 2, "backbone": [list(CONV)]}, {}, ["head: expected a list of rows"]),
    "no detection head": (small(CONV, head=[CONV]), {}, ["head row 1 (Conv)", "expected a head in the last row"]),
    "rows after the head": (
        small(CONV, head=[([0], 1, "Detect", ["nc"]), (0, 1, "Conv", [8])]),
        {},
        ["head row 1 (Detect)", "must be the last row", "head row 2 (Conv)"],
    ),
    "two heads": (
        small(CONV, head=[([0], 1, "Detect", ["nc"]), ([0], 1, "Detect", ["nc"])]),
        {},
        ["row 1 (Detect)", "last row"],
    ),
    "head as a source": (
        small(CONV, head=[([0], 1, "Detect", ["nc"]), ([-1], 1, "Detect", ["nc"])]),
        {},
        ["from -1 is a head, whose"],
    ),
    "other class count": (small(CONV, head=[([0], 1, "Detect", [80])]), {}, ["row 1 (Detect)", "nc=80", "nc=2"]),
    "head without nc": (
        small(CONV, head=[([0], 1, "Detect", [])]),
        {},
        ["row 1 (Detect)", "0 arguments", "(nc, reg_max)"],
    ),
    "not a mapping": ([1, 2], {}, ["mapping", "list"]),
}


@pytest.mark.parametrize("case", DOCUMENT_MISTAKES)
def test_a_mistake_in_a_document_is_told(case):
    doc, choices, told = DOCUMENT_MISTAKES[case]
    if told is None:
        assert resolve_graph(doc, **choices).activation == ("ReLU", (), {})
        return
    text = refused(doc, **choices)
    assert "my.yaml" in text
    for part in told:
        assert part in text


def test_all_mistakes_of_a_document_are_told_at_once():
    doc = small(
        CONV,
        (7, 0, "Convv", [16]),
        (-1, 1, "Conv", [16.5]),
        (-1, 1),
        nc="x",
        activation=5,
        variant="w",
        head=[([-1, 99], 1, "Concat", [1]), ([0], 1, "Detect", ["nc"])],
        scales={"n": "bad"},
    )
    text = refused(doc)
    for part in (
        "activation: 5",
        "variant: 'w'",
        "nc: 'x'",
        "scales: n",
        "backbone row 1 (Convv): from 7",
        "repeats 0",
        "'Convv'",
        "backbone row 2 (Conv): c_out=16.5",
        "backbone row 3: [-1, 1]",
        "head row 4 (Concat): from 99",
    ):
        assert part in text
    assert text.count("\n  - ") == 10


def test_constructors_that_refuse_are_told_together():
    doc = small(
        (-1, 1, "Conv", [24, 3, 2]),
        (-1, 1, "A2C2f", [72, True, 1]),
        (-1, 1, "A2C2f", [64, True, 0]),
        (-1, 1, "C2PSA", [32]),
        (-1, 1, "Conv", [30, 3, 1, None, 7]),
        activation="nn.Relu()",
    )
    with pytest.raises(UserError) as error:
        Detector(resolve_graph(doc, name="my.yaml"))
    text = str(error.value)
    for part in (
        "my.yaml",
        "backbone row 1 (A2C2f) (24, 72,",
        "36",
        "multiple of 32",
        "row 2 (A2C2f)",
        "area 0",
        "row 3 (C2PSA",
        "(64)",
        "(32)",
        "row 4 (Conv",
        "groups",
        "nn.Relu is no activation",
        "Did you mean 'ReLU'",
    ):
        assert part in text


def test_maps_that_do_not_fit_are_told_together_with_their_rows():
    doc = small(
        CONV,
        CONV,
        ([-1, 0], 1, "Concat", [1]),
        (1, 1, "nn.Flatten", []),
        (1, 1, "nn.Unflatten", [1, [4, 4]]),
        (2, 1, "Conv", [8]),
        head=[([1], 1, "Detect", ["nc"])],
    )
    with pytest.raises(UserError) as error:
        Detector(resolve_graph(doc, name="my.yaml"))
    text = str(error.value)
    for part in (
        "my.yaml",
        "row 2 (Concat) on row 1 16x64x64 and row 0 16x128x128",
        "row 3 (nn.Flatten)",
        "65536",
        "row 4 (nn.Unflatten)",
    ):
        assert part in text
    assert "row 5" not in text  # it only suffers from row 2


def test_levels_without_a_whole_stride_are_refused():
    with pytest.raises(UserError, match="row 0 gives the head 254x254"):
        Detector(resolve_graph(small((-1, 1, "Conv", [8, 3, 1, 0]))))


# Hostile documents


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch hacked')",
        "os.system('touch hacked')",
        "lambda: 0",
        "(" * 5000,
        "-" * 5000 + "1",
        "[" * 900 + "]" * 900,
        "a.b.c()",
        "9" * 5000,
        "x" * 100_000,
        "\x00",
        "{**{}}",
    ],
)
def test_no_text_is_ever_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for doc in (
        small(CONV, (-1, 1, "Conv", [16, text])),
        small((-1, 1, "Conv", [text, 3])),
        small(CONV, (-1, 1, text, [16])),
        small(CONV, activation=text),
        small(CONV, variant=text),
        small(CONV, scales={text: [1, 1]}, scale="n"),
        small(CONV, names=text),
        small((text, 1, "Conv", [16])),
    ):
        assert len(refused(doc)) < 5000
    assert not os.listdir(tmp_path)


def test_a_value_of_any_depth_or_length_is_shown_short():
    bomb: list = [0]
    for _ in range(60):
        bomb = [bomb] * 9
    assert len(short_repr(bomb)) < 5000
    assert len(refused(small(CONV, (-1, 1, "Conv", [16, bomb])))) < 10_000
    assert len(refused(small(CONV, bomb))) < 10_000
    loop: list = []
    loop.append(loop)
    assert "row 1" in refused(small(CONV, (loop, 1, "Conv", [16])))


def test_widths_cannot_grow_without_bound():
    rows = [(-1, 1, "Conv", [8, 1])] + [([-1, -1], 1, "Concat", [1])] * 40
    assert "more than 16384" in refused(small(*rows))
