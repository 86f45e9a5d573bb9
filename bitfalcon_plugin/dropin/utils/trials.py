"""Charts of the trials of a search over settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...plots.charts import smoothed
from ...plots.colours import PALETTE
from ...plots.figure import new_figure

TRIAL_COLUMNS = ("trial", "number", "state", "epochs", "time", "seconds")  # of a table of trials, and no settings


def is_setting(column: str) -> bool:
    """Return whether a column of a table of trials holds the values of a setting."""
    return column not in TRIAL_COLUMNS and "/" not in column


def draw_trials(target: Path, fitness: np.ndarray) -> Path:
    """Draw the fitness (n,) of n trials in their order; of five or more also smoothed."""
    with new_figure(target, 8, 4.5) as figure:
        ax = figure.subplots()
        numbers = np.arange(1, len(fitness) + 1)
        ax.plot(numbers, fitness, marker="o", linestyle="none", color=PALETTE[2], label="trials")
        if len(fitness) > 4:
            ax.plot(numbers, smoothed(fitness), color=PALETTE[3], linewidth=2, label="smoothed")
        ax.set(xlabel="trial", ylabel="fitness", title="Fitness of the trials")
        ax.grid(alpha=0.3, linewidth=0.5)
        ax.legend(frameon=False)
    return target


def draw_settings(target: Path, columns: Mapping[str, np.ndarray], fitness: np.ndarray) -> Path:
    """Draw the fitness (n,) over the values (n,) of each setting; the best trial is marked."""
    side = math.ceil(len(columns) ** 0.5)
    best = int(fitness.argmax())
    with new_figure(target, 2.6 * side, 2.4 * math.ceil(len(columns) / side)) as figure:
        axes = figure.subplots(math.ceil(len(columns) / side), side, squeeze=False).ravel()
        for ax, (name, values) in zip(axes, columns.items()):
            ax.scatter(values, fitness, s=12, alpha=0.6, color=PALETTE[2])
            ax.plot(values[best], fitness[best], marker="+", markersize=14, color="black")
            ax.set_title(f"{name} = {values[best]:.3g}", fontsize=8)
            ax.locator_params(axis="x", nbins=3)
            ax.tick_params(labelsize=7)
            ax.grid(alpha=0.3, linewidth=0.5)
        for ax in axes[len(columns) :]:
            ax.set_axis_off()
    return target
