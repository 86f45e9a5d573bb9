"""From keys and values that a user gives to frozen, checked Settings.

Written from spec/interface.md sections 1 and 2. No torch here, and nothing is evaluated: values are literals.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .default_table import active_settings, keys_with, table
from .errors import UserError, WrongSettingError, did_you_mean, nearest, raise_problems
from .files import cfg_dir
from .usual_words import setting_meant
from .values import KINDS, expected, literal, sample, show
from .yaml_files import find_settings, is_recipe, load_yaml

FOR_EVERY_VERB = ("mode", "task", "debug")


@dataclass
class Draft:
    """Settings that are being checked: accepted values, problems, and notes for the user."""

    values: dict[str, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, key: str, value: object, where: str = "") -> None:
        """Check one setting. where: the beginning of its messages, for example the file that holds the setting."""
        if key == "scale" and is_model_scale(value):
            key = "model_scale"
        row = table().get(key)
        if row is None:
            self.problems.append(f"{where}{_unknown(key, value)}")
        elif "now" in row:
            self.notes.append(f"{where}'{key}' is an old name of '{row['now']}'.")
            negated = row.get("negate") and isinstance(value, bool)
            self.check(row["now"], not value if negated else value, where)
        elif (converted := _converted(value, row)) is _WRONG:
            hint = did_you_mean(value, row["choices"]) if "choices" in row and isinstance(value, str) else ""
            repair = f"expected {expected(row)}; for example {sample(key, row)}"
            self.problems.append(f"{where}{key}={show(value)}: {repair}.{hint}")
        elif "unused" not in row:
            self.values[key] = converted
        elif not _is_plain(converted) or converted not in (row["default"], *row.get("also", ())):
            self.notes.append(f"{where}{key}={show(value)} has no effect: {row['unused']}.")


_WRONG = object()


def _is_plain(value: object) -> bool:
    """Whether a value compares with others as true or false; an array does not."""
    return value is None or isinstance(value, (str, int, float, list, tuple))


def _converted(value: object, row: Mapping[str, Any]) -> object:
    """Return `value` as a type of the row, or _WRONG. A row without a type (of an unused key) takes any value."""
    if "type" not in row or (value is None and row["default"] is None):
        return value
    if value is None and "none" in row.get("choices", ()):
        return "none"
    results = (KINDS[name].check(value, row) for name in row["type"].split("|"))
    return next((result for result in results if result is not None), _WRONG)


def is_model_scale(value: object) -> bool:
    """Whether a value of `scale` is the size of the model, a word; a number is the gain of the augmentation."""
    if not isinstance(value, str):
        return False
    try:
        return not math.isfinite(float(value))
    except ValueError:
        return True


def _unknown(key: object, value: object) -> str:
    rows = active_settings()
    meant = setting_meant(str(key))
    names = [meant] if meant in rows else nearest(str(key), rows)
    close = [f"{name}={json.dumps(rows[name]['default'])}" for name in names]
    hint = f"Nearest: {', '.join(close)}" if close else "`bitfalcon cfg` lists them all"
    return f"{str(key)[:60]}={show(value)}: there is no such setting. {hint}."


def draft_of(overrides: Mapping[str, object]) -> Draft:
    """Check the file that `cfg` names, then `overrides`. Raises nothing: the problems are in the draft."""
    draft = Draft()
    cfg = overrides.get("cfg")
    if cfg is not None and _converted(cfg, table()["cfg"]) is not _WRONG:
        try:
            in_file, recipe = _read_cfg(cfg)
        except UserError as error:
            in_file, recipe = {}, False
            draft.problems.append(f"cfg={cfg}: {error}")
        for key, value in in_file.items():
            draft.check(key, literal(value, key) if isinstance(value, str) else value, f"{cfg}: ")
        if recipe:
            draft.notes.insert(0, _recipe_note(cfg, in_file, overrides))
    for key, value in overrides.items():
        draft.check(key, value)
    draft.values.pop("cfg", None)  # its keys are copied: the run does not depend on the file any more
    draft.notes = list(dict.fromkeys(draft.notes))
    return draft


def _valid_draft(overrides: Mapping[str, object]) -> Draft:
    """Return `draft_of(overrides)`. Raises UserError with all its problems."""
    draft = draft_of(overrides)
    raise_problems("Wrong settings:", draft.problems, kind=WrongSettingError)
    return draft


def _read_cfg(cfg: str | os.PathLike[str]) -> tuple[dict, bool]:
    """Read the keys of the file that `cfg` names, and whether it is a recipe.

    The default file itself changes nothing, and a key `cfg` inside the file is ignored.
    """
    path = find_settings(cfg)
    content = {} if path.resolve() == (cfg_dir() / "default.yaml").resolve() else load_yaml(path)
    return {key: value for key, value in content.items() if key != "cfg"}, is_recipe(path)


def _recipe_note(cfg: object, recipe: Mapping[str, object], overrides: Mapping[str, object]) -> str:
    """Return a note with the keys that a recipe sets, and those of its keys that the user gave, which win."""
    overridden = [key for key in recipe if key in overrides and not (key == "scale" and is_model_scale(overrides[key]))]
    sets = ", ".join(f"{key}={show(value)}" for key, value in recipe.items() if key not in overridden)
    others = f"; given beside it: {', '.join(overridden)}" if overridden else ""
    return f"cfg={cfg} sets {sets or 'nothing'}{others}."


class Settings:
    """Every active key of cfg/default.yaml as an attribute; frozen, checked, comparable, picklable.

    given: the keys that the user gave, alone or in a cfg= file; `replace` does not change them. notes: lines to print
    once (old names, keys without effect). Lists are tuples.
    """

    __slots__ = ("_values", "given", "notes")

    def __init__(self, values: Mapping[str, object], given: Iterable[str] = (), notes: Iterable[str] = ()) -> None:
        """`values` must be checked already: `load_settings` and `replace` make settings."""
        for name, value in (("_values", dict(values)), ("given", frozenset(given)), ("notes", tuple(notes))):
            object.__setattr__(self, name, value)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_") or key not in self._values:
            raise AttributeError(f"there is no setting {key!r}.{did_you_mean(key, active_settings())}")
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
        rows = active_settings()
        changed = (f"{key}={value!r}" for key, value in self._values.items() if value != rows[key]["default"])
        return f"Settings({', '.join(changed)})"

    def unused_by(self, verb: str) -> list[str]:
        """The given keys that `verb` does not use, sorted; for a verb in the lists `verbs` of cfg/default.yaml."""
        return sorted(self.given.difference(keys_with("verbs", verb), FOR_EVERY_VERB))

    def replace(self, **changes: object) -> Settings:
        """Return a copy with `changes`, checked like a user's. Raises UserError with all problems."""
        return Settings({**self._values, **_valid_draft(changes).values}, self.given, self.notes)

    def with_defaults(self, defaults: Mapping[str, object]) -> Settings:
        """Return a copy in which keys that were not given have the values of `defaults`, checked, and count as given.

        The notes of the copy are those about `defaults`. Raises UserError with all problems.
        """
        draft = _valid_draft(defaults)
        new = {key: value for key, value in draft.values.items() if key not in self.given}
        return Settings({**self._values, **new}, self.given | new.keys(), draft.notes)

    def given_values(self, without: Collection[str] = ()) -> dict[str, object]:
        """Return the settings that the user gave, except those `without`, as `as_dict`."""
        return {key: value for key, value in self.as_dict().items() if key in self.given and key not in without}

    def as_dict(self) -> dict[str, object]:
        """Return all settings, tuples as lists, in the order of cfg/default.yaml."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self._values.items()}


def load_settings(overrides: Mapping[str, object]) -> Settings:
    """Return the defaults, replaced by the file that `cfg` names, replaced by `overrides`.

    `cfg` itself is None in the result; the keys of its file are among `given`. Raises one UserError with all problems.
    """
    draft = _valid_draft(overrides)
    defaults = {key: row["default"] for key, row in active_settings().items()}
    return Settings({**defaults, **draft.values}, draft.values, draft.notes)
