"""Layout and common mistakes as ruff finds them with the settings of pyproject.toml; lengths and names of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

FORBIDDEN_NAMES = {"utils", "misc", "core", "engine", "base", "cfg"}


@pytest.mark.parametrize("words", [("format", "--check"), ("check",)], ids=" ".join)
def test_ruff_finds_nothing(words):
    done = subprocess.run([sys.executable, "-m", "ruff", *words, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@pytest.mark.parametrize(
    "path",
    sorted(path for folder in ("bitfalcon_plugin", "compat", "tests") for path in (ROOT / folder).rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    assert [node.name for node in functions if node.end_lineno - node.lineno + 1 > 60] == []
    if "dropin" not in path.parts:  # whose names are those that scripts import
        assert not FORBIDDEN_NAMES & {path.stem, path.parent.name}
