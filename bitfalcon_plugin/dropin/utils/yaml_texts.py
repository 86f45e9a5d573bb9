"""Mappings in YAML files, read and written without objects of Python's classes."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ...config.errors import MissingFileError
from ...config.files import cfg_dir, write_text
from ..defaults import DEFAULT_CFG_DICT

LOGGER = logging.getLogger("ultralytics")
PLAIN = (str, int, float, bool, type(None))
UNPRINTABLE = re.compile(r"[^\x09\x0A\x0D\x20-\x7E\x85\xA0-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")


def yaml_load(file: str | Path = "data.yaml", append_filename: bool = False) -> dict[str, Any]:
    """Return the mapping in a YAML file, {} for an empty one. append_filename: with the path as "yaml_file".

    The settings of this package (DEFAULT_CFG_PATH) come as key: default. Raises AssertionError for another suffix.
    """
    path = Path(file)
    if path.suffix not in (".yaml", ".yml"):
        raise AssertionError(f"'{file}' is no YAML file: its name must end with .yaml or .yml")
    if not path.is_file():
        raise MissingFileError(f"'{file}' does not exist.")
    if path.resolve() == (cfg_dir() / "default.yaml").resolve():
        data = dict(DEFAULT_CFG_DICT)
    else:
        data = yaml.safe_load(UNPRINTABLE.sub("", path.read_text(encoding="utf-8-sig", errors="ignore"))) or {}
    if append_filename:
        data["yaml_file"] = str(file)
    return data


def yaml_save(file: str | Path = "data.yaml", data: Mapping | None = None, header: str = "") -> None:
    """Write a mapping to a YAML file, in its order, behind the text `header`; paths and other objects become texts."""
    text = yaml.safe_dump(_plain(data or {}), sort_keys=False, allow_unicode=True)
    write_text(file, header + text)


def yaml_print(yaml_file: str | Path | Mapping) -> None:
    """Log a YAML file or a mapping."""
    data = yaml_file if isinstance(yaml_file, Mapping) else yaml_load(yaml_file)
    name = "" if isinstance(yaml_file, Mapping) else f"{yaml_file}\n\n"
    LOGGER.info("%s%s", name, yaml.safe_dump(_plain(data), sort_keys=False, allow_unicode=True, width=float("inf")))


def _plain(value: Any) -> Any:
    """Return a value as YAML has it: mappings, lists, numbers, texts."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, PLAIN) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    return value if type(value) in PLAIN else str(value)


class YAML:
    """The functions above under the names that newer scripts use."""

    load = staticmethod(yaml_load)
    save = staticmethod(yaml_save)
    print = staticmethod(yaml_print)
