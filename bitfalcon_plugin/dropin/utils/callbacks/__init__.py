"""Functions that are called at the events of a run."""

from __future__ import annotations

from .base import add_integration_callbacks, default_callbacks, get_default_callbacks

__all__ = ["add_integration_callbacks", "default_callbacks", "get_default_callbacks"]
