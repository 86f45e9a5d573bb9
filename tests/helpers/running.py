"""Run scripts for the wider package in this process, and leave no trace of it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import bitfalcon_plugin.dropin.data.build  # scripts replace names of these modules; what is loaded here is restored
import bitfalcon_plugin.dropin.models.yolo.detect
import bitfalcon_plugin.dropin.utils  # noqa: F401
from bitfalcon_plugin import cli
from bitfalcon_plugin.dropin.finder import FINDER
from bitfalcon_plugin.dropin.hook import uninstall


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Afterwards: arguments, folders, environment and main module as before, and the door's modules unpatched."""
    argv, path, main, environment = sys.argv, list(sys.path), sys.modules["__main__"], dict(os.environ)
    before = [(module, dict(vars(module))) for module in FINDER.own_modules()]
    logger = logging.getLogger("ultralytics")
    level, handlers, propagate = logger.level, logger.handlers, logger.propagate
    try:
        yield
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = argv, path, main
        os.environ.clear()
        os.environ.update(environment)
        for module, values in before:
            vars(module).update(values)
        logger.setLevel(level)
        logger.handlers, logger.propagate = handlers, propagate
        uninstall()


@pytest.fixture()
def as_it_was() -> Iterator[None]:
    """What `restored` says, after a test."""
    with restored():
        yield


def run_script(path: Path, folder: Path, arguments: Sequence[str] = (), stand_ins: Sequence[ModuleType] = ()):
    """Run a script in a folder by `bitfalcon run`, with modules that stand in for packages.

    Return its exit code, its variables at its end, and what it printed on stdout and on stderr.
    """
    with restored(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for module in stand_ins:
            patch.setitem(sys.modules, module.__name__.rpartition(".")[2], module)
        with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
            code = cli.main(["run", str(path), *arguments])
        left = SimpleNamespace(**vars(sys.modules["__main__"]))
    return code, left, output.getvalue(), errors.getvalue()
