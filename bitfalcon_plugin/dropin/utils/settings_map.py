"""The user's own settings as a dict that reads and changes their file. Written from spec/dropin.md section 2."""

from __future__ import annotations

import json
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from pathlib import Path
from typing import Any

from ...config.notes import print_note
from ...config.user_settings import all_settings, change, reset, settings_file


class SettingsManager(dict):
    """settings["runs_dir"], settings["runs_dir"] = ..., settings.update(...), settings.reset(), settings.file.

    Every change is written at once. A key that has no effect here is kept, and a note says so. Raises KeyError for a
    key that does not exist, and TypeError for a value of another type than the default's.
    """

    @property
    def file(self) -> Path:
        """The file of the settings; it may not exist."""
        return settings_file()

    def __getitem__(self, key: str) -> Any:
        return all_settings()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        raise TypeError(f"settings cannot be removed: settings.reset() brings all defaults back, {key!r} included")

    def __contains__(self, key: object) -> bool:
        return key in all_settings()

    def __iter__(self) -> Iterator[str]:
        return iter(all_settings())

    def __len__(self) -> int:
        return len(all_settings())

    def __eq__(self, other: object) -> bool:
        return all_settings() == other

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return json.dumps(all_settings(), indent=2)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.file)!r}):\n{self}"

    def __reduce__(self) -> tuple:
        return SettingsManager, ()

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or `default` where there is none."""
        return all_settings().get(key, default)

    def keys(self) -> KeysView:
        return all_settings().keys()

    def values(self) -> ValuesView:
        return all_settings().values()

    def items(self) -> ItemsView:
        return all_settings().items()

    def copy(self) -> dict[str, Any]:
        """Return the settings as a plain dict."""
        return all_settings()

    def update(self, *args: Mapping[str, Any], **kwargs: Any) -> None:
        """Change several settings, given as a dict or by name."""
        for part in args:
            kwargs = {**dict(part), **kwargs}
        print_note(*change(kwargs))

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of a key: every key has one."""
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        del self[key]

    def popitem(self) -> tuple[str, Any]:
        raise TypeError("settings cannot be removed: settings.reset() brings all defaults back")

    def reset(self) -> None:
        """Bring all defaults back."""
        reset()

    clear = reset

    def save(self) -> None:
        """Do nothing: every change is written at once."""

    load = save


SETTINGS = SettingsManager()
