"""An experiment with sizes: what was asked, what is done, its record on the disk, its table and its picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ..config.errors import MissingFileError, UserError
from ..config.files import write_text
from ..config.settings import Settings, load_settings
from ..data.from_settings import DEFAULT_DATA
from ..models.build import DEFAULT_MODEL
from ..plots.tradeoff import Panel, Point, draw_tradeoff
from .timing import Timing, told

FORMAT, VERSION = "bitfalcon sizes", 1
FILE = "sizes.json"
ROUNDS = 15
BUDGET = ("epochs", "time", "patience", "imgsz", "batch", "seed")


@dataclass(frozen=True)
class Row:
    """One trained size. ap, ap50: of its best epoch, 0 to 1. latency: batch 1, folded, float32, channels last; None until all are trained."""

    scale: str
    parameters: int
    gflops: float
    ap50: float
    ap: float
    bytes: int
    epochs: int
    seconds: float
    latency: Timing | None = None


@dataclass(frozen=True)
class Experiment:
    """What was asked (settings that were given, sizes in their order) and what is done.

    used: the settings of the budget as they held in training (a dataset may bring its own). facts: of the machine that timed.
    """

    folder: Path
    settings: Mapping[str, object]
    scales: tuple[str, ...]
    rows: tuple[Row, ...] = ()
    facts: Mapping[str, object] | None = None
    used: Mapping[str, object] = field(default_factory=dict)

    def row(self, scale: str) -> Row | None:
        """The row of a size, where it is trained."""
        return next((row for row in self.rows if row.scale == scale), None)

    @property
    def ordered(self) -> list[Row]:
        """The rows there are, in the order of the sizes."""
        return [row for scale in self.scales if (row := self.row(scale))]

    @property
    def asked(self) -> Settings:
        """All settings, those that nobody gave with their defaults."""
        return load_settings({**self.settings, **self.used, "mode": "train"})


def markdown(experiment: Experiment) -> str:
    """The table, with what it depends on above it; ends with a line break."""
    settings = experiment.asked
    lines = [
        f"# Sizes of {Path(str(settings.model or DEFAULT_MODEL)).name} on {Path(str(settings.data or DEFAULT_DATA)).name}",
        "",
        f"Every size was trained from fresh weights under one budget: {budget(experiment)}. mAP is that of the best epoch on the "
        "validation split. Latency: network and decoding of one image, folded, float32, channels last, the sizes in turns in one "
        f"process; median and quartiles of {ROUNDS} rounds. GFLOPs and latency at imgsz={settings.imgsz}.",
        "",
        "| size | parameters | GFLOPs | mAP50 | mAP50-95 | latency ms | best.pt MB | epochs | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in experiment.ordered:
        lines.append(
            f"| {row.scale} | {row.parameters:,} | {_short(row.gflops)} | {row.ap50:.4f} | {row.ap:.4f} | "
            f"{row.latency or 'not measured'} | {row.bytes / 1e6:.2f} | {row.epochs} | {row.seconds:.0f} |"
        )
    if experiment.facts:
        lines += ["", f"Timed on: {told(experiment.facts)}."]
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.3f}"


def draw(target: Path, experiment: Experiment) -> Path:
    """mAP50-95 against parameters and against latency. Raises NoMatplotlib."""
    rows = experiment.ordered
    by_size = [Point(row.parameters / 1e6, row.ap, row.scale) for row in rows]
    timed = [row for row in rows if row.latency]
    by_time = [
        Point(row.latency.median, row.ap, row.scale, low=row.latency.low, high=row.latency.high) for row in timed
    ]
    panels = [
        Panel("parameters (millions)", by_size, [[(p.x, p.y) for p in by_size]]),
        Panel("latency of one image (ms)", by_time, [[(p.x, p.y) for p in by_time]]),
    ]
    title = markdown(experiment).partition("\n")[0].removeprefix("# ")
    return draw_tradeoff(target, panels, "mAP50-95", title, told(experiment.facts) if experiment.facts else "")


def budget(experiment: Experiment) -> str:
    """What every size gets, in words."""
    settings = experiment.asked
    hours = f"about {settings.time:g} hours" if settings.time else ""
    side = settings.imgsz if isinstance(settings.imgsz, int) else max(settings.imgsz)
    patience = (
        f", at most; patience={settings.patience} may end one earlier"
        if not hours and 0 < settings.patience < settings.epochs
        else ""
    )
    return f"{hours or f'{settings.epochs} epochs{patience}'}, imgsz={side}, batch={settings.batch:g}, seed={settings.seed}"


def save_experiment(experiment: Experiment) -> None:
    """Write sizes.json, whole or not at all."""
    rows = [{**asdict(row), "latency": row.latency and row.latency.as_dict()} for row in experiment.rows]
    content = {
        "format": FORMAT,
        "version": VERSION,
        "settings": dict(experiment.settings),
        "scales": list(experiment.scales),
        "rows": rows,
        "used": dict(experiment.used),
        "machine": experiment.facts,
    }
    write_text(experiment.folder / FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def load_experiment(path: Path) -> Experiment:
    """An experiment from its sizes.json. Raises UserError for a file that is none, or too new."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(f"'{path}' does not exist.") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{path}' cannot be read as JSON ({error}). Give another experiment, or start anew without resume."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or type(content.get("version")) is not int:
        raise UserError(f"'{path}' is not the record of an experiment with sizes (no format: {FORMAT!r} in it).")
    if content["version"] > VERSION:
        raise UserError(
            f"'{path}' has format version {content['version']}, this package writes {VERSION}. Install a newer bitfalcon."
        )
    kinds = {field.name: field.type for field in fields(Row)}
    try:
        rows = tuple(
            Row(**{**row, "latency": Timing.from_dict(row["latency"]) if row["latency"] else None})
            for row in content["rows"]
        )
        wrong = [
            row.scale
            for row in rows
            if type(row.parameters) is not int
            or not all(type(getattr(row, name)) in (int, float) for name in kinds if name not in ("scale", "latency"))
        ]
        if wrong or not isinstance(content["settings"], dict) or not isinstance(content["settings"]["model"], str):
            raise TypeError(f"rows of {wrong}")
        return Experiment(
            path.parent,
            content["settings"],
            tuple(map(str, content["scales"])),
            rows,
            content["machine"],
            content["used"],
        )
    except (KeyError, TypeError, UserError) as error:
        raise UserError(
            f"'{path}' is damaged ({type(error).__name__}: {error}). Start anew without resume; runs that are finished stay in "
            "their folders."
        ) from error
