"""Modules whose structure is not known here: they can be imported and named, and raise when one is built."""

from __future__ import annotations

from torch import nn

from ....config.errors import UserError


def unknown(name: str, what: str, module: str) -> type[nn.Module]:
    """Return a class for a module; building one raises UserError, which says what it is. module: where it stands."""

    def refuse(self: nn.Module, *args: object, **kwargs: object) -> None:
        raise UserError(f"{name}, {what}, is not built here. Take another module for this row of the graph.")

    return type(name, (nn.Module,), {"__init__": refuse, "__module__": module, "__doc__": f"{what}; not built here."})
