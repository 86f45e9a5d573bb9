"""Figures of a run: how its numbers went, the curves, the confusion matrix, and what the labels of a dataset look like.

matplotlib is optional: it is imported when a figure is drawn, used without pyplot (so no window, and the caller's
backend and style stay as they are), and where it is missing `NoMatplotlib` says how to get it.
"""

from __future__ import annotations

import csv
import logging
import math
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..config.errors import UserError
from ..config.files import atomic
from .drawing import PALETTE
from .fonts import IDEOGRAPH_FAMILIES

MISSING = "curves, matrices and charts need matplotlib: pip install 'bitfalcon[plots]'"
LEGEND, LOWEST = 20, 12  # classes that a legend names one by one; of more classes, so many
WRITTEN = 30  # classes whose numbers are written into the matrix
TICKS = 90  # classes named along the matrix; of more, every second, third, ...
SHOWN = 60  # classes that the bar chart shows one by one
OVERLAID = 1000  # boxes drawn over one another
DPI = 150


class NoMatplotlib(UserError):
    """matplotlib is not installed, or cannot be imported."""


@contextmanager
def page(target: Path, width: float, height: float) -> Iterator:
    """Yield an empty matplotlib Figure of this size in inches; then write it to `target`, whole or not at all."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it speaks of its font cache, and of fonts that it does without
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that no font has
            try:
                import matplotlib
                from matplotlib.figure import Figure
            except ImportError as error:
                raise NoMatplotlib(
                    MISSING if isinstance(error, ModuleNotFoundError) else f"{MISSING} ({error})"
                ) from error
            plain = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
            with matplotlib.rc_context(
                {
                    **plain,
                    "text.parse_math": False,
                    "font.family": _families(),
                    "font.size": 9,
                    "axes.unicode_minus": False,
                    "axes.formatter.useoffset": False,
                    "axes.spines.top": False,
                    "axes.spines.right": False,
                }
            ):
                figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
                yield figure
                with atomic(target) as temporary:
                    figure.savefig(temporary, dpi=DPI)
    finally:
        logger.setLevel(level)


def _families() -> list[str]:
    from matplotlib import font_manager

    installed = set(font_manager.fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in IDEOGRAPH_FAMILIES if name in installed)]


def short(name: str, most: int = 24) -> str:
    """A class name on one line, at most so long, that a legend does not take for hidden."""
    line = "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in str(name))
    line = line if len(line) <= most else line[: most - 1] + "…"
    return f" {line}" if line.startswith("_") else line


def draw_curves(
    folder: str | Path,
    results: Sequence[Sequence],
    names: Sequence[str],
    ap50: Sequence[float],
    mean_ap50: float,
    best: int,
) -> list[Path]:
    """Draw PR_curve, F1_curve, P_curve and R_curve.png into `folder`; returns their paths.

    results: in that order abscissas (n,), curves (c, n) and the names of the axes. names, ap50: of the c classes, in
    their order. best: the place on the confidences that is marked in the last three.
    """
    drawn = []
    for letter, (grid, curves, x, y) in zip(("PR", "F1", "P", "R"), results, strict=True):
        over_recall = letter == "PR"
        values = ap50 if over_recall else curves[:, best].tolist()
        mean = (
            f"AP50 {mean_ap50:.3f}" if over_recall else f"{sum(values) / max(len(values), 1):.3f} at {grid[best]:.3f}"
        )
        drawn.append(
            draw_curve(
                Path(folder) / f"{letter}_curve.png",
                grid,
                curves,
                (x, f"{y} at IoU 0.50"),
                names,
                values,
                f"all classes  {mean}",
                None if over_recall else float(grid[best]),
            )
        )
    return drawn


def draw_curve(
    target: Path,
    grid: np.ndarray,
    curves: np.ndarray,
    axes: tuple[str, str],
    names: Sequence[str],
    values: Sequence[float],
    mean: str,
    mark: float | None = None,
) -> Path:
    """Draw curves (c, n) over a grid (n,), both in [0, 1], and their mean, which is called `mean`.

    values: a number for each curve, written beside its name; of many curves only those with the lowest numbers are
    named. mark: where a dotted line stands.
    """
    named = (
        range(len(curves))
        if len(curves) <= LEGEND
        else sorted(range(len(curves)), key=lambda row: values[row])[:LOWEST]
    )
    with page(target, 9, 6) as figure:
        ax = figure.subplots()
        for row in set(range(len(curves))) - set(named):
            ax.plot(grid, curves[row], color="#9aa0a6", linewidth=0.3)
        for place, row in enumerate(named):
            colour = PALETTE[(row if len(curves) <= LEGEND else place) % len(PALETTE)]
            ax.plot(grid, curves[row], color=colour, linewidth=1.2, label=f"{short(names[row])}  {values[row]:.3f}")
        ax.plot(grid, curves.mean(0) if len(curves) else np.zeros_like(grid), label=mean, color="#0b3d91", linewidth=3)
        if mark is not None:
            ax.axvline(mark, color="black", linewidth=0.8, linestyle=":")
        ax.set(
            xlabel=axes[0],
            ylabel=axes[1],
            xlim=(0, 1),
            ylim=(0, 1.02),
            title=f"{axes[1].split(' at ')[0]} over {axes[0].lower()}",
        )
        ax.grid(alpha=0.3, linewidth=0.5)
        figure.legend(
            loc="outside right upper",
            frameon=False,
            title=None if len(named) == len(curves) else f"The {len(named)} lowest of {len(curves)} classes",
        )
    return target


def draw_confusion(target: Path, matrix: np.ndarray, names: Sequence[str]) -> Path:
    """Draw an (nc + 1, nc + 1) matrix of counts (integers) or of shares of each column, background last.

    Where there are too many classes to write numbers into it, the largest confusions stand beside it.
    """
    count = len(matrix)
    counts = np.issubdtype(matrix.dtype, np.integer)
    labels = [*(short(name) for name in names), "background"]
    few = count <= WRITTEN
    side = min(max(2 + 0.5 * count, 5), 14)
    with page(target, side + (1.5 if few else 6), side) as figure:
        ax = figure.subplots()
        shown = ax.imshow(
            np.where(matrix > 0, matrix, np.nan),
            cmap=_blues(),
            vmin=0,
            vmax=None if counts else 1,
            interpolation="nearest",
        )
        figure.colorbar(shown, ax=ax, fraction=0.04, pad=0.02).outline.set_visible(False)
        if few:
            _numbers(ax, matrix, counts, 72 * side * 0.62 / count)
        else:
            figure.text(
                1 - 4.4 / (side + 6), 0.98, _confusions(matrix, labels, counts), va="top", fontsize=9, linespacing=1.6
            )
            figure.get_layout_engine().set(rect=(0, 0, 1 - 4.6 / (side + 6), 1))
        places = range(0, count, -(-count // TICKS))
        written = [labels[place] for place in places]
        size = min(9, 72 * side * 0.6 / len(places))
        if count > 6:
            ax.set_xticks(places, written, rotation=90, fontsize=size)
        else:
            ax.set_xticks(places, written, rotation=30, ha="right", rotation_mode="anchor", fontsize=size)
        ax.set_yticks(places, written, fontsize=size)
        ax.set(
            xlabel="True",
            ylabel="Predicted",
            title="Confusion matrix" + ("" if counts else ", shares of each true class"),
        )
        ax.axhline(count - 1.5, color="black", linewidth=0.5)
        ax.axvline(count - 1.5, color="black", linewidth=0.5)
    return target


def _numbers(ax, matrix: np.ndarray, counts: bool, room: float) -> None:
    # room: points of a cell's side
    dark = (matrix.max() if counts else 1) * 0.55
    for row, column in np.argwhere(matrix > 0).tolist():
        value = matrix[row, column]
        text = f"{value}" if counts else f"{value:.2f}"
        ax.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=min(10, 1.4 * room / max(len(text), 3)),
            color="white" if value > dark else "black",
        )


def _confusions(matrix: np.ndarray, labels: Sequence[str], counts: bool, most: int = 40) -> str:
    # The largest entries where two classes differ, a line each.
    inner = matrix[:-1, :-1] * (1 - np.eye(len(matrix) - 1, dtype=matrix.dtype))
    order = np.argsort(-inner, axis=None, kind="stable")[:most]
    lines = []
    for row, column in zip(*np.unravel_index(order, inner.shape), strict=True):
        if value := inner[row, column]:
            number = f"{value}" if counts else f"{value:.2f}"
            lines.append(f"{short(labels[column], 20)} taken for {short(labels[row], 20)}:  {number}")
    return "\n".join(["Largest confusions", *(lines or ["none"])])


def draw_results(source: Path, target: Path) -> Path:
    """Draw the losses and metrics of a results.csv over the epochs; of five epochs or more also smoothed.

    Raises UserError where the file has no epochs.
    """
    with open(source, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if len(rows) < 2:
        raise UserError(f"'{source}' has no epochs to draw.")
    names = [name.strip() for name in rows[0]]
    table = dict(zip(names, np.array([[float(cell) for cell in row] for row in rows[1:]], dtype=float).T, strict=True))
    losses = [name for name in names if name.startswith("train/")]
    metrics = [name for name in names if name.startswith("metrics/")]
    half = (len(metrics) + 1) // 2
    order = [losses + metrics[:half], [name for name in names if name.startswith("val/")] + metrics[half:]]
    columns = max(map(len, order))
    with page(target, 3 * columns, 5.6) as figure:
        axes = figure.subplots(2, columns, squeeze=False)
        for line, row in zip(axes, order, strict=True):
            for ax, name in zip(line, [*row, *[""] * (columns - len(row))], strict=True):
                if name:
                    _progress(ax, table["epoch"], table[name], name)
                else:
                    ax.set_axis_off()
    return target


def _progress(ax, epochs: np.ndarray, values: np.ndarray, name: str) -> None:
    there = np.isfinite(values)
    epochs, values = epochs[there], values[there]
    smooth = len(epochs) > 4
    ax.plot(
        epochs,
        values,
        marker="." if len(epochs) <= 60 else None,
        markersize=4,
        linewidth=0.8,
        color=PALETTE[2],
        alpha=0.6 if smooth else 1,
    )
    if smooth:
        ax.plot(epochs, smoothed(values), linewidth=2, color=PALETTE[3])
    ax.set_title(name, fontsize=9)
    ax.grid(alpha=0.3, linewidth=0.5)
    if len(epochs):
        ax.xaxis.get_major_locator().set_params(integer=True)
        if name.startswith("metrics/"):
            top = min(1.02, max(float(values.max()) * 1.15, 0.05))
            ax.set_ylim(-0.02 * top, top)  # a line at 0 is seen
    else:
        ax.text(0.5, 0.5, "not measured", ha="center", va="center", transform=ax.transAxes, color="#777777")


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return values averaged with Gaussian weights, a thirtieth of their number wide, at least 1; normalised."""
    width = max(len(values) / 30, 1)
    place = np.arange(len(values))
    weights = np.exp(-0.5 * ((place[:, None] - place[None]) / width) ** 2)
    return weights @ values / weights.sum(1)


