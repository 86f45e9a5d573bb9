"""The arguments of trainers, validators and predictors: a namespace that scripts read and change, and our Settings."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from ...config.default_table import table
from ...config.keywords import parse_keywords
from ...config.settings import Settings, load_settings
from ..utils.namespace import IterableSimpleNamespace

NOT_OURS = ("mode", "session", "save_dir")  # the class itself says its mode; save_dir is kept beside the settings


class ModelArguments(dict):
    """The settings as a network has them, `net.args`: a dict whose keys are attributes too."""

    def __getattr__(self, name: str) -> object:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __reduce__(self) -> tuple:
        return ModelArguments, (dict(self),)


class Given:
    """What a script gave: `cfg`, `overrides`, and later changes of the namespace `args`.

    mode: the verb whose settings these are. save_dir: the folder that was named, or None.
    """

    def __init__(self, mode: str, cfg: object, overrides: Mapping[str, object] | None):
        given = {**_changed(cfg), **_changed(overrides)}
        self.mode, self.save_dir = mode, given.pop("save_dir", None)
        self.values = {key: value for key, value in given.items() if key not in NOT_OURS}
        settings = parse_keywords(mode, self.values)
        unused = {key: row.get("default") for key, row in table().items() if "unused" in row}
        values = {**unused, **settings.as_dict(), "mode": mode, "save_dir": self.save_dir}
        self.args, self._before = IterableSimpleNamespace(**values), copy.deepcopy(values)

    def adopt(self, values: Mapping[str, object]) -> None:
        """Let `args` have these values, without counting them as given."""
        for key, value in values.items():
            setattr(self.args, key, value)
            self._before[key] = copy.deepcopy(value)

    def settings(self) -> Settings:
        """The settings with all that the script gave and has changed since. Raises UserError with all problems."""
        changed = {
            key: value
            for key, value in vars(self.args).items()
            if key not in NOT_OURS and (key not in self._before or value != self._before[key])
        }
        return load_settings({**self.values, **changed, "mode": self.mode})


def _changed(cfg: object) -> dict[str, object]:
    """The settings that `cfg` gives: a mapping, a namespace, a file or None. Defaults are not given."""
    if cfg is None:
        return {}
    if isinstance(cfg, (str, Path)):
        return {"cfg": str(cfg)}
    values = dict(cfg) if isinstance(cfg, Mapping) else dict(vars(cfg))
    if isinstance(cfg, Mapping) and len(values) < len(table()) // 2:
        return values  # what a script wrote down, defaults included
    return {
        key: value
        for key, value in values.items()
        if key not in table() or value != table()[key].get("default") and value not in table()[key].get("also", ())
    }
