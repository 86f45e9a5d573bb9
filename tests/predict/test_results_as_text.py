"""Every text of Results: the counts, the summary, CSV, XML, data frames and label files."""

from __future__ import annotations

import builtins
import csv
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.predict.results import Results
from tests.helpers.results import ROWS, TRACKED, result

SUMMARY = [
    {"name": "person", "class": 0, "confidence": 0.9, "box": {"x1": 10.0, "y1": 20.0, "x2": 50.0, "y2": 80.0}},
    {"name": "bus", "class": 1, "confidence": 0.5, "box": {"x1": 0.0, "y1": 0.0, "x2": 100.0, "y2": 200.0}},
    {"name": "bus", "class": 1, "confidence": 0.3, "box": {"x1": 5.0, "y1": 5.0, "x2": 9.0, "y2": 9.0}},
]


@pytest.mark.parametrize(
    "rows, words",
    [
        (ROWS, "1 person, 2 buss, "),
        (ROWS[[1, 0]], "1 person, 1 bus, "),
        (ROWS[:0], "(no detections), "),
        (TRACKED, "1 person, 2 buss, "),
        (torch.tensor([[0, 0, 9, 9, 0.5, 77]]), "1 77, "),
    ],
)
def test_verbose_counts_by_class(rows, words):
    assert result(rows).verbose() == words and result(rows).numpy().verbose() == words


def test_summary_and_its_formats():
    for found in (result(), result().numpy(), result().to(torch.float64)):
        assert found.summary() == SUMMARY
        assert json.loads(found.to_json()) == SUMMARY == json.loads(found.tojson())
    assert result().summary(normalize=True)[2]["box"] == {"x1": 0.05, "y1": 0.025, "x2": 0.09, "y2": 0.045}
    odd = result(torch.tensor([[1 / 3, 0, 2 / 3, 1, 0.123456789, 0]])).summary(decimals=2)[0]
    assert (odd["confidence"], odd["box"]["x1"], odd["box"]["x2"]) == (0.12, 0.33, 0.67)
    assert [row["track_id"] for row in result(TRACKED).summary()] == [7, 1234567, 9]
    assert result(ROWS[:0]).summary() == [] and result(ROWS[:0]).to_json() == "[]"


def test_csv_has_a_column_for_each_corner():
    assert result(ROWS[:1]).to_csv() == "name,class,confidence,x1,y1,x2,y2\nperson,0,0.9,10.0,20.0,50.0,80.0\n"
    assert result(ROWS[:0]).to_csv() == "name,class,confidence,x1,y1,x2,y2\n"
    assert result(TRACKED).to_csv(normalize=True).splitlines()[2] == "bus,1,0.5,0.0,0.0,1.0,1.0,1234567"
    found = Results(np.zeros((9, 9, 3), np.uint8), "x", {0: 'a, "b"\nc 猫', 1: "d"}, ROWS)
    assert next(csv.DictReader(io.StringIO(found.to_csv())))["name"] == 'a, "b"\nc 猫'


def test_xml_has_a_row_for_each_box():
    rows = ElementTree.fromstring(result(TRACKED).to_xml())
    assert [row.findtext("name") for row in rows] == ["person", "bus", "bus"]
    assert (rows[0].findtext("x2"), rows[0].findtext("confidence"), rows[1].findtext("track_id")) == (
        "50.0",
        "0.9",
        "1234567",
    )
    assert len(ElementTree.fromstring(result(ROWS[:0]).to_xml())) == 0


def test_a_data_frame_holds_the_summary():
    pytest.importorskip("pandas", reason="pandas makes the frame")
    assert result().to_df().to_dict("records") == SUMMARY
    assert list(result(ROWS[:0]).to_df().columns) == ["name", "class", "confidence", "box"]
    assert list(result(TRACKED).to_df()["track_id"]) == [7, 1234567, 9]


def test_a_data_frame_needs_pandas(monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__", lambda name, *rest: raising() if name == "pandas" else real(name, *rest)
    )

    def raising():
        raise ImportError("pandas")

    with pytest.raises(UserError, match="pip install pandas"):
        result().to_df()


@pytest.mark.parametrize(
    "rows, save_conf, lines",
    [
        (ROWS, False, ["0 0.3 0.25 0.4 0.3", "1 0.5 0.5 1 1", "1 0.07 0.035 0.04 0.02"]),
        (ROWS[:1], True, ["0 0.3 0.25 0.4 0.3 0.9"]),
        (TRACKED[:2], False, ["0 0.3 0.25 0.4 0.3 7", "1 0.5 0.5 1 1 1234567"]),
        (TRACKED[1:2], True, ["1 0.5 0.5 1 1 0.5 1234567"]),
        (
            torch.tensor([[0, 0, 100 / 3, 200 / 7, 0.123456789, 1]]),
            True,
            ["1 0.166667 0.0714286 0.333333 0.142857 0.123457"],
        ),
    ],
)
def test_labels_as_text(tmp_path, rows, save_conf, lines):
    path = tmp_path / "labels" / "a.txt"
    for found in (result(rows), result(rows).numpy()):
        assert found.save_txt(path, save_conf=save_conf) == str(path)
    assert path.read_text() == "\n".join(lines * 2) + "\n"  # appended


def test_labels_of_nothing_and_behind_an_unfinished_line(tmp_path):
    assert result(ROWS[:0]).save_txt(tmp_path / "none.txt") and not (tmp_path / "none.txt").exists()
    (tmp_path / "a.txt").write_text("0 1 1 1 1")
    result(ROWS[:1]).save_txt(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "0 1 1 1 1\n0 0.3 0.25 0.4 0.3\n"
