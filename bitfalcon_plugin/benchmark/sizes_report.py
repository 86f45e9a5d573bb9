"""An experiment with sizes: its settings, the sizes that are trained, its file, its table and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..config.settings import Settings, load_settings
from ..models.build import DEFAULT_MODEL
from ..plots.tradeoff import Panel, Point, draw_tradeoff
from ..tasks import task_named
from .record import Column, FloatOrNan, RecordFile, markdown_table
from .timing import Timing, machine_line

SIZES_FILE = RecordFile(
    "bitfalcon sizes",
    1,
    "the record of an experiment with sizes",
    "`bitfalcon sizes`",
    "Give another experiment, or start anew without resume; runs that are finished stay in their folders.",
)
FILE = "sizes.json"
ROUNDS = 15  # of timing
BUDGET = ("epochs", "time", "patience", "imgsz", "batch", "seed")


@dataclass(frozen=True)
class SizeRecord:
    """One trained size. ap, ap50: of its best epoch, 0 to 1. bytes: of best.pt. seconds: of training.

    latency: of one image, folded, float32, channels last; None until all sizes are trained.
    """

    scale: str
    parameters: int
    gflops: float
    ap50: FloatOrNan
    ap: FloatOrNan
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


COLUMNS = (
    Column("size", "scale", text=True),
    Column("parameters", "parameters", "{:,}"),
    Column("GFLOPs", lambda record: f"{record.gflops:.1f}" if record.gflops >= 1 else f"{record.gflops:.3f}"),
    Column("mAP50", "ap50", "{:.4f}"),
    Column("mAP50-95", "ap", "{:.4f}"),
    Column("latency ms", "latency", missing="not measured"),
    Column("best.pt MB", "bytes", "{:.2f}", unit=1e6),
    Column("epochs", "epochs"),
    Column("seconds", "seconds", "{:.0f}"),
)


def title(experiment: Experiment) -> str:
    """Return the heading of the table and of the picture."""
    settings = experiment.resolved
    graph = Path(str(settings.model or DEFAULT_MODEL))
    data = Path(str(settings.data or task_named(settings.task).data.default))
    return f"Sizes of {graph.name} on {data.name}"


def markdown(experiment: Experiment) -> str:
    """Return the table with its conditions above; ends with a line break."""
    lines = [
        f"# {title(experiment)}",
        "",
        f"Every size was trained from fresh weights under one budget: {budget(experiment)}. "
        "mAP is that of the best epoch on the validation split. "
        "Latency: network and decoding of one image, folded, float32, channels last, the sizes in turns "
        f"in one process; median and quartiles of {ROUNDS} rounds. "
        f"GFLOPs and latency at imgsz={experiment.resolved.imgsz}.",
        "",
        *markdown_table(experiment.ordered, COLUMNS),
    ]
    if experiment.machine:
        lines += ["", f"Timed on: {machine_line(experiment.machine)}."]
    return "\n".join(lines) + "\n"


def draw(target: Path, experiment: Experiment) -> Path:
    """Draw mAP50-95 against parameters and against latency. Raises NoMatplotlib."""
    records = experiment.ordered
    timed = [(record, record.latency) for record in records if record.latency]
    by_size = [Point(record.parameters / 1e6, record.ap, record.scale) for record in records]
    by_time = [Point(time.median, record.ap, record.scale, low=time.low, high=time.high) for record, time in timed]
    panels = [
        Panel("parameters (millions)", by_size, [[(p.x, p.y) for p in by_size]]),
        Panel("latency of one image (ms)", by_time, [[(p.x, p.y) for p in by_time]]),
    ]
    note = machine_line(experiment.machine) if experiment.machine else ""
    return draw_tradeoff(target, panels, "mAP50-95", title(experiment), note)


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
