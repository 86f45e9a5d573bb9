"""The progress bar under the name of its newer module."""

from __future__ import annotations

from . import TQDM

__all__ = ["TQDM"]
