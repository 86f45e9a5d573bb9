"""The row language: what is read from a document, and that every mistake in one is told at once, in place and in words."""

from __future__ import annotations

import copy
import os

import pytest
import torch
import yaml

from bitfalcon_plugin.errors import UserError
from bitfalcon_plugin.files import cfg_dir
from bitfalcon_plugin.graph import Graph
from bitfalcon_plugin.model import Detector, graph_of
from bitfalcon_plugin.rules import activation_name, literal, scale_depth, scale_width, shown


def small(*rows, head=(), **keys) -> dict:
    """A document with the given backbone rows and a head on the last of them (or the given head rows)."""
    return {"nc": 2, "backbone": [list(row) for row in rows], "head": [list(row) for row in head or [([-1], 1, "Detect", ["nc"])]],
            **keys}


def document(name: str = "yolov12.yaml") -> dict:
    return yaml.safe_load((cfg_dir() / "models" / name).read_text())


def refused(doc: object, **choices) -> str:
    with pytest.raises(UserError) as error:
        graph_of(doc, name="my.yaml", **choices)
    return str(error.value)


def row(graph: Graph, index: int) -> list:
    return list(graph.rows[index].args)


CONV = (-1, 1, "Conv", [16, 3, 2])


# What is read


def test_printed_arguments_are_those_of_the_specification():
    graph = graph_of(document(), named_scale="n", nc=2)
    assert row(graph, 2) == [32, 64, 1, False, 0.25]
    assert row(graph, 6) == [128, 128, 2, True, 4]
    assert row(graph, 8) == [256, 256, 2, True, 1]
    assert row(graph, 11) == [384, 128, 1, False, -1]
    assert row(graph, 20) == [384, 256, 1, True]
    assert row(graph, 21) == [2, 16] and graph.rows[21].keywords["channels"] == [64, 128, 256]
    assert [r.source for r in graph.rows if r.kind == "join"] == [(-1, 6), (-1, 4), (-1, 11), (-1, 8)]
    assert graph.rows[13].sources == (12, 4) and graph.rows[21].sources == (14, 17, 20)


@pytest.mark.parametrize(("scale", "variant", "tail"), [
    ("n", "v1", [True, 4]), ("m", "v1", [True, 4]), ("l", "v1", [True, 4, True, 1.2]), ("x", "v1", [True, 4, True, 1.2]),
    ("s", "turbo", [True, 4]), ("l", "turbo", [True, 4, True, 1.5]),
    ("n", "turbo-all-residual", [True, 4, True, 2.0]), ("x", "turbo-all-residual", [True, 4, True, 1.0]),
])
def test_attention_stages_by_size_and_family(scale, variant, tail):
    graph = graph_of(document(), scale=scale, variant=variant)
    assert row(graph, 6)[3:] == tail
    assert graph.rows[6].keywords == {"pe": 7 if variant == "v1" else 5}


def test_stages_of_m_l_x_use_the_deep_form_also_where_the_row_leaves_it_out():
    doc = small(CONV, (-1, 2, "C3k2", [64]), (-1, 2, "C3k2", [64, False, 0.25]))
    assert [row(graph_of(doc, named_scale=s), 1)[3:] for s in "nsmlx"] == [[], [], [True], [True], [True]]
    assert row(graph_of(doc, named_scale="m"), 2)[3:] == [True, 0.25]


def test_what_a_row_writes_is_not_filled_in():
    doc = small((-1, 1, "Conv", [64, 3, 2]), (-1, 1, "A2C2f", [64, True]), (-1, 1, "A2C2f", [64, True, 4, False]))
    graph = graph_of(doc, named_scale="l")
    assert row(graph, 1)[3:] == [True, 1, True, 1.2]
    assert row(graph, 2)[3:] == [True, 4, False, 1.2]


