"""Layout and common mistakes, as ruff finds them with the settings of pyproject.toml."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


# E501 is left out until the last long lines are gone.
@pytest.mark.parametrize("words", [("format", "--check"), ("check", "--ignore=E501")], ids=" ".join)
def test_ruff_finds_nothing(words):
    done = subprocess.run([sys.executable, "-m", "ruff", *words, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
