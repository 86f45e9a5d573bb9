"""The price of ternary layers, step by step: the record of an experiment, its table and its picture.

A step is a model with some of its layers replaced; the float model is the first, and bfloat16 stands beside it, for that is what a
CPU can do without any of this. Written from spec/bit.md section 4.7.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from ..benchmark.timing import ROUNDS, VARIANTS, Timing, interleave, machine_line, variants
from ..config.errors import MissingFileError, UserError
from ..config.files import write_text
from ..models.detector import Detector
from ..plots.tradeoff import Panel, Point, draw_tradeoff

FORMAT, VERSION = "bitfalcon bit steps", 1
FILE = "steps.json"
FLOAT, HALF = "fp32", "bf16"  # names of the rows that are always there
NCHW, LAST, BF16 = VARIANTS  # what steps are compared with
STAGES = {
    "ap_raw": "replaced",
    "ap_norms": "batch norms estimated again",
    "ap_tuned": "fine-tuned",
    "ap_packed": "packed",
}
NUMBERS = (*STAGES, "x_nchw", "x_channels_last", "x_bf16")
BYTES = ("bytes_fp32", "bytes_fp16", "bytes_packed")
MISSING = "-"


@dataclass(frozen=True)
class Step:
    """One row. name: fp32, bf16, or what is replaced (head, head+neck, all). None: not measured.

    replaced: the units that are. ternary_share: of all parameters, 0 to 1. ap_*: mAP50-95, 0 to 1: as replaced, with the batch norms
    estimated again, fine-tuned, and of the packed file. bytes_*: of the file. latency: of one image, network and decoding; x_*: how
    many times faster than that model in float32 NCHW, float32 channels last and bfloat16 channels last, all in turns in one process.
    backend: what computed.
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
        """mAP50-95 at its last stage that was measured."""
        return next((value for name in reversed(STAGES) if (value := getattr(self, name)) is not None), None)

    @property
    def bytes(self) -> int | None:
        """The file that would be shipped: packed where it is, else 16 bits for bf16 and 32 for the rest."""
        return self.bytes_packed or (self.bytes_fp16 if self.name == HALF else self.bytes_fp32)


def time_steps(
    steps: Sequence[Step],
    runs: Mapping[str, Callable[[], object]],
    reference: Detector,
    imgsz: int = 640,
    device: torch.device | str = "cpu",
    rounds: int = ROUNDS,
) -> list[Step]:
    """The steps with latency and ratios, of all `runs` (name of a step -> one forward pass) in turns with the float model.

    reference: the float model; its NCHW time becomes the fp32 row's, its bf16 time the bf16 row's, and both rows are added where they
    are missing. Rows without a run stay as they are. rounds: at least 1.
    """
    known = {step.name: step for step in steps}
    if unknown := [name for name in runs if name not in known]:
        raise ValueError(f"runs of no step: {', '.join(unknown)}")
    floats = variants(reference, imgsz, 1, device)
    taken = interleave(
        {**{f"float {name}": run for name, run in floats.items()}, **runs},
        rounds=rounds,
        warmup=2,
        device=torch.device(device),
    )
    base = {name: taken[f"float {name}"] for name in floats}
    own = {FLOAT: base[NCHW], HALF: base[BF16], **{name: taken[name] for name in runs}}
    return [_compared(step, own[step.name], base) if step.name in own else step for step in _completed(steps)]


def _compared(step: Step, own: Timing, base: Mapping[str, Timing]) -> Step:
    return replace(
        step,
        latency=own,
        x_nchw=own.faster_than(base[NCHW]),
        x_channels_last=own.faster_than(base[LAST]),
        x_bf16=own.faster_than(base[BF16]),
    )


def _completed(steps: Iterable[Step]) -> list[Step]:
    """fp32 first, bf16 second, the rest in its order; what is missing of the two is a row without numbers."""
    rest = [step for step in steps if step.name not in (FLOAT, HALF)]
    named = {step.name: step for step in steps}
    first = named.get(FLOAT, Step(FLOAT))
    half = named.get(HALF, Step(HALF, bytes_fp32=first.bytes_fp32, bytes_fp16=first.bytes_fp16))
    return [first, half, *rest]


