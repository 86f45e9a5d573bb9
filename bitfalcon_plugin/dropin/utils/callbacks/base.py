"""The functions that every run begins with: none for each event."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from ....config.callbacks import EVENTS

default_callbacks: dict[str, list[Callable[[Any], object]]] = {event: [] for event in EVENTS}

callbacks: dict[str, Callable[[Any], object]] = {}  # as in the modules of the loggers


def get_default_callbacks() -> defaultdict[str, list[Callable[[Any], object]]]:
    """Return a copy of default_callbacks that gives an empty list for every other event."""
    return defaultdict(list, {event: list(functions) for event, functions in default_callbacks.items()})


def add_integration_callbacks(instance: Any) -> None:
    """Do nothing: no other logger is told of a run."""
