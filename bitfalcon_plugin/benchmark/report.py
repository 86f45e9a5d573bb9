"""The result of a benchmark: a record for each engine, as a table, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..config.printable import say
from ..export.agreement import UNITS
from ..plots.figure import NoMatplotlib
from ..plots.tradeoff import Bars, draw_bars
from .quiet import Quiet, quiet_note
from .record import Column, RecordFile, markdown_table, write_report
from .timing import Timing, machine_line

BENCHMARK_FILE = RecordFile(
    "bitfalcon benchmark", 1, "the record of a benchmark", "`bitfalcon benchmark`", "Run the benchmark again."
)


@dataclass(frozen=True)
class EngineRecord:
    """The measurements of one engine in one precision. None: not measured; reason: why not, or "".

    numbers: of the validation, by name, 0 to 1 (TaskMetrics.headline). bytes: size of the file. latency: of a batch,
    network and decoding. faster: how many times faster than the reference, the median of the rounds' ratios. load,
    first: seconds to open the file and to run the first images, in a process that has only imported torch. memory: peak
    bytes of that process; gpu: bytes it took on the GPU. boxes: how many boxes were compared, or images where there are
    no boxes; matched: how many agree with the reference, as export.compare means it. pixels, score: largest differences
    from the reference. further: those of points, visibilities, angles, coefficients and prototypes, by these names
    (export.agreement.Agreement).
    """

    name: str
    precision: str
    runtime: str = ""
    bytes: int | None = None
    numbers: dict = field(default_factory=dict)
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
    further: dict = field(default_factory=dict)


NAMES = (Column("engine", "name", text=True), Column("precision", "precision", text=True))


def by_latency(records: Sequence[EngineRecord]) -> list[EngineRecord]:
    """The records with a latency, the fastest first."""
    return sorted((record for record in records if record.latency), key=lambda record: record.latency.median)


@dataclass(frozen=True)
class Workload:
    """The latencies of all engines for a batch of so many images on so many threads; other values are not measured."""

    batch: int
    threads: int
    rows: tuple[EngineRecord, ...]

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.threads} thread{'s' * (self.threads != 1)}"


@dataclass(frozen=True)
class Bench:
    """The records of all engines, in the order in which they were prepared, and the conditions of the measurement.

    imgsz: (height, width). images: those on which results were compared, in words. facts: of `machine`. workloads:
    other batches and numbers of threads. quiet: what the machine had left at the start; None: not measured.
    """

    model: str
    data: str
    imgsz: tuple[int, int]
    batch: int
    device: str
    rounds: int
    reference: str
    images: str
    rows: tuple[EngineRecord, ...]
    facts: Mapping[str, object]
    folder: Path | None = None
    workloads: tuple[Workload, ...] = ()
    quiet: Quiet | None = None

    @property
    def numbers(self) -> list[str]:
        """The names of the numbers of the validation; none where nothing was validated."""
        return list(dict.fromkeys(name for record in self.rows for name in record.numbers))

    @property
    def further(self) -> list[str]:
        """The names of the other values that were compared."""
        return list(dict.fromkeys(name for record in self.rows for name in record.further))

    @property
    def has_boxes(self) -> bool:
        """Whether the model finds boxes."""
        return any(record.pixels is not None for record in self.rows)

    @property
    def timed(self) -> list[EngineRecord]:
        """The records with a latency, the fastest first."""
        return by_latency(self.rows)

    @property
    def fastest(self) -> EngineRecord | None:
        """The record of the smallest latency; None where nothing ran."""
        return next(iter(self.timed), None)

    def as_dict(self) -> dict[str, object]:
        """The fields by name, which benchmark.json and json=True hold."""
        return dict(vars(self))

    def __str__(self) -> str:
        return markdown(self)


def _columns(bench: Bench) -> list[Column]:
    compared = "boxes" if bench.has_boxes else "images"

    def number(name: str, record: EngineRecord) -> float | None:
        return record.numbers.get(name)

    def other(name: str, record: EngineRecord) -> float | None:
        return record.further.get(name)

    return [
        *NAMES,
        *(Column(name, partial(number, name), "{:.4f}") for name in bench.numbers),
        Column("size MB", "bytes", "{:.2f}", unit=1e6),
        *_speed(bench.reference, bench.batch),
        Column("open s", "load", "{:.2f}"),
        Column("first image s", "first", "{:.2f}"),
        Column("peak memory MB", lambda record: record.memory or None, "{:.0f}", unit=1e6),
        *([Column("GPU MB", "gpu", "{:.0f}", unit=1e6)] if any(record.gpu for record in bench.rows) else ()),
        *([Column("largest box difference px", "pixels", "{:.2g}")] if bench.has_boxes else ()),
        Column("largest score difference", "score", "{:.2g}"),
        *(
            Column(f"largest difference of {name}{UNITS.get(name, '')}", partial(other, name), "{:.2g}")
            for name in bench.further
        ),
        Column(
            f"{compared} matched",
            lambda record: None if record.boxes is None else f"{record.matched} of {record.boxes}",
        ),
    ]


def _speed(reference: str, batch: int) -> tuple[Column, ...]:
    return (
        Column("latency ms", "latency"),
        Column(f"x {reference}", "faster", "{:.2f}"),
        Column("images/s", partial(images_a_second, batch=batch), "{:.1f}"),
    )


def images_a_second(record: EngineRecord, batch: int) -> float | None:
    """The images that an engine takes in a second, by its median latency."""
    return record.latency and batch * 1e3 / record.latency.median


def _title(bench: Bench) -> str:
    height, width = bench.imgsz
    return f"Benchmark of {bench.model}, {width}x{height}, batch {bench.batch}, on {bench.device}"


def markdown(bench: Bench) -> str:
    """Return the tables, the fastest engine first, with their conditions below; ends with a line break."""
    untimed = [r for r in bench.rows if not r.latency and r.bytes is not None and not r.reason]
    lines = [f"# {_title(bench)}", "", *markdown_table([*bench.timed, *untimed], _columns(bench)), "", *_notes(bench)]
    if failures := [f"- {record.name}: {record.reason}" for record in bench.rows if record.reason]:
        lines += ["", "Not, or not wholly, measured:", "", *failures]
    if bench.workloads:
        rounds = max((r.latency.count for load in bench.workloads for r in load.rows if r.latency), default=0)
        lines += ["", f"The engines above with other batches or threads, medians and quartiles of {rounds} rounds:"]
    for load in bench.workloads:
        columns = [*NAMES, *_speed(bench.reference, load.batch)]
        lines += ["", f"## Latency: {load}", "", *markdown_table(by_latency(load.rows), columns)]
        if failures := [f"- {record.name}: {record.reason}" for record in load.rows if record.reason]:
            lines += ["", *failures]
    return "\n".join(lines) + "\n"


def _notes(bench: Bench) -> list[str]:
    runtimes = ", ".join(dict.fromkeys(record.runtime for record in bench.rows if record.runtime))
    return [
        f"- Latency: network and decoding of a batch of {bench.batch}, without reading, letterbox and suppression; "
        f"median and quartiles of {bench.rounds} rounds in which all engines took turns in one process. "
        f"x: how many times faster than {bench.reference}, by the median of the rounds' ratios.",
        "- Open, first image and peak memory: of a process of its own, which has imported torch; "
        "memory is that of the whole process.",
        _differences(bench),
        "- Precision is that of the numbers in the file; "
        "a runtime without fast 16-bit arithmetic computes 16 bits in float32.",
        *([f"- {', '.join(bench.numbers)}: {bench.data}, square inputs of {bench.imgsz[0]} px."] if bench.data else []),
        f"- Runtimes: {runtimes or 'none ran'}.",
        f"- Measured on: {machine_line(bench.facts)}.",
        *([_quiet(bench.quiet)] if bench.quiet else []),
    ]


def _quiet(quiet: Quiet) -> str:
    if text := quiet_note(quiet):
        return f"- **{text[0].upper()}{text[1:]}**"
    return (
        f"- Quiet: at the start {quiet.processors} threads got the time of {quiet.obtained:.1f} of {quiet.processors} "
        "processors."
    )


def _differences(bench: Bench) -> str:
    if not bench.has_boxes:
        return (
            f"- Differences: probabilities against those of {bench.reference}, on {bench.images}. An image is matched "
            "where they differ by no more than `export` allows."
        )
    return (
        f"- Differences: boxes before suppression against those of {bench.reference}, on {bench.images}: those with a "
        "score above 0.25, and at least the 30 best of an image. "
        "A box is matched where it differs by no more than `export` allows."
    )


def write(bench: Bench, folder: Path, picture: bool) -> None:
    """Write benchmark.json, benchmark.md and the pictures into a folder, and print the tables."""
    data = folder / "benchmark.json"
    BENCHMARK_FILE.save(data, {key: value for key, value in bench.as_dict().items() if key != "folder"})
    write_report(markdown(bench), folder / "benchmark.md", data, partial(draw, bench=bench) if picture else None)
    if picture and bench.workloads:
        with suppress(NoMatplotlib):  # `write_report` has told
            say(f"Picture: {draw_workloads(folder / 'batches.png', bench)}")


def draw(target: Path, bench: Bench) -> Path:
    """Draw bars of latency, size and peak memory, and marks of the main number. Raises NoMatplotlib."""
    records = bench.timed
    medians, lows, highs = ([getattr(record.latency, name) for record in records] for name in ("median", "low", "high"))
    panels = [Bars("latency of a batch (ms)", medians, lows, highs)]
    for name in bench.numbers[:1]:
        panels.append(Bars(name, [record.numbers.get(name) for record in records], form="{:.4f}", dots=True))
    panels += [
        Bars("size of the file (MB)", [record.bytes / 1e6 for record in records]),
        Bars("peak memory (MB)", [record.memory / 1e6 if record.memory else None for record in records], form="{:.0f}"),
    ]
    names, precisions = [record.name for record in records], [record.precision for record in records]
    return draw_bars(target, names, precisions, panels, _title(bench), machine_line(bench.facts))


def draw_workloads(target: Path, bench: Bench) -> Path:
    """Draw bars of images a second, a panel for each batch and number of threads. Raises NoMatplotlib."""
    names = {record.name: record.precision for record in bench.timed}
    main = Workload(bench.batch, int(bench.facts["threads"]), bench.rows)
    panels = []
    for load in sorted((main, *bench.workloads), key=lambda load: (load.batch, load.threads)):
        speeds = {record.name: images_a_second(record, load.batch) for record in load.rows}
        panels.append(Bars(f"images/s, {load}", [speeds.get(name) for name in names]))
    title = f"Images a second of {bench.model}, {bench.imgsz[1]}x{bench.imgsz[0]}, on {bench.device}"
    return draw_bars(target, list(names), list(names.values()), panels, title, machine_line(bench.facts))
