"""From the keyword arguments of a script to settings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from .notes import print_note
from .settings import Settings, load_settings


def parse_keywords(mode: str, keywords: Mapping[str, object]) -> Settings:
    """Check keyword arguments as settings for the verb `mode`; prints notes. Raises UserError with all problems."""
    settings = load_settings({**{key: _plain(value) for key, value in keywords.items()}, "mode": mode})
    print_note(*settings.notes)
    return settings


def _plain(value: object) -> object:
    """An array, device, set or range as the number, text or list that a setting takes; other values unchanged."""
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return list(value) if isinstance(value, range) else value
