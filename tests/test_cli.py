"""The command line: what words mean (command_line.py), and what a run of the command prints and returns (cli.py)."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

import bitfalcon_plugin
from bitfalcon_plugin import cli
from bitfalcon_plugin.config import command_line as commands
from bitfalcon_plugin.config import installation_checks
from bitfalcon_plugin.config.command_line import parse_tokens
from bitfalcon_plugin.config.default_table import table
from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.config.listing import settings_table
from bitfalcon_plugin.config.settings import Settings, load_settings
from tests.helpers.coloured import place  # noqa: F401  the fixture
from tests.helpers.paths import ROOT
from tests.helpers.small_yolo import save_weights


def test_the_verb_is_the_mode() -> None:
    assert parse_tokens(["val"])[1] == {"mode": "val"} and parse_tokens(["epochs=3"])[1] == {"epochs": 3}
    assert tuple(table()["mode"]["choices"]) == commands.MODES and tuple(cli.COMMANDS) == commands.COMMANDS
    assert tuple(cli.VERBS) == commands.MODES


class Recorder:
    """Stands for the functions of cli.VERBS: keeps what each verb was called with, or raises."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls: list[tuple[str, Settings]] = []
        self.error = error

    def verb(self, name: str, settings: Settings) -> object:
        self.calls.append((name, settings))
        if self.error:
            raise self.error
        return object()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Recorder:
        for name in commands.MODES:
            monkeypatch.setitem(cli.VERBS, name, functools.partial(self.verb, name))
        return self


@pytest.mark.parametrize(
    ("line", "verb"),
    [
        ("task=train epochs=3", "train"),
        ("val epochs=3", "val"),
        ("predict epochs=3", "predict"),
        ("info epochs=3", "info"),
        ("model=yolov12.yaml epochs=3", "train"),
    ],
)
def test_each_verb_calls_its_function(line: str, verb: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    recorder = Recorder().install(monkeypatch)
    assert cli.main(line.split()) == 0
    model = {"model": "yolov12.yaml"} if "model" in line else {}
    assert recorder.calls == [(verb, load_settings({"epochs": 3, "mode": verb, **model}))]
    output = capsys.readouterr()
    note = "" if verb in line else "note: no verb is given: model= alone means train.\n"
    assert output.out == "" and output.err == note


def test_a_settings_file_may_carry_the_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder().install(monkeypatch)
    (tmp_path / "args.yaml").write_text("mode: val\n")
    assert cli.main([f"cfg={tmp_path}/args.yaml"]) == 0
    assert cli.main([f"cfg={tmp_path}/args.yaml", "predict"]) == 0
    assert [verb for verb, _ in recorder.calls] == ["val", "predict"]


def test_notes_are_printed_once_before_the_run(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    Recorder(KeyboardInterrupt()).install(monkeypatch)
    assert cli.main(["train", "dnn=True", "hide_conf=True", "--seed=1"]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("note: ") for line in lines[:3]) and lines[3] == "interrupted"


@pytest.mark.parametrize(
    ("error", "code", "start"),
    [
        (UserError("data=x is not there"), 2, "error: data=x is not there"),
        (MissingFileError("no 'x'"), 2, "error: no 'x'"),
        (
            RuntimeError("sizes\n do not  match"),
            1,
            "error: a fault of bitfalcon, not yours: RuntimeError: sizes do not match. Run again with --debug",
        ),
        (KeyError(), 1, "error: a fault of bitfalcon, not yours: KeyError: no message."),
        (MemoryError(), 1, "error: out of memory"),
        (OSError(28, "No space left on device"), 1, "error: the system refused: OSError"),
        (BrokenPipeError(32, "Broken pipe"), 1, "error: the system refused: BrokenPipeError"),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA"),
            1,
            "error: out of memory (CUDA). Give a smaller batch=",
        ),
    ],
)
def test_errors_are_one_message_and_a_code(error, code: int, start: str, monkeypatch, capsys) -> None:
    Recorder(error).install(monkeypatch)
    assert cli.main(["train"]) == code
    output = capsys.readouterr().err
    assert output.startswith(start) and output.count("\n") == 1
    assert cli.main(["train", "--debug"]) == code
    output = capsys.readouterr().err
    assert "Traceback (most recent call last)" in output and start in output


def test_a_wrong_setting_runs_nothing(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    recorder = Recorder().install(monkeypatch)
    assert cli.main("task=train epcohs=1 imgsz=huge".split()) == 2
    output = capsys.readouterr()
    assert recorder.calls == [] and output.out == "" and output.err.startswith("error: ")
    assert (
        "Nearest: epochs=100" in output.err and "imgsz=huge: expected" in output.err and "Traceback" not in output.err
    )


def test_cfg_and_copy_cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["cfg"]) == 0
    printed = capsys.readouterr().out
    assert cli.main(["copy-cfg"]) == 0
    assert (tmp_path / "default_copy.yaml").read_text() == printed
    (tmp_path / "default_copy.yaml").write_text("epochs: 7\n")
    assert cli.main(["copy-cfg"]) == 2
    assert (tmp_path / "default_copy.yaml").read_text() == "epochs: 7\n"


@pytest.mark.parametrize("word", ["--markdown", "markdown"])
def test_cfg_as_a_table(word: str, capsys) -> None:
    assert cli.main(["cfg", word]) == 0
    assert capsys.readouterr().out == settings_table()


@pytest.mark.parametrize("code", [0, 1])
def test_the_verdict_of_a_verb_may_be_the_exit_code(code: int, monkeypatch) -> None:
    monkeypatch.setitem(cli.VERBS, "doctor", lambda settings: SimpleNamespace(exit_code=code))
    assert cli.main(["doctor", "data=x.yaml"]) == code


@pytest.mark.parametrize(
    ("torch", "code", "expected"),
    [
        ("2.10.0+cpu", 0, "2.10.0+cpu (ok: >=2.6)"),
        ("2.6", 0, "2.6 (ok: >=2.6)"),
        ("3.0a1", 0, "3.0a1 (ok: >=2.6)"),
        ("2.5.1", 1, "2.5.1 (NOT MET: >=2.6)"),
        (None, 1, "missing (NOT MET: >=2.6)"),
    ],
)
def test_checks_compares_versions(torch: str | None, code: int, expected: str, monkeypatch, capsys) -> None:
    def version(name: str) -> str:
        if (name, torch) == ("torch", None):
            raise metadata.PackageNotFoundError(name)
        return {"torch": torch, "pyyaml": "6.0.1"}[name]

    monkeypatch.setattr(installation_checks, "_devices", lambda: [("GPU", "none")])
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2.6", "pyyaml>=6", 'pytest>=99; extra == "test"'])
    monkeypatch.setattr(metadata, "version", version)
    assert cli.main(["checks"]) == code
    output = capsys.readouterr().out
    assert expected in output and "6.0.1 (ok: >=6)" in output and "pytest" not in output


def python(*args: str, **options) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, env=environment, **options)


