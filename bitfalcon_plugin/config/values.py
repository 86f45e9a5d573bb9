"""The values of settings: types and their checks, values read from texts, and values shown in messages."""

from __future__ import annotations

import ast
import math
import os
import re
import reprlib
import warnings
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

from .default_table import table

MAX_LITERAL, MAX_NESTING = 1000, 8  # characters, brackets in brackets; a longer or deeper value is plain text
MAX_TEXT, MAX_PART = 4096, 250  # characters of a text; bytes of a part of a path: file systems have 255, with .yaml
MAX_ITEMS = 10_000  # of a list
MAX_BATCH = 65_536
NONE_IS_A_CHOICE = frozenset(("auto_augment", "bit", "keep"))  # keys for which `none` is a value of its own


# Each check returns any value as its type, or None where the value has another type. It is not called with None.


def _bool(value: object, row: Mapping) -> object:
    return value if isinstance(value, bool) else None


def _number(value: object, row: Mapping) -> object:
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an int past 1e308
        number = math.nan
    inside = row.get("min", -math.inf) <= number <= row.get("max", math.inf) and number > row.get("above", -math.inf)
    return number if inside and math.isfinite(number) else None


def _whole(value: object, row: Mapping) -> object:
    number = _number(value, row)
    return int(value) if number is not None and number == int(number) else None


def _fraction(value: object, row: Mapping) -> object:
    return _number(value, {"min": 0, "max": 1, **row})


def _text(value: object, row: Mapping) -> object:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not _is_usable(text) or not _is_path(text, row.get("path")):
        return None
    if "choices" not in row:
        return text
    return {choice.lower(): choice for choice in row["choices"]}.get(text.lower())


def _is_usable(text: str) -> bool:
    """Whether a text is short enough, can be written, and has no null byte, at which the system would cut it off."""
    try:
        text.encode("utf-8", "surrogateescape")  # as names of files are that are not UTF-8
    except UnicodeEncodeError:
        return False
    return "\0" not in text and len(text) <= MAX_TEXT


def _is_path(text: str, where: str | None) -> bool:
    """Whether a text can name a file. where: the column `path` of cfg/default.yaml, None for what is no path."""
    if where is None or "://" in text:
        return where != "inside"
    parts = re.split(r"[/\\]", text)
    if any(len(os.fsencode(part)) > MAX_PART for part in parts):
        return False
    if parts[0].startswith("~") and os.path.expanduser(text) == text:  # of a user who does not exist
        return False
    leaves = ".." in parts or os.path.isabs(text) or parts[0] == "" or parts[0][1:2] == ":"
    return where != "inside" or not text or not leaves and os.path.normpath(text) != "."


def _name(value: object, row: Mapping) -> object:
    if isinstance(value, Real) and not isinstance(value, bool):
        return str(value) if _number(value, {}) is not None else None
    return _text(value, row)


def _items(value: object) -> list | tuple:
    """Return a list of reasonable length unchanged, and an empty one for everything else."""
    return value if isinstance(value, (list, tuple)) and len(value) <= MAX_ITEMS else ()


def _wholes(value: object, row: Mapping) -> object:
    items = [_whole(item, row) for item in _items(value)]
    return tuple(items) if items and None not in items else None


def _numbers(value: object, row: Mapping) -> object:
    items = [_number(item, row) for item in (_items(value) if isinstance(value, (list, tuple)) else [value])]
    return tuple(items) if items and None not in items else None


def _shares(value: object, row: Mapping) -> object:
    # `0.8/0.1/0.1`: parts of a whole, the first above 0
    words = value.split("/") if isinstance(value, str) else value
    words = words if isinstance(words, (list, tuple)) and len(words) in (2, 3) else ()
    items = [_fraction(literal(word.strip()) if isinstance(word, str) else word, {}) for word in words]
    return tuple(items) if items and None not in items and items[0] and abs(sum(items) - 1) < 1e-9 else None


def _parts(value: object, row: Mapping) -> object:
    # `23.cv2`, `[backbone, 23.cv2]` as the shell passes it on, or a list in which row numbers may stand too
    words = _split(value)
    numbers = [_whole(literal(word) if isinstance(word, str) else word, row) for word in words]
    items = [_part(word) if number is None else number for number, word in zip(numbers, words)]
    return tuple(items) if items and None not in items else None


def _words(value: object, row: Mapping) -> object:
    words = _split(value)
    fits = all(isinstance(word, str) and re.fullmatch(r"[\w.-]+", word) for word in words)
    return tuple(words) if words and fits else None


def _split(value: object) -> object:
    if isinstance(value, str):
        value = [word.strip(" '\"") for word in value.strip("[]() ").split(",")] if _is_usable(value) else []
    return _items(value)


