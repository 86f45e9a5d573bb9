"""A logger of another package, found by its entry point: writes what it is told as lines of JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

CODE = """
import json, os, time

class Recorder:
    def write(self, *what):
        with open(os.environ["RECORDER_FILE"], "a") as file:
            file.write(json.dumps([os.environ.get("RANK", ""), *what]) + "\\n")
        fails = os.environ.get("RECORDER_FAILS", "")
        if fails == what[0]:
            raise (SystemExit if os.environ["RECORDER_RAISES"] == "SystemExit" else ConnectionError)("no server\\nhere")
        if fails == f"hang {what[0]}":
            time.sleep(600)

    def start(self, run, id):
        self.write("start", run.project, run.name, id, dict(run.parameters))
        return "number-1"

    def epoch(self, number, numbers):
        self.write("epoch", number, dict(numbers))

    def end(self, summary, figures, best):
        self.write("end", dict(summary), [path.name for path in figures], best and best.name)
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> Path:
    """Install the package below `folder` for this process and those it starts; return the file of the records."""
    site = folder / "site"
    about = site / "recorder-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "recorder.py").write_text(CODE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: recorder\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[bitfalcon.loggers]\nRecorder = recorder:Recorder\nbroken = recorder:Missing\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RECORDER_FILE", str(folder / "records.jsonl"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return folder / "records.jsonl"


def read(path: Path) -> list[list]:
    """The records so far: rank, method, arguments."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
