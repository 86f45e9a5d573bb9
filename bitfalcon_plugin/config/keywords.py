"""From the keyword arguments of a script to settings."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

import numpy as np
import torch

from .command_line import OTHER_TASKS, TASKS
from .errors import UserError
from .notes import print_note, print_note_once
from .settings import Settings, load_settings
from .values import MAX_ITEMS, show


def parse_keywords(mode: str, keywords: Mapping[str, object]) -> Settings:
    """Check keyword arguments as settings for the verb `mode`; prints notes. Raises UserError with all problems.

    A task that is none, for example a verb, has no effect, and a note says so.
    """
    if "task" in keywords and not _is_task(keywords["task"]):
        check_task(keywords["task"])
        keywords = {key: value for key, value in keywords.items() if key != "task"}
    settings = load_settings({**{key: _plain(value) for key, value in keywords.items()}, "mode": mode})
    print_note(*settings.notes)
    return settings


def check_task(word: object, task: str = "", source: str = "") -> None:
    """Print a note about a task= that has no effect: one that is none, or another than `task`, that of the model.

    source: the model's file, for messages. Raises UserError for a task that this package does not have.
    """
    if isinstance(word, str) and word in OTHER_TASKS:
        raise UserError(f"task={_shown(word)}: no model of this task is here (known: {', '.join(TASKS)}).")
    if word is not None and not _is_task(word):
        print_note_once(
            f"task={_shown(word)} is no task and has no effect: the head of the model decides what it does."
        )
    elif task and word is not None and word != task:
        print_note(f"task={_shown(word)} has no effect: by its head '{source}' is a model for {task}.")


def _shown(word: object) -> str:
    return repr(word[:80]) if isinstance(word, str) else show(word)


def _is_task(word: object) -> bool:
    return isinstance(word, str) and word in (*TASKS, *OTHER_TASKS)


def _plain(value: object) -> object:
    """An array, device, set or range as the number, text or list that a setting takes; other values unchanged."""
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value) if all(isinstance(item, Real) for item in value) else list(value)
    return list(value[: MAX_ITEMS + 1]) if isinstance(value, range) else value
