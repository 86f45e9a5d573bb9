"""Exceptions of the wider package."""

from __future__ import annotations


class HUBModelError(Exception):
    """A model of a service could not be fetched; nothing here raises it."""

    MESSAGE = "Model not found. Nothing is fetched here: give the path of a file you have."

    def __init__(self, message: str = MESSAGE):
        super().__init__(message)
