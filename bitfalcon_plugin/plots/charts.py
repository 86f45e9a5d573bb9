"""Charts of a run: results over the epochs, curves, the confusion matrix, and the labels of a dataset."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..config.errors import UserError
from .colours import PALETTE
from .figure import new_figure, shortened, write_not_measured

MAX_LEGEND_CLASSES = 20  # a legend names each of so many classes
LOWEST_LISTED = 12  # of more classes, a legend names so many with the lowest values
MAX_MATRIX_NUMBERS = 30  # the numbers of so many classes are written into the matrix
MAX_LISTED_CONFUSIONS = 40  # confusions listed beside a larger matrix
TICKS = 90  # classes named along the matrix; of more, every second, third, ...
SHOWN = 60  # classes that the bar chart shows one by one
OVERLAID = 1000  # boxes drawn over one another


def draw_curves(
    folder: str | Path,
    results: Sequence[Sequence],
    names: Sequence[str],
    ap50: Sequence[float],
    mean_ap50: float,
    best: int,
    prefix: str = "",
) -> list[Path]:
    """Draw PR_curve, F1_curve, P_curve and R_curve.png into `folder`, their names after `prefix`; returns the paths.

    results: in that order abscissas (n,), curves (c, n) and the names of the axes. names, ap50: of the c classes, in
    their order. best: index of the confidence that is marked in the last three.
    """
    drawn = []
    for letter, (grid, curves, x, y) in zip(("PR", "F1", "P", "R"), results, strict=True):
        values, mean, mark = ap50, f"AP50 {mean_ap50:.3f}", None
        if letter != "PR":  # over confidence
            values, mark = curves[:, best].tolist(), float(grid[best])
            mean = f"{sum(values) / max(len(values), 1):.3f} at {mark:.3f}"
        target, axes = Path(folder) / f"{prefix}{letter}_curve.png", (x, f"{y} at IoU 0.50")
        drawn.append(draw_curve(target, grid, curves, axes, names, values, f"all classes  {mean}", mark))
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
    """Draw curves (c, n) over a grid (n,), both in [0, 1], and their mean, which the legend calls `mean`.

    values: a number for each curve, written beside its name; of many curves only those with the lowest numbers are
    named. mark: abscissa of a dotted vertical line.
    """
    count = len(curves)
    named = range(count)
    if count > MAX_LEGEND_CLASSES:
        named = sorted(named, key=lambda row: values[row])[:LOWEST_LISTED]
    with new_figure(target, 9, 6) as figure:
        ax = figure.subplots()
        for row in set(range(count)) - set(named):
            ax.plot(grid, curves[row], color="#9aa0a6", linewidth=0.3)
        for index, row in enumerate(named):
            colour = PALETTE[(row if count <= MAX_LEGEND_CLASSES else index) % len(PALETTE)]
            label = f"{shortened(names[row])}  {values[row]:.3f}"
            ax.plot(grid, curves[row], color=colour, linewidth=1.2, label=label)
        ax.plot(grid, curves.mean(0) if count else np.zeros_like(grid), label=mean, color="#0b3d91", linewidth=3)
        if mark is not None:
            ax.axvline(mark, color="black", linewidth=0.8, linestyle=":")
        xlabel, ylabel = axes
        title = f"{ylabel.split(' at ')[0]} over {xlabel.lower()}"
        ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1.02), title=title)
        ax.grid(alpha=0.3, linewidth=0.5)
        heading = None if len(named) == count else f"The {len(named)} lowest of {count} classes"
        figure.legend(loc="outside right upper", frameon=False, title=heading)
    return target


def draw_confusion(target: Path, matrix: np.ndarray, names: Sequence[str]) -> Path:
    """Draw an (nc, nc) matrix of counts (integers) or of shares of each column, or (nc + 1, nc + 1), background last.

    Where there are too many classes to write numbers into it, the largest confusions stand beside it.
    """
    count = len(matrix)
    is_counts = np.issubdtype(matrix.dtype, np.integer)
    labels = [*(shortened(name) for name in names), "background"][:count]
    side = min(max(2 + 0.5 * count, 5), 14)  # inches
    width = side + (1.5 if count <= MAX_MATRIX_NUMBERS else 6)
    with new_figure(target, width, side) as figure:
        ax = figure.subplots()
        limit = None if is_counts else 1
        values = np.where(matrix > 0, matrix, np.nan)
        image = ax.imshow(values, cmap=_blues(), vmin=0, vmax=limit, interpolation="nearest")
        figure.colorbar(image, ax=ax, fraction=0.04, pad=0.02).outline.set_visible(False)
        if count <= MAX_MATRIX_NUMBERS:
            _write_numbers(ax, matrix, is_counts, 72 * side * 0.62 / count)
        else:
            text = _largest_confusions(matrix[: len(names), : len(names)], labels)
            figure.text(1 - 4.4 / width, 0.98, text, va="top", fontsize=9, linespacing=1.6)
            figure.get_layout_engine().set(rect=(0, 0, 1 - 4.6 / width, 1))
        ticks = range(0, count, -(-count // TICKS))
        written = [labels[tick] for tick in ticks]
        size = min(9, 72 * side * 0.6 / len(ticks))
        turned = {"rotation": 90} if count > 6 else {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(ticks, written, fontsize=size, **turned)
        ax.set_yticks(ticks, written, fontsize=size)
        title = "Confusion matrix" if is_counts else "Confusion matrix, shares of each true class"
        ax.set(xlabel="True", ylabel="Predicted", title=title)
        if count > len(names):
            ax.axhline(count - 1.5, color="black", linewidth=0.5)
            ax.axvline(count - 1.5, color="black", linewidth=0.5)
    return target


def _number(value: float) -> str:
    return f"{value}" if isinstance(value, np.integer) else f"{value:.2f}"


def _write_numbers(ax, matrix: np.ndarray, is_counts: bool, side: float) -> None:
    """Write the numbers of a matrix into its cells. side: of a cell, in points."""
    dark = (matrix.max() if is_counts else 1) * 0.55
    for row, column in np.argwhere(matrix > 0).tolist():
        text, colour = _number(matrix[row, column]), "white" if matrix[row, column] > dark else "black"
        size = min(10, 1.4 * side / max(len(text), 3))
        ax.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def _largest_confusions(matrix: np.ndarray, labels: Sequence[str]) -> str:
    """Return the largest entries of a matrix (nc, nc) where two classes differ, a line each."""
    inner = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-inner, axis=None, kind="stable")[:MAX_LISTED_CONFUSIONS]
    lines = [
        f"{shortened(labels[column], 20)} taken for {shortened(labels[row], 20)}:  {_number(inner[row, column])}"
        for row, column in zip(*np.unravel_index(order, inner.shape), strict=True)
        if inner[row, column]
    ]
    return "\n".join(["Largest confusions", *(lines or ["none"])])


def draw_results(source: Path, target: Path) -> Path:
    """Draw the losses and metrics of a results.csv over the epochs; of five epochs or more also smoothed.

    Raises UserError where the file has no epochs.
    """
    with open(source, newline="", encoding="utf-8") as file:
        header, *lines = [*csv.reader(file)] or [[]]
    if not lines:
        raise UserError(f"'{source}' has no epochs to draw.")
    names = [name.strip() for name in header]
    table = dict(zip(names, np.array([[float(cell) for cell in line] for line in lines]).T, strict=True))
    train, metrics, val = ([n for n in names if n.startswith(part)] for part in ("train/", "metrics/", "val/"))
    half = (len(metrics) + 1) // 2
    grid = [train + metrics[:half], val + metrics[half:]]
    columns = max(map(len, grid))
    with new_figure(target, 3 * columns, 5.6) as figure:
        axes = figure.subplots(2, columns, squeeze=False)
        for row, line in zip(axes, grid, strict=True):
            for ax, name in zip(row, line):
                _progress(ax, table["epoch"], table[name], name)
            for ax in row[len(line) :]:
                ax.set_axis_off()
    return target


def _progress(ax, epochs: np.ndarray, values: np.ndarray, name: str) -> None:
    finite = np.isfinite(values)
    epochs, values = epochs[finite], values[finite]
    smooth = len(epochs) > 4
    marker = "." if len(epochs) <= 60 else None
    alpha = 0.6 if smooth else 1
    ax.plot(epochs, values, marker=marker, markersize=4, linewidth=0.8, color=PALETTE[2], alpha=alpha)
    if smooth:
        ax.plot(epochs, smoothed(values), linewidth=2, color=PALETTE[3])
    ax.set_title(name, fontsize=9)
    ax.grid(alpha=0.3, linewidth=0.5)
    if not len(epochs):
        write_not_measured(ax)
        return
    ax.xaxis.get_major_locator().set_params(integer=True)
    if name.startswith("metrics/"):
        top = min(1.02, max(float(values.max()) * 1.15, 0.05))
        ax.set_ylim(-0.02 * top, top)  # below 0, so that a line at 0 can be seen


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return values averaged with Gaussian weights, a thirtieth of their number wide, at least 1; normalised."""
    width = max(len(values) / 30, 1)
    index = np.arange(len(values))
    weights = np.exp(-0.5 * ((index[:, None] - index[None]) / width) ** 2)
    return weights @ values / weights.sum(1)


