"""Run scripts for the wider package in this process, and leave no trace of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from bitfalcon_plugin.dropin.hook import uninstall


@pytest.fixture()
def as_it_was() -> Iterator[None]:
    """Afterwards: sys.argv, sys.path, the main module and the meaning of `ultralytics` as before."""
    argv, path, main = sys.argv, list(sys.path), sys.modules["__main__"]
    yield
    sys.argv, sys.path[:], sys.modules["__main__"] = argv, path, main
    uninstall()
