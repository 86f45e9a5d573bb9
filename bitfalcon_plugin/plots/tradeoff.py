"""Trade-offs: accuracy against size and time, a panel each, with every point named; and bars side by side.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which people with any colour vision tell apart;
each series has a marker of its own as well.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path

from .figure import new_figure, shortened, write_not_measured

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH, HEIGHT = 5.6, 4.6  # inches of a panel
REACH = (0, 8, 16, 26, 38, 52, 68, 86)  # points that a name may be pushed away from its marker
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a marker, for its name: x, y
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the figure
Styles = Mapping[str, tuple[str, str]]  # series -> colour, marker


@dataclass(frozen=True)
class Point:
    """A marker in a panel. low, high: its quartiles along x, drawn as a bar. label: its name. filled: not hollow."""

    x: float
    y: float
    label: str = ""
    series: str = ""
    low: float | None = None
    high: float | None = None
    filled: bool = True


@dataclass(frozen=True)
class Panel:
    """The points over one abscissa. lines: series of (x, y), joined by thin grey lines. log: logarithmic along x."""

    xlabel: str
    points: Sequence[Point]
    lines: Sequence[Sequence[tuple[float, float]]] = ()
    log: bool = False


@dataclass(frozen=True)
class Bars:
    """A panel of bars.

    values: one for each name, or None. low, high: their quartiles. form: of the numbers beside the bars. dots:
    draw dots instead of bars, for numbers that do not start at zero.
    """

    xlabel: str
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    form: str = "{:.1f}"
    dots: bool = False


def draw_tradeoff(target: str | Path, panels: Sequence[Panel], ylabel: str, title: str = "", note: str = "") -> Path:
    """Draw the panels side by side into the file `target`, whole or not at all; returns its path.

    note: a line below, such as the machine. Raises NoMatplotlib where that is missing.
    """
    target, count = Path(target), max(len(panels), 1)
    series = dict.fromkeys(point.series for panel in panels for point in panel.points)
    styles = dict(zip(series, cycle(zip(COLOURS, MARKERS))))
    with new_figure(target, WIDTH * count, HEIGHT + 0.3 * bool(note)) as figure:
        axes = figure.subplots(1, count, squeeze=False, sharey=True)[0]
        for ax, panel in zip(axes, panels):
            _scatter(ax, panel, styles)
            ax.set_xlabel(panel.xlabel)
        axes[0].set_ylabel(ylabel if panels else "")
        _set_heights(axes[0], [point.y for panel in panels for point in panel.points])
        _write_around(figure, styles, title, note, WIDTH * len(panels))
        _name_points(figure, axes, panels)
    return target


def draw_bars(
    target: str | Path,
    names: Sequence[str],
    series: Sequence[str],
    panels: Sequence[Bars],
    title: str = "",
    note: str = "",
) -> Path:
    """Draw a line for each name, first above, with a bar in each panel; colours by series. Returns the path.

    Raises NoMatplotlib where that is missing.
    """
    target, count = Path(target), max(len(names), 1)
    styles = {name: (colour, "s") for name, colour in zip(dict.fromkeys(series), cycle(COLOURS))}
    with new_figure(target, 2.2 + 2.9 * max(len(panels), 1), 1.8 + 0.3 * count) as figure:
        axes = figure.subplots(1, max(len(panels), 1), squeeze=False, sharey=True)[0]
        for ax, panel in zip(axes, panels):
            _bars(ax, panel, [styles[name][0] for name in series])
        axes[0].set_yticks(range(len(names)), [shortened(name, 40) for name in names])
        axes[0].set_ylim(count - 0.4, -0.6)
        _write_around(figure, styles, title, note, 2.2 + 2.9 * len(panels))
    return target


def _write_around(figure, styles: Styles, title: str, note: str, width: float) -> None:
    """Write the title, a legend for more than one series, and the note below, wrapped to `width` inches."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=6, label=shortened(name, 40))
        for name, (colour, marker) in styles.items()
        if name
    ]
    if len(handles) > 1:
        layout = {"loc": "outside upper center", "ncols": min(len(handles), 6), "frameon": False}
        figure.legend(handles=handles, title=title, title_fontsize=11, **layout)
    else:
        figure.suptitle(title, fontsize=11)
    if note:
        lines = textwrap.wrap(note, round(width * 16))
        figure.supxlabel("\n".join(lines), fontsize=7, color="#555555")


