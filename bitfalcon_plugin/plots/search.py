"""The picture of a search for settings: what mattered, and the fitness of each trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from .figure import new_figure, shortened, write_not_measured
from .tradeoff import COLOURS

SHOWN = 24  # settings with a bar


def draw_search(target: Path, importances: Mapping[str, float], trials: Sequence[tuple[int, float, bool]]) -> Path:
    """Draw bars of the importances, and the trials with the best fitness so far; returns the path `target`.

    importances: setting -> share of the variance. trials: number, fitness, and whether the trial is complete (filled)
    or was ended early (hollow). Raises NoMatplotlib where that is missing.
    """
    bars = sorted(importances.items(), key=lambda item: -item[1])[:SHOWN]
    with new_figure(target, 10, max(3.6, 1.2 + 0.22 * len(bars))) as figure:
        left, right = figure.subplots(1, 2)
        _bars(left, bars, sum(is_complete for *_, is_complete in trials))
        _trials(right, trials)
    return target


def _bars(ax, bars: Sequence[tuple[str, float]], complete: int) -> None:
    ax.set(title=f"Importance of each setting, by {complete} complete trials")
    ax.set_xlabel("share of the variance of the fitness that it alone explains")
    ax.title.set_fontsize(9)
    if not bars:
        write_not_measured(ax)
        return
    shares = [share for _, share in bars]
    ax.barh(range(len(bars)), shares, height=0.66, color=COLOURS[0])
    ax.set_yticks(range(len(bars)), [shortened(name, 30) for name, _ in bars])
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.set_xlim(0, max(shares) * 1.2 or 1)
    for row, share in enumerate(shares):
        ax.annotate(f"{share:.2f}", (share, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


def _trials(ax, trials: Sequence[tuple[int, float, bool]]) -> None:
    ax.set(title="Trials, and the best so far", xlabel="trial", ylabel="fitness")
    ax.title.set_fontsize(9)
    ax.grid(alpha=0.3, linewidth=0.5)
    if not trials:
        write_not_measured(ax)
        return
    complete = [(number, fitness) for number, fitness, is_complete in trials if is_complete]
    pruned = [(number, fitness) for number, fitness, is_complete in trials if not is_complete]
    if complete:
        best = list(accumulate((fitness for _, fitness in complete), max))
        numbers = [number for number, _ in complete]
        ax.step([*numbers, max(number for number, *_ in trials)], [*best, best[-1]], where="post", color=COLOURS[1])
        ax.plot(*zip(*complete), "o", color=COLOURS[0], markersize=5, label="complete")
    if pruned:
        ax.plot(*zip(*pruned), "o", color=COLOURS[0], markerfacecolor="white", markersize=5, label="ended early")
        ax.legend(frameon=False, fontsize=8)
    ax.xaxis.get_major_locator().set_params(integer=True)
