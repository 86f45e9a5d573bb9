"""Constants, the logger, YAML, colours, namespaces and decorators of dropin.utils, as scripts read them."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from bitfalcon_plugin.config.files import cfg_dir
from bitfalcon_plugin.dropin import utils
from tests.helpers.paths import ROOT


def test_constants():
    assert utils.ROOT.is_dir() and isinstance(utils.ASSETS, Path)
    assert utils.DEFAULT_CFG_PATH == cfg_dir() / "default.yaml"
    assert utils.DEFAULT_CFG_DICT["epochs"] == 100 and utils.DEFAULT_CFG.imgsz == 640
    assert list(utils.DEFAULT_CFG_KEYS) == list(utils.DEFAULT_CFG_DICT) and "hide_labels" not in utils.DEFAULT_CFG_DICT
    assert (utils.RANK, utils.LOCAL_RANK) == (-1, -1)
    assert [utils.MACOS, utils.LINUX, utils.WINDOWS].count(True) == 1
    assert utils.is_online() is False and utils.ONLINE is False


def test_the_logger_writes_bare_messages_to_stdout(capsys):
    utils.set_logging()  # as the import does; what another test has done since does not count
    assert utils.LOGGER.name == "ultralytics" and not utils.LOGGER.propagate
    assert [type(handler) for handler in utils.LOGGER.handlers].count(utils._Stdout) == 1
    utils.LOGGER.info("hello")
    assert capsys.readouterr().out == "hello\n"
    utils.LOGGER.setLevel(40)
    try:
        utils.LOGGER.warning("hidden")
        assert capsys.readouterr().out == ""
    finally:
        utils.LOGGER.setLevel(logging.INFO)
    assert utils.LOGGER.level == logging.INFO


def test_yaml_is_read_and_written(tmp_path, capsys):
    data = {"path": Path("/data"), "names": {0: "cat", 1: "dög"}, "nc": 2, "kpt_shape": (17, 3), "none": None}
    file = tmp_path / "sub" / "data.yaml"
    utils.YAML.save(file, data, header="# mine\n")
    text = file.read_text(encoding="utf-8")
    expected = {"path": "/data", "names": {0: "cat", 1: "dög"}, "nc": 2, "kpt_shape": [17, 3], "none": None}
    assert text.startswith("# mine\npath: ") and yaml.safe_load(text) == expected and "dög" in text
    assert utils.yaml_load(file) == expected == utils.YAML.load(file)
    assert utils.yaml_load(file, append_filename=True)["yaml_file"] == str(file)
    (tmp_path / "empty.yaml").write_text("")
    assert utils.yaml_load(tmp_path / "empty.yaml") == {}
    utils.yaml_print(file)
    assert "names:" in capsys.readouterr().out
    with pytest.raises(AssertionError, match=".yaml"):
        utils.yaml_load("data.txt")
    with pytest.raises(FileNotFoundError):
        utils.yaml_load(tmp_path / "missing.yaml")
    assert utils.yaml_load(utils.DEFAULT_CFG_PATH)["epochs"] == 100


def test_colours():
    assert utils.colorstr("text") == "\033[34m\033[1mtext\033[0m"
    assert utils.colorstr("red", "bold", "text") == "\033[31m\033[1mtext\033[0m"
    assert utils.remove_colorstr(utils.colorstr("bright_green", "underline", "text")) == "text"
    assert utils.emojis("ok") == "ok"


def test_a_namespace_is_a_mapping_too():
    values = utils.IterableSimpleNamespace(a=1, b="x")
    assert dict(values) == {"a": 1, "b": "x"} and values.get("a") == 1 and values.get("c", 5) == 5
    assert str(values) == "a=1\nb=x" and values.b == "x" and not hasattr(values, "c")
    with pytest.raises(AttributeError, match="'c'"):
        values.c  # noqa: B018

    class Point(utils.SimpleClass):
        def __init__(self):
            self.x, self._hidden = 1, 2

    assert "x: 1" in str(Point()) and "hidden" not in str(Point())


def test_decorators(capsys):
    seen = []
    work = utils.threaded(seen.append)
    thread = work(1)
    thread.join()
    work(2, threaded=False)
    assert isinstance(thread, threading.Thread) and seen == [1, 2]

    with utils.TryExcept("reading"):
        raise ValueError("broken")
    assert "reading: broken" in capsys.readouterr().out

    @utils.TryExcept(verbose=False)
    def fails():
        raise OSError

    assert fails() is None and capsys.readouterr().out == ""
    with pytest.raises(KeyboardInterrupt), utils.TryExcept():
        raise KeyboardInterrupt
    turns = []

    @utils.Retry(times=3, delay=0)
    def third_time() -> str:
        turns.append(1)
        if len(turns) < 3:
            raise OSError("busy")
        return "done"

    assert third_time() == "done" and len(turns) == 3
    turns.clear()
    with pytest.raises(OSError):
        utils.Retry(times=2, delay=0)(third_time.__wrapped__)()
    locked = utils.ThreadingLocked()(lambda: 5)
    assert locked() == 5


def test_a_progress_bar_counts(capsys):
    assert sum(utils.TQDM(range(4), desc="x", total=4)) == 6
    assert "4/4" in capsys.readouterr().err


def test_addresses_and_folders(tmp_path):
    assert utils.url2file("https://example.org/a/b.txt?auth") == "b.txt"
    assert utils.clean_url("https://example.org/a%2Fb.txt?x=1") == "https://example.org/a/b.txt"
    assert utils.is_dir_writeable(tmp_path)
    assert utils.get_default_args(lambda a, b=2: 0) == {"b": 2}


def test_the_import_is_quick_and_needs_no_optional_package():
    code = (
        "import sys, bitfalcon_plugin.dropin.utils.plotting, bitfalcon_plugin.dropin.utils.ops\n"
        "print(sorted({'cv2', 'matplotlib', 'pandas', 'scipy', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
