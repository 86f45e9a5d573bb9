"""Records as JSON, CSV and data frames, with nested dicts and without records."""

from __future__ import annotations

import json
import sys

import pytest

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.tabular import Tabular, flatten


class Sizes(Tabular):
    def __init__(self, *records):
        self.records = records

    def columns(self, flat=False):
        return ["name", "w", "h"] if flat else ["name", "size"]

    def summary(self, factor=1):
        return [{"name": name, "size": {"w": w * factor, "h": h * factor}} for name, w, h in self.records]


def test_texts_take_the_options_of_summary():
    sizes = Sizes(("猫, small", 1, 2))
    assert sizes.to_csv(factor=3) == 'name,w,h\n"猫, small",3,6\n' == sizes.to_csv(3)
    assert json.loads(sizes.to_json(2)) == sizes.summary(2) and "猫" in sizes.to_json()
    assert Sizes().to_csv() == "name,w,h\n" and Sizes().to_json() == "[]"


def test_nested_items_stand_behind_the_others():
    assert list(flatten({"a": {"x": 1}, "b": 2, "c": {"y": 3}}).items()) == [("b", 2), ("x", 1), ("y", 3)]


def test_a_frame_has_the_columns_without_records_too(monkeypatch):
    pandas = pytest.importorskip("pandas", reason="pandas makes the frame")
    assert list(Sizes().to_df().columns) == ["name", "size"]
    assert isinstance(Sizes(("a", 1, 2)).to_df(), pandas.DataFrame)


def test_a_frame_needs_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        Sizes().to_df()
