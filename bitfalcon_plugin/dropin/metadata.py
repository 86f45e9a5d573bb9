"""What importlib.metadata says about the name that scripts import."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

VERSION = "8.3.63"  # clients parse it; for YOLOv12 weights they want this one (spec/dropin.md section 14)


class _Distribution(importlib.metadata.Distribution):
    def __init__(self, name: str):
        self._text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {VERSION}\nSummary: provided by bitfalcon\n"

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        return Path(__file__).parent / path


def distribution(name: str) -> importlib.metadata.Distribution:
    """Return a distribution of that name with VERSION."""
    return _Distribution(name)
