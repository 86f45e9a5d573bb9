"""Finds the modules of this package under all their names: here, in their old places, and under `ultralytics`.

A module is loaded once, as `bitfalcon_plugin.dropin.X`; every other name in sys.modules is the same object. The finder
stands in sys.meta_path from the first import of the package; `install.py` gives it the second name.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType

from ..config.errors import did_you_mean
from .names import ALIASES, EMPTY_MODULES, LAZY, REFUSED, REFUSED_IN, REFUSED_MODULES
from .refused import refused

HERE = __name__.rpartition(".")[0]  # bitfalcon_plugin.dropin
WIDER = "ultralytics"
OWN_PARTS = {"finder", "hook", "install", "metadata", "names", "notebook", "refused", "run", "start", "__main__"}
OURS = HERE.partition(".")[0] + "."


def join(prefix: str, relative: str) -> str:
    """Return the full name of a module: join("ultralytics", "engine.model"), or the prefix for ""."""
    return f"{prefix}.{relative}" if relative else prefix


def canonical(relative: str) -> str:
    """Return the place of a module that may be named by an old place (names.ALIASES)."""
    prefixes = [old for old in ALIASES if relative == old or relative.startswith(old + ".")]
    if not prefixes:
        return relative
    old = max(prefixes, key=len)
    return canonical(join(ALIASES[old], relative[len(old) + 1 :]).strip("."))


class NotFoundError(ModuleNotFoundError):
    """A module or a name of the wider package that is not here; the message names the nearest one."""


class _SameModule(importlib.abc.Loader):
    """Loads another name of a module: the module itself."""

    def __init__(self, module: ModuleType):
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has written the other name's


class _NoFile(importlib.abc.Loader):
    """Makes a module that has no file: an empty one, or one whose names are refused."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(EMPTY_MODULES.get(relative_name(module), {}))
        FINDER.finish(module)


