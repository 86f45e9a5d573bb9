"""The steps of a prediction that a caller may replace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Steps:
    """Functions that stand in place of steps of a prediction; None keeps the step as it is.

    compute: (Batch) -> the Results of its pictures. The batches are then computed one after the other, each between its
    events. write: (the step itself, Picture, Results) -> the line that is printed; the step writes what the settings
    ask for.
    """

    compute: Callable[..., list[Any]] | None = None
    write: Callable[..., str] | None = None
