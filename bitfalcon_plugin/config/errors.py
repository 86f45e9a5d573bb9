"""The exception for a mistake of the user, and the parts of its messages.

An error names the thing, the value, the expectation and the repair. Where several things can be wrong at once (in a
model YAML, in a label folder), the problems are collected and raised together.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake in what the user gave: the command line prints it and exits with 2, without a traceback."""


class WrongSettingError(UserError, SyntaxError, ValueError, TypeError):
    """A setting that does not exist, or has another type or range; scripts expect a different built-in error each."""


class WrongValueError(UserError, ValueError):
    """A device or a format that there is not."""


class WrongModelError(UserError, TypeError):
    """An exported model in the place of one whose network can be read or changed."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


def nearest(word: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return at most `count` of the names, those most similar to `word`, best first; case does not matter."""
    by_lower = {str(name).lower(): str(name) for name in names}
    close = difflib.get_close_matches(str(word).lower(), list(by_lower), n=count, cutoff=0.5)
    return [by_lower[name] for name in close]


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with the nearest name, or an empty string."""
    close = nearest(word, names, 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def raise_problems(title: str, problems: Sequence[str], limit: int = 20, kind: type[UserError] = UserError) -> None:
    """Raise one error that lists `problems`, if there are any: at most `limit` of them, the others counted."""
    if not problems:
        return
    lines = [f"  - {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more")
    raise kind("\n".join([title, *lines]))
