"""`VERB --help`, and the scripts for the Tab key, run by the shells that are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.command_line import MODES, VERBS
from bitfalcon_plugin.config.completion import SHELLS, completion_script, values_of
from bitfalcon_plugin.config.default_table import active_settings, keys_with
from bitfalcon_plugin.config.help_text import COLUMN_VERBS, HELP, USED, keys_of, verb_help
from tests.helpers.running import as_it_was  # noqa: F401


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_help(verb, capsys):
    lines = (
        [[verb, "--help"], [verb, "-h"], ["help", verb]] if verb != "help" else [["help"], ["--help"], ["help", "help"]]
    )
    for line in lines:
        assert main(line) == 0
        assert re.search(rf"^  {verb}\b", capsys.readouterr().out, re.M)


def test_the_settings_of_a_verb_stand_in_its_help(capsys):
    assert main(["val", "--help"]) == 0
    text = capsys.readouterr().out
    assert "  conf=null" in text and "  iou=0.7" in text and "epochs=" not in text and "tracker=" not in text
    assert main("train model=x.yaml --help".split()) == main("task=train --help".split()) == 0
    text = capsys.readouterr().out
    assert text.count('  optimizer="auto"') == 2 and "one of auto, SGD" in text and "  source=" not in text


def test_the_tables_name_settings_and_verbs_that_exist():
    assert {*USED, *COLUMN_VERBS} == set(MODES)
    for verb in MODES:
        assert keys_of(verb) and set(keys_of(verb)) <= set(active_settings())
    for _, more in USED.values():
        assert set(more.split()) <= set(active_settings())
    assert not set(keys_of("train")) & set(keys_with("not_for", "train"))
    assert all(re.search(rf"^  {verb}\b|[ ,]{verb} writes", HELP, re.M) for verb in VERBS)
    assert verb_help("version").strip().startswith("version")


def test_help_words_that_belong_to_a_script_reach_it(as_it_was, tmp_path, capsys):
    script = tmp_path / "s.py"
    script.write_text("import sys; print(sys.argv[1:])")
    assert main(["run", str(script), "--help"]) == 0
    assert capsys.readouterr().out == "['--help']\n"


# compadd, compset and _files of zsh work inside a completion only: these stand in their place.
ZSH = """
compdef() { : }
compset() { : }
_files() { print -l -- *(N) }
compadd() {
  while [[ $1 == -* ]]; do [[ $1 == -S ]] && shift; [[ $1 == -- ]] && { shift; break }; shift; done
  print -l -- "$@"
}
source SCRIPT; words=(${(s: :)LINE}); [[ $LINE == *" " ]] && words+=(""); CURRENT=${#words}; _bitfalcon
"""
CODES = {
    "bash": 'source SCRIPT; COMP_LINE=$LINE; COMP_POINT=${#LINE}; _bitfalcon; printf "%s\\n" "${COMPREPLY[@]}"',
    "zsh": ZSH,
    "fish": 'source SCRIPT; complete -C "$LINE"',
}
PLAIN = {"bash": "--norc", "zsh": "-f", "fish": "--no-config"}


def completed(line: str, folder: Path, shell: str) -> set[str]:
    """What the Tab key offers at the end of a line."""
    script = folder / f"_bitfalcon.{shell}"
    script.write_text(completion_script(shell))
    command = [shell, PLAIN[shell], "-c", CODES[shell].replace("SCRIPT", str(script))]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, env={**os.environ, "LINE": line}
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    current = line.rpartition(" ")[2]
    words = {text.split("\t")[0] for text in done.stdout.splitlines()}
    if shell == "zsh":  # zsh compares by itself
        words = {word for word in words if word.startswith(current.rpartition("=")[2])}
    return {word.rpartition("=")[2] if "=" in current else word for word in words}


@pytest.fixture(params=SHELLS)
def shell(request) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def test_verbs_settings_values_and_files_are_completed(shell, tmp_path):
    (tmp_path / "data.yaml").write_text("")
    assert {"train", "track", "tune"} <= completed("bitfalcon t", tmp_path, shell)
    assert set(VERBS) <= completed("bitfalcon ", tmp_path, shell)
    keys = completed("bitfalcon train ep", tmp_path, shell)
    assert "epochs=" in keys and not keys & {"source=", "train"}
    assert "tracker=" in completed("bitfalcon track trac", tmp_path, shell)
    assert completed("bitfalcon train optimizer=Ad", tmp_path, shell) == {"Adam", "AdamW", "Adamax"}
    assert {"True", "False"} <= completed("bitfalcon train half model=x.pt cos_lr=", tmp_path, shell)
    assert "data.yaml" in completed("bitfalcon train data=da", tmp_path, shell)


def test_the_words_of_a_line_are_not_run(shell, tmp_path):
    for text in (
        "train data=$(touch canary)x",
        "train name=`touch canary`",
        "$(touch canary) ",
        "train cos_lr=$(touch canary)",
    ):
        completed(f"bitfalcon {text}", tmp_path, shell)
    assert not (tmp_path / "canary").exists()


def test_every_setting_is_in_every_script():
    for name in SHELLS:
        script = completion_script(name)
        used = {key for verb in MODES for key in keys_of(verb)} - {"model_scale"}
        assert all(f"{key}=" in script for key in used), name
    assert values_of("optimizer")[:2] == ["auto", "SGD"] and values_of("amp") == [
        "True",
        "False",
        "fp16",
        "bf16",
        "fp32",
    ]


def test_the_command_prints_the_script(capsys):
    for name in SHELLS:
        assert main(["completion", name]) == 0
        assert capsys.readouterr().out == completion_script(name)
    assert main(["completion"]) == 0 and "complete -F" in capsys.readouterr().out
    assert main(["completion", "powershell"]) == 2
    assert "expected one of bash, zsh, fish" in capsys.readouterr().err
