"""Notes for the user: lines on stderr that begin with `note:`."""

from __future__ import annotations

import sys

from .printable import say


def print_note(*texts: str) -> None:
    """Print a line on stderr for each text."""
    for text in texts:
        say(f"note: {text}", file=sys.stderr)


_PRINTED: set[str] = set()


def print_note_once(*texts: str, key: str = "") -> None:
    """Print a line on stderr for each text, unless this process has printed it, or another one of `key`, before."""
    for text in texts:
        if (key or text) not in _PRINTED:
            _PRINTED.add(key or text)
            print_note(text)
