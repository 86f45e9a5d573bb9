"""The exception for a mistake of the user, and the parts of its messages.

An error names the thing, the value, the expectation and the repair. Where several things can be wrong at once (in a
model YAML, in a label folder), the problems are collected and raised together.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence

from .printable import printable


class UserError(Exception):
    """A mistake in what the user gave: the command line prints it and exits with `exit_code`, without a traceback.

    Its text is printable, because Python itself writes it to the terminal where a script does not catch it.
    """

    exit_code = 2

    def __init__(self, *parts: object):
        super().__init__(*(printable(part) if isinstance(part, str) else part for part in parts))


class WrongSettingError(UserError, SyntaxError, ValueError, TypeError):
    """A setting that does not exist, or has another type or range; scripts expect a different built-in error each."""


class WrongValueError(UserError, ValueError):
    """A device or a format that there is not, or images that a network does not take."""


class WrongModelError(UserError, TypeError):
    """An exported model in the place of one whose network can be read or changed."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


def nearest(word: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return at most `count` of the names, those most similar to `word`, best first; case does not matter."""
    by_lower = {str(name).lower(): str(name) for name in names}
    close = difflib.get_close_matches(str(word)[:100].lower(), list(by_lower), n=count, cutoff=0.5)
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory is full, of the machine or of a GPU; torch on a CPU only has a text."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or isinstance(error, RuntimeError)
        and "DefaultCPUAllocator" in str(error)
    )


@contextlib.contextmanager
def blaming(thing: object) -> Iterator[None]:
    """Turn whatever the content of a file makes this package raise into a UserError that names it.

    For content that somebody else may have made: no list of what may be wrong with it is complete. The exception stays
    as the cause, which --debug shows. Errors of the system and full memory pass. thing: the file, or what it holds.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        lines = str(error).splitlines() if not isinstance(error, RecursionError) else ["it is nested too deep"]
        reason = " ".join(lines[:1])[:200]
        raise UserError(
            f"'{thing}' is damaged or made by hand: {type(error).__name__}{reason and f': {reason}'}. Give another "
            "copy of it. (--debug shows where it failed.)"
        ) from error
