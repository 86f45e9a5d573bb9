"""Processes with limits: each end is told in words, nothing is left of them, and this process goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.config.limited_process import DiedError, call_limited
from tests.helpers import limited
from tests.helpers.paths import ROOT

LIMITS = {"seconds": 20.0, "memory": 2 * 10**8}
posix = pytest.mark.skipif(os.name == "nt", reason="limits of POSIX systems")


def gone(process: int) -> bool:
    """Whether a process has ended; one that nobody waits for counts as ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_a_call_ends_without_a_word(tmp_path, capfd) -> None:
    call_limited(limited.write, tmp_path / "x", "content", **LIMITS)
    assert (tmp_path / "x").read_text() == "content" and capfd.readouterr() == ("", "")
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "function, arguments, kind, words",
    [
        (limited.refuse, ("what is wrong",), UserError, "^what is wrong$"),
        (limited.fail, (), DiedError, "raised ZeroDivisionError"),
        (limited.leave, (), DiedError, "ended with code 3"),
        pytest.param(limited.crash, (), DiedError, r"crashed \(SIG(SEGV|BUS)\)", marks=posix),
        pytest.param(limited.fill, (10**9,), DiedError, "memory|MemoryError", marks=posix),
        pytest.param(limited.fill_unlimited, (4 * 10**8,), DiedError, "took more memory", marks=posix),
        pytest.param(limited.fill, (10**9, 0, 2**29), DiedError, "memory|MemoryError", marks=posix),
    ],
)
def test_every_other_end_is_told(function, arguments, kind, words) -> None:
    with pytest.raises(kind, match=words):
        call_limited(function, *arguments, **LIMITS)
    assert not multiprocessing.active_children()


@posix
def test_a_call_may_learn_that_it_needs_more() -> None:
    call_limited(limited.fill, 4 * 10**8, 10**9, **LIMITS)


def test_a_call_without_an_end_is_ended(tmp_path) -> None:
    began = time.monotonic()
    with pytest.raises(DiedError, match="did not end in"):
        call_limited(limited.spin, tmp_path / "pid", seconds=0.5, memory=10**9)
    assert time.monotonic() - began < 30 and gone(int((tmp_path / "pid").read_text()))
    call_limited(limited.wait, tmp_path / "pid", 1.0, 20.0, seconds=0.5, memory=10**9)


@posix
def test_it_ends_with_its_parent(tmp_path) -> None:
    code = (
        "from pathlib import Path\n"
        "from bitfalcon_plugin.config.limited_process import call_limited\n"
        "from tests.helpers.limited import spin\n"
        f"call_limited(spin, Path({str(tmp_path / 'pid')!r}), seconds=60.0, memory=10**9)\n"
    )
    (tmp_path / "script.py").write_text(code)  # whose import would start it again
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], env=environment) as parent:
        assert until((tmp_path / "pid").exists)
        assert until(lambda: (tmp_path / "pid").read_text() != "")
        parent.send_signal(signal.SIGKILL)
    assert until(lambda: gone(int((tmp_path / "pid").read_text())))


def test_a_worker_of_a_pool_says_what_to_do(tmp_path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        said = pool.apply(limited.from_a_worker, (str(tmp_path / "x"),))
    assert "Open the file in the main process first" in said and not (tmp_path / "x").exists()
