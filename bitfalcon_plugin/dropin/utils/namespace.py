"""Settings as attributes, and the base class of objects that print their attributes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace


class IterableSimpleNamespace(SimpleNamespace):
    """Values as attributes: iterates over pairs (key, value), so that dict(namespace) works."""

    def __iter__(self) -> Iterator[tuple[str, object]]:
        return iter(vars(self).items())

    def __str__(self) -> str:
        return "\n".join(f"{key}={value}" for key, value in self)

    def __getattr__(self, attr: str) -> object:
        raise AttributeError(f"there is no {attr!r} among these settings; they are {', '.join(vars(self))}")

    def get(self, key: str, default: object = None) -> object:
        """Return the value of a key, or `default`."""
        return vars(self).get(key, default)


class SimpleClass:
    """The base of classes whose text lists their public attributes."""

    def __str__(self) -> str:
        lines = [f"{type(self).__module__}.{type(self).__name__} object with attributes:", ""]
        for name in sorted(dir(self)):
            value = getattr(self, name) if not name.startswith("_") else None
            if not name.startswith("_") and not callable(value):
                lines.append(f"{name}: {value!r}")
        return "\n".join(lines)

    __repr__ = __str__

    def __getattr__(self, attr: str) -> object:
        raise AttributeError(f"{type(self).__name__!r} has no attribute {attr!r}")
