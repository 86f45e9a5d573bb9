"""The row language: what is read from a document, and that every mistake in one is told at once and in place."""

from __future__ import annotations

import copy

import pytest
import torch
import yaml

from bitfalcon_plugin.config.files import cfg_dir
from bitfalcon_plugin.models.build import resolve_graph
from bitfalcon_plugin.models.graph.rows import Graph
from bitfalcon_plugin.models.graph.rules import activation_name, literal, scale_depth, scale_width
from tests.helpers.tiny_models import CONV, small


def document(name: str = "yolov12.yaml") -> dict:
    return yaml.safe_load((cfg_dir() / "models" / name).read_text())


def row(graph: Graph, index: int) -> list:
    return list(graph.rows[index].args)


# What is read


def test_printed_arguments_are_those_of_the_specification():
    graph = resolve_graph(document(), named_scale="n", nc=2)
    assert row(graph, 2) == [32, 64, 1, False, 0.25]
    assert row(graph, 6) == [128, 128, 2, True, 4]
    assert row(graph, 8) == [256, 256, 2, True, 1]
    assert row(graph, 11) == [384, 128, 1, False, -1]
    assert row(graph, 20) == [384, 256, 1, True]
    assert row(graph, 21) == [2, 16] and graph.rows[21].keywords["channels"] == [64, 128, 256]
    assert [r.source for r in graph.rows if r.kind == "join"] == [(-1, 6), (-1, 4), (-1, 11), (-1, 8)]
    assert graph.rows[13].sources == (12, 4) and graph.rows[21].sources == (14, 17, 20)


@pytest.mark.parametrize(
    ("scale", "variant", "tail"),
    [
        ("n", "v1", [True, 4]),
        ("m", "v1", [True, 4]),
        ("l", "v1", [True, 4, True, 1.2]),
        ("x", "v1", [True, 4, True, 1.2]),
        ("s", "turbo", [True, 4]),
        ("l", "turbo", [True, 4, True, 1.5]),
        ("n", "turbo-all-residual", [True, 4, True, 2.0]),
        ("x", "turbo-all-residual", [True, 4, True, 1.0]),
    ],
)
def test_attention_stages_by_size_and_family(scale, variant, tail):
    graph = resolve_graph(document(), scale=scale, variant=variant)
    assert row(graph, 6)[3:] == tail
    assert graph.rows[6].keywords == {"pe": 7 if variant == "v1" else 5}


def test_stages_of_m_l_x_use_the_deep_form_also_where_the_row_leaves_it_out():
    doc = small(CONV, (-1, 2, "C3k2", [64]), (-1, 2, "C3k2", [64, False, 0.25]))
    assert [row(resolve_graph(doc, named_scale=s), 1)[3:] for s in "nsmlx"] == [[], [], [True], [True], [True]]
    assert row(resolve_graph(doc, named_scale="m"), 2)[3:] == [True, 0.25]


def test_what_a_row_writes_is_not_filled_in():
    doc = small((-1, 1, "Conv", [64, 3, 2]), (-1, 1, "A2C2f", [64, True]), (-1, 1, "A2C2f", [64, True, 4, False]))
    graph = resolve_graph(doc, named_scale="l")
    assert row(graph, 1)[3:] == [True, 1, True, 1.2]
    assert row(graph, 2)[3:] == [True, 4, False, 1.2]


def test_depth_rounds_half_to_even_and_never_to_nothing():
    assert [scale_depth(n, 0.5) for n in (1, 2, 3, 4, 5, 6, 7)] == [1, 1, 2, 2, 2, 3, 4]
    assert [scale_depth(n, 0.33) for n in (1, 2, 3, 6, 9)] == [1, 1, 1, 2, 3]
    assert [scale_depth(n, 0.1) for n in (1, 2, 9)] == [1, 1, 1]
    graph = resolve_graph(small(CONV, (-1, 5, "C2f", [32]), (-1, 3, "Conv", [32, 3, 1]), depth_multiple=0.5))
    assert row(graph, 1) == [16, 32, 2] and (graph.rows[2].repeats, graph.rows[2].times) == (2, 2)


