"""The record of an experiment with ternary layers, step by step: JSON file, table and picture.

A step is a model with some of its layers replaced. The float model is the first step; bfloat16 stands beside it,
because a CPU can have bfloat16 without any ternary layer. Written from spec/bit.md section 4.7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..benchmark.record import MISSING, Column, RecordFile, markdown_table
from ..benchmark.timing import ROUNDS, VARIANTS, Timing, interleave, machine_line, variants
from ..models.detector import Detector
from ..plots.tradeoff import Panel, Point, draw_tradeoff

STEPS_FILE = RecordFile(
    "bitfalcon bit steps",
    1,
    "a record of steps",
    "the steps of `bitfalcon bit`; give the folder of such a run",
    "Measure the steps again, or give another folder.",
)
FILE = "steps.json"
FLOAT, HALF = "fp32", "bf16"  # names of the steps that are always there
NCHW, LAST, BF16 = VARIANTS  # what steps are compared with
STAGES = {
    "ap_raw": "replaced",
    "ap_norms": "batch norms estimated again",
    "ap_tuned": "fine-tuned",
    "ap_packed": "packed",
}
NUMBERS = (*STAGES, "x_nchw", "x_channels_last", "x_bf16")
BYTES = ("bytes_fp32", "bytes_fp16", "bytes_packed")


@dataclass(frozen=True)
class Step:
    """The measurements of one step. None: not measured.

    name: fp32, bf16, or what is replaced (head, head+neck, all). replaced: the units that are ternary. ternary_share:
    share of all parameters, 0 to 1. ap_*: TaskMetrics.main, 0 to 1: as replaced, with the batch norms estimated again,
    fine-tuned, and of the packed file. bytes_*: size of the file. latency: of one image, network and decoding. x_*: how
    many times faster than the float model in float32 NCHW, float32 channels last and bfloat16 channels last, all in
    turns in one process. backend: what computed the convolutions.
    """

    name: str
    replaced: tuple[str, ...] = ()
    ternary_share: float = 0.0
    ap_raw: float | None = None
    ap_norms: float | None = None
    ap_tuned: float | None = None
    ap_packed: float | None = None
    bytes_fp32: int | None = None
    bytes_fp16: int | None = None
    bytes_packed: int | None = None
    latency: Timing | None = None
    x_nchw: float | None = None
    x_channels_last: float | None = None
    x_bf16: float | None = None
    backend: str = ""

    @property
    def ap(self) -> float | None:
        """The accuracy at the last stage that was measured."""
        return next((value for name in reversed(STAGES) if (value := getattr(self, name)) is not None), None)

    @property
    def bytes(self) -> int | None:
        """The size of the file to ship: the packed file, else 16 bits a number for bf16 and 32 for others."""
        return self.bytes_packed or (self.bytes_fp16 if self.name == HALF else self.bytes_fp32)


def time_steps(
    steps: Sequence[Step],
    runs: Mapping[str, Callable[[], object]],
    reference: Detector,
    imgsz: int = 640,
    device: torch.device | str = "cpu",
    rounds: int = ROUNDS,
) -> list[Step]:
    """Return the steps with latency and ratios; all `runs` take turns with the float model.

    runs: name of a step -> one forward pass. reference: the float model; its NCHW time becomes that of the step fp32,
    its bfloat16 time that of the step bf16; both are added where they are missing. Steps without a run stay unchanged.
    rounds: at least 1. ValueError for a run of no step.
    """
    names = {step.name for step in steps}
    if unknown := [name for name in runs if name not in names]:
        raise ValueError(f"runs of no step: {', '.join(unknown)}")
    floats = variants(reference, imgsz, 1, device)
    all_runs = {**{f"float {name}": run for name, run in floats.items()}, **runs}
    timings = interleave(all_runs, rounds=rounds, warmup=2, device=torch.device(device))
    base = {name: timings[f"float {name}"] for name in floats}
    timing_of_step = {FLOAT: base[NCHW], HALF: base[BF16], **{name: timings[name] for name in runs}}
    return [
        _timed(step, timing_of_step[step.name], base) if step.name in timing_of_step else step
        for step in _completed(steps)
    ]


def _timed(step: Step, timing: Timing, base: Mapping[str, Timing]) -> Step:
    return replace(
        step,
        latency=timing,
        x_nchw=timing.faster_than(base[NCHW]),
        x_channels_last=timing.faster_than(base[LAST]),
        x_bf16=timing.faster_than(base[BF16]),
    )


def _completed(steps: Iterable[Step]) -> list[Step]:
    """Return fp32, bf16, then the others in their order; where fp32 or bf16 is missing, it has no numbers."""
    others = [step for step in steps if step.name not in (FLOAT, HALF)]
    by_name = {step.name: step for step in steps}
    first = by_name.get(FLOAT, Step(FLOAT))
    half = by_name.get(HALF, Step(HALF, bytes_fp32=first.bytes_fp32, bytes_fp16=first.bytes_fp16))
    return [first, half, *others]


def markdown(steps: Sequence[Step], machine: Mapping[str, object], measure: str = "mAP50-95") -> str:
    """Return the table of the steps with its conditions below; ends with a line break.

    machine: as timing.machine() gives it. measure: what was measured; it stands in points (0 to 100), with the change
    against the float model in brackets.
    """
    steps = _completed(steps)
    lines = [
        *markdown_table(steps, _columns(steps[0].ap, measure)),
        "",
        f"{measure} in points, in brackets the change against the float model. Size: 1 MB is 10^6 bytes.",
    ]
    if rounds := {step.latency.count for step in steps if step.latency}:
        lines.append(
            "Latency: one image, network and decoding, median and quartiles of "
            f"{max(rounds)} rounds, all rows in turns in one process; "
            "x: how many times faster than the float model so computed, by the median of the rounds' ratios."
        )
    if machine:
        lines.append(f"Measured on: {machine_line(machine)}.")
    return "\n".join(lines) + "\n"


def _columns(base: float | None, measure: str) -> list[Column]:
    """Return the columns of the table. base: of the float model, in `measure`."""

    def stage(title: str, name: str) -> Column:
        return Column(title, lambda step: _points(getattr(step, name), base, step.name == FLOAT))

    return [
        Column("step", "name", text=True),
        Column("replaced", _units, text=True),
        Column("ternary params %", lambda step: 100 * step.ternary_share, "{:.1f}"),
        stage(f"{measure} replaced", "ap_raw"),
        stage("norms estimated again", "ap_norms"),
        stage("fine-tuned", "ap_tuned"),
        stage("packed", "ap_packed"),
        Column("size MB fp32 / fp16 / packed", _megabytes),
        Column("latency ms", "latency"),
        Column("x fp32 NCHW", "x_nchw", "{:.2f}"),
        Column("x fp32 channels_last", "x_channels_last", "{:.2f}"),
        Column("x bf16", "x_bf16", "{:.2f}"),
        Column("backend", lambda step: step.backend or None, text=True),
    ]


def _units(step: Step) -> str:
    shown = ", ".join(step.replaced[:4])
    return f"{shown} and {len(step.replaced) - 4} more" if len(step.replaced) > 4 else shown or MISSING


def _points(value: float | None, base: float | None, is_base: bool) -> str:
    if value is None:
        return MISSING
    return f"{100 * value:.1f}" + ("" if base is None or is_base else f" ({100 * (value - base):+.1f})")


def _megabytes(step: Step) -> str:
    sizes = [getattr(step, name) for name in BYTES]
    return " / ".join(MISSING if size is None else f"{size / 1e6:.2f}" for size in sizes)


def draw(
    path: str | Path, steps: Sequence[Step], machine: Mapping[str, object] | None = None, measure: str = "mAP50-95"
) -> Path:
    """Draw accuracy against size and against latency, with a mark for each stage of a step. Raises NoMatplotlib."""
    rows = [step for step in _completed(steps) if step.ap is not None]
    by_size = [step for step in rows if step.bytes is not None]
    by_time = [step for step in rows if step.latency is not None]
    panels = [
        _panel("size of the file (MB)", by_size, lambda step: (step.bytes / 1e6, None, None)),
        _panel(
            "latency of one image (ms)",
            by_time,
            lambda step: (step.latency.median, step.latency.low, step.latency.high),
        ),
    ]
    title, below = "Ternary layers, step by step", machine_line(machine) if machine else ""
    return draw_tradeoff(path, panels, f"{measure} (points)", title, below)


def _panel(
    xlabel: str, steps: Sequence[Step], place: Callable[[Step], tuple[float, float | None, float | None]]
) -> Panel:
    points, lines = [], []
    for step in steps:
        x, low, high = place(step)
        stages = [(name, 100 * value) for name in STAGES if (value := getattr(step, name)) is not None]
        for number, (name, y) in enumerate(stages):
            last = number == len(stages) - 1
            series = "float" if step.name in (FLOAT, HALF) else STAGES[name]
            label, *ends = (step.name, low, high) if last else ("", None, None)
            points.append(Point(x, y, label, series, *ends, filled=last))
        lines.append([(x, y) for _, y in stages])
    order = ["float", *STAGES.values()]
    points.sort(key=lambda point: order.index(point.series))
    xs = [point.x for point in points]
    return Panel(xlabel, points, lines, log=bool(xs) and min(xs) > 0 and max(xs) / min(xs) > 8)


def save_steps(folder: str | Path, steps: Sequence[Step]) -> Path:
    """Write steps.json into the folder, whole or not at all; return its path. NaN counts as not measured."""
    path = Path(folder) / FILE
    STEPS_FILE.save(path, {"steps": [_without_nan(step) for step in steps]})
    return path


def _without_nan(step: Step) -> Step:
    values = {name: getattr(step, name) for name in NUMBERS}
    return replace(step, **{name: None for name, value in values.items() if value is not None and math.isnan(value)})


def load_steps(folder: str | Path) -> list[Step]:
    """Read the steps of a folder, or of the file itself. MissingFileError; UserError for a damaged or too new file."""
    path = Path(folder)
    path = path / FILE if path.is_dir() else path
    return list(STEPS_FILE.load(path, {"steps": tuple[Step, ...]})["steps"])