def markdown(steps: Sequence[Step], machine: Mapping[str, object]) -> str:
    """The table of the steps, with what it depends on; ends with a line break.

    machine: as timing.machine() gives it. mAP in points (0 to 100), with what is lost against the float model in brackets.
    """
    rows = _completed(steps)
    base = rows[0].ap
    lines = [
        "| step | replaced | ternary params % | mAP50-95 replaced | norms estimated again | fine-tuned | packed | "
        "size MB fp32 / fp16 / packed | latency ms | x fp32 NCHW | x fp32 channels_last | x bf16 | backend |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for step in rows:
        points = [_points(getattr(step, name), base, step.name == FLOAT) for name in STAGES]
        sizes = " / ".join(_mega(getattr(step, name)) for name in BYTES)
        ratios = [MISSING if getattr(step, name) is None else f"{getattr(step, name):.2f}" for name in NUMBERS[-3:]]
        cells = [
            step.name,
            _units(step),
            f"{100 * step.ternary_share:.1f}",
            *points,
            sizes,
            str(step.latency or MISSING),
            *ratios,
            step.backend or MISSING,
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    rounds = {step.latency.count for step in rows if step.latency}
    lines += ["", "mAP50-95 in points, in brackets the change against the float model. Size: 1 MB is 10^6 bytes."]
    if rounds:
        lines.append(
            f"Latency: one image, network and decoding, median and quartiles of {max(rounds)} rounds, all rows in turns in one "
            "process; x: how many times faster than the float model so computed, by the median of the rounds' ratios."
        )
    if machine:
        lines.append(f"Measured on: {machine_line(machine)}.")
    return "\n".join(lines) + "\n"


def _units(step: Step) -> str:
    shown = ", ".join(step.replaced[:4])
    return f"{shown} and {len(step.replaced) - 4} more" if len(step.replaced) > 4 else shown or MISSING


def _points(value: float | None, base: float | None, is_base: bool) -> str:
    if value is None:
        return MISSING
    return f"{100 * value:.1f}" + ("" if base is None or is_base else f" ({100 * (value - base):+.1f})")


def _mega(value: int | None) -> str:
    return MISSING if value is None else f"{value / 1e6:.2f}"


def draw(path: str | Path, steps: Sequence[Step], machine: Mapping[str, object] | None = None) -> Path:
    """mAP against size and against latency, each stage of a step with a mark of its own. Raises figures.NoMatplotlib."""
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
    return draw_tradeoff(
        path, panels, "mAP50-95 (points)", "Ternary layers, step by step", machine_line(machine) if machine else ""
    )


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
            points.append(
                Point(x, y, step.name if last else "", series, low if last else None, high if last else None, dark=last)
            )
        lines.append([(x, y) for _, y in stages])
    order = ["float", *STAGES.values()]
    points.sort(key=lambda point: order.index(point.series))
    xs = [point.x for point in points]
    return Panel(xlabel, points, lines, log=bool(xs) and min(xs) > 0 and max(xs) / min(xs) > 8)


def save_steps(folder: str | Path, steps: Sequence[Step]) -> Path:
    """Write steps.json into the folder, whole or not at all; returns its path. What is no number (nan) counts as not measured."""
    path = Path(folder) / FILE
    steps = [
        replace(step, **{name: None for name in NUMBERS if (getattr(step, name) or 0) != (getattr(step, name) or 0)})
        for step in steps
    ]
    rows = [
        {**asdict(step), "replaced": list(step.replaced), "latency": step.latency and step.latency.as_dict()}
        for step in steps
    ]
    write_text(
        path,
        json.dumps({"format": FORMAT, "version": VERSION, "steps": rows}, indent=1, ensure_ascii=False, allow_nan=False)
        + "\n",
    )
    return path


def load_steps(folder: str | Path) -> list[Step]:
    """The steps of a folder, or of the file itself. Raises MissingFileError, or UserError for a file that is damaged or too new."""
    path = Path(folder)
    path = path / FILE if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(
            f"'{path}' does not exist. It is written by the steps of `bitfalcon bit`; give the folder of such a run."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"'{path}' cannot be read as JSON ({error}). Give another folder, or measure the steps again."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or type(content.get("version")) is not int:
        raise UserError(f"'{path}' is not a record of steps (no format: {FORMAT!r} in it).")
    if content["version"] > VERSION:
        raise UserError(
            f"'{path}' has format version {content['version']}, this package writes {VERSION}. Install a newer bitfalcon."
        )
    rows = content.get("steps")
    problems = [] if isinstance(rows, list) else ["steps is no list"]
    for number, row in enumerate(rows if isinstance(rows, list) else ()):
        problems += [f"row {number + 1}: {problem}" for problem in _wrong(row)]
    if problems:
        raise UserError(f"'{path}' is damaged: {'; '.join(problems[:5])}. Measure the steps again.")
    return [
        Step(
            **{
                **row,
                "replaced": tuple(row["replaced"]),
                "latency": row["latency"] and Timing.from_dict(row["latency"]),
            }
        )
        for row in rows
    ]


def _wrong(row: object) -> list[str]:
    """What of a row is not as save_steps writes it."""
    if not isinstance(row, dict):
        return ["it is no mapping"]
    names = {field.name for field in fields(Step)}
    if names != row.keys():
        return [f"{', '.join(sorted(names ^ row.keys()))} missing or not known"]
    checks = {
        **dict.fromkeys(("name", "backend"), lambda value: isinstance(value, str)),
        **dict.fromkeys(NUMBERS, lambda value: value is None or _is_number(value)),
        "ternary_share": _is_number,
        **dict.fromkeys(BYTES, lambda value: value is None or type(value) is int and value >= 0),
        "replaced": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
        "latency": _is_timing,
    }
    return [f"{name} is {str(row[name])[:40]!r}" for name, check in checks.items() if not check(row[name])]


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _is_timing(value: object) -> bool:
    try:
        return value is None or bool(Timing.from_dict(value))
    except UserError:
        return False