def draw_labels(target: Path, classes: np.ndarray, boxes: np.ndarray, names: Sequence[str]) -> Path:
    """Draw labels of a dataset: how many of each class, boxes over one another, where they are and how large.

    classes (n,) integers; boxes (n, 4): centre x, centre y, width, height relative to the image.
    """
    counts = np.bincount(classes, minlength=len(names))
    bins = 50 if len(boxes) > 20_000 else 25
    with page(target, 11, 7.6) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.15))
        _bars(above.subplots(), counts, names)
        left, middle, right = below.subplots(1, 3)
        _overlay(left, classes, boxes)
        for ax, (x, y), words in ((middle, (0, 1), ("centre x", "centre y")), (right, (2, 3), ("width", "height"))):
            if len(boxes):
                ax.hist2d(
                    boxes[:, x], boxes[:, y], bins=bins, range=((0, 1), (0, 1)), cmap=_blues(), norm=_log(), cmin=1
                )
            ax.set(xlabel=words[0], ylabel=words[1], xlim=(0, 1), ylim=(1, 0) if y == 1 else (0, 1), aspect="equal")
    return target


def _log():
    from matplotlib.colors import LogNorm

    return LogNorm(vmin=1)


def _blues():
    # Without the palest part, which on white reads as nothing.
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["Blues"](np.linspace(0.15, 1, 256)))