def _part(word: object) -> str | None:
    """A part of a parameter's name: letters, digits, dots and underscores, and no number by itself."""
    if not isinstance(word, str) or not re.fullmatch(r"[\w.]+", word):
        return None
    return None if isinstance(literal(word), (int, float, type(None))) else word


def _size(value: object, row: Mapping) -> object:
    sides = _wholes(value if isinstance(value, (list, tuple)) else [value], row)
    if sides is None or len(sides) > 2:
        return None
    return sides if len(sides) == 2 else sides[0]


def _batch(value: object, row: Mapping) -> object:
    share = _number(value, {"above": 0, "max": 1})
    if share is not None and share < 1:
        return share
    return -1 if isinstance(value, Real) and value == -1 else _whole(value, {"min": 1, "max": MAX_BATCH})


def _mapping(value: object, row: Mapping) -> object:
    return dict(value) if isinstance(value, Mapping) and len(value) <= MAX_ITEMS else None


class Kind(NamedTuple):
    """A type of cfg/default.yaml: its check, its name in messages, and whether min, max and above belong to it."""

    check: Callable[[object, Mapping], object]
    words: str
    ranged: bool = False


KINDS: Mapping[str, Kind] = {
    "bool": Kind(_bool, "True or False"),
    "int": Kind(_whole, "a whole number", True),
    "float": Kind(_number, "a number", True),
    "fraction": Kind(_fraction, "a number from 0 to 1", True),
    "str": Kind(_text, "text"),
    "name": Kind(_name, "text"),
    "ints": Kind(_wholes, "a list of whole numbers", True),
    "numbers": Kind(_numbers, "a number or a list of numbers", True),
    "shares": Kind(_shares, "shares of train, val and test such as 0.8/0.1/0.1, which make 1"),
    "parts": Kind(_parts, "parts of names such as 23.cv2"),
    "words": Kind(_words, "words with commas between them, or a list of words"),
    "mapping": Kind(_mapping, "a mapping"),
    "size": Kind(_size, "a whole number or [height, width]", True),
    "batch": Kind(
        _batch, f"a whole number from 1 to {MAX_BATCH}; -1 (what fits), or a share of the GPU's memory between 0 and 1"
    ),
}


PATHS = {"any": "a path", "inside": "a name, or a relative path without `..`"}  # by the column `path`


def expected(row: Mapping[str, Any]) -> str:
    """Describe the values that a row allows."""
    choices = f"one of {', '.join(row['choices'])}" if "choices" in row else ""
    limits = {"above": "above {}", "min": "at least {}", "max": "at most {}"}
    limit = " and ".join(words.format(row[end]) for end, words in limits.items() if end in row)
    parts = []
    for name in row["type"].split("|"):
        kind = KINDS[name]
        words = kind.words
        if name in ("str", "name"):
            words = choices or PATHS.get(row.get("path", ""), words)
        parts.append(f"{words} {limit}" if limit and kind.ranged else words)
    unit = f" ({row['unit']})" if row.get("unit", "none") != "none" else ""
    return " or ".join(parts) + unit


def show(value: object) -> str:
    """Return `value` for a message, shortened: as typed, or in quotes where it would read as another value."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    plain = isinstance(value, str) and 0 < len(value) < 80 and literal(value) == value
    try:
        return value if plain else short.repr(value)
    except ValueError:  # a number of more digits than Python writes
        return f"<{type(value).__name__} of enormous length>"


def sample(key: str, row: Mapping[str, Any]) -> str:
    """Return a valid `key=value`: the default, or the row's example where the default is null."""
    value = row["default"] if row["default"] is not None else row.get("example", "VALUE")
    return f"{key}={str(value).replace(' ', '')}"


def literal(text: str, key: str = "") -> object:
    """Read `text` as none, true, false (any case) or a Python literal; return it unchanged where that fails.

    A key whose only type is text gets a text (`source=2024`); `name` and `project` get `text` exactly as typed.
    """
    kind = table().get(key, {}).get("type")
    if key in NONE_IS_A_CHOICE and text.lower() == "none":
        return "none"
    word = {"none": None, "null": None, "true": True, "false": False}.get(text.lower(), text)
    if word is None or kind == "name":
        return None if word is None else text
    value = word if word is not text else _python_literal(text)
    return value if kind != "str" or isinstance(value, str) else text


def _python_literal(text: str) -> object:
    depth = deepest = 0
    for letter in text[:MAX_LITERAL]:
        depth += (letter in "[({") - (letter in "])}")
        deepest = max(deepest, depth)
    if len(text) > MAX_LITERAL or deepest > MAX_NESTING:
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # '3or' and '\d' are only text
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, (bool, int, float, str, list, tuple, dict)) else text
