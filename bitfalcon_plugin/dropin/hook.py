"""Lets `ultralytics` and all its submodules mean this package, in this process and in the workers that it spawns.

Nothing is installed or written. A package of that name that is installed is not touched, and not imported.
"""

from __future__ import annotations

import importlib
import multiprocessing.spawn
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from ..config.notes import print_note
from .finder import FINDER, WIDER

_PREPARE = multiprocessing.spawn.get_preparation_data
_ROOT = str(Path(__file__).resolve().parents[2])


def install(quiet: bool = False) -> None:
    """Give this package its second name. A note says so where a package of that name is installed too, unless quiet."""
    if FINDER.wider:
        return
    loaded = [name for name in sys.modules if (name + ".").startswith(WIDER + ".")]
    spec = PathFinder.find_spec(WIDER)
    if (spec or loaded) and not quiet:
        where = f" ({next(iter(spec.submodule_search_locations or [spec.origin]))})" if spec else ""
        print_note(f"in this process `{WIDER}` is bitfalcon; the package of that name{where} is not used.")
    for name in loaded:
        del sys.modules[name]
    FINDER.wider = True
    for module in FINDER.own_modules():
        FINDER.give_second_name(module)
    multiprocessing.spawn.get_preparation_data = _prepare


def uninstall() -> None:
    """Take the second name away: for tests."""
    FINDER.wider = False
    for name in [name for name in sys.modules if (name + ".").startswith(WIDER + ".")]:
        del sys.modules[name]
    for cls, module in FINDER.renamed.items():
        cls.__module__ = module
    FINDER.renamed.clear()
    multiprocessing.spawn.get_preparation_data = _PREPARE


class _Call:
    """An object whose unpickling calls a function: it comes back as what the function returns."""

    def __init__(self, function, *args: object):
        self.parts = (function, args)

    def __reduce__(self) -> tuple:
        return self.parts


def _prepare(name: str) -> dict[str, object]:
    """The data with which a spawned worker begins; unpickling them installs this package before all else."""
    data = _PREPARE(name)
    # The worker knows no folders yet, and reads its own from "sys_path" only after all of this is unpickled.
    path = [*data["sys_path"], *([] if _ROOT in data["sys_path"] else [_ROOT])]
    first = _Call(setattr, _Call(importlib.import_module, "sys"), "path", path)
    return {"bitfalcon_path": first, "bitfalcon_install": _Call(install, True), **data}
