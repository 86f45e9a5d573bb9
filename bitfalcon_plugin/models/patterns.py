"""Regular expressions that users give to choose layers by name: those that no name makes slow.

Python's expressions can take for ever on a short text, where something repeated is repeated again. Taken here are
letters, `.`, classes, `^`, `$`, alternatives, groups that are not repeated, and few repetitions of a single character.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..config.errors import UserError
from ..config.values import show

MAX_LENGTH = 2000
LONG = 60  # ways to repeat a character within a name
MAX_WAYS = 1_000_000  # of matching at one place; three repetitions are 216,000, a third of a millisecond
TOKEN = re.compile(
    r"""(?P<atom> \\[dwsDWSbB] | \\[^a-zA-Z0-9] | \[\^?\]?(?:\\.|[^\]\\])*\] | [^\\()\[\]*+?{}|] )
    | (?P<repeat> [*+]\??(?!\+) | \{\d{0,3},?\d{0,3}\}\??(?!\+) )
    | (?P<optional> \?\??(?!\+) )
    | (?P<open> \((?:\?:)? (?!\?) )
    | (?P<close> \) (?![*+?{]) )
    | (?P<or> \| )""",
    re.VERBOSE | re.DOTALL,
)


def name_matcher(key: str, pattern: str) -> Callable[[str], bool]:
    """Return a function that says whether an expression is found in a name. key: the setting, for messages.

    Raises UserError for what is no expression, and for one that may be slow.
    """
    example = r"for example bit='model\.2\.'"
    if len(pattern) > MAX_LENGTH:
        raise UserError(f"{key}={show(pattern)}: {len(pattern)} characters; expected at most {MAX_LENGTH}.")
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            f"{key}={show(pattern)} is no regular expression ({error}). A dot in a name is written \\. , {example}."
        ) from error
    if reason := _reason_against(pattern):
        raise UserError(
            f"{key}={show(pattern)}: {reason}. Expressions have letters, . [] ^ $ |, groups without * + ? behind them, "
            f"and at most three * or +; {example}."
        )
    return lambda name: expression.search(name) is not None


def _reason_against(pattern: str) -> str:
    """Return why an expression, which Python takes, is not taken; "" where it is."""
    position, open_groups = 0, 0
    total, ways, choices = 0, 1, 1  # of all alternatives, of the present one, and the alternatives of the open group
    while position < len(pattern):
        token = TOKEN.match(pattern, position)
        if token is None:
            return f"{show(pattern[position : position + 12])} in it is not taken"
        kind, position = token.lastgroup, token.end()
        if kind == "repeat":
            ways *= LONG
        elif kind == "optional":
            ways *= 2
        elif kind == "open":
            open_groups, ways, choices = open_groups + 1, ways * choices, 1
        elif kind == "close":
            open_groups, ways, choices = open_groups - 1, ways * choices, 1
        elif kind == "or" and open_groups:
            choices += 1
        elif kind == "or":
            total, ways = total + ways, 1
        if total + ways * choices > MAX_WAYS:
            return "it can match in too many ways"
    return ""
