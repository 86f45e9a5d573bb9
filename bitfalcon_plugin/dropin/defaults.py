"""The settings and their defaults as a plain mapping."""

from __future__ import annotations

from ..config.default_table import table
from ..config.files import cfg_dir

DEFAULT_CFG_DICT: dict[str, object] = {key: row["default"] for key, row in table().items() if "now" not in row}
DEFAULT_CFG_KEYS = DEFAULT_CFG_DICT.keys()
DEFAULT_CFG_PATH = cfg_dir() / "default.yaml"