def test_width_is_cut_then_scaled_then_rounded_up_to_eight():
    assert [scale_width(c, 0.25, 1024) for c in (64, 128, 100, 1, 2048)] == [16, 32, 32, 8, 256]
    assert scale_width(1024, 1.5, 512) == 768
    assert scale_width(768, 0.75, 768) == 576
    assert scale_width(80, 0.33, float("inf")) == 32
    graph = resolve_graph(
        small((-1, 1, "Conv", [80, 3, 2]), (-1, 1, "Conv", [640, 3, 2]), scales={"q": [1.0, 0.5, 320]})
    )
    assert [r.channels for r in graph.rows] == [40, 160, 0]


def test_a_row_whose_width_equals_nc_is_scaled_like_any_other():
    graph = resolve_graph(small((-1, 1, "Conv", [64, 3, 2]), width_multiple=0.5, nc=64))
    assert row(graph, 0)[:2] == [3, 32]


def test_multiples_count_only_without_scales():
    doc = small((-1, 1, "Conv", [64, 3, 2]), depth_multiple=0.5, width_multiple=0.5)
    assert row(resolve_graph(doc), 0)[1] == 32
    assert row(resolve_graph({**doc, "scales": {"a": [1.0, 2.0]}}), 0)[1] == 128


def test_words_in_arguments():
    doc = small(
        (-1, 1, "Conv", ["max_channels", 3, 2, "None", 1, "1", "True"]),
        (-1, 1, "nn.Upsample", ["None", 2, "nearest"]),
        (-1, 1, "Conv", ["ch", "reg_max", 4]),
        scales={"n": [1.0, 1.0, 48]},
        reg_max=9,
        ch=5,
    )
    graph = resolve_graph(doc)
    assert row(graph, 0) == [5, 48, 3, 2, None, 1, 1, True]
    assert row(graph, 1) == [None, 2, "nearest"]
    assert row(graph, 2) == [48, 8, 9, 4]
    assert row(graph, 3) == [2, 9]


def test_the_class_count_comes_from_the_dataset_then_nc_then_names():
    doc = small(CONV)
    assert resolve_graph(doc).names == {0: "0", 1: "1"}
    graph = resolve_graph({**doc, "names": ["cat", "dog"]}, nc=3)
    assert (graph.nc, graph.names, row(graph, 1)[0]) == (3, {0: "0", 1: "1", 2: "2"}, 3)
    assert any("nc=2" in note and "nc=3" in note for note in graph.notes)
    assert resolve_graph({**doc, "names": {1: "dog", 0: "cat"}}).names == {0: "cat", 1: "dog"}
    graph = resolve_graph({**doc, "nc": None, "names": ["a", "b", 3]})
    assert (graph.nc, graph.names) == (3, {0: "a", 1: "b", 2: "3"})
    graph = resolve_graph(doc, names={0: "red", 1: "blue", 2: "green"})
    assert (graph.nc, graph.names[2]) == (3, "green")


def test_neck_and_head_are_numbered_on():
    doc = {
        "nc": 1,
        "backbone": [list(CONV), list(CONV)],
        "neck": [[[0], 1, "Conv", [16, 3, 2]], [[-1, 1], 1, "Concat", [1]]],
        "head": [[[3], 1, "Detect", ["nc"]]],
    }
    assert [r.sources for r in resolve_graph(doc).rows] == [(-1,), (0,), (0,), (2, 1), (3,)]
    only_neck = {**doc, "neck": doc["neck"] + doc["head"], "head": None}
    assert resolve_graph(only_neck).rows == resolve_graph(doc).rows