def _bars(ax, panel: Bars, colours: Sequence[str]) -> None:
    measured = [(row, value) for row, value in enumerate(panel.values) if value is not None]
    ax.grid(alpha=0.3, linewidth=0.5, axis="x")
    ax.set_axisbelow(True)
    ax.locator_params(axis="x", nbins=4)
    ax.set_xlabel(panel.xlabel)
    ends = [max(value, (panel.high[row] or 0) if panel.high else 0) for row, value in measured]
    if panel.dots and measured:
        low, high = min(value for _, value in measured), max(value for _, value in measured)
        spread = max(high - low, 0.02 * abs(high), 1e-3)
        ax.set_xlim(low - 0.3 * spread, high + 0.9 * spread)
    else:
        ax.set_xlim(0, max(ends, default=1) * 1.35 or 1)
    for (row, value), end in zip(measured, ends, strict=True):
        if panel.dots:
            ax.plot(value, row, marker="o", markersize=6, color=colours[row], linestyle="none")
        else:
            ax.barh(row, value, height=0.66, color=colours[row])
        if panel.low and panel.low[row] is not None and panel.high[row] is not None:
            ax.plot((panel.low[row], panel.high[row]), (row, row), color="black", linewidth=1.2)
        number = panel.form.format(value)
        ax.annotate(number, (end, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)


def _scatter(ax, panel: Panel, styles: Styles) -> None:
    ax.grid(alpha=0.3, linewidth=0.5)
    for line in panel.lines:
        ax.plot([x for x, _ in line], [y for _, y in line], color="#9aa0a6", linewidth=0.9, zorder=1)
    for point in panel.points:
        colour, marker = styles[point.series]
        if point.low is not None and point.high is not None:
            ax.plot((point.low, point.high), (point.y, point.y), color=colour, linewidth=1.4, alpha=0.6, zorder=2)
        style = {"markeredgewidth": 1.4, "markerfacecolor": colour if point.filled else "white", "markersize": 7}
        ax.plot(point.x, point.y, marker=marker, linestyle="none", color=colour, zorder=3, **style)
    if panel.points:
        _set_widths(ax, panel)
    else:
        write_not_measured(ax)


def _set_widths(ax, panel: Panel) -> None:
    """Set the limits along x, with a margin for names. The axis begins at 0 unless it is logarithmic."""
    xs = [value for point in panel.points for value in (point.x, point.low, point.high) if value is not None]
    if panel.log and min(xs) > 0:
        from matplotlib.ticker import FuncFormatter, LogLocator

        ax.set_xscale("log")
        ax.set_xlim(min(xs) / 1.5, max(xs) * 1.8)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
        ax.xaxis.set_minor_formatter(FuncFormatter(lambda value, position: ""))
    else:
        ax.set_xlim(0, max(xs) * 1.18 or 1)


def _set_heights(ax, values: Sequence[float]) -> None:
    if values:
        low, high = min(values), max(values)
        margin = max((high - low) * 0.16, (0.02 if high > low else 0.2) * max(map(abs, values)), 1e-3)
        floor = low - margin
        ax.set_ylim(floor if floor > 0 or low < 0 else -0.03 * high, high + margin)


def _name_points(figure, axes, panels: Sequence[Panel]) -> None:
    """Write the names of the points into the finished layout, from the top to the bottom of each panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer = canvas.get_renderer()
    half = 6.5 * figure.dpi / 72  # pixels of half a marker
    for ax, panel in zip(axes, panels):
        to_pixels = ax.transData.transform
        markers = [to_pixels((point.x, point.y)) for point in panel.points]
        occupied = [(x - half, y - half, x + half, y + half) for x, y in markers]
        for point in panel.points:
            if None not in (point.low, point.high):
                (left, y), (right, _) = to_pixels((point.low, point.y)), to_pixels((point.high, point.y))
                occupied.append((left, y - 3, right, y + 3))
        occupied += [box for line in panel.lines if line for box in _boxes_along(to_pixels(line))]
        for index in sorted(range(len(markers)), key=lambda index: -markers[index][1]):
            if panel.points[index].label:
                occupied.append(_write_name(ax, renderer, panel.points[index], occupied))


def _boxes_along(line: Sequence[tuple[float, float]]) -> list[Box]:
    """Return small boxes along a line in pixels, which names should not cover."""
    boxes = []
    for (x1, y1), (x2, y2) in zip(line, line[1:]):
        count = max(int(max(abs(x2 - x1), abs(y2 - y1)) / 4), 1)
        centres = [(x1 + (x2 - x1) * part / count, y1 + (y2 - y1) * part / count) for part in range(count + 1)]
        boxes += [(x - 2, y - 2, x + 2, y + 2) for x, y in centres]
    return boxes


def _write_name(ax, renderer, point: Point, occupied: Sequence[Box]) -> Box:
    """Write the name of a point where it covers least, as near as possible, on one of eight sides; returns its box."""
    offsets = {"textcoords": "offset points", "annotation_clip": False}
    ground = {"facecolor": "white", "alpha": 0.8, "pad": 0.5, "linewidth": 0}
    name = shortened(point.label, 30)
    text = ax.annotate(name, (point.x, point.y), fontsize=8, zorder=4, bbox=ground, **offsets)
    frame = ax.get_window_extent(renderer)
    best, lowest_cost = None, math.inf
    for reach, (right, up) in product(REACH, SIDES):
        position = (right * (8 + reach), up * (8 + reach))
        alignment = {"ha": ("center", "left", "right")[right], "va": ("center", "bottom", "top")[up]}
        text.set(position=position, **alignment)
        extent = text.get_window_extent(renderer)
        box = (extent.x0 - 2, extent.y0 - 1, extent.x1 + 2, extent.y1 + 1)
        beyond = (frame.x0 - box[0], box[2] - frame.x1, frame.y0 - box[1], box[3] - frame.y1)
        cost = sum(_common_area(box, other) for other in occupied) + 1e4 * sum(max(side, 0) for side in beyond)
        if cost < lowest_cost:
            best, lowest_cost = (position, alignment, box), cost
        if cost == 0:
            break
    position, alignment, box = best
    text.set(position=position, **alignment)
    if max(map(abs, position)) > 12:  # far away: a line leads to the marker
        line = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        ax.annotate("", (point.x, point.y), xytext=position, arrowprops=line, **offsets)
    return box


def _common_area(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)
