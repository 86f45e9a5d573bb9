"""What a benchmark found: a row for each contender, as a table, as plain values and as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..config.files import write_text
from ..plots.tradeoff import Bars, draw_bars
from .timing import Timing, told

FORMAT, VERSION = "bitfalcon benchmark", 1
MISSING = "-"


@dataclass(frozen=True)
class Row:
    """A contender. None: not measured; reason: why, where it did not take part.

    ap, ap50: 0 to 1. bytes: of the file. latency: of a batch, network and decoding. faster: than the reference, by the median of the
    ratios of the rounds. load, first: seconds to open the file and to run the first images, in a process that has torch but nothing
    else of it. memory: most bytes of that process; gpu: bytes it took on the GPU. pixels, score: largest differences of boxes from
    the reference's; matched of boxes agree, as export.compare has it.
    """

    name: str
    precision: str
    runtime: str = ""
    bytes: int | None = None
    ap: float | None = None
    ap50: float | None = None
    latency: Timing | None = None
    faster: float | None = None
    load: float | None = None
    first: float | None = None
    memory: int | None = None
    gpu: int | None = None
    pixels: float | None = None
    score: float | None = None
    matched: int | None = None
    boxes: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Bench:
    """All rows, in the order they were asked for, and what they depend on. images: what the boxes were compared on, in words."""

    model: str
    data: str
    imgsz: tuple[int, int]
    batch: int
    device: str
    rounds: int
    reference: str
    images: str
    rows: tuple[Row, ...]
    facts: Mapping[str, object]
    folder: Path | None = None

    @property
    def fastest(self) -> Row | None:
        """The row with the least latency."""
        return min((row for row in self.rows if row.latency), key=lambda row: row.latency.median, default=None)

    def __str__(self) -> str:
        return markdown(self)


def markdown(bench: Bench) -> str:
    """The table, with what it depends on around it; ends with a line break."""
    high, wide = bench.imgsz
    gpu = any(row.gpu for row in bench.rows)
    ap = (
        [("mAP50-95", lambda row: _number(row.ap, "{:.4f}")), ("mAP50", lambda row: _number(row.ap50, "{:.4f}"))]
        if bench.data
        else []
    )
    columns = [
        ("engine", lambda row: row.name),
        ("precision", lambda row: row.precision),
        *ap,
        ("size MB", lambda row: _number(row.bytes, "{:.2f}", 1e6)),
        ("latency ms", lambda row: str(row.latency or MISSING)),
        (f"x {bench.reference}", lambda row: _number(row.faster, "{:.2f}")),
        ("images/s", lambda row: f"{bench.batch * 1e3 / row.latency.median:.1f}" if row.latency else MISSING),
        ("open s", lambda row: _number(row.load, "{:.2f}")),
        ("first image s", lambda row: _number(row.first, "{:.2f}")),
        ("peak memory MB", lambda row: _number(row.memory or None, "{:.0f}", 1e6)),
        *([("GPU MB", lambda row: _number(row.gpu, "{:.0f}", 1e6))] if gpu else []),
        ("largest box difference px", lambda row: _number(row.pixels, "{:.2g}")),
        ("largest score difference", lambda row: _number(row.score, "{:.2g}")),
        ("boxes matched", lambda row: MISSING if row.boxes is None else f"{row.matched} of {row.boxes}"),
    ]
    lines = [
        f"# Benchmark of {bench.model}, {wide}x{high}, batch {bench.batch}, on {bench.device}",
        "",
        "| " + " | ".join(name for name, _ in columns) + " |",
        "|---|---|" + "--:|" * (len(columns) - 2),
    ]
    ran = [row for row in bench.rows if row.latency or row.bytes is not None and not row.reason]
    for row in sorted(ran, key=lambda row: row.latency.median if row.latency else float("inf")):
        lines.append("| " + " | ".join(value(row).replace("|", "\\|") for _, value in columns) + " |")
    lines += _notes(bench)
    return "\n".join(lines) + "\n"


def _notes(bench: Bench) -> list[str]:
    notes = [
        f"- Latency: network and decoding of a batch of {bench.batch}, without reading, letterbox and suppression; median and quartiles of "
        f"{bench.rounds} rounds in which all engines took turns in one process. x: how many times faster than {bench.reference}, by the "
        "median of the rounds' ratios.",
        "- Open, first image and peak memory: of a process of its own, which has imported torch; memory is that of the whole process.",
        f"- Differences: boxes before suppression against those of {bench.reference}, on {bench.images}: those with a score above "
        "0.25, and at least the 30 best of an image. A box is matched where it differs by no more than `export` allows.",
        "- Precision is that of the numbers in the file; a runtime without fast 16-bit arithmetic computes 16 bits in float32.",
        *([f"- mAP: {bench.data}, square images of {bench.imgsz[0]} px."] if bench.data else []),
        f"- Runtimes: {', '.join(dict.fromkeys(row.runtime for row in bench.rows if row.runtime)) or 'none ran'}.",
        f"- Measured on: {told(bench.facts)}.",
    ]
    missing = [f"- {row.name}: {row.reason}" for row in bench.rows if row.reason]
    return ["", *notes, *(["", "Not, or not wholly, measured:", "", *missing] if missing else [])]


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return MISSING if value is None else form.format(value / unit)


def write(bench: Bench, folder: Path) -> None:
    """Write benchmark.md and benchmark.json into a folder."""
    rows = [{**asdict(row), "latency": row.latency and row.latency.as_dict()} for row in bench.rows]
    content = {
        "format": FORMAT,
        "version": VERSION,
        **{key: value for key, value in vars(bench).items() if key not in ("rows", "folder")},
        "rows": rows,
    }
    write_text(folder / "benchmark.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "benchmark.md", markdown(bench))


def draw(target: Path, bench: Bench) -> Path:
    """Bars of latency, size and peak memory, and marks of the mean average precision. Raises figures.NoMatplotlib."""
    rows = sorted((row for row in bench.rows if row.latency), key=lambda row: row.latency.median)
    panels = [
        Bars(
            "latency of a batch (ms)",
            [row.latency.median for row in rows],
            [row.latency.low for row in rows],
            [row.latency.high for row in rows],
        )
    ]
    if any(row.ap is not None for row in rows):
        panels.append(Bars("mAP50-95", [row.ap for row in rows], form="{:.4f}", dots=True))
    panels += [
        Bars("size of the file (MB)", [row.bytes / 1e6 for row in rows]),
        Bars("peak memory (MB)", [row.memory / 1e6 if row.memory else None for row in rows], form="{:.0f}"),
    ]
    title = markdown(bench).partition("\n")[0].removeprefix("# ")
    return draw_bars(
        target, [row.name for row in rows], [row.precision for row in rows], panels, title, told(bench.facts)
    )
