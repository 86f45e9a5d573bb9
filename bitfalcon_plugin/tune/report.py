"""What a search leaves: the table of its trials, the values of the best one, and a picture of what mattered."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..benchmark.record import Column, markdown_table
from ..config.files import write_text
from ..config.notes import print_note
from ..config.printable import say
from ..plots.figure import NoMatplotlib
from ..plots.search import draw_search
from .importance import importances
from .study import Study, TrialRow

BEST_FILE = "best_hyperparameters.yaml"
RESULTS = "tune_results.csv"
TABLE = "tune.md"
PICTURE = "tune_importance.png"
SHOWN_VALUES = 4  # searched settings with a column in the table: those that mattered most
AP, AP50 = "metrics/mAP50-95(B)", "metrics/mAP50(B)"


@dataclass(frozen=True)
class Tuning:
    """The result of a search: its folder, its trials in their order, and the best of them, None without one.

    importances: setting -> share of the fitness' variance that the setting alone explains, the largest first.
    """

    folder: Path
    rows: tuple[TrialRow, ...]
    best: TrialRow | None
    importances: Mapping[str, float]

    @property
    def best_hyperparameters(self) -> dict[str, object]:
        """The values of the best trial, as in best_hyperparameters.yaml; empty without one."""
        return dict(self.best.values) if self.best else {}

    def __iter__(self) -> Iterator[TrialRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        return table(self.rows, self.importances)


def tuning_of(study: Study) -> Tuning:
    """Return the result of a study as it stands."""
    rows = study.rows()
    complete = [row for row in rows if row.state == "complete" and row.values.keys() == study.space.keys()]
    shares = importances(study.space, [row.values for row in complete], [row.fitness for row in complete])
    return Tuning(study.folder, tuple(rows), study.best(), shares)


def write_values(study: Study) -> None:
    """Write tune_results.csv, and best_hyperparameters.yaml where a trial is complete; whole or not at all."""
    rows, best = study.rows(), study.best()
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    searched = list(study.space)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "fitness", *metrics, "epochs", "seconds", *searched, "error"])
    for row in rows:
        numbers = [row.metrics.get(name) for name in metrics]
        values = [row.values.get(key) for key in searched]
        writer.writerow([row.number, row.state, row.fitness, *numbers, row.epochs, row.seconds, *values, row.error])
    write_text(study.folder / RESULTS, text.getvalue())
    if best:
        write_text(study.folder / BEST_FILE, _best_text(study, best))


def _best_text(study: Study, best: TrialRow) -> str:
    """Return the values of the best trial as a YAML that cfg= takes, with the optimizer that they belong to."""
    path = study.folder / BEST_FILE
    values = {key: best.values[key] for key in study.space}
    values.setdefault("optimizer", study.settings["optimizer"])
    lines = [
        f"# Trial {best.number} of {len(study.rows())}: fitness {best.fitness:.5f} after {best.epochs} epochs.",
        f"# To train with these values: bitfalcon train model=... data=... cfg={path}",
    ]
    return "\n".join([*lines, yaml.safe_dump(values, sort_keys=False)])


def write_report(study: Study, plots: bool) -> Tuning:
    """Write and print the table, write the other files and draw the picture; returns the result."""
    write_values(study)
    tuning = tuning_of(study)
    folder, best = tuning.folder, tuning.best
    text = table(tuning.rows, tuning.importances)
    write_text(folder / TABLE, text)
    say(f"\n{text}\nTable: {folder / TABLE}, {folder / RESULTS}")
    if best:
        start = tuning.rows[0]
        before = f" (the first trial, with the values given: {start.fitness:.4f})" if start.state == "complete" else ""
        say(f"Best: trial {best.number}, fitness {best.fitness:.4f}{before}; its values: {folder / BEST_FILE}")
    if plots and best:
        points = [(row.number, row.fitness, row.state == "complete") for row in tuning.rows if row.fitness is not None]
        try:
            say(f"Picture: {draw_search(folder / PICTURE, tuning.importances, points)}")
        except NoMatplotlib as error:
            print_note(f"no picture: {error}")
    return tuning


def table(rows: Sequence[TrialRow], importances: Mapping[str, float]) -> str:
    """Return the trials as Markdown, best first, with the settings that mattered most."""
    keys = list(importances)[:SHOWN_VALUES] or list(rows[0].values if rows else ())[:SHOWN_VALUES]
    columns = [
        Column("trial", "number"),
        Column("state", "state", text=True),
        Column("fitness", "fitness", "{:.4f}"),
        Column("AP50", lambda row: row.metrics.get(AP50), "{:.4f}"),
        Column("AP", lambda row: row.metrics.get(AP), "{:.4f}"),
        Column("epochs", "epochs"),
        Column("s", "seconds", "{:.1f}"),
        *(Column(key, lambda row, key=key: _short(row.values.get(key))) for key in keys),
        Column("what went wrong", lambda row: row.error[:80] or None, missing="", text=True),
    ]
    ranked = sorted(rows, key=lambda row: (row.state != "complete", -(row.fitness or 0.0), row.number))
    return "\n".join(markdown_table(ranked, columns)) + "\n"


def _short(value: object) -> str | None:
    return f"{value:.4g}" if isinstance(value, float) else None if value is None else str(value)
