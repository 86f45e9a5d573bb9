"""Stand-ins for what this package does not have: they can be imported, and raise when they are used."""

from __future__ import annotations

from ..config.errors import UserError


class NotHereError(UserError, ImportError):
    """A script uses something of the wider package that is not here."""


class _Refused(type):
    """The kind of the stand-ins: a call and a reading of an attribute raise."""

    message: str

    def __call__(cls, *args: object, **kwargs: object) -> object:
        raise NotHereError(cls.message)

    def __getattr__(cls, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(cls.message)


def refused(name: str, what: str, instead: str, module: str) -> type:
    """Return a class for `name` that can be imported and subclassed; a call raises NotHereError with the reason."""
    message = f"{name}, {what}, is not in bitfalcon. {instead}"
    return _Refused(name, (), {"message": message, "__module__": module, "__doc__": message})
