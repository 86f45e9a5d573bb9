"""Notes for the user: lines on stderr that begin with `note:`."""

from __future__ import annotations

import sys


def print_note(*texts: str) -> None:
    """Print a line on stderr for each text."""
    for text in texts:
        print(f"note: {text}", file=sys.stderr)
