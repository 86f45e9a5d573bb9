"""Which methods and module globals a script has replaced by its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable)
_OWN: set[object] = set()  # the functions of this package that scripts may replace


def own(function: F) -> F:
    """Mark a method of this package: one that a script puts in its place is told from it by `is_replaced`."""
    _OWN.add(function)
    return function


def is_foreign(thing: object) -> bool:
    """Whether a function, method or class is a script's, and not of this package."""
    module = getattr(getattr(thing, "__func__", thing), "__module__", None) or ""
    return not module.startswith(("bitfalcon_plugin", "ultralytics", "torch"))


def is_replaced(owner: object, *names: str) -> bool:
    """Whether a script has put another function in the place of a method: in a subclass, on the class or the object."""
    methods = (getattr(owner, name) for name in names)
    return any(getattr(method, "__func__", method) not in _OWN for method in methods)