class Finder(importlib.abc.MetaPathFinder):
    """The finder in sys.meta_path. wider: whether `ultralytics` is a name of this package too."""

    def __init__(self) -> None:
        self.wider = False
        self.renamed: dict[type, str] = {}  # class -> its __module__ from before

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where a module of this package is; None for the modules of others.

        Raises NotFoundError for a name below this package that is no module.
        """
        prefix = WIDER if self.wider and (fullname + ".").startswith(WIDER + ".") else HERE
        if not (fullname + ".").startswith(prefix + ".") or fullname == HERE:
            return None
        relative = fullname[len(prefix) + 1 :]
        place = canonical(relative)
        if prefix == HERE and place == relative:
            return self._own_spec(fullname, relative, path)
        module = importlib.import_module(join(HERE, place))  # raises NotFoundError where there is none
        spec = importlib.machinery.ModuleSpec(
            fullname, _SameModule(module), origin=vars(module).get("__file__"), is_package=True
        )
        spec.submodule_search_locations = list(module.__path__)
        return spec

    def _own_spec(self, fullname: str, relative: str, path: Sequence[str] | None) -> importlib.machinery.ModuleSpec:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module
            # On the instance: everything else of the loader (sources, data) stays as Python has it.
            spec.loader.exec_module = lambda module: (run(module), self.finish(module))  # type: ignore[method-assign]
            return spec
        if relative in EMPTY_MODULES or _refusal(relative):
            return importlib.machinery.ModuleSpec(fullname, _NoFile(), is_package=True)
        parent, _, name = fullname.rpartition(".")
        raise NotFoundError(_missing(sys.modules[parent], name), name=join(WIDER, relative))

    def finish(self, module: ModuleType) -> None:
        """Complete a module after its own code has run: names on demand, old places below it, its second name."""
        if not hasattr(module, "__path__"):
            module.__path__ = []  # so that Python asks this finder for names that the module does not have
        module.__getattr__ = _attributes(module, vars(module).get("__getattr__"))  # type: ignore[method-assign]
        if self.wider:
            self.give_second_name(module)

    def give_second_name(self, module: ModuleType) -> None:
        """Enter a module as `ultralytics.X`, and let its classes say that they are from there."""
        name = join(WIDER, relative_name(module))
        if relative_name(module) in OWN_PARTS:
            return
        sys.modules[name] = module
        for cls in _classes(module):
            self.renamed[cls] = cls.__module__
            with contextlib.suppress(TypeError):
                cls.__module__ = name

    def own_modules(self) -> list[ModuleType]:
        """The loaded modules of this package, the deepest first: they are where their classes are known to be from."""
        modules = [module for name, module in list(sys.modules.items()) if (name + ".").startswith(HERE + ".")]
        return sorted(modules, key=lambda module: -module.__name__.count("."))

    def find_distributions(self, context: object) -> Iterable[object]:
        """Answer importlib.metadata.version("ultralytics")."""
        name = getattr(context, "name", None)
        if not self.wider or (name or "").lower() != WIDER:
            return []
        from .metadata import distribution

        return [distribution(WIDER)]


FINDER = Finder()


def relative_name(module: ModuleType) -> str:
    """The name of a module of this package, relative to it."""
    return module.__name__[len(HERE) + 1 :]


def _classes(module: ModuleType) -> Iterator[type]:
    """The classes of ours that a module defines or lists in __all__, and that no other module has taken."""
    listed = set(vars(module).get("__all__", ()))
    for name, value in list(vars(module).items()):
        if isinstance(value, type) and value.__name__ == name:
            own = value.__module__ == module.__name__
            of_another_room = value.__module__.startswith(OURS) and not value.__module__.startswith(HERE)
            if own or name in listed and of_another_room:
                yield value


def _refusal(relative: str) -> tuple[str, str] | None:
    """What names.REFUSED_MODULES says about a module, or about one above it."""
    while relative and relative not in REFUSED_MODULES:
        relative = relative.rpartition(".")[0]
    return REFUSED_MODULES.get(relative)


def _attributes(module: ModuleType, own: Callable[[str], object] | None) -> Callable[[str], object]:
    """Return the __getattr__ of a module: its own, names on demand, refused names, modules below it, or an error."""
    relative = relative_name(module)

    def get(name: str) -> object:
        if own is not None:
            with contextlib.suppress(AttributeError):
                return own(name)
        if name.startswith("_"):
            raise AttributeError(f"module {join(WIDER, relative)!r} has no attribute {name!r}")
        if name in LAZY.get(relative, ()):
            place, _, attribute = LAZY[relative][name].partition(":")
            value = getattr(importlib.import_module(join(HERE, place)), attribute)
        elif reason := _refusal(relative) or (REFUSED.get(name) if relative in REFUSED_IN else None):
            value = refused(name, *reason, join(WIDER, relative))
        else:
            value = _submodule(module, name)
        setattr(module, name, value)
        return value

    return get


def _submodule(module: ModuleType, name: str) -> ModuleType:
    """Import a module below `module`; AttributeError where there is none."""
    try:
        return importlib.import_module(f"{module.__name__}.{name}")
    except NotFoundError as error:
        raise AttributeError(str(error)) from None


def _missing(module: ModuleType, name: str) -> str:
    """Say that a module has no such name, and which of its names is the nearest."""
    relative = relative_name(module)
    tables = (*ALIASES, *REFUSED_MODULES, *EMPTY_MODULES)
    names = [key.rpartition(".")[2] for key in tables if key.rpartition(".")[0] == relative]
    names += [item.name for item in pkgutil.iter_modules(module.__path__)]
    names += [key for key, value in vars(module).items() if _is_handed_out(key, value)]
    names += [*LAZY.get(relative, ()), *(REFUSED if relative in REFUSED_IN else ())]
    known = [key for key in names if key and not (relative == "" and key in OWN_PARTS)]
    return f"{join(WIDER, relative)} has no {name!r} in bitfalcon.{did_you_mean(name, known)}"


def _is_handed_out(name: str, value: object) -> bool:
    """Whether a name of a module is one for scripts, and not something that the module imports for itself."""
    imported = isinstance(value, ModuleType) and not value.__name__.startswith(HERE)
    return not (name.startswith("_") or name == "annotations" or imported)


def start(module: ModuleType) -> None:
    """Enter the finder before all others, and complete the package itself."""
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
    FINDER.finish(module)
