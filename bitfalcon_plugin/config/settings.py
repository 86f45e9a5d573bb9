"""Settings: the table of cfg/default.yaml, the checks behind it, and the frozen result.

Written from spec/interface.md sections 1 and 2. No torch here, and nothing is evaluated: values are literals.
"""

from __future__ import annotations

import ast
import functools
import json
import math
import os
import re
import reprlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple

import yaml

from .errors import UserError, did_you_mean, nearest, raise_problems
from .files import cfg_dir
from .yaml_files import find_settings, is_recipe, load_yaml

FOR_EVERY_VERB = ("mode", "task", "debug")
MAX_LITERAL, MAX_NESTING = 1000, 8  # characters, brackets in brackets: beyond, a value is plain text


@functools.cache
def table() -> dict[str, dict[str, Any]]:
    """Key -> its row of cfg/default.yaml, in the order of the file. The file's header says what a row holds."""
    return {key: row for rows in _groups().values() for key, row in rows.items()}


@functools.cache
def _groups() -> dict[str, dict[str, dict[str, Any]]]:
    # By libyaml where PyYAML has it: the same safe loader, in a tenth of the 0.1 s that every command would wait.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)((cfg_dir() / "default.yaml").read_text(encoding="utf-8"))
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


@functools.cache
def live() -> dict[str, dict[str, Any]]:
    """The rows that are settings: without old names and keys that have no effect."""
    return {key: row for key, row in table().items() if "now" not in row and "unused" not in row}


def keys_with(column: str, value: str) -> list[str]:
    """The settings whose row of cfg/default.yaml has `value` in the list `column` (verbs, not_for, resume)."""
    return [key for key, row in live().items() if value in row.get(column, ())]


