"""The table of settings in cfg/default.yaml, as it stands there."""

from __future__ import annotations

import functools
from typing import Any

import yaml

from .files import cfg_dir


@functools.cache
def table() -> dict[str, dict[str, Any]]:
    """Key -> its row of cfg/default.yaml, in the order of the file. The file's header says what a row holds."""
    return {key: row for rows in groups().values() for key, row in rows.items()}


@functools.cache
def groups() -> dict[str, dict[str, dict[str, Any]]]:
    """Group -> key -> its row, as in cfg/default.yaml."""
    # With libyaml, where PyYAML has it, the same safe loader needs a tenth of 0.1 s, which every command waits.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)((cfg_dir() / "default.yaml").read_text(encoding="utf-8"))
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


@functools.cache
def active_settings() -> dict[str, dict[str, Any]]:
    """The rows that are settings: without old names and keys that have no effect."""
    return {key: row for key, row in table().items() if "now" not in row and "unused" not in row}


def keys_with(column: str, value: str) -> list[str]:
    """The settings whose row of cfg/default.yaml has `value` in the list `column` (verbs, not_for, resume, typed)."""
    return [key for key, row in active_settings().items() if value in row.get(column, ())]