def test_depth_rounds_half_to_even_and_never_to_nothing():
    assert [scale_depth(n, 0.5) for n in (1, 2, 3, 4, 5, 6, 7)] == [1, 1, 2, 2, 2, 3, 4]
    assert [scale_depth(n, 0.33) for n in (1, 2, 3, 6, 9)] == [1, 1, 1, 2, 3]
    assert [scale_depth(n, 0.1) for n in (1, 2, 9)] == [1, 1, 1]
    graph = graph_of(small(CONV, (-1, 5, "C2f", [32]), (-1, 3, "Conv", [32, 3, 1]), depth_multiple=0.5))
    assert row(graph, 1) == [16, 32, 2] and (graph.rows[2].repeats, graph.rows[2].times) == (2, 2)


def test_width_is_cut_then_scaled_then_rounded_up_to_eight():
    assert [scale_width(c, 0.25, 1024) for c in (64, 128, 100, 1, 2048)] == [16, 32, 32, 8, 256]
    assert scale_width(1024, 1.5, 512) == 768
    assert scale_width(768, 0.75, 768) == 576
    assert scale_width(80, 0.33, float("inf")) == 32
    graph = graph_of(small((-1, 1, "Conv", [80, 3, 2]), (-1, 1, "Conv", [640, 3, 2]), scales={"q": [1.0, 0.5, 320]}))
    assert [r.channels for r in graph.rows] == [40, 160, 0]


def test_a_row_whose_width_equals_nc_is_scaled_like_any_other():
    graph = graph_of(small((-1, 1, "Conv", [64, 3, 2]), width_multiple=0.5, nc=64))
    assert row(graph, 0)[:2] == [3, 32]


def test_multiples_count_only_without_scales():
    doc = small((-1, 1, "Conv", [64, 3, 2]), depth_multiple=0.5, width_multiple=0.5)
    assert row(graph_of(doc), 0)[1] == 32
    assert row(graph_of({**doc, "scales": {"a": [1.0, 2.0]}}), 0)[1] == 128


def test_words_in_arguments():
    doc = small((-1, 1, "Conv", ["max_channels", 3, 2, "None", 1, "1", "True"]), (-1, 1, "nn.Upsample", ["None", 2, "nearest"]),
                (-1, 1, "Conv", ["ch", "reg_max", 4]), scales={"n": [1.0, 1.0, 48]}, reg_max=9, ch=5)
    graph = graph_of(doc)
    assert row(graph, 0) == [5, 48, 3, 2, None, 1, 1, True]
    assert row(graph, 1) == [None, 2, "nearest"]
    assert row(graph, 2) == [48, 8, 9, 4]
    assert row(graph, 3) == [2, 9]


def test_the_class_count_comes_from_the_dataset_then_nc_then_names():
    doc = small(CONV)
    assert graph_of(doc).names == {0: "0", 1: "1"}
    graph = graph_of({**doc, "names": ["cat", "dog"]}, nc=3)
    assert (graph.nc, graph.names, row(graph, 1)[0]) == (3, {0: "0", 1: "1", 2: "2"}, 3)
    assert any("nc=2" in note and "nc=3" in note for note in graph.notes)
    assert graph_of({**doc, "names": {1: "dog", 0: "cat"}}).names == {0: "cat", 1: "dog"}
    graph = graph_of({**doc, "nc": None, "names": ["a", "b", 3]})
    assert (graph.nc, graph.names) == (3, {0: "a", 1: "b", 2: "3"})
    graph = graph_of(doc, names={0: "red", 1: "blue", 2: "green"})
    assert (graph.nc, graph.names[2]) == (3, "green")


def test_neck_and_head_are_numbered_on():
    doc = {"nc": 1, "backbone": [list(CONV), list(CONV)], "neck": [[[0], 1, "Conv", [16, 3, 2]], [[-1, 1], 1, "Concat", [1]]],
           "head": [[[3], 1, "Detect", ["nc"]]]}
    assert [r.sources for r in graph_of(doc).rows] == [(-1,), (0,), (0,), (2, 1), (3,)]
    only_neck = {**doc, "neck": doc["neck"] + doc["head"], "head": None}
    assert graph_of(only_neck).rows == graph_of(doc).rows


