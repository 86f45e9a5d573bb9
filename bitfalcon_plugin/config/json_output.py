"""`--json`: stdout is one JSON document, and all that is said besides goes to stderr."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from .printable import say

WORDS = ("json", "json=true", "json=1")  # after the dashes, in lower case


def asks_for_json(tokens: Sequence[str]) -> bool:
    """Whether a command line asks for JSON."""
    return any(token.lstrip("-").lower() in WORDS for token in tokens)


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what is printed to stdout, also by libraries and by processes that are started meanwhile."""
    sys.stdout.flush()
    own = sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__  # not where a script or a test took them over
    before = os.dup(1) if own else None
    try:
        if own:
            os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if before is not None:
            os.dup2(before, 1)
            os.close(before)


def print_document(content: object) -> None:
    """Print a value as one line of JSON (see `plain`)."""
    say(json.dumps(plain(content), allow_nan=False))


def plain(value: Any) -> object:
    """Return a value as JSON has it: by its as_dict, records as objects, arrays as lists, NaN as null, else text."""
    if hasattr(value, "as_dict"):
        return plain(value.as_dict())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, type(None))) else str(value)
