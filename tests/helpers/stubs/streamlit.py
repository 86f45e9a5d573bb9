"""Stands in for Streamlit: a visitor who has chosen image.jpg and pressed the button."""

from __future__ import annotations

import contextlib
from typing import Any

LOG: list[tuple[str, Any]] = []  # what the page shows


class _Sidebar:
    def slider(self, label, low, high, value):
        return value

    def file_uploader(self, label, type=None):
        return open("image.jpg", "rb")

    def button(self, label):
        return True


sidebar = _Sidebar()


def __getattr__(name: str):
    if name.startswith("_"):
        raise AttributeError(name)
    return lambda value="", **options: LOG.append((name, value))


def cache_resource(function):
    return function


def expander(title: str):
    return contextlib.nullcontext()
