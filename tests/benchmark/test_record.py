"""Records: what is saved comes back, a damaged file is refused with the place of the damage, a value has a cell."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest

from bitfalcon_plugin.benchmark.record import Column, FloatOrNan, RecordFile, markdown_table, write_report
from bitfalcon_plugin.benchmark.timing import Timing
from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.plots.figure import NoMatplotlib

FILE = RecordFile("bitfalcon test", 2, "the record of a test", "a test", "Test again.")


@dataclass(frozen=True)
class Run:
    name: str
    layers: tuple[str, ...] = ()
    bytes: int | None = None
    ap: FloatOrNan = math.nan
    latency: Timing | None = None
    share: float = 0.0


KINDS = {"runs": tuple[Run, ...], "halves": tuple[float, float], "settings": dict, "best": Run | None}
RUNS = (Run("a", ("x", "y"), 3, 0.5, Timing((1.0, 2.0))), Run("b"))
ENTRIES = {"runs": RUNS, "halves": (0.25, 1), "settings": {"imgsz": [64, 96]}, "best": None}


def test_entries_come_back_as_they_were_saved(tmp_path):
    path = tmp_path / "record.json"
    FILE.save(path, {**ENTRIES, "best": RUNS[0]})
    entries = FILE.load(path, KINDS)
    assert entries["runs"][0] == entries["best"] == RUNS[0] and math.isnan(entries["runs"][1].ap)
    assert entries["halves"] == (0.25, 1) and entries["settings"] == {"imgsz": [64, 96]}
    assert FILE.load(path, {"halves": tuple[float, ...]}) == {"halves": (0.25, 1)}
    assert [item.name for item in tmp_path.iterdir()] == ["record.json"]
    content = json.loads(path.read_text())
    assert list(content)[:2] == ["format", "version"] and content["runs"][0]["latency"]["median_ms"] == 1.5


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": "other"}, "is not the record of a test"),
        ({"version": 3}, "format version 3, this package writes 2. Install a newer bitfalcon"),
        ({"version": None}, "version is None, expected a whole number"),
        ({"runs": None}, "runs is 'None', expected a list"),
        ({"runs": [3]}, r"runs\[0\] is '3', expected a mapping"),
        ({"runs": [{"name": "a"}]}, r"runs\[0\]: ap, bytes, latency, layers, share missing or not known"),
        ({"name": 3}, r"runs\[0\].name is '3', expected str"),
        ({"layers": "x"}, r"runs\[0\].layers is 'x', expected a list"),
        ({"layers": [1]}, r"runs\[0\].layers\[0\] is '1', expected str"),
        ({"bytes": True}, r"runs\[0\].bytes is 'True', expected int"),
        ({"bytes": -1}, r"runs\[0\].bytes is '-1'"),
        ({"bytes": math.nan}, r"runs\[0\].bytes is NaN"),
        ({"ap": "high"}, r"runs\[0\].ap is 'high', expected float"),
        ({"ap": math.inf}, r"runs\[0\].ap is 'inf'"),
        ({"ap": -0.5}, r"runs\[0\].ap is '-0.5'"),
        ({"share": math.nan}, r"runs\[0\].share is 'nan', expected float"),
        ({"halves": [0.5, math.nan]}, r"halves\[1\] is 'nan', expected float"),
        ({"latency": {"rounds_ms": []}}, r"runs\[0\].latency: a timing"),
        ({"more": 1}, "more missing or not known"),
        ({"halves": [1.0]}, "halves is .*, expected a list of 2"),
        ({"settings": []}, "settings is .*, expected dict"),
        ({"best": "a"}, "best is 'a', expected a mapping"),
    ],
)
def test_a_damaged_record_is_refused_with_the_place_of_the_damage(tmp_path, change, message):
    path = tmp_path / "record.json"
    FILE.save(path, ENTRIES)
    content = json.loads(path.read_text())
    changed = content if change.keys() <= content.keys() else content["runs"][0]
    changed |= change
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as raised:
        FILE.load(path, KINDS)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("text", ["{", "[" * 10**5, "\xff"])
def test_what_is_not_json_is_refused(tmp_path, text):
    (tmp_path / "record.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="cannot be read as JSON.*Test again"):
        FILE.load(tmp_path / "record.json", KINDS)


def test_a_file_that_does_not_exist_is_a_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist. It is written by a test"):
        FILE.load(tmp_path / "record.json", KINDS)


def test_a_report_without_matplotlib_ends_with_a_note(tmp_path, capsys):
    def draw(target):
        raise NoMatplotlib("matplotlib is missing")

    path, data = tmp_path / "x.md", tmp_path / "x.json"
    write_report("| a |", path, data, draw)
    printed = capsys.readouterr()
    assert path.read_text() == "| a |" and printed.out == f"\n| a |\nTable: {path}, {data}\n"
    assert printed.err == "note: no picture: matplotlib is missing\n"
    write_report("| a |", path, data, lambda target: target)
    assert capsys.readouterr().out.endswith(f"Picture: {tmp_path / 'x.png'}\n")


def test_a_table_has_a_line_for_each_record():
    columns = (
        Column("name", "name", text=True),
        Column("size KB", "bytes", "{:.1f}", unit=1e3),
        Column("layers", lambda run: "|\n".join(run.layers)),
        Column("latency ms", "latency", missing="not measured"),
    )
    assert markdown_table((Run("a", ("x", "y"), 1500, latency=Timing((2.0,))), Run("b")), columns) == [
        "| name | size KB | layers | latency ms |",
        "|---|--:|--:|--:|",
        "| a | 1.5 | x\\| y | 2.0 (2.0 to 2.0) |",
        "| b | - |  | not measured |",
    ]
