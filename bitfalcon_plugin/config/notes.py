"""Notes for the user, on stderr."""

from __future__ import annotations

import sys


def note(text: str) -> None:
    print(text, file=sys.stderr)
