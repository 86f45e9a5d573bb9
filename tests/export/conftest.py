"""Fixtures of the tests of exports."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def opened_at_once(request, monkeypatch) -> None:
    """Files that tests make are opened without a process of their own first, which would take seconds each."""
    if request.node.path.name != "test_seal.py":
        monkeypatch.setattr("bitfalcon_plugin.export.open.try_once", lambda *arguments: None)
