"""`bitfalcon run` against Python itself: what a script sees, prints and returns; and what its workers import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bitfalcon_plugin import cli
from bitfalcon_plugin.dropin.run import run
from tests.helpers.paths import ROOT
from tests.helpers.running import as_it_was  # noqa: F401

ALIKE = {
    "names": "import sys\nprint(sys.argv, sys.path[0], __name__, __file__, __spec__, __package__, __doc__)",
    "globals": "print({name for name in globals()} - {'__annotations__', '__cached__'} == {'__name__', '__doc__', "
    "'__package__', '__loader__', '__spec__', '__file__', '__builtins__'})",
    "main": "import sys\nclass A: pass\nmain = sys.modules['__main__']\nprint(main.A is A, vars(main) is globals())",
    "pickle": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
    "neighbour": "from neighbour import VALUE\nprint(VALUE)",
    "exit": "import sys\nprint('before')\nsys.exit(7)",
    "exit with a text": "import sys\nsys.exit('no camera')",
    "exit with nothing": "raise SystemExit",
    "exit with True": "raise SystemExit(True)",
    "error": "def f(x):\n    return 1 / x\n\ntry:\n    f(0)\nexcept ZeroDivisionError as error:\n"
    "    raise ValueError('wrong') from error",
    "error far away": "import json\njson.loads('{')",
    "syntax": "print('no'\nx = = 1",
    "missing": "import no_such_module_of_anyone",
    "hook": "import sys\nsys.excepthook = lambda kind, error, trace: print('mine', kind, error)\n1 / 0",
    "at the end": "import atexit\natexit.register(lambda: print('end', __name__))\nprint('body')",
    "threads": "import threading, time, sys\ndef f():\n    time.sleep(0.1)\n    print(sys.modules['__main__'].f is f)\n"
    "threading.Thread(target=f).start()",
    "no package": "from . import x",
}


def outcome(*words: str, cwd) -> tuple[int, str, str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ALIKE)
def test_a_script_runs_as_in_python(tmp_path, name):
    folder = tmp_path / "sub"
    folder.mkdir()
    (folder / "neighbour.py").write_text("VALUE = 3")
    (folder / "script.py").write_text(ALIKE[name])
    words = ("sub/script.py", "a b", "--debug", "key=1")
    expected = outcome(*words, cwd=tmp_path)
    assert outcome("-m", "bitfalcon_plugin", "run", *words, cwd=tmp_path) == expected
    assert {path.name for path in folder.iterdir()} <= {"neighbour.py", "script.py", "__pycache__"}
    assert not [path.name for path in folder.rglob("script*.pyc")]


def test_modules_and_folders_run_as_in_python(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/__init__.py").write_text("")
    (tmp_path / "app/part.py").write_text("VALUE = 5")
    text = "import sys\nprint(sys.argv[1:], sys.path[0], __name__, {})\nsys.exit(4)"
    (tmp_path / "app/tool.py").write_text("from .part import VALUE\n" + text.format("__spec__.name, __package__"))
    (tmp_path / "app/__main__.py").write_text(text.format("__file__"))
    for words in (("-m", "app.tool", "x"), ("-m", "app", "-v"), ("app", "y")):
        expected = outcome(*words, cwd=tmp_path)
        assert expected[0] == 4 and outcome("-m", "bitfalcon_plugin.dropin", *words, cwd=tmp_path) == expected


WORKERS = """
import multiprocessing
import sys

import ultralytics
from ultralytics import RTDETR
from ultralytics.models.sam import Predictor


class Task(RTDETR):
    pass


def work(cls):
    import ultralytics.yolo

    return ultralytics.yolo.__name__, cls is Task, cls.__mro__[1].__module__


if __name__ == "__main__":
    for kind in sys.argv[1:]:
        with multiprocessing.get_context(kind).Pool(1) as pool:
            print(pool.map(work, [Task]))
"""


@pytest.mark.parametrize("kind", ["spawn", "forkserver", "fork"])
def test_workers_import_the_same_names(tmp_path, kind):
    """Also with another package of that name in the script's folder, which a worker does not tell of again."""
    (tmp_path / "script.py").write_text(WORKERS)
    (tmp_path / "ultralytics").mkdir()
    (tmp_path / "ultralytics/__init__.py").write_text("raise RuntimeError('the other package is imported')")
    code, output, errors = outcome("-m", "bitfalcon_plugin", "run", "script.py", kind, cwd=tmp_path)
    assert output == "[('bitfalcon_plugin.dropin', True, 'ultralytics')]\n" and code == 0
    where = tmp_path / "ultralytics"
    assert (
        errors == f"note: in this process `ultralytics` is bitfalcon; the package of that name ({where}) is not used.\n"
    )


def test_the_import_of_install_does_the_same(tmp_path):
    (tmp_path / "script.py").write_text("import bitfalcon_plugin.dropin.install\n" + WORKERS)
    code, output, errors = outcome("script.py", "spawn", cwd=tmp_path)
    assert (code, output, errors) == (0, "[('bitfalcon_plugin.dropin', True, 'ultralytics')]\n", "")


def test_a_package_that_is_already_imported_is_left_alone(tmp_path):
    (tmp_path / "ultralytics.py").write_text("YOLO = 1")
    (tmp_path / "script.py").write_text(
        "import ultralytics as other\nimport bitfalcon_plugin.dropin.install\nimport ultralytics\n"
        "print(other.YOLO, ultralytics.__version__)\n"
    )
    code, output, errors = outcome("script.py", cwd=tmp_path)
    assert (code, output) == (0, "1 8.3.63\n") and errors.count("note:") == 1


@pytest.mark.parametrize(
    "words, text",
    [
        ([], "run needs a script; for example: bitfalcon run script.py"),
        (["-m"], "needs the name of a module"),
        (["-m", "no.such"], "there is no module 'no.such'"),
        (["--fast", "script.py"], "run --fast: expected a script"),
        (["scrpt.py"], "there is no file 'scrpt.py'. Did you mean 'script.py'"),
        (["empty"], "'empty' is a folder without __main__.py"),
    ],
)
def test_what_cannot_run_is_the_users_mistake(tmp_path, monkeypatch, capsys, as_it_was, words, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("")
    (tmp_path / "empty").mkdir()
    assert cli.main(["run", *words]) == 2
    assert text in capsys.readouterr().err


def test_the_commands_of_the_wider_package_are_those_of_this_one(tmp_path, monkeypatch, capsys, as_it_was):
    monkeypatch.chdir(tmp_path)
    lines: list[list[str]] = []
    for name in ("yolo", "ultralytics"):
        assert run([name, "detect", "train", "epochs=3"], lambda words: lines.append(words) or 5) == 5
    assert lines == [["detect", "train", "epochs=3"]] * 2
    assert cli.main(["run", "yolo", "version"]) == 0 and capsys.readouterr().out == "0.1.0\n"
    (tmp_path / "script.py").write_text("import sys\nprint(sys.argv)")
    assert cli.main(["run", "python", "script.py", "x"]) == 0
    assert capsys.readouterr().out == "['script.py', 'x']\n"
    assert outcome("-m", "bitfalcon_plugin.dropin", "yolo", "version", cwd=tmp_path)[:2] == (0, "0.1.0\n")
    code, _, errors = outcome("-m", "bitfalcon_plugin.dropin", "nothing.py", cwd=tmp_path)
    assert code == 2 and errors.startswith("error: run: there is no file 'nothing.py'")
