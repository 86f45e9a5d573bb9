"""Matplotlib figures that become files.

matplotlib is optional: it is imported when a figure is drawn, used without pyplot (so no window, and the caller's
backend and style stay as they are), and where it is missing `NoMatplotlib` says how to install it.
"""

from __future__ import annotations

import logging
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..config.errors import UserError
from ..config.files import atomic
from .fonts import IDEOGRAPH_FAMILIES

MISSING = "curves, matrices and charts need matplotlib: pip install 'bitfalcon[plots]'"
DPI = 150
STYLE = {
    "text.parse_math": False,
    "font.size": 9,
    "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class NoMatplotlib(UserError):
    """matplotlib is not installed, or cannot be imported."""


@contextmanager
def new_figure(target: Path, width: float, height: float) -> Iterator:
    """Yield an empty matplotlib Figure of this size in inches; then write it to `target`, whole or not at all."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # hides messages about its font cache and about fonts that are not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that no font has
            try:
                import matplotlib
                from matplotlib.figure import Figure
            except ImportError as error:
                reason = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
                raise NoMatplotlib(MISSING + reason) from error
            default = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
            with matplotlib.rc_context({**default, **STYLE, "font.family": _families()}):
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


def shortened(name: str, length: int = 24) -> str:
    """Return a name on one line, at most `length` letters; not beginning with "_", which a legend would hide."""
    line = "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in str(name))
    line = line if len(line) <= length else line[: length - 1] + "…"
    return f" {line}" if line.startswith("_") else line


def write_not_measured(ax) -> None:
    """Write "not measured" into the middle of empty axes."""
    ax.text(0.5, 0.5, "not measured", ha="center", va="center", transform=ax.transAxes, color="#777777")