def _bars(ax, counts: np.ndarray, names: Sequence[str]) -> None:
    order = np.arange(len(counts))
    title = f"{int(counts.sum()):,} boxes, {len(counts)} classes"
    if len(counts) > SHOWN:
        falling = np.argsort(-counts, kind="stable")
        order = np.concatenate((falling[: SHOWN // 2], falling[-SHOWN // 2 :]))
        title += f"; the {SHOWN // 2} most frequent and the {SHOWN // 2} rarest"
    places = np.arange(len(order)) + (np.arange(len(order)) >= SHOWN // 2) * (2 if len(counts) > SHOWN else 0)
    bars = ax.bar(places, counts[order], color=[PALETTE[index % len(PALETTE)] for index in order])
    if len(order) <= LEGEND:
        ax.bar_label(bars, [f"{count:,}" for count in counts[order].tolist()], fontsize=8, padding=2)
    there = counts[order][counts[order] > 0]
    if len(there) and there.max() > 100 * there.min():
        ax.set_yscale("symlog", linthresh=10)
        title += "; logarithmic"
    ax.yaxis.set_major_formatter(lambda value, place: f"{value:,.0f}")
    steep = len(order) > 10
    ax.set_xticks(
        places,
        [short(names[index]) for index in order],
        rotation=90 if steep else 0,
        fontsize=9 if len(order) < 40 else 7,
    )
    ax.set(ylabel="boxes", title=title, xlim=(-0.7, (places[-1] if len(places) else 0) + 0.7))


def _overlay(ax, classes: np.ndarray, boxes: np.ndarray) -> None:
    from matplotlib.collections import LineCollection

    step = max(math.ceil(len(boxes) / OVERLAID), 1)
    half = boxes[::step, 2:] / 2
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))
    corners = [np.stack((0.5 + a * half[:, 0], 0.5 + b * half[:, 1]), 1) for a, b in signs]
    colours = [PALETTE[index % len(PALETTE)] for index in classes[::step].tolist()]
    ax.add_collection(LineCollection(np.stack(corners, 1), colors=colours, linewidths=0.6, alpha=0.25))
    shown = f"{len(half):,} of {len(boxes):,} boxes" if step > 1 else "all boxes"
    ax.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", title=f"{shown}, centred", xlabel="share of the image")