def test_heads_of_old_graphs_have_dense_class_branches():
    assert graph_of(document("yolov8.yaml"), scale="n").rows[-1].keywords["legacy"] is True
    assert graph_of(document("yolo11.yaml"), scale="n").rows[-1].keywords["legacy"] is False
    assert graph_of(document("yolov12.yaml"), scale="n").rows[-1].keywords["legacy"] is False


def test_the_own_modules_declared_input_is_only_a_declaration():
    graph = graph_of(small(CONV, (-1, 1, "SepConv7x7", [999, 32]), (-1, 1, "SepConv7x7", [48])))
    assert row(graph, 1) == [16, 32] and row(graph, 2) == [32, 48]


def test_batch_norm_takes_the_width_of_its_input():
    graph = graph_of(small(CONV, (-1, 2, "nn.BatchNorm2d", [7, 8, 9])))
    assert row(graph, 1) == [16] and graph.rows[1].times == 2


def test_a_resolved_graph_can_be_resolved_again_from_its_own_document():
    first = graph_of(document(), named_scale="l", variant="turbo", names={0: "a", 1: "b"})
    again = graph_of(copy.deepcopy(dict(first.document)), name=first.name)
    assert again.rows == first.rows
    assert (again.scale, again.variant, again.nc, again.names) == ("l", "turbo", 2, {0: "a", 1: "b"})


def test_the_document_that_was_given_is_not_changed():
    doc = document()
    before = copy.deepcopy(doc)
    graph_of(doc, scale="x", nc=7)
    assert doc == before


# What is said aloud


def notes(doc: dict, **choices) -> str:
    return "\n".join(graph_of(doc, name="my.yaml", **choices).notes)


def test_the_first_scale_is_assumed_aloud():
    graph = graph_of(document(), name="my.yaml")
    assert graph.scale == "n" and any("no scale given, assuming scale='n'" in note and "my.yaml" in note for note in graph.notes)
    assert "no scale" not in notes(document(), named_scale="s")


def test_a_scale_that_was_asked_for_beats_the_name_aloud():
    graph = graph_of(document(), scale="l", named_scale="n")
    assert graph.scale == "l" and any("scale=l" in note and "'n'" in note for note in graph.notes)
    assert "file name" not in notes(document(), scale="l", named_scale="l")


def test_a_letter_without_scales_still_rules_the_stages():
    doc = small((-1, 1, "Conv", [64, 3, 2]), (-1, 2, "C3k2", [64, False]), (-1, 1, "A2C2f", [64, True, 1]))
    graph = graph_of(doc, named_scale="x")
    assert graph.scale == "x" and row(graph, 1) == [64, 64, 2, True] and row(graph, 2)[3:] == [True, 1, True, 1.2]


def test_the_family_and_its_reason_are_said():
    doc = document()
    del doc["variant"]
    assert "variant=v1 (the default)" in notes(doc)
    turbo = document("yolov12-turbo.yaml")
    assert "variant=turbo (as the YAML says)" in notes(turbo)
    del turbo["variant"]
    assert "variant=turbo (rows 1 and 3 are grouped)" in notes(turbo)
    assert "variant=v1 (as asked)" in notes(turbo, variant="v1")
    doc["backbone"][1][3] = [128, 3, 2, 1, 1]
    assert "variant=v1" in notes(doc)
    assert "changes nothing" in notes(document("yolov8.yaml"), variant="turbo")


def test_keys_without_a_meaning_are_said():
    assert "kpt_shape" in notes(small(CONV, kpt_shape=[17, 3]))


# Mistakes


