"""The user's own settings, which hold for every run on this machine: a JSON file, written by `bitfalcon settings`.

The file holds only what the user chose; nothing writes it by itself, and an import does not even read it. Keys that
other tools of this kind have are kept in it without effect.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError, did_you_mean, nearest, raise_problems
from .files import write_text
from .notes import print_note


@dataclass(frozen=True)
class Key:
    """A key of the file. default: makes its value where the user chose none. unused: why another value does nothing."""

    default: Callable[[], object]
    help: str = ""
    unused: str = ""


def _folder(name: str) -> Callable[[], str]:
    return lambda: os.path.abspath(name)


def _kept(default: object, reason: str = "loggers= of a training names where it is logged") -> Key:
    return Key(lambda: default, unused=reason)


KEYS: Mapping[str, Key] = {
    "runs_dir": Key(_folder("runs"), "folder of the run folders, where project= is not given"),
    "datasets_dir": Key(_folder("datasets"), "where a relative path: of a dataset YAML is looked for at last"),
    "weights_dir": Key(_folder("weights"), "a further folder where weights given by their bare name are looked for"),
    "tensorboard": Key(lambda: True, "write scalars for TensorBoard where it is installed"),
    "settings_version": _kept("1", "the file has one version"),
    "uuid": _kept("", "no machine is identified"),
    "sync": _kept(False, "nothing is sent"),
    "api_key": _kept("", "there is no account"),
    "openai_api_key": _kept("", "there is no account"),
    **{name: _kept(False) for name in ("clearml", "comet", "dvc", "hub", "mlflow", "neptune", "wandb")},
    "raytune": _kept(False, "the search of settings is that of `bitfalcon tune`"),
    "vscode_msg": _kept(False, "no such message is printed"),
    "openvino_msg": _kept(False, "no such message is printed"),
}
ACTIVE = tuple(name for name, key in KEYS.items() if not key.unused)


class UnknownKeyError(UserError, KeyError):
    """There is no such key in the user's settings."""

    __str__ = Exception.__str__  # that of KeyError shows the message in quotes


class WrongTypeError(UserError, TypeError):
    """A value in the user's settings has another type than the key's default."""


_unwritten: dict[str, object] = {}  # choices of this process that could not be written


def settings_file() -> Path:
    """The JSON file; it may not exist. In $BITFALCON_CONFIG, $YOLO_CONFIG_DIR/bitfalcon, or the platform's folder."""
    if top := os.environ.get("BITFALCON_CONFIG"):
        return Path(top).expanduser() / "settings.json"
    if top := os.environ.get("YOLO_CONFIG_DIR"):  # set where the home folder cannot be written, as in containers
        return Path(top).expanduser() / "bitfalcon" / "settings.json"
    if sys.platform == "win32":
        parent = Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming"))
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Application Support"
    else:
        parent = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return parent / "bitfalcon" / "settings.json"


def chosen() -> dict[str, object]:
    """Return the values that the user chose, as the file holds them now; a note where it cannot be read."""
    path = settings_file()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"holds {type(content).__name__}, expected a mapping")
    except (FileNotFoundError, NotADirectoryError):
        content = {}
    except (OSError, ValueError) as error:  # a text that is not JSON or not UTF-8 is a ValueError
        print_note(
            f"'{path}' cannot be read ({error}): its settings are not used. `bitfalcon settings reset` repairs it."
        )
        content = {}
    wrong = [key for key, value in content.items() if key in KEYS and not _has_type(key, value)]
    if wrong:
        print_note(f"'{path}': {', '.join(wrong)} of a wrong type; the defaults are used.")
    return {key: value for key, value in content.items() if key in KEYS and key not in wrong} | _unwritten


def choice(key: str) -> object:
    """Return the value that the user chose for `key`, or None."""
    return chosen().get(key)


def folder(key: str) -> Path | None:
    """Return the folder that the user chose for `key` (runs_dir, datasets_dir, weights_dir), or None."""
    value = choice(key)
    return Path(str(value)).expanduser() if value else None


def all_settings() -> dict[str, object]:
    """Return every key with its value: chosen, otherwise the default. Folders are absolute paths."""
    return {key: row.default() for key, row in KEYS.items()} | chosen()


def change(values: Mapping[str, object]) -> list[str]:
    """Add `values` to the file, whole or not at all; return notes about those without effect.

    Raises UnknownKeyError or WrongTypeError, with all problems, before anything is written.
    """
    unknown = [key for key in values if key not in KEYS]
    wrong = [key for key in values if key in KEYS and not _has_type(key, values[key])]
    problems = [_unknown(key) for key in unknown]
    problems += [
        f"{key}={values[key]!r}: expected {type(KEYS[key].default()).__name__}, as in {key}={KEYS[key].default()!r}."
        for key in wrong
    ]
    try:
        raise_problems("Wrong settings of the user:", problems)
    except UserError as error:
        raise (UnknownKeyError if unknown else WrongTypeError)(str(error)) from None
    new = {**chosen(), **values, **{key: os.fspath(values[key]) for key in values if key.endswith("_dir")}}
    notes = [] if _written(new) else [f"'{settings_file()}' cannot be written: this holds for this process only."]
    _unwritten.update(new if notes else {})
    return notes + [
        f"{key}={value!r} is kept but has no effect: {KEYS[key].unused}."
        for key, value in values.items()
        if KEYS[key].unused and value != KEYS[key].default()
    ]


def parse_changes(tokens: Sequence[str]) -> dict[str, object] | None:
    """Read `key=value ...` of the command line, or `reset`, which gives None. Relative folders become absolute.

    Raises UserError for other words.
    """
    if [token.lstrip("-").lower() for token in tokens] == ["reset"]:
        return None
    values: dict[str, object] = {}
    for token in tokens:
        key, equals, text = (part.strip() for part in token.lstrip("-").partition("="))
        if not equals or not text:
            raise UserError(
                f"settings {token}: expected key=value or reset; for example settings runs_dir=/data/runs ."
            )
        is_text = isinstance(KEYS[key].default(), str) if key in KEYS else True
        values[key] = os.path.abspath(os.path.expanduser(text)) if key.endswith("_dir") else text
        values[key] = values[key] if is_text else {"true": True, "false": False}.get(text.lower(), text)
    return values


def reset() -> None:
    """Remove the file and with it every choice. Raises UserError where it cannot be removed."""
    _unwritten.clear()
    try:
        settings_file().unlink(missing_ok=True)
    except NotADirectoryError:
        pass
    except OSError as error:
        raise UserError(f"'{settings_file()}' cannot be removed: {error.strerror}. Remove it yourself.") from error


def _written(values: Mapping[str, object]) -> bool:
    try:
        write_text(settings_file(), json.dumps(values, indent=2) + "\n")
    except OSError:
        return False
    return True


def _has_type(key: str, value: object) -> bool:
    """Whether `value` has the type of the default of `key`; a folder may also be given as a Path."""
    kind = type(KEYS[key].default())
    return isinstance(value, (str, Path) if key.endswith("_dir") else kind)


def _unknown(key: object) -> str:
    hint = did_you_mean(str(key), KEYS) if nearest(str(key), KEYS) else f" Known: {', '.join(KEYS)}."
    return f"{key}: there is no such setting of the user.{hint}"