def draw_labels(target: Path, classes: np.ndarray, boxes: np.ndarray, names: Sequence[str]) -> Path:
    """Draw labels of a dataset: how many of each class, boxes over one another, where they are and how large.

    classes (n,) integers; boxes (n, 4): centre x, centre y, width, height relative to the image.
    """
    counts = np.bincount(classes, minlength=len(names))
    with new_figure(target, 11, 7.6) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.15))
        _class_counts(above.subplots(), counts, names)
        left, middle, right = below.subplots(1, 3)
        _overlay(left, classes, boxes)
        _density(middle, boxes[:, :2], "centre x", "centre y")
        _density(right, boxes[:, 2:], "width", "height")
        middle.set_ylim(1, 0)  # as in an image
    return target


def _density(ax, values: np.ndarray, xlabel: str, ylabel: str) -> None:
    """Draw a histogram of pairs (n, 2) in [0, 1], with logarithmic colours."""
    from matplotlib.colors import LogNorm

    bins = 50 if len(values) > 20_000 else 25
    if len(values):
        x, y = values.T
        ax.hist2d(x, y, bins=bins, range=((0, 1), (0, 1)), cmap=_blues(), norm=LogNorm(vmin=1), cmin=1)
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1), aspect="equal")


def _blues():
    """Return the colours from light to dark blue, without the palest, which cannot be told from white."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["Blues"](np.linspace(0.15, 1, 256)))


def _class_counts(ax, counts: np.ndarray, names: Sequence[str]) -> None:
    order = np.arange(len(counts))
    positions = order
    title = f"{int(counts.sum()):,} boxes, {len(counts)} classes"
    if len(counts) > SHOWN:
        half = SHOWN // 2
        falling = np.argsort(-counts, kind="stable")
        order = np.concatenate((falling[:half], falling[-half:]))
        positions = np.arange(SHOWN) + 2 * (np.arange(SHOWN) >= half)  # a gap between the two halves
        title += f"; the {half} most frequent and the {half} rarest"
    bars = ax.bar(positions, counts[order], color=[PALETTE[index % len(PALETTE)] for index in order])
    if len(order) <= MAX_LEGEND_CLASSES:
        ax.bar_label(bars, [f"{count:,}" for count in counts[order].tolist()], fontsize=8, padding=2)
    positive = counts[order][counts[order] > 0]
    if len(positive) and positive.max() > 100 * positive.min():
        ax.set_yscale("symlog", linthresh=10)
        title += "; logarithmic"
    ax.yaxis.set_major_formatter(lambda value, position: f"{value:,.0f}")
    rotation = 90 if len(order) > 10 else 0
    size = 9 if len(order) < 40 else 7
    ax.set_xticks(positions, [shortened(names[index]) for index in order], rotation=rotation, fontsize=size)
    ax.set(ylabel="boxes", title=title, xlim=(-0.7, (positions[-1] if len(positions) else 0) + 0.7))


def _overlay(ax, classes: np.ndarray, boxes: np.ndarray) -> None:
    from matplotlib.collections import LineCollection

    step = max(math.ceil(len(boxes) / OVERLAID), 1)
    half = boxes[::step, 2:] / 2  # (m, 2)
    signs = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)))
    corners = 0.5 + half[:, None] * signs  # (m, 5, 2)
    colours = [PALETTE[index % len(PALETTE)] for index in classes[::step].tolist()]
    ax.add_collection(LineCollection(corners, colors=colours, linewidths=0.6, alpha=0.25))
    shown = f"{len(half):,} of {len(boxes):,} boxes" if step > 1 else "all boxes"
    ax.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", title=f"{shown}, centred", xlabel="share of the image")