MISTAKES = {
    "unknown module": ([CONV, (-1, 1, "Convv", [16])], ["backbone row 1 (Convv)", "'Convv' is unknown", "Did you mean 'Conv'", "C3k2"]),
    "unknown nn": ([CONV, (-1, 1, "nn.Upsmaple", [None, 2])], ["nn.Upsmaple", "Did you mean 'nn.Upsample'"]),
    "no module class": ([CONV, (-1, 1, "nn.functional", [])], ["row 1", "'nn.functional' is unknown"]),
    "another task": ([CONV, (-1, 1, "Segment", ["nc", 32, 256])], ["row 1 (Segment)", "Detect and BitDetect"]),
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
    text = refused({"nc": 2, "backbone": [r if isinstance(r, dict) else list(r) for r in rows], "head": [[[-1], 1, "Detect", ["nc"]]]})
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
    "misspelt head": ({"nc": 2, "backbone": [list(CONV)], "heads": [[-1, 1, "Detect", ["nc"]]]}, {}, ["Did you mean 'head'", "head: "]),
    "empty backbone": ({"nc": 2, "backbone": [], "head": [[-1, 1, "Detect", ["nc"]]]}, {}, ["backbone: expected a list of rows", "[]"]),
    "no backbone": ({"nc": 2, "head": [[-1, 1, "Detect", ["nc"]]]}, {}, ["backbone: expected a list of rows"]),
    "backbone text": ({"nc": 2, "backbone": "x", "head": [[-1, 1, "Detect", ["nc"]]]}, {}, ["backbone: ", "'x'"]),
    "no head": ({"nc": 2, "backbone": [list(CONV)]}, {}, ["head: expected a list of rows"]),
    "no detection head": (small(CONV, head=[CONV]), {}, ["head row 1 (Conv)", "expected a detection head"]),
    "rows after the head": (small(CONV, head=[([0], 1, "Detect", ["nc"]), (0, 1, "Conv", [8])]), {},
                            ["head row 1 (Detect)", "must be the last row", "head row 2 (Conv)"]),
    "two heads": (small(CONV, head=[([0], 1, "Detect", ["nc"]), ([0], 1, "Detect", ["nc"])]), {}, ["row 1 (Detect)", "last row"]),
    "head as a source": (small(CONV, head=[([0], 1, "Detect", ["nc"]), ([-1], 1, "Detect", ["nc"])]), {}, ["from -1 is a detection head"]),
    "other class count": (small(CONV, head=[([0], 1, "Detect", [80])]), {}, ["row 1 (Detect)", "nc=80", "nc=2"]),
    "head without nc": (small(CONV, head=[([0], 1, "Detect", [])]), {}, ["row 1 (Detect)", "0 arguments", "(nc, reg_max)"]),
    "not a mapping": ([1, 2], {}, ["mapping", "list"]),
}


@pytest.mark.parametrize("case", DOCUMENT_MISTAKES)
def test_a_mistake_in_a_document_is_told(case):
    doc, choices, told = DOCUMENT_MISTAKES[case]
    if told is None:
        assert graph_of(doc, **choices).activation == ("ReLU", (), {})
        return
    text = refused(doc, **choices)
    assert "my.yaml" in text
    for part in told:
        assert part in text


def test_all_mistakes_of_a_document_are_told_at_once():
    doc = small(CONV, (7, 0, "Convv", [16]), (-1, 1, "Conv", [16.5]), (-1, 1), nc="x", activation=5, variant="w",
                head=[([-1, 99], 1, "Concat", [1]), ([0], 1, "Detect", ["nc"])], scales={"n": "bad"})
    text = refused(doc)
    for part in ("activation: 5", "variant: 'w'", "nc: 'x'", "scales: n", "backbone row 1 (Convv): from 7", "repeats 0", "'Convv'",
                 "backbone row 2 (Conv): c_out=16.5", "backbone row 3: [-1, 1]", "head row 4 (Concat): from 99"):
        assert part in text
    assert text.count("\n  - ") == 10


def test_constructors_that_refuse_are_told_together():
    doc = small((-1, 1, "Conv", [24, 3, 2]), (-1, 1, "A2C2f", [72, True, 1]), (-1, 1, "A2C2f", [64, True, 0]), (-1, 1, "C2PSA", [32]),
                (-1, 1, "Conv", [30, 3, 1, None, 7]), activation="nn.Relu()")
    with pytest.raises(UserError) as error:
        Detector(graph_of(doc, name="my.yaml"))
    text = str(error.value)
    for part in ("my.yaml", "row 1 (A2C2f", "36", "multiple of 32", "row 2 (A2C2f", "area 0", "row 3 (C2PSA", "(64)", "(32)",
                 "row 4 (Conv", "groups", "nn.Relu is no activation", "Did you mean 'ReLU'"):
        assert part in text