def test_heads_of_old_graphs_have_dense_class_branches():
    assert resolve_graph(document("yolov8.yaml"), scale="n").rows[-1].keywords["legacy"] is True
    assert resolve_graph(document("yolo11.yaml"), scale="n").rows[-1].keywords["legacy"] is False
    assert resolve_graph(document("yolov12.yaml"), scale="n").rows[-1].keywords["legacy"] is False


def test_the_own_modules_declared_input_is_only_a_declaration():
    graph = resolve_graph(small(CONV, (-1, 1, "SepConv7x7", [999, 32]), (-1, 1, "SepConv7x7", [48])))
    assert row(graph, 1) == [16, 32] and row(graph, 2) == [32, 48]


def test_batch_norm_takes_the_width_of_its_input():
    graph = resolve_graph(small(CONV, (-1, 2, "nn.BatchNorm2d", [7, 8, 9])))
    assert row(graph, 1) == [16] and graph.rows[1].times == 2


def test_a_resolved_graph_can_be_resolved_again_from_its_own_document():
    first = resolve_graph(document(), named_scale="l", variant="turbo", names={0: "a", 1: "b"})
    again = resolve_graph(copy.deepcopy(dict(first.document)), name=first.name)
    assert again.rows == first.rows
    assert (again.scale, again.variant, again.nc, again.names) == ("l", "turbo", 2, {0: "a", 1: "b"})


def test_the_document_that_was_given_is_not_changed():
    doc = document()
    before = copy.deepcopy(doc)
    resolve_graph(doc, scale="x", nc=7)
    assert doc == before


# What is said aloud


def notes(doc: dict, **choices) -> str:
    return "\n".join(resolve_graph(doc, name="my.yaml", **choices).notes)


def test_the_first_scale_is_assumed_aloud():
    graph = resolve_graph(document(), name="my.yaml")
    assert graph.scale == "n" and any(
        "no scale given, assuming scale='n'" in note and "my.yaml" in note for note in graph.notes
    )
    assert "no scale" not in notes(document(), named_scale="s")


def test_a_scale_that_was_asked_for_beats_the_name_aloud():
    graph = resolve_graph(document(), scale="l", named_scale="n")
    assert graph.scale == "l" and any("scale=l" in note and "'n'" in note for note in graph.notes)
    assert "file name" not in notes(document(), scale="l", named_scale="l")


def test_a_letter_without_scales_still_rules_the_stages():
    doc = small((-1, 1, "Conv", [64, 3, 2]), (-1, 2, "C3k2", [64, False]), (-1, 1, "A2C2f", [64, True, 1]))
    graph = resolve_graph(doc, named_scale="x")
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
    assert "end_date" in notes(small(CONV, end_date=[17, 3]))


# Words


def test_literals_and_activations_are_matched():
    assert [literal(x) for x in ("None", "True", "[1, 2]", "0.5", "nearest", "1e3", "os.getcwd()", 7)] == [
        None,
        True,
        [1, 2],
        0.5,
        "nearest",
        1000.0,
        "os.getcwd()",
        7,
    ]
    assert activation_name("torch.nn.ReLU()") == ("ReLU", (), {})
    assert activation_name("nn.LeakyReLU(0.1, inplace=True)") == ("LeakyReLU", (0.1,), {"inplace": True})
    assert activation_name("SiLU") == ("SiLU", (), {})
    for text in (
        "torch.nn.functional.relu()",
        "nn.ReLU(open('x'))",
        "nn.ReLU(*[1])",
        "nn.ReLU(**{})",
        "nn.ReLU()()",
        "os.nn.ReLU",
        "nn.ReLU(x)",
        "nn['ReLU']",
        "",
        "nn.",
        "ReLU(); x",
        None,
        ["nn.ReLU"],
    ):
        assert activation_name(text) is None


def test_resolving_needs_no_weights():
    with torch.device("meta"):
        assert resolve_graph(document(), scale="x").rows[8].args[:2] == (768, 768)
