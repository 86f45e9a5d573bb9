"""Runs a script, a module or a notebook as Python does, with the names of the wider package meaning this one.

The script is `__main__`, sees its own arguments and folder, and decides the exit code. No byte code is written.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, TracebackType

from ..config.errors import MissingFileError, UserError, did_you_mean
from . import finder
from .finder import NotFoundError
from .hook import install

USAGE = "for example: bitfalcon run script.py, bitfalcon run -m module, bitfalcon run notebook.ipynb"
PYTHON = ("python", "python3")
FINDING = (finder.__file__, "<frozen importlib._bootstrap>")  # code that looks for modules
COMMANDS = ("yolo", "ultralytics")  # the wider package's command, under its two names


def run(words: Sequence[str], command: Callable[[list[str]], int]) -> int:
    """Run `script.py ARGUMENTS`, `-m module ARGUMENTS`, `notebook.ipynb` or `yolo ...`; return the exit code.

    command: runs the words of a bitfalcon command line; it gets what follows `yolo`. Raises UserError where there is
    nothing to run, and MissingFileError for a missing file.
    """
    rest = list(words)
    if rest and rest[0] in PYTHON and not os.path.exists(rest[0]):
        del rest[0]
    if not rest:
        raise UserError(f"run needs a script; {USAGE}.")
    first, *arguments = rest
    if first in COMMANDS and not os.path.exists(first):
        return command(arguments)
    if first == "-m":
        if not arguments:
            raise UserError(f"run -m needs the name of a module; {USAGE}.")
        return _run_module(*arguments)
    if first.startswith("-"):
        raise UserError(f"run {first}: expected a script, or -m and a module; {USAGE}.")
    if not os.path.exists(first):
        near = [str(path) for path in Path(first).parent.glob("*") if path.suffix in (".py", ".ipynb")]
        raise MissingFileError(f"run: there is no file '{first}'.{did_you_mean(first, near)}")
    if first.endswith(".ipynb"):
        from .notebook import run_notebook

        return run_notebook(first, arguments)
    return _run_file(first, arguments)


class _Source(importlib.machinery.SourceFileLoader):
    """Reads a script, and writes no byte code beside it."""

    def set_data(self, path: str, data: object, *, _mode: int = 0o666) -> None:
        pass


def _run_file(path: str, arguments: list[str]) -> int:
    folder = os.path.isdir(path)
    if folder and not os.path.isfile(os.path.join(path, "__main__.py")):
        raise UserError(f"run: '{path}' is a folder without __main__.py; give a script.")
    sys.argv = [path, *arguments]
    _set_first_folder(path if folder else os.path.dirname(os.path.realpath(path)))
    install()
    if folder:
        return _exit_code_of(lambda: runpy.run_path(os.path.abspath(path), run_name="__main__"))
    full = os.path.abspath(path)
    loader = _Source("__main__", full)
    module = ModuleType("__main__")
    # As Python has it for a script; `__main__` stays after the end, for threads that are still running.
    vars(module).update(__file__=full, __loader__=loader, __package__=None, __spec__=None, __cached__=None)
    sys.modules["__main__"] = module
    return _exit_code_of(lambda: loader.exec_module(module))


def _run_module(name: str, *arguments: str) -> int:
    sys.argv = [name, *arguments]
    _set_first_folder(os.getcwd())
    install()
    try:
        known = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        known = False
    if not known:
        raise UserError(f"run -m: there is no module {name!r} here or among what is installed.")
    return _exit_code_of(lambda: runpy.run_module(name, run_name="__main__", alter_sys=True))


def _set_first_folder(folder: str) -> None:
    """Put a folder in the place of the command's own as the first of sys.path."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.abspath(folder)


def _exit_code_of(action: Callable[[], object]) -> int:
    """Run a script to its end; return its exit code. An exception is shown as Python shows it."""
    try:
        action()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:  # noqa: BLE001  KeyboardInterrupt is shown too
        error.with_traceback(_frames_of_script(error))
        sys.stdout.flush()
        sys.excepthook(type(error), error, error.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _frames_of_script(error: BaseException) -> TracebackType | None:
    """The traceback from the first frame of the script on; None for a script that could not be read.

    It ends where a missing module is imported: Python leaves the frames of its own finders out too.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") != "__main__":
        trace = trace.tb_next
    last = trace
    while isinstance(error, NotFoundError) and last is not None and last.tb_next is not None:
        if last.tb_next.tb_frame.f_code.co_filename in FINDING:
            last.tb_next = None
        last = last.tb_next
    return trace
