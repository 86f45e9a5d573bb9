"""Layout and common mistakes as ruff finds them with the settings of pyproject.toml; lengths and names of files."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.conftest import LONG_FILES
from tests.helpers.paths import ROOT
from tests.helpers.syntax import statements

FORBIDDEN_NAMES = {"utils", "misc", "core", "engine", "base", "cfg"}


@pytest.mark.parametrize("words", [("format", "--check"), ("check",)], ids=" ".join)
def test_ruff_finds_nothing(words):
    done = subprocess.run([sys.executable, "-m", "ruff", *words, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_files_and_functions_stay_short() -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    problems = []
    for path in (path for folder in ("bitfalcon_plugin", "compat", "tests") for path in (ROOT / folder).rglob("*.py")):
        name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            problems.append(f"{name} has more than 400 lines")
        functions = [node for node in statements(ast.parse(text)) if isinstance(node, kinds)]
        long = [node.name for node in functions if node.end_lineno - node.lineno + 1 > 60]
        problems += [f"{name}: {function} has more than 60 lines" for function in long]
        # the names in dropin are those that scripts import
        if "dropin" not in path.parts and FORBIDDEN_NAMES & {path.stem, path.parent.name}:
            problems.append(f"{name}: the name says nothing")
    assert problems == []


def test_the_files_that_begin_first_exist() -> None:
    assert [name for name in LONG_FILES if not (ROOT / "tests" / name).is_file()] == []
