"""Notebooks run in a kernel that imports our names; what its cells show is printed."""

from __future__ import annotations

import json
import sys

import pytest

from bitfalcon_plugin import cli
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin import notebook
from bitfalcon_plugin.dropin.notebook import run_notebook, translate
from tests.helpers.running import as_it_was  # noqa: F401

COMMAND = f'"{sys.executable}" -m bitfalcon_plugin run yolo'


def write(path, *cells: str) -> str:
    """A notebook with code cells, whose kernel is one that is not on this machine."""
    code = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    document = {
        "cells": [{"cell_type": "markdown", "metadata": {}, "source": "# Title"}]
        + [{**code, "source": text.splitlines(keepends=True)} for text in cells],
        "metadata": {"kernelspec": {"name": "conda-env-gpu-py", "display_name": "GPU", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    path.write_text(json.dumps(document))
    return str(path)


def test_the_cells_of_a_notebook_run_and_print(tmp_path, monkeypatch, capfd, as_it_was):
    pytest.importorskip("nbclient", reason="nbclient is not installed (extra notebooks)")
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    (tmp_path / "books").mkdir()
    (tmp_path / "books/value.txt").write_text("read beside the notebook")
    path = write(
        tmp_path / "books/a.ipynb",
        "!pip install -q ultralytics\nimport ultralytics\nfrom ultralytics import YOLO, SAM",
        "print(open('value.txt').read())\n!yolo version\nYOLO.__module__",
        "import sys\nprint(len(sys.argv) > 0, file=sys.stderr)\nvalue = 1 / 0",
        "print('not reached')",
    )
    before = (tmp_path / "books/a.ipynb").read_bytes()
    assert cli.main(["run", path]) == 1
    output, errors = capfd.readouterr()
    assert output.splitlines() == ["read beside the notebook", "0.1.0", "'ultralytics.engine.model'"]
    assert errors.splitlines()[:2] == [
        "note: not installed, bitfalcon is used in its place: !pip install -q ultralytics",
        "True",
    ]
    assert "ZeroDivisionError: division by zero" in errors and "value = 1 / 0" in errors
    assert (tmp_path / "books/a.ipynb").read_bytes() == before and len(list(tmp_path.rglob("*"))) == 3
    assert cli.main(["run", write(tmp_path / "b.ipynb", "print('all good')")]) == 0
    assert capfd.readouterr() == ("all good\n", "")


def test_what_is_no_notebook_and_arguments_are_refused(tmp_path):
    pytest.importorskip("nbformat", reason="nbclient is not installed (extra notebooks)")
    (tmp_path / "a.ipynb").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a notebook"):
        run_notebook(str(tmp_path / "a.ipynb"))
    with pytest.raises(UserError, match="takes no arguments; it is given --epochs 3"):
        run_notebook(write(tmp_path / "b.ipynb"), ["--epochs", "3"])


def test_without_the_packages_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbformat", None)
    with pytest.raises(UserError, match=r"needs nbclient and ipykernel: pip install 'bitfalcon\[notebooks\]'"):
        run_notebook(write(tmp_path / "b.ipynb"))


@pytest.mark.parametrize(
    "line, expected",
    [
        ("!pip install ultralytics\n", "pass\n"),
        ("    %pip install -q -U 'ultralytics[export]>=8.1'\n", "    pass\n"),
        ("!python3 -m pip install ultralytics==8.0.196 supervision\n", "!python3 -m pip install supervision\n"),
        ("!pip install supervision\n", "!pip install supervision\n"),
        ("!pip install ultralytics-thing\n", "!pip install ultralytics-thing\n"),
        ("x = 'pip install ultralytics'\n", "x = 'pip install ultralytics'\n"),
        ("!yolo detect train data=a.yaml\n", f"!{COMMAND} detect train data=a.yaml\n"),
        ("  ! yolo mode=predict\n", f"  !{COMMAND} mode=predict\n"),
        ("!yolo_tool x\n", "!yolo_tool x\n"),
        ("yolo = 3\n", "yolo = 3\n"),
    ],
)
def test_lines_for_the_shell(monkeypatch, line, expected):
    monkeypatch.setattr(notebook, "NOTED", set())
    assert translate(["a = 1\n", line]) == ["a = 1\n", expected]
