"""An experiment with sizes: its settings, the sizes that are trained, its file, its table and its picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..config.settings import Settings, load_settings
from ..config.yaml_files import find_model
from ..models.build import task_of_document
from ..plots.tradeoff import Panel, Point, draw_tradeoff
from ..tasks import task_named
from .record import Column, FloatOrNan, RecordFile, markdown_table
from .timing import Timing, machine_line

SIZES_FILE = RecordFile(
    "bitfalcon sizes",
    2,
    "the record of an experiment with sizes",
    "`bitfalcon sizes`",
    "Give another experiment, or start anew without resume; runs that are finished stay in their folders.",
)
FILE = "sizes.json"
ROUNDS = 15  # of timing
BUDGET = ("epochs", "time", "patience", "imgsz", "batch", "seed")


@dataclass(frozen=True)
class SizeRecord:
    """One trained size. bytes: of best.pt. seconds: of training.

    numbers: of its best epoch on the validation split, by name, 0 to 1; the first is the main one.

    latency: of one image, folded, float32, channels last; None until all sizes are trained.
    """

    scale: str
    parameters: int
    gflops: float
    numbers: dict[str, FloatOrNan]
    bytes: int
    epochs: int
    seconds: float
    latency: Timing | None = None


@dataclass(frozen=True)
class Experiment:
    """The sizes of one graph. settings: those the user gave. scales: the sizes, in that order. rows: the trained sizes.

    used: the settings of the budget as training resolved them (a dataset may bring its own). machine: the facts of the
    machine that timed.
    """

    folder: Path
    settings: Mapping[str, object]
    scales: tuple[str, ...]
    rows: tuple[SizeRecord, ...] = ()
    used: Mapping[str, object] = field(default_factory=dict)
    machine: Mapping[str, object] | None = None

    def record(self, scale: str) -> SizeRecord | None:
        """Return the record of a size; None while it is not trained."""
        return next((record for record in self.rows if record.scale == scale), None)

    @property
    def ordered(self) -> list[SizeRecord]:
        """The records in the order of the sizes."""
        return [record for scale in self.scales if (record := self.record(scale))]

    @property
    def resolved(self) -> Settings:
        """All settings, with defaults for those that the user did not give."""
        return load_settings({**self.settings, **self.used, "mode": "train"})


def _columns(experiment: Experiment) -> list[Column]:
    def number(name: str, record: SizeRecord) -> float | None:
        return record.numbers.get(name)

    return [
        Column("size", "scale", text=True),
        Column("parameters", "parameters", "{:,}"),
        Column("GFLOPs", lambda record: f"{record.gflops:.1f}" if record.gflops >= 1 else f"{record.gflops:.3f}"),
        *(Column(name, partial(number, name), "{:.4f}") for name in _numbers(experiment)),
        Column("latency ms", "latency", missing="not measured"),
        Column("best.pt MB", "bytes", "{:.2f}", unit=1e6),
        Column("epochs", "epochs"),
        Column("seconds", "seconds", "{:.0f}"),
    ]


def _numbers(experiment: Experiment) -> list[str]:
    """The names of the numbers of all sizes, the main one first."""
    return list(dict.fromkeys(name for record in experiment.ordered for name in record.numbers))


def title(experiment: Experiment) -> str:
    """Return the heading of the table and of the picture."""
    settings = experiment.resolved
    graph = Path(str(settings.model))
    task = task_of_document(find_model(str(settings.model)).document)
    data = Path(str(settings.data or task_named(task).data.default))
    return f"Sizes of {graph.name} on {data.name}"


def markdown(experiment: Experiment) -> str:
    """Return the table with its conditions above; ends with a line break."""
    lines = [
        f"# {title(experiment)}",
        "",
        f"Every size was trained from fresh weights under one budget: {budget(experiment)}. "
        f"{', '.join(_numbers(experiment))}: of the best epoch on the validation split. "
        "Latency: network and decoding of one image, folded, float32, channels last, the sizes in turns "
        f"in one process; median and quartiles of {ROUNDS} rounds. "
        f"GFLOPs and latency at imgsz={experiment.resolved.imgsz}.",
        "",
        *markdown_table(experiment.ordered, _columns(experiment)),
    ]
    if experiment.machine:
        lines += ["", f"Timed on: {machine_line(experiment.machine)}."]
    return "\n".join(lines) + "\n"


def draw(target: Path, experiment: Experiment) -> Path:
    """Draw the main number against parameters and against latency. Raises NoMatplotlib."""
    records, main = experiment.ordered, _numbers(experiment)[0]
    heights = {record.scale: record.numbers.get(main, math.nan) for record in records}
    by_size = [Point(record.parameters / 1e6, heights[record.scale], record.scale) for record in records]
    by_time = [
        Point(time.median, heights[record.scale], record.scale, low=time.low, high=time.high)
        for record in records
        if (time := record.latency)
    ]
    panels = [
        Panel("parameters (millions)", by_size, [[(p.x, p.y) for p in by_size]]),
        Panel("latency of one image (ms)", by_time, [[(p.x, p.y) for p in by_time]]),
    ]
    note = machine_line(experiment.machine) if experiment.machine else ""
    return draw_tradeoff(target, panels, main, title(experiment), note)


def budget(experiment: Experiment) -> str:
    """Return the budget of every size, in words."""
    settings = experiment.resolved
    length = f"about {settings.time:g} hours" if settings.time else f"{settings.epochs} epochs"
    if not settings.time and 0 < settings.patience < settings.epochs:
        length += f", at most; patience={settings.patience} may end one earlier"
    side = settings.imgsz if isinstance(settings.imgsz, int) else max(settings.imgsz)
    return f"{length}, imgsz={side}, batch={settings.batch:g}, seed={settings.seed}"


def save_experiment(experiment: Experiment) -> None:
    """Write sizes.json, whole or not at all."""
    entries = {key: value for key, value in vars(experiment).items() if key != "folder"}
    SIZES_FILE.save(experiment.folder / FILE, entries)


def load_experiment(path: Path) -> Experiment:
    """Read an experiment from its sizes.json. Raises UserError for a file that is damaged, too new or another one."""
    kinds = {"settings": dict, "scales": tuple[str, ...], "rows": tuple[SizeRecord, ...]}
    kinds |= {"used": dict, "machine": dict | None}
    entries = SIZES_FILE.load(path, kinds)
    if not isinstance(entries["settings"].get("model"), str):
        raise SIZES_FILE.damage(path, ["settings name no model"])
    return Experiment(path.parent, **entries)
