"""Trade-offs: accuracy against size and time, a panel each, with every point named; and bars side by side.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which people with any colour vision tell apart;
each series has a marker of its own as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from .charts import page, short

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH, HEIGHT = 5.6, 4.6  # inches of a panel
REACH = (0, 8, 16, 26, 38, 52, 68, 86)  # points that a name may be pushed away from its place
PLACES = (
    (1, 0, "left"),
    (-1, 0, "right"),
    (0, 1, "center"),
    (0, -1, "center"),
    (1, 1, "left"),
    (-1, 1, "right"),
    (1, -1, "left"),
    (-1, -1, "right"),
)


@dataclass(frozen=True)
class Point:
    """A marker in a panel. low, high: its quartiles along x, drawn as a bar. label: its name. dark: filled."""

    x: float
    y: float
    label: str = ""
    series: str = ""
    low: float | None = None
    high: float | None = None
    dark: bool = True


@dataclass(frozen=True)
class Panel:
    """The points over one abscissa. lines: series of (x, y), joined by thin grey lines. log: logarithmic along x."""

    xlabel: str
    points: Sequence[Point]
    lines: Sequence[Sequence[tuple[float, float]]] = ()
    log: bool = False


def draw_tradeoff(target: str | Path, panels: Sequence[Panel], ylabel: str, title: str = "", note: str = "") -> Path:
    """Draw the panels side by side into the file `target`, whole or not at all; returns its path.

    note: a line below, as on which machine. Raises NoMatplotlib where that is missing.
    """
    target = Path(target)
    series = list(dict.fromkeys(point.series for panel in panels for point in panel.points))
    looks = {name: (COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]) for place, name in enumerate(series)}
    with page(target, WIDTH * max(len(panels), 1), HEIGHT + 0.3 * bool(note)) as figure:
        axes = figure.subplots(1, max(len(panels), 1), squeeze=False, sharey=True)[0]
        for place, (ax, panel) in enumerate(zip(axes, panels)):
            _scatter(ax, panel, looks)
            ax.set_xlabel(panel.xlabel)
            ax.set_ylabel(ylabel if place == 0 else "")
        _heights(axes[0], [point.y for panel in panels for point in panel.points])
        if not _legend(figure, looks, title):
            figure.suptitle(title, fontsize=11)
        if note:
            figure.supxlabel(_wrapped(note, round(WIDTH * len(panels) * 16)), fontsize=7, color="#555555")
        _name_points(figure, axes, panels)
    return target


@dataclass(frozen=True)
class Bars:
    """A panel of bars.

    values: one for each name, None where there is none. low, high: quartiles, likewise. form: of the numbers beside
    the bars. dots: marks in the place of bars, for numbers whose nought means nothing."""

    xlabel: str
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    form: str = "{:.1f}"
    dots: bool = False


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
    looks = {name: (COLOURS[place % len(COLOURS)], "s") for place, name in enumerate(dict.fromkeys(series))}
    with page(target, 2.2 + 2.9 * max(len(panels), 1), 1.8 + 0.3 * count) as figure:
        axes = figure.subplots(1, max(len(panels), 1), squeeze=False, sharey=True)[0]
        for ax, panel in zip(axes, panels):
            _bars(ax, panel, [looks[name][0] for name in series])
        axes[0].set_yticks(range(len(names)), [short(name, 40) for name in names])
        axes[0].set_ylim(count - 0.4, -0.6)
        if not _legend(figure, looks, title):
            figure.suptitle(title, fontsize=11)
        if note:
            figure.supxlabel(_wrapped(note, round((2.2 + 2.9 * len(panels)) * 16)), fontsize=7, color="#555555")
    return target


def _bars(ax, panel: Bars, colours: Sequence[str]) -> None:
    there = [(place, value) for place, value in enumerate(panel.values) if value is not None]
    ax.grid(alpha=0.3, linewidth=0.5, axis="x")
    ax.set_axisbelow(True)
    ax.locator_params(axis="x", nbins=4)
    ax.set_xlabel(panel.xlabel)
    ends = [max(value, (panel.high[place] or 0) if panel.high else 0) for place, value in there]
    if panel.dots and there:
        least, most = min(value for _, value in there), max(value for _, value in there)
        room = max(most - least, 0.02 * abs(most), 1e-3)
        ax.set_xlim(least - 0.3 * room, most + 0.9 * room)
    else:
        ax.set_xlim(0, max(ends, default=1) * 1.35 or 1)
    for (place, value), end in zip(there, ends, strict=True):
        if panel.dots:
            ax.plot(value, place, marker="o", markersize=6, color=colours[place], linestyle="none")
        else:
            ax.barh(place, value, height=0.66, color=colours[place])
        if panel.low and panel.low[place] is not None and panel.high[place] is not None:
            ax.plot((panel.low[place], panel.high[place]), (place, place), color="black", linewidth=1.2)
        ax.annotate(
            panel.form.format(value), (end, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8
        )


def _scatter(ax, panel: Panel, looks: dict[str, tuple[str, str]]) -> None:
    ax.grid(alpha=0.3, linewidth=0.5)
    for line in panel.lines:
        ax.plot([x for x, _ in line], [y for _, y in line], color="#9aa0a6", linewidth=0.9, zorder=1)
    for point in panel.points:
        colour, marker = looks[point.series]
        if point.low is not None and point.high is not None:
            ax.plot((point.low, point.high), (point.y, point.y), color=colour, linewidth=1.4, alpha=0.6, zorder=2)
        ax.plot(
            point.x,
            point.y,
            marker=marker,
            markersize=7,
            linestyle="none",
            color=colour,
            markeredgewidth=1.4,
            markerfacecolor=colour if point.dark else "white",
            zorder=3,
        )
    if not panel.points:
        ax.text(0.5, 0.5, "not measured", ha="center", va="center", transform=ax.transAxes, color="#777777")
        return
    _limits(ax, panel)


def _limits(ax, panel: Panel) -> None:
    # room around the points, for their names; time and size begin at nothing unless the axis is logarithmic
    xs = [value for point in panel.points for value in (point.x, point.low, point.high) if value is not None]
    if panel.log and min(xs) > 0:
        from matplotlib.ticker import FuncFormatter, LogLocator

        ax.set_xscale("log")
        ax.set_xlim(min(xs) / 1.5, max(xs) * 1.8)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        ax.xaxis.set_minor_formatter(FuncFormatter(lambda value, place: ""))
    else:
        ax.set_xlim(0, max(xs) * 1.18 or 1)


def _heights(ax, values: Sequence[float]) -> None:
    if values:
        spread = max(values) - min(values)
        room = max(spread * 0.16, (0.02 if spread else 0.2) * max(map(abs, values)), 1e-3)
        floor = min(values) - room
        ax.set_ylim(floor if floor > 0 or min(values) < 0 else -0.03 * max(values), max(values) + room)


def _legend(figure, looks: dict[str, tuple[str, str]], title: str) -> bool:
    # Whether there is one: of a single series there is none.
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=6, label=short(name, 40))
        for name, (colour, marker) in looks.items()
        if name
    ]
    if len(handles) > 1:
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=min(len(handles), 6),
            frameon=False,
            title=title,
            title_fontsize=11,
        )
    return len(handles) > 1


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def _name_points(figure, axes, panels: Sequence[Panel]) -> None:
    # The layout is settled first, with the names not yet there; then each takes the nearest free place.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer = canvas.get_renderer()
    for ax, panel in zip(axes, panels):
        half = 6.5 * figure.dpi / 72  # pixels of half a marker
        marks = [ax.transData.transform((point.x, point.y)) for point in panel.points]
        taken = [(x - half, y - half, x + half, y + half) for x, y in marks]
        ends = [
            [ax.transData.transform((x, point.y)) for x in (point.low, point.high)]
            for point in panel.points
            if None not in (point.low, point.high)
        ]
        taken += [(left, y - 3, right, y + 3) for (left, y), (right, _) in ends]
        taken += [box for line in panel.lines for box in _beads(ax.transData.transform(line) if line else ())]
        frame = ax.get_window_extent(renderer)
        for place in sorted(range(len(marks)), key=lambda place: -marks[place][1]):
            if panel.points[place].label:
                taken.append(_place(ax, renderer, panel.points[place], marks[place], taken, frame))


def _beads(line: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    # Small boxes along a line, which names should not cover.
    beads = []
    for (x1, y1), (x2, y2) in zip(line, line[1:]):
        count = max(int(max(abs(x2 - x1), abs(y2 - y1)) / 4), 1)
        places = [(x1 + (x2 - x1) * part / count, y1 + (y2 - y1) * part / count) for part in range(count + 1)]
        beads += [(x - 2, y - 2, x + 2, y + 2) for x, y in places]
    return beads


def _place(
    ax, renderer, point: Point, mark: tuple[float, float], taken: list, frame
) -> tuple[float, float, float, float]:
    # Tries the eight directions near by, then farther away; the first free place, or the one that covers least.
    best, least, text = (
        None,
        None,
        ax.annotate(
            short(point.label, 30),
            (point.x, point.y),
            textcoords="offset points",
            fontsize=8,
            zorder=4,
            annotation_clip=False,
            bbox={"facecolor": "white", "alpha": 0.8, "pad": 0.5, "linewidth": 0},
        ),
    )
    for reach, (right, up, side) in product(REACH, PLACES):
        offset = (right * (8 + reach), up * (8 + reach) if right == 0 or reach or up else 0)
        text.set(position=offset, ha=side, va="center" if up == 0 else "bottom" if up > 0 else "top")
        box = text.get_window_extent(renderer)
        box = (box.x0 - 2, box.y0 - 1, box.x1 + 2, box.y1 + 1)
        covered = sum(_overlap(box, other) for other in taken)
        outside = (
            max(frame.x0 - box[0], 0)
            + max(box[2] - frame.x1, 0)
            + max(frame.y0 - box[1], 0)
            + max(box[3] - frame.y1, 0)
        )
        cost = covered + 1e4 * outside
        if least is None or cost < least:
            best, least = (offset, side, text.get_va(), box), cost
        if cost == 0:
            break
    text.set(position=best[0], ha=best[1], va=best[2])
    if max(map(abs, best[0])) > 12:  # far away: a line leads to it
        ax.annotate(
            "",
            (point.x, point.y),
            xytext=best[0],
            textcoords="offset points",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#777777", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
        )
    return best[3]


def _overlap(one: Sequence[float], two: Sequence[float]) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    return max(width, 0) * max(height, 0)
