"""Nothing that is printed gives orders to a terminal, whatever files, folders, classes and metadata are called."""

from __future__ import annotations

import ast
import logging
import pickle
import re
import sys

import pytest
import torch
from PIL import Image

from bitfalcon_plugin.cli import main
from bitfalcon_plugin.config.errors import MissingFileError, UserError, WrongSettingError, raise_problems
from bitfalcon_plugin.config.notes import print_note
from bitfalcon_plugin.config.printable import coloured, one_line, printable, say
from bitfalcon_plugin.models.weights.checkpoint import Checkpoint, content_of
from tests.helpers.paths import ROOT
from tests.helpers.tiny_models import CONV, small_model

EVIL = "a\x1b[2J\x07\x9b31m\u202eb\rc"
ORDERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
OWN_OUTPUT = {"config/printable.py", "dropin/notebook.py", "dropin/run.py"}  # the last two pass on what a script writes


def printed(capsys) -> str:
    """All that was written to the terminal, which holds nothing to obey."""
    done = capsys.readouterr()
    assert not ORDERS.search(done.out + done.err), repr(done.out + done.err)
    return done.out + done.err


def test_characters_that_a_terminal_obeys_are_written_as_numbers():
    assert printable(EVIL) == "a\\x1b[2J\\x07\\u009b31m\\u202eb\\x0dc"
    assert printable("\udcff\u200b\x7f\U000e0041") == "\\udcff\\u200b\\u007f\\U000e0041"
    for text in ("plain", "two\nlines\tand a tab", "Übung 東京 \u05d0\u05d1", "👩\u200d🚀", "\u0646\u0645\u06cc\u200c"):
        assert printable(text) == text
    assert one_line("a\nb\tc") == "a\\nb\\tc" and printable(3) == "3"
    assert coloured("\x1b[31mred\x1b[0m \x1b[2J") == "\x1b[31mred\x1b[0m \\x1b[2J"


def test_all_functions_that_print_use_it(capsys):
    say(EVIL, "x", end="")
    print_note(EVIL)
    say(EVIL, file=sys.stderr)
    assert printed(capsys).count("\\x1b[2J") == 3


def test_errors_are_printable_wherever_they_are_shown():
    for kind in (UserError, WrongSettingError, MissingFileError):
        error = kind(f"x {EVIL}")
        assert not ORDERS.search(str(error)) and str(error).startswith("x a\\x1b")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and str(again) == str(error)
    with pytest.raises(UserError) as caught:
        raise_problems(f"Wrong {EVIL}", [EVIL, EVIL])
    assert str(caught.value).count("\n") == 2 and not ORDERS.search(str(caught.value))


def test_no_other_code_prints():
    for path in (ROOT / "bitfalcon_plugin").rglob("*.py"):
        if path.relative_to(ROOT / "bitfalcon_plugin").as_posix() in OWN_OUTPUT:
            continue
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = [
            node.lineno
            for node in nodes
            if isinstance(node, ast.Name) and node.id == "print" and isinstance(node.ctx, ast.Load)
        ]
        names += [
            node.lineno
            for node in nodes
            if isinstance(node, ast.Attribute) and node.attr in ("print_exc", "print_exception", "print_stack")
        ]
        streams = [
            node.lineno
            for node in nodes
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.stdout.write", "sys.stderr.write")
        ]
        assert not names + streams, f"{path}: lines {names + streams}"


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A folder with a checkpoint and a dataset whose names are all hostile."""
    monkeypatch.chdir(tmp_path)
    model = small_model(CONV)
    content = content_of(Checkpoint(model.graph, model.state_dict(), settings={"data": EVIL}))
    content["graph"] |= {"name": EVIL, "names": {0: EVIL, 1: "b\n\x1b]0;x\x07"}}
    content |= {"source": {"task": "\x1b[2J", "family": "\x1b[2J"}, "license": EVIL, "date": EVIL}
    torch.save(content, "x.pt")
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for name in (EVIL, f"n{EVIL}\nerror: none"):
            Image.new("RGB", (64, 64)).save(tmp_path / "images" / split / f"{name}.png")
            (tmp_path / "labels" / split / f"{name}.txt").write_text(f"{EVIL} 0.5 0.5 0.1 0.1\n7 0.5 0.5 9 9\n")
    names = '["\\x1b[2J\\ng", "\\x9bh"]'
    (tmp_path / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {names}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="names of files cannot have these characters there")
@pytest.mark.parametrize(
    "words",
    [
        ["info", "model=x.pt"],
        ["predict", "model=x.pt", "source=images/val", "imgsz=64", "conf=0.001"],
        ["predict", "model=x.pt", "source=images/val", "imgsz=64", "json=True"],
        ["doctor", "data=data.yaml"],
        ["val", "model=x.pt", "data=data.yaml", "imgsz=64", "workers=0"],
        ["train", "model=x.pt", "data=data.yaml", "imgsz=64", "workers=0", "epochs=1"],
        ["val", "model=x.pt", f"data={EVIL}.yaml"],
        ["predict", "model=x.pt", f"source={EVIL}"],
        ["info", f"model={EVIL}.pt"],
        ["info", f"model={EVIL}.yaml"],
        ["train", f"data={EVIL}", f"name={EVIL}", f"{EVIL}=1", EVIL],
        ["predict", f"device={EVIL}", "model=x.pt", "source=images", "--debug"],
        ["cfg", EVIL],
        ["settings", f"{EVIL}=3"],
        [EVIL],
    ],
    ids=lambda words: re.sub("[^a-z. ]", "", " ".join(words))[:40],
)
def test_nothing_hostile_is_printed(evil, words, capsys):
    assert main(
        [*words, "device=cpu"] if words[0] in ("predict", "val", "train") and "--debug" not in words else words
    ) in (0, 1, 2)
    text = printed(capsys)
    assert "a fault of bitfalcon" not in text and text


def test_log_lines_are_printable(capsys):
    from bitfalcon_plugin.dropin.utils import set_logging

    set_logging("odd").info("%s \x1b[31mred\x1b[0m", EVIL)
    logging.getLogger("odd").handlers.clear()
    out = capsys.readouterr().out
    assert "\x1b[31mred\x1b[0m" in out and not ORDERS.search(out.replace("\x1b[31m", "").replace("\x1b[0m", ""))