def test_maps_that_do_not_fit_are_told_together_with_their_rows():
    doc = small(CONV, CONV, ([-1, 0], 1, "Concat", [1]), (1, 1, "nn.Flatten", []), (1, 1, "nn.Unflatten", [1, [4, 4]]),
                (2, 1, "Conv", [8]), head=[([1], 1, "Detect", ["nc"])])
    with pytest.raises(UserError) as error:
        Detector(graph_of(doc, name="my.yaml"))
    text = str(error.value)
    for part in ("my.yaml", "row 2 (Concat) on row 1 16x64x64 and row 0 16x128x128", "row 3 (nn.Flatten)", "65536", "row 4 (nn.Unflatten)"):
        assert part in text
    assert "row 5" not in text  # it only suffers from row 2


def test_levels_without_a_whole_stride_are_refused():
    with pytest.raises(UserError, match="row 0 gives the head 254x254"):
        Detector(graph_of(small((-1, 1, "Conv", [8, 3, 1, 0]))))


# Hostile documents


@pytest.mark.parametrize("text", ["__import__('os').system('touch hacked')", "os.system('touch hacked')", "lambda: 0", "(" * 5000,
                                  "-" * 5000 + "1", "[" * 900 + "]" * 900, "a.b.c()", "9" * 5000, "x" * 100_000, "\x00", "{**{}}"])
def test_no_text_is_ever_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for doc in (small(CONV, (-1, 1, "Conv", [16, text])), small((-1, 1, "Conv", [text, 3])), small(CONV, (-1, 1, text, [16])),
                small(CONV, activation=text), small(CONV, variant=text), small(CONV, scales={text: [1, 1]}, scale="n"),
                small(CONV, names=text), small((text, 1, "Conv", [16]))):
        assert len(refused(doc)) < 5000
    assert not os.listdir(tmp_path)


def test_a_value_of_any_depth_or_length_is_shown_short():
    bomb: list = [0]
    for _ in range(60):
        bomb = [bomb] * 9
    assert len(shown(bomb)) < 5000
    assert len(refused(small(CONV, (-1, 1, "Conv", [16, bomb])))) < 10_000
    assert len(refused(small(CONV, bomb))) < 10_000
    loop: list = []
    loop.append(loop)
    assert "row 1" in refused(small(CONV, (loop, 1, "Conv", [16])))


def test_widths_cannot_grow_without_bound():
    rows = [(-1, 1, "Conv", [8, 1])] + [([-1, -1], 1, "Concat", [1])] * 40
    assert "more than 16384" in refused(small(*rows))


def test_literals_and_activations_are_matched():
    assert [literal(x) for x in ("None", "True", "[1, 2]", "0.5", "nearest", "1e3", "os.getcwd()", 7)] == [
        None, True, [1, 2], 0.5, "nearest", 1000.0, "os.getcwd()", 7]
    assert activation_name("torch.nn.ReLU()") == ("ReLU", (), {})
    assert activation_name("nn.LeakyReLU(0.1, inplace=True)") == ("LeakyReLU", (0.1,), {"inplace": True})
    assert activation_name("SiLU") == ("SiLU", (), {})
    for text in ("torch.nn.functional.relu()", "nn.ReLU(open('x'))", "nn.ReLU(*[1])", "nn.ReLU(**{})", "nn.ReLU()()", "os.nn.ReLU",
                 "nn.ReLU(x)", "nn['ReLU']", "", "nn.", "ReLU(); x", None, ["nn.ReLU"]):
        assert activation_name(text) is None


def test_resolving_needs_no_weights():
    with torch.device("meta"):
        assert graph_of(document(), scale="x").rows[8].args[:2] == (768, 768)