@pytest.mark.parametrize(
    "line", ["", "help", "-h", "--help", "train --help", "version", "cfg", "cfg --markdown", "train epcohs=1"]
)
def test_answers_come_without_torch(line: str) -> None:
    done = python("-X", "importtime", "-m", "bitfalcon_plugin", *line.split())
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "bitfalcon_plugin.cli" in imported and not imported & {"torch", "torchvision", "numpy", "PIL"}
    if line == "train --help":
        assert done.returncode == 0 and "bitfalcon train model=" in done.stdout and "  epochs=100 " in done.stdout
    elif line.split()[-1:] in ([], ["help"], ["-h"], ["--help"]):
        assert done.returncode == 0 and "bitfalcon task=train model=yolov12.yaml scale=n" in done.stdout


def test_the_module_is_the_command() -> None:
    done = python("-m", "bitfalcon_plugin", "task=train", "epcohs=1")
    assert done.returncode == 2 and "Nearest: epochs=100" in done.stderr and done.stdout == ""
    assert python("-m", "bitfalcon_plugin", "version").stdout.strip() == bitfalcon_plugin.__version__


@pytest.mark.skipif(os.name != "posix", reason="pipes that break are a POSIX matter")
def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "bitfalcon_plugin", "cfg"],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_json_is_all_that_predict_prints(place, capsys):
    save_weights(place, "x.pt", license="AGPL-3.0")
    capsys.readouterr()
    assert cli.main(["predict", "model=x.pt", "source=data/images/val", "--json", "imgsz=64", "save=False"]) == 0
    out, err = capsys.readouterr()
    assert [Path(json.loads(line)["path"]).name for line in out.splitlines()] == ["0.png", "1.png", "2.png", "3.png"]
    assert "AGPL-3.0" in err
