"""From the keyword arguments of a script to settings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from .command_line import OTHER_TASKS
from .notes import print_note, print_note_once
from .settings import Settings, load_settings


def parse_keywords(mode: str, keywords: Mapping[str, object]) -> Settings:
    """Check keyword arguments as settings for the verb `mode`; prints notes. Raises UserError with all problems.

    A task that is none, for example a verb, has no effect, and a note says so.
    """
    if "task" in keywords and not is_task(keywords["task"]):
        note_task(keywords["task"])
        keywords = {key: value for key, value in keywords.items() if key != "task"}
    settings = load_settings({**{key: _plain(value) for key, value in keywords.items()}, "mode": mode})
    print_note(*settings.notes)
    return settings


def is_task(word: object) -> bool:
    """Whether a word names a task, of this package or of others."""
    return word in ("detect", *OTHER_TASKS)


def note_task(word: object) -> None:
    """Say once that a word is no task."""
    if word is not None:
        print_note_once(f"task={word!r} is no task and has no effect: the head of the model decides what it does.")


def _plain(value: object) -> object:
    """An array, device, set or range as the number, text or list that a setting takes; other values unchanged."""
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return list(value) if isinstance(value, range) else value
