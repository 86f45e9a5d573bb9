"""Pictures of accuracy against a price: names stand free of each other and of the marks."""

from __future__ import annotations

from itertools import combinations

import pytest
from PIL import Image

import bitfalcon_plugin.plots.tradeoff as tradeoff
from bitfalcon_plugin.plots.figure import NoMatplotlib
from bitfalcon_plugin.plots.tradeoff import Bars, Panel, Point, draw_bars, draw_tradeoff


def test_crowded_names_do_not_cover_one_another(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    boxes, original = [], tradeoff._write_name

    def recorded(*args):
        boxes.append(original(*args))
        return boxes[-1]

    monkeypatch.setattr(tradeoff, "_write_name", recorded)
    points = [
        Point(10 + 0.3 * i, 50 + 0.2 * (i % 3), f"engine {i}", "ab"[i % 2], 9.5 + 0.3 * i, 11 + 0.3 * i)
        for i in range(9)
    ]
    draw_tradeoff(tmp_path / "x.png", [Panel("ms", points)], "AP", "title", "note " * 80)
    assert len(boxes) == 9
    assert all(tradeoff._common_area(*pair) == 0 for pair in combinations(boxes, 2))


@pytest.mark.parametrize(
    "panels",
    [
        [],
        [Panel("ms", [])],
        [Panel("ms", [Point(0, 0, "a")])],
        [Panel("ms", [Point(5, 5, "a", low=4, high=6)], log=True)],
        [Panel("ms", [Point(1, -1, "a"), Point(2, -1, "b")], [[(1, -1), (2, -1)]]), Panel("MB", [])],
        [Panel("ms", [Point(1, 1, "$x$ _日本" * 9, "one"), Point(2, 1, "b", "two")])],
    ],
)
def test_every_number_of_panels_and_points_gives_a_picture(tmp_path, panels):
    pytest.importorskip("matplotlib")
    path = draw_tradeoff(str(tmp_path / "x.png"), panels, "AP")
    assert Image.open(path).height > 500


def test_overlaps_are_areas():
    assert (
        tradeoff._common_area((0, 0, 2, 2), (1, 1, 3, 3)) == 1
        and tradeoff._common_area((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    )


def test_without_matplotlib_an_error_is_raised_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(NoMatplotlib, match="plots"):
        draw_tradeoff(tmp_path / "x.png", [], "AP")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "names, panels",
    [
        ([], []),
        (["one"], [Bars("ms", [0.0])]),
        (["one", "two"], [Bars("ms", [1.0, None], [0.5, None], [2.0, None]), Bars("AP", [0.6, 0.6], dots=True)]),
        (["one", "two"], [Bars("AP", [None, None], dots=True)]),
    ],
)
def test_bars_are_drawn_with_any_number_missing(tmp_path, names, panels):
    pytest.importorskip("matplotlib")
    path = draw_bars(tmp_path / "x.png", names, names, panels, "title", "note")
    assert Image.open(path).height > 200
