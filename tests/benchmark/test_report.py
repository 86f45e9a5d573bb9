"""The tables and pictures of a benchmark."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec

import pytest

from bitfalcon_plugin.benchmark.candidates import REFERENCE
from bitfalcon_plugin.benchmark.quiet import Quiet
from bitfalcon_plugin.benchmark.report import Bench, EngineRecord, Workload, draw, markdown, write
from bitfalcon_plugin.benchmark.timing import Timing, machine


def rows() -> tuple[EngineRecord, ...]:
    return (
        EngineRecord(
            REFERENCE,
            "float32",
            "torch",
            10_000_000,
            {"AP": 0.5, "AP50": 0.7},
            Timing((50.0, 52.0, 48.0)),
            1.0,
            0.2,
            0.1,
            500_000_000,
            0,
            0.0,
            0.0,
            9,
            9,
        ),
        EngineRecord(
            "onnx|x",
            "float32",
            "onnxruntime",
            10_100_000,
            {"AP": 0.5, "AP50": 0.7},
            Timing((20.0, 21.0, 19.0)),
            2.5,
            0.3,
            0.1,
            600_000_000,
            0,
            0.02,
            1e-5,
            9,
            9,
        ),
        EngineRecord("slow", "16 bits", "x", 5_000_000, reason="too slow"),
        EngineRecord("gone", "int8", reason="needs the package nncf"),
    )


def test_the_table_is_sorted_by_latency_and_tells_what_is_missing(tmp_path):
    bench = Bench(
        "best.pt",
        "split val of data.yaml, 4 images",
        (64, 64),
        2,
        "cpu",
        3,
        REFERENCE,
        "4 drawn shapes",
        rows(),
        machine(),
    )
    text = markdown(bench)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert [line.split(" |")[0] for line in table[2:]] == ["| onnx\\|x", f"| {REFERENCE}"]
    assert "20.0 (19.5 to 20.5) | 2.50 | 100.0 |" in table[2]  # two images in 20 ms
    assert "- slow: too slow" in text and "- gone: needs the package nncf" in text and "threads" in text
    assert bench.fastest.name == "onnx|x" and str(bench) == text
    write(bench, tmp_path, picture=False)
    assert (tmp_path / "benchmark.md").read_text() == text
    assert json.loads((tmp_path / "benchmark.json").read_text())["rows"][1]["latency"]["median_ms"] == 20.0
    nothing = Bench("x", "", (64, 64), 1, "cpu", 3, REFERENCE, "", (), machine())
    assert nothing.fastest is None and "mAP" not in markdown(nothing)
    assert math.isclose(bench.rows[0].latency.median, 50)


def test_the_picture_is_drawn_where_matplotlib_is(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    for number, records in enumerate((rows(), rows()[:1], ())):
        bench = Bench("best.pt", "data", (64, 64), 2, "cpu", 3, REFERENCE, "4 drawn shapes", records, machine())
        assert Image.open(draw(tmp_path / f"{number}.png", bench)).width > 500


def test_batches_and_threads_have_tables_and_a_picture(tmp_path, capsys):
    few = tuple(EngineRecord(r.name, r.precision, latency=r.latency, faster=r.faster) for r in rows()[:2])
    failed = EngineRecord("slow", "16 bits", reason="no such batch")
    common = ("best.pt", "", (64, 96), 1, "cpu", 3, REFERENCE, "4 drawn shapes", rows(), machine())
    loads = Workload(1, 1, few), Workload(8, 2, (*few, failed))
    bench = Bench(*common, workloads=loads, quiet=Quiet(2, 1.3))
    text = markdown(bench)
    _, one, eight = text.split("\n## Latency: ")
    assert one.startswith("batch 1, 1 thread\n") and eight.startswith("batch 8, 2 threads\n")
    assert "20.0 (19.5 to 20.5) | 2.50 | 50.0 |" in one and "| 2.50 | 400.0 |" in eight
    assert "- slow: no such batch" in eight and "- **This machine is not quiet" in text
    assert "- Quiet: at the start 2 threads got the time of 2.0 of 2" in markdown(Bench(*common, quiet=Quiet(2, 2.0)))
    write(bench, tmp_path, picture=True)
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["workloads"][1]["batch"] == 8 and content["quiet"]["obtained"] == 1.3
    assert content["workloads"][1]["rows"][0]["latency"]["median_ms"] == 50.0
    if find_spec("matplotlib"):
        assert {path.name for path in tmp_path.glob("*.png")} == {"benchmark.png", "batches.png"}