def defaults_text() -> str:
    """The live settings as a YAML that `cfg=` takes: one `key: default` a line, what it means beside it."""
    lines = ["# Edit a copy and give it as cfg=<file>; a key that is not there keeps its default."]
    for key, row in live().items():
        if key != "cfg":
            lines.append(f"{key}: {json.dumps(row['default'])}".ljust(28) + f"# {row['help']}: {_expected(row)}")
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    """The table of the README: Markdown, a row a key, groups as in cfg/default.yaml; ends with a line break."""
    lines = ["| setting | default | what it is | values |", "|---|---|---|---|"]
    for group, rows in _groups().items():
        lines.append(f"| **{group}** | | | |")
        for key, row in rows.items():
            if "now" in row:
                cells = [
                    "",
                    f"old name of `{row['now']}`" + (", with the opposite value" if row.get("negate") else ""),
                    "",
                ]
            else:
                effect = f"no effect: {row['unused']}" if "unused" in row else ""
                what = ". ".join(filter(None, (row.get("help", ""), effect)))
                cells = [f"`{json.dumps(row['default'])}`", what, _expected(row) if "type" in row else ""]
            lines.append(f"| `{key}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


# Each check takes any value and returns it as its type, or None where it is not one (None itself is settled before).


def _switch(value: object, row: Mapping) -> object:
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
    if not isinstance(text, str) or "choices" not in row:
        return text if isinstance(text, str) else None
    return {choice.lower(): choice for choice in row["choices"]}.get(text.lower())


def _name(value: object, row: Mapping) -> object:
    return str(value) if isinstance(value, Real) and not isinstance(value, bool) else _text(value, row)


def _wholes(value: object, row: Mapping) -> object:
    items = [_whole(item, row) for item in value] if isinstance(value, (list, tuple)) else []
    return tuple(items) if items and None not in items else None


def _parts(value: object, row: Mapping) -> object:
    # `23.cv2`, `[backbone, 23.cv2]` as the shell passes it on, or a list in which row numbers may stand too
    words = [word.strip(" '\"") for word in value.strip("[]() ").split(",")] if isinstance(value, str) else value
    words = words if isinstance(words, (list, tuple)) else ()
    numbers = [_whole(literal(word) if isinstance(word, str) else word, row) for word in words]
    items = [_part(word) if number is None else number for number, word in zip(numbers, words)]
    return tuple(items) if items and None not in items else None


def _part(word: object) -> str | None:
    """A part of a parameter's name: letters, digits, dots and underscores, and no number by itself."""
    named = (
        isinstance(word, str)
        and re.fullmatch(r"[\w.]+", word)
        and not isinstance(literal(word), (int, float, type(None)))
    )
    return word if named else None


def _size(value: object, row: Mapping) -> object:
    sides = _wholes(value if isinstance(value, (list, tuple)) else [value], row)
    return None if sides is None or len(sides) > 2 else sides if len(sides) == 2 else sides[0]


def _batch(value: object, row: Mapping) -> object:
    share = _number(value, {"above": 0, "max": 1})
    return share if share is not None and share < 1 else -1 if value == -1 else _whole(value, {"min": 1})


class Kind(NamedTuple):
    """A type of cfg/default.yaml: its check, its name in messages, and whether min, max and above belong to it."""

    check: Callable[[object, Mapping], object]
    words: str
    ranged: bool = False


KINDS: Mapping[str, Kind] = {
    "bool": Kind(_switch, "True or False"),
    "int": Kind(_whole, "a whole number", True),
    "float": Kind(_number, "a number", True),
    "fraction": Kind(_fraction, "a number from 0 to 1", True),
    "str": Kind(_text, "text"),
    "name": Kind(_name, "text"),
    "ints": Kind(_wholes, "a list of whole numbers", True),
    "parts": Kind(_parts, "parts of names such as 23.cv2"),
    "size": Kind(_size, "a whole number or [height, width]", True),
    "batch": Kind(_batch, "a whole number, 1 or more; -1 (what fits), or a share of the GPU's memory between 0 and 1"),
}


def _expected(row: Mapping[str, Any]) -> str:
    """What a value of this row may be, in words."""
    choices = f"one of {', '.join(row['choices'])}" if "choices" in row else ""
    limits = {"above": "above {}", "min": "at least {}", "max": "at most {}"}
    limit = " and ".join(words.format(row[end]) for end, words in limits.items() if end in row)
    parts = []
    for name in row["type"].split("|"):
        kind = KINDS[name]
        words = choices if choices and name in ("str", "name") else kind.words
        parts.append(f"{words} {limit}" if limit and kind.ranged else words)
    unit = f" ({row['unit']})" if row.get("unit", "none") != "none" else ""
    return " or ".join(parts) + unit


def show(value: object) -> str:
    """`value` for a message: as it was typed, or in quotes where that would read as something else; never long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    plain = isinstance(value, str) and 0 < len(value) < 80 and literal(value) == value
    return value if plain else short.repr(value)


def sample(key: str, row: Mapping[str, Any]) -> str:
    """A `key=value` that is right: the default, or the row's example where that is null."""
    value = row["default"] if row["default"] is not None else row.get("example", "VALUE")
    return f"{key}={str(value).replace(' ', '')}"


@dataclass
class Draft:
    """Settings on their way: what was accepted, what is wrong, what should be said."""

    values: dict[str, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, key: str, value: object, where: str = "") -> None:
        """Check one setting. `where` leads its messages (the file it stands in)."""
        if key == "scale" and is_model_scale(value):
            key = "model_scale"
        row = table().get(key)
        if row is None:
            self.problems.append(f"{where}{_unknown(key, value)}")
        elif "now" in row:
            self.notes.append(f"{where}'{key}' is an old name of '{row['now']}'.")
            self.take(row["now"], not value if row.get("negate") and isinstance(value, bool) else value, where)
        elif (kept := _settled(value, row)) is _WRONG:
            hint = did_you_mean(value, row["choices"]) if "choices" in row and isinstance(value, str) else ""
            expected = f"expected {_expected(row)}; for example {sample(key, row)}"
            self.problems.append(f"{where}{key}={show(value)}: {expected}.{hint}")
        elif "unused" not in row:
            self.values[key] = kept
        elif kept not in (row["default"], *row.get("also", ())):
            self.notes.append(f"{where}{key}={show(value)} has no effect: {row['unused']}.")


_WRONG = object()


def _settled(value: object, row: Mapping[str, Any]) -> object:
    """`value` as a type of the row, or _WRONG. Without a type (keys that never had an effect here) all are right."""
    if "type" not in row or (value is None and row["default"] is None):
        return value
    found = (KINDS[name].check(value, row) for name in row["type"].split("|"))
    return next((item for item in found if item is not None), _WRONG)


def is_model_scale(value: object) -> bool:
    """Whether this value of `scale` is the size of the model: a word is, a number is the augmentation's gain."""
    if not isinstance(value, str):
        return False
    try:
        return not math.isfinite(float(value))
    except ValueError:
        return True


def _unknown(key: object, value: object) -> str:
    close = [f"{name}={json.dumps(live()[name]['default'])}" for name in nearest(str(key), live())]
    hint = f"Nearest: {', '.join(close)}" if close else "`bitfalcon cfg` lists them all"
    return f"{str(key)[:60]}={show(value)}: there is no such setting. {hint}."


def draft_of(overrides: Mapping[str, object]) -> Draft:
    """Check the file that `cfg` names, then `overrides`; raises nothing, the problems are in the draft."""
    draft = Draft()
    cfg = overrides.get("cfg")
    if isinstance(cfg, (str, os.PathLike)):
        try:
            in_file, recipe = _read_cfg(cfg)
        except UserError as error:
            in_file, recipe = {}, False
            draft.problems.append(f"cfg={cfg}: {error}")
        for key, value in in_file.items():
            draft.take(key, literal(value, key) if isinstance(value, str) else value, f"{cfg}: ")
        if recipe:
            draft.notes.insert(0, _told(cfg, in_file, overrides))
    for key, value in overrides.items():
        draft.take(key, value)
    draft.values.pop("cfg", None)  # its content is taken over: the run does not depend on the file any more
    draft.notes = list(dict.fromkeys(draft.notes))
    return draft


def _read_cfg(cfg: str | os.PathLike[str]) -> tuple[dict, bool]:
    # The keys, and whether it is a recipe. The default file itself changes nothing; a cfg inside a cfg is not followed.
    path = find_settings(cfg)
    content = {} if path.resolve() == (cfg_dir() / "default.yaml").resolve() else load_yaml(path)
    return {key: value for key, value in content.items() if key != "cfg"}, is_recipe(path)


def _told(cfg: object, recipe: Mapping[str, object], overrides: Mapping[str, object]) -> str:
    """What a recipe sets, and which of its keys were given beside it."""
    beside = [key for key in recipe if key in overrides and not (key == "scale" and is_model_scale(overrides[key]))]
    sets = ", ".join(f"{key}={show(value)}" for key, value in recipe.items() if key not in beside)
    return f"cfg={cfg} sets {sets or 'nothing'}" + (f"; given beside it: {', '.join(beside)}." if beside else ".")


class Settings:
    """Every live key of cfg/default.yaml as an attribute; frozen, checked, comparable, picklable.

    given: the keys that the user gave, alone or in a cfg= file; `replace` leaves them as they are. notes: lines to print
    once (old names, keys without effect). Lists are tuples.
    """

    __slots__ = ("_values", "given", "notes")

    def __init__(self, values: Mapping[str, object], given: Iterable[str] = (), notes: Iterable[str] = ()) -> None:
        """`values` must be checked already: `load_settings` and `replace` make settings."""
        for name, value in (("_values", dict(values)), ("given", frozenset(given)), ("notes", tuple(notes))):
            object.__setattr__(self, name, value)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_") or key not in self._values:
            raise AttributeError(f"there is no setting {key!r}.{did_you_mean(key, live())}")
        return self._values[key]

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(f"settings are frozen; use replace({key}=...)")

    def __delattr__(self, key: str) -> None:
        raise AttributeError("settings are frozen")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and (self._values, self.given) == (other._values, other.given)

    def __reduce__(self) -> tuple:
        return Settings, (self._values, self.given, self.notes)

    def __repr__(self) -> str:
        changed = (f"{key}={value!r}" for key, value in self._values.items() if value != live()[key]["default"])
        return f"Settings({', '.join(changed)})"

    def unused_by(self, verb: str) -> list[str]:
        """The given keys that `verb` does not use, sorted; for the verbs that cfg/default.yaml names in `verbs`."""
        return sorted(self.given.difference(keys_with("verbs", verb), FOR_EVERY_VERB))

    def replace(self, **changes: object) -> Settings:
        """A copy with `changes`, checked like a user's. Raises UserError with all problems."""
        draft = draft_of(changes)
        raise_problems("Settings that cannot be:", draft.problems)
        return Settings({**self._values, **draft.values}, self.given, self.notes)

    def with_defaults(self, defaults: Mapping[str, object]) -> Settings:
        """A copy in which keys that were not given have the values of `defaults`, checked, and count as given.

        Its notes are those about `defaults`. Raises UserError with all problems.
        """
        draft = draft_of(defaults)
        raise_problems("Settings that cannot be:", draft.problems)
        new = {key: value for key, value in draft.values.items() if key not in self.given}
        return Settings({**self._values, **new}, self.given | new.keys(), draft.notes)

    def as_dict(self) -> dict[str, object]:
        """Key -> plain value (tuples as lists), in the order of cfg/default.yaml."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self._values.items()}


def load_settings(overrides: Mapping[str, object]) -> Settings:
    """The defaults, under the file that `cfg` names, under `overrides`. Raises one UserError with every problem.

    `cfg` itself is None in the result, and not among `given`: the keys of its file are.
    """
    draft = draft_of(overrides)
    raise_problems("Settings that cannot be:", draft.problems)
    defaults = {key: row["default"] for key, row in live().items()}
    return Settings({**defaults, **draft.values}, draft.values, draft.notes)


NONE_IS_A_CHOICE = frozenset(("bit", "keep"))  # keys for which `none` is not the same as not given


def literal(text: str, key: str = "") -> object:
    """`text` as none, true, false (any case) or a Python literal; text where it is none of these, or too long.

    A key whose only type is text gets text (`source=2024`); `name` and `project` get it exactly as typed.
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


def given(settings: Settings) -> dict[str, object]:
    """The settings the user gave, as plain values."""
    return {key: value for key, value in settings.as_dict().items() if key in settings.given}
